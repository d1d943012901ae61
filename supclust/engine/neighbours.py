"""The mean distance to the nearest neighbours: all pairs, in float32, and again in float64 where float32 has no digits left."""

import numpy as np

from supclust.engine import threads
from supclust.engine.geometry import slices

PRODUCTS = 2**25  # values of a block of distances, 128 MB in float32; there is one block for each thread
ROWS = 1024  # points of a block, at most
GROUP = 16  # distances of which only the smallest says whether to look at the others
NEAR = 0.01  # of the largest squared distance to the mean: nearer neighbours than that are sought again in float64


def mean_distances(points: np.ndarray, n_neighbors: int, squared: bool = False) -> np.ndarray:
    """The mean distance (n,) float64 from each of points (n, d) to its K nearest others; inf for a point that is alone.

    K = min(n_neighbors, n // 2), at least 1. squared: the mean of the squared distances. The relative error is at most 1e-5, and
    copies are at distance 0. Takes some 300 MB of memory per thread beside the points.
    """
    n = len(points)
    if n == 1:
        return np.full(1, np.inf)
    k = max(1, min(n_neighbors, n // 2))
    mean = points.mean(axis=0, dtype=float)
    centred = points - mean.astype(np.float32)
    _, exponent = np.frexp(np.abs(centred).max())
    centred = np.ldexp(centred, -exponent)  # no square leaves float32
    squares = _nearest_squares(centred, np.arange(n), k).astype(float)
    close = np.flatnonzero(squares.min(axis=1) < NEAR * np.einsum("nd,nd->n", centred, centred).max())
    if len(close):
        squares[close] = _nearest_squares(np.ldexp(points - mean, -exponent), close, k)
    return np.ldexp((squares if squared else np.sqrt(squares)).mean(axis=1), exponent * (1 + squared))


def _nearest_squares(points: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    """Squared distances (m, k) from the points in rows (m,) to their k nearest others, 1 <= k < n, in the type of points (n, d).

    They come from |x - y|^2 = |x|^2 + |y|^2 - 2xy, which loses digits where they are small; in float64, only which points are
    the nearest comes from it, and how near they are from the differences.
    """
    n, d = points.shape
    half = np.einsum("nd,nd->n", points, points) / 2
    against = np.column_stack([points, -half])

    def of_block(part: slice) -> np.ndarray:
        some = rows[part]
        nearness = threads.workspace("nearness", (len(some), n), points.dtype.type)  # half of |x|^2 - |x - y|^2
        np.matmul(np.column_stack([points[some], np.ones(len(some), points.dtype)]), against.T, out=nearness)
        nearness[np.arange(len(some)), some] = -np.inf
        if points.dtype == np.float32:
            return np.maximum(2 * (half[some, None] - _largest(nearness, k)), 0)
        nearest = np.argpartition(nearness, n - k, axis=1)[:, n - k :]
        return np.square(points[some, None] - points[nearest]).sum(axis=2)

    values = n if points.dtype == np.float32 else 4 * (n + k * d)
    blocks = slices(len(rows), int(np.clip(PRODUCTS // values, 1, ROWS)))
    return np.concatenate(threads.map(of_block, blocks, "neighbours"))


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
