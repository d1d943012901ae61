"""Scores as pure functions: the paper's typicality (Eq. 1), cluster weights (Eq. 2) and SUP (Eq. 3), and a model's uncertainty."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import ArrayLike

from supclust.engine import geometry
from supclust.scale import cells

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
    points, scale = _scaled(points)
    low, high = mean_distance_bounds(points, n_neighbors, squared=squared)
    vague = np.flatnonzero(high > (1 + 1e-4) * low)  # near copies, whose distances float32 does not know
    low[vague] = high[vague] = mean_distances(points, lambda rows: points[rows].astype(float), vague, n_neighbors, squared=squared)
    with np.errstate(divide="ignore"):
        return 2 / (low + high) * (scale**2 if squared else scale)


def _scaled(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Points (n, d) times a power of two that makes the largest value about 1, so that no square leaves float32; and that power."""
    _, exponent = np.frexp(float(np.abs(points).max()))
    return np.ldexp(points, -exponent), 2.0**-exponent


def mean_distance_bounds(
    points: np.ndarray, n_neighbors: int = N_NEIGHBORS, *, squared: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds (n,), (n,) of the mean distance from each of the points (n, d) to its K nearest others, computed in float32.

    K as in `typicality`, of which this is the inverse; inf for a point that is alone.
    """
    if len(points) == 1:
        return np.full(1, np.inf), np.full(1, np.inf)
    squares, rounding = geometry.nearest_squares(points, _k(len(points), n_neighbors))
    bounds = np.maximum(squares - rounding, 0), squares + rounding
    low, high = (_mean(bound, squared) for bound in bounds)
    return low * (1 - 1e-7), high * (1 + 1e-7)  # the roots' own rounding


def approximate_mean_distances(
    points: np.ndarray, n_neighbors: int = N_NEIGHBORS, *, squared: bool = False
) -> tuple[np.ndarray, float]:
    """The mean distance (n,) from each of the points (n, d) to K others that are near, and the recall, measured on some of them."""
    squares = cells.nearest_squares(points, _k(len(points), n_neighbors))
    return _mean(squares, squared), cells.recall(points, squares)


def _mean(squares: np.ndarray, squared: bool) -> np.ndarray:
    return (squares if squared else np.sqrt(squares)).mean(axis=1, dtype=float)


def mean_distances(
    points: np.ndarray,
    exact: Callable[[np.ndarray], np.ndarray],
    rows: np.ndarray,
    n_neighbors: int = N_NEIGHBORS,
    *,
    squared: bool = False,
) -> np.ndarray:
    """The mean distance (m,) from some of the points (n, d), given by rows (m,), to their K nearest others, in float64.

    exact(rows): points in float64, (m, d). Rounded to twelve digits, so that what ties does tie.
    """
    if len(points) == 1:
        return np.full(len(rows), np.inf)
    return mean_distances_among(could_be_neighbors(points, rows, n_neighbors), exact, len(points), n_neighbors, squared=squared)


def could_be_neighbors(points: np.ndarray, rows: np.ndarray, n_neighbors: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Which of the points (n, d), n > 1, could be among the K nearest others of some, see `geometry.could_be_nearest`."""
    return geometry.could_be_nearest(points, rows, _k(len(points), n_neighbors))


def mean_distances_among(
    candidates: list[tuple[np.ndarray, np.ndarray]],
    exact: Callable[[np.ndarray], np.ndarray],
    n: int,
    n_neighbors: int = N_NEIGHBORS,
    *,
    squared: bool = False,
) -> np.ndarray:
    """`mean_distances` (m,) among n points of those that `could_be_neighbors` was asked for."""
    near = geometry.nearest_among(candidates, exact, _k(n, n_neighbors))
    mantissas, exponents = np.frexp((near**2 if squared else near).mean(axis=1))
    return np.ldexp(np.round(mantissas, 12), exponents)


def _k(n: int, n_neighbors: int) -> int:
    return max(1, min(n_neighbors, n // 2))


def is_count(value: object) -> bool:
    """Whether it is a whole number of at least 1."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 1


def is_number(value: object) -> bool:
    """Whether it is a real number, NumPy's included."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def check_positive(name: str, value: float) -> None:
    """ValueError unless it is a number above zero."""
    if not is_number(value) or not value > 0:
        raise ValueError(f"{name} must be positive, not {value!r}")


def default_temperature(centers: ArrayLike, relative: float = DEFAULT_TEMPERATURE) -> float:
    """The temperature used where none is given: a tenth of the mean distance between the centres (K, d); it sees no label.

    The paper does not print its T. At a tenth, a centre that is farther by a tenth of the mean distance weighs e^-1 as much, so
    nearer clusters count more but no single one alone. 1.0 where all the centres are one.
    """
    centers = np.asarray(centers, dtype=float)
    between = geometry.distances(centers, centers)[np.triu_indices(len(centers), 1)]
    return relative * float(between.mean()) if len(between) and between.any() else 1.0


def cluster_weights(centers: ArrayLike, temperature: float) -> np.ndarray:
    """How much each other cluster counts: w_ij = softmax over j != i of -||c_i - c_j|| / T (Eq. 2).

    centers (K, d); temperature T > 0 in units of distance: towards 0 only the nearest other centre counts, at infinity all alike.
    Returns (K, K) float64 with a zero diagonal and rows that sum to 1; for one centre alone [[0.]]. ValueError unless T > 0.
    """
    check_positive("temperature", temperature)
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


def margin_uncertainty(log_probabilities: ArrayLike) -> np.ndarray:
    """One minus the difference between the two largest probabilities; (n, C) logarithms of them to (n,) float64.

    1 - p1 + p2 is summed up from the classes other than the first, so that points of which a model is all but certain keep their
    order where p1 itself has rounded to 1. With one class only it is 0.
    """
    others = _probabilities_but_the_largest(log_probabilities)
    return others.sum(axis=1) + others.max(axis=1, initial=0)


def least_confidence(log_probabilities: ArrayLike) -> np.ndarray:
    """One minus the largest probability, summed up from the others; (n, C) logarithms to (n,) float64."""
    return _probabilities_but_the_largest(log_probabilities).sum(axis=1)


def entropy(log_probabilities: ArrayLike) -> np.ndarray:
    """Predictive entropy - sum p log p in nats, where 0 log 0 = 0; (n, C) logarithms to (n,) float64."""
    logs = check_log_probabilities(log_probabilities)
    return _entropy(np.exp(logs), logs)


def mean_entropy(passes: Iterable[ArrayLike]) -> np.ndarray:
    """Entropy of the mean of several passes' probabilities, as DBAL takes it (Gal, Islam & Ghahramani, 2017).

    passes: (n, C) logarithms each, taken one after the other, so that only one of them needs to exist. Returns (n,) float64.
    """
    return _entropies_of_passes(passes)[0]


def bald(passes: Iterable[ArrayLike]) -> np.ndarray:
    """Mutual information between a point's class and the model (Houlsby et al., 2011; Gal et al., 2017).

    Entropy of the mean of the passes less the mean of their entropies. passes as in `mean_entropy`. Returns (n,) float64 >= 0.
    """
    of_mean, of_each = _entropies_of_passes(passes)
    return np.maximum(of_mean - of_each, 0)  # below zero by rounding only


def _entropies_of_passes(passes: Iterable[ArrayLike]) -> tuple[np.ndarray, np.ndarray]:
    """Entropy of the passes' mean, and mean of their entropies, (n,) each."""
    total, entropies, count = 0.0, 0.0, 0
    for log_probabilities in passes:
        logs = check_log_probabilities(log_probabilities)
        probabilities = np.exp(logs)
        total, entropies, count = total + probabilities, entropies + _entropy(probabilities, logs), count + 1
    if count == 0:
        raise ValueError("there must be at least one pass")
    mean = total / count
    with np.errstate(divide="ignore"):
        return _entropy(mean, np.log(mean)), entropies / count


def _entropy(probabilities: np.ndarray, logs: np.ndarray) -> np.ndarray:
    return -np.einsum("nc,nc->n", probabilities, np.where(np.isneginf(logs), 0, logs))


def _probabilities_but_the_largest(log_probabilities: ArrayLike) -> np.ndarray:
    """Probabilities (n, C), the largest of each row set to 0."""
    logs = check_log_probabilities(log_probabilities)
    probabilities = np.exp(logs)
    np.put_along_axis(probabilities, logs.argmax(axis=1)[:, None], 0, axis=1)
    return probabilities


def check_log_probabilities(log_probabilities: ArrayLike) -> np.ndarray:
    """They as float64 (n, C); ValueError if not 2-d, without a class, NaN, or clearly above zero, which no logarithm of them is."""
    logs = np.asarray(log_probabilities, dtype=float)
    if logs.ndim != 2 or logs.shape[1] == 0:
        raise ValueError(f"log-probabilities must be 2-d (points, classes), not of shape {logs.shape}")
    if not (logs <= 1e-3).all():  # NaN fails too; float32 rounds a certain 0 up a little
        raise ValueError("log-probabilities must not be NaN, nor above zero")
    return logs
