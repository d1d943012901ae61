"""The scores of the paper, as pure functions: typicality (Eq. 1), weights between clusters (Eq. 2) and SUP (Eq. 3)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from supclust import geometry

N_NEIGHBORS = 20
DEFAULT_TEMPERATURE = 0.1  # of the mean distance between centres


def typicality(points: ArrayLike, n_neighbors: int = N_NEIGHBORS, *, squared: bool = False) -> np.ndarray:
    """Typicality of each of the points among the others: Typ(x) = 1 / mean distance to the K nearest (Eq. 1).

    points (n, d), taken as they are: normalise them first, and pass the points of one cluster. K = min(n_neighbors, n // 2), at
    least 1. squared=True takes squared distances, as the code of TypiClust does, where the paper has plain ones.
    Returns (n,) float64; inf for a point with K exact copies, 0 for a point that is alone.
    """
    points = geometry.check_features(points)
    if not is_count(n_neighbors):
        raise ValueError(f"n_neighbors must be a whole number of at least 1, not {n_neighbors!r}")
    if len(points) == 1:
        return np.zeros(1)
    k = max(1, min(n_neighbors, len(points) // 2))
    near = geometry.neighbour_distances(points, k)
    with np.errstate(divide="ignore"):
        return 1 / (near**2 if squared else near).mean(axis=1)


def is_count(value: object) -> bool:
    """Whether it is a whole number of at least 1."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 1


def check_temperature(temperature: float) -> None:
    """ValueError unless it is a number above zero."""
    if not isinstance(temperature, int | float | np.number) or isinstance(temperature, bool) or not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature!r}")


def default_temperature(centers: ArrayLike) -> float:
    """The temperature used where none is given: a tenth of the mean distance between the centres (K, d); it sees no label.

    The paper does not print its T. At a tenth, a centre that is farther by a tenth of the mean distance weighs e^-1 as much, so
    nearer clusters count more but no single one alone. 1.0 where all the centres are one.
    """
    centers = np.asarray(centers, dtype=float)
    between = geometry.distances(centers, centers)[np.triu_indices(len(centers), 1)]
    return DEFAULT_TEMPERATURE * float(between.mean()) if len(between) and between.any() else 1.0


def cluster_weights(centers: ArrayLike, temperature: float) -> np.ndarray:
    """How much each other cluster counts: w_ij = softmax over j != i of -||c_i - c_j|| / T (Eq. 2).

    centers (K, d); temperature T > 0 in units of distance: towards 0 only the nearest other centre counts, at infinity all alike.
    Returns (K, K) float64 with a zero diagonal and rows that sum to 1; for one centre alone [[0.]]. ValueError unless T > 0.
    """
    check_temperature(temperature)
    centers = geometry.check_features(centers).astype(float)
    if len(centers) == 1:
        return np.zeros((1, 1))
    between = geometry.distances(centers, centers)
    np.fill_diagonal(between, np.inf)
    nearest = between.min(axis=1, keepdims=True)
    excess = np.where(np.isfinite(between), between - nearest, 0)
    # exp of the excess over the nearest centre: no row can underflow to zeros, however small T is
    with np.errstate(over="ignore"):
        weights = np.exp(-excess / temperature)
    np.fill_diagonal(weights, 0)
    return weights / weights.sum(axis=1, keepdims=True)


def sup(points: ArrayLike, assignments: ArrayLike, centers: ArrayLike, temperature: float) -> np.ndarray:
    """SUP(x) = - sum over j != i of w_ij ||x - c_j|| for x in cluster i (Eq. 3); larger is nearer to the decision boundary.

    points (n, d), assignments (n,) in 0..K-1, centers (K, d), temperature > 0. Returns (n,) float64. With a single cluster there
    is no boundary and the score is undefined: NaN.
    """
    points, centers = geometry.check_features(points), geometry.check_features(centers)
    assignments = np.asarray(assignments)
    if assignments.shape != (len(points),) or assignments.dtype.kind not in "iu":
        raise ValueError(f"assignments must be whole numbers ({len(points)},), not {assignments.dtype} {assignments.shape}")
    if points.shape[1] != centers.shape[1]:
        raise ValueError(f"points have {points.shape[1]} dimensions and centers {centers.shape[1]}")
    if assignments.min() < 0 or assignments.max() >= len(centers):
        raise ValueError(f"assignments must lie in 0..{len(centers) - 1}")
    weights = cluster_weights(centers, temperature)
    if len(centers) == 1:
        return np.full(len(points), math.nan)
    return -np.einsum("nk,nk->n", weights[assignments], geometry.distances(points, centers))
