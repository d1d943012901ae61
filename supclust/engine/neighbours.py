"""The mean distance to the nearest neighbours: all pairs, in float32, and again in float64 where float32 has no digits left."""

from __future__ import annotations

import numpy as np

from supclust.engine import threads
from supclust.engine.geometry import slices

ROWS = 1024  # points whose distances to all others are in memory together
GROUP = 16  # distances of which only the smallest says whether to look at the others
NEAR = 0.01  # of the largest squared distance to the mean: nearer neighbours than that are sought again in float64
COPY = 1e-12  # of the same: in float64, points nearer than that are copies


def mean_distances(points: np.ndarray, n_neighbors: int, squared: bool = False) -> np.ndarray:
    """The mean distance (n,) float64 from each of points (n, d) to its K nearest others; inf for a point that is alone.

    K = min(n_neighbors, n // 2), at least 1. squared: the mean of the squared distances. Right to 1e-5; 0 between copies.
    """
    n = len(points)
    if n == 1:
        return np.full(1, np.inf)
    k = max(1, min(n_neighbors, n // 2))
    mean = points.mean(axis=0, dtype=float)
    centred = points - mean.astype(np.float32)
    _, exponent = np.frexp(np.abs(centred).max())
    centred = np.ldexp(centred, -exponent)  # no square leaves float32
    squares = nearest_squares(centred, np.arange(n), k).astype(float)
    spread = np.einsum("nd,nd->n", centred, centred).max()
    close = np.flatnonzero(squares.min(axis=1) < NEAR * spread)
    if len(close):
        near = nearest_squares(np.ldexp(points - mean, -exponent), close, k)
        squares[close] = np.where(near > COPY * spread, near, 0)
    return np.ldexp((squares if squared else np.sqrt(squares)).mean(axis=1), exponent * (1 + squared))


def nearest_squares(points: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    """Squared distances (m, k) from the points in rows (m,) to their k nearest others, 1 <= k < n, in the type of points (n, d).

    From |x - y|^2 = |x|^2 + |y|^2 - 2xy, so they lose digits where they are small beside |x|^2: centre the points first.
    """
    n = len(points)
    half = np.einsum("nd,nd->n", points, points) / 2
    against = np.column_stack([points, -half])

    def of(part: slice) -> np.ndarray:
        some = rows[part]
        shape = len(some), n
        nearness = threads.workspace("nearness", shape, points.dtype.type)  # half of |x|^2 - |x - y|^2
        np.matmul(np.column_stack([points[some], np.ones(len(some), points.dtype)]), against.T, out=nearness)
        nearness[np.arange(len(some)), some] = -np.inf
        return np.maximum(2 * (half[some, None] - _largest(nearness, k)), 0)

    return np.concatenate([np.empty((0, k), points.dtype), *threads.map(of, slices(len(rows), ROWS), "neighbours")])


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """The k largest (m, k) of each row of values (m, n).

    The k-th largest of the maxima of groups is at most the k-th largest value, so only the values above it are sorted out.
    """
    m, n = values.shape
    groups = n // GROUP
    if groups < 2 * k:
        return np.partition(values, n - k, axis=1)[:, n - k :]
    maxima = values[:, : GROUP * groups].reshape(m, GROUP, groups).max(axis=1)
    at = np.flatnonzero(values >= np.partition(maxima, groups - k, axis=1)[:, [groups - k]])
    counts = np.bincount(at // n, minlength=m)
    few = np.full((m, counts.max()), -np.inf, values.dtype)
    few[at // n, np.arange(len(at)) - np.repeat(np.cumsum(counts) - counts, counts)] = values.ravel()[at]
    return np.partition(few, few.shape[1] - k, axis=1)[:, -k:]
