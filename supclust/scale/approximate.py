"""Approximate neighbours in very large clusters: faiss seeks them in the nearest cells of an inverted file."""

import logging

import numpy as np
from threadpoolctl import threadpool_limits

from supclust.engine import neighbours, threads

log = logging.getLogger(__name__)

CELL = 256  # points of a cell, on average
PROBED = 16  # cells nearest to a point, in which its neighbours are sought
CHECKED = 200  # points that the recall is measured on


def mean_distances(points: np.ndarray, n_neighbors: int, squared: bool = False) -> np.ndarray:
    """The mean distance (n,) from each of points (n, d) to K others that are near, where `engine.neighbours` has the K nearest.

    An inverted file (Jegou, Douze & Schmid, 2011) in faiss. Points whose cells hold fewer than K others are compared with all,
    and where K is more than an eighth of the points that are looked at, all are. The recall, the share of the K nearest that
    were found, is measured on 200 of the points and logged; in shards, by the worker.
    """
    import faiss

    n, d = points.shape
    k = max(1, min(n_neighbors, n // 2))
    if 8 * k > CELL * PROBED:
        return neighbours.mean_distances(points, n_neighbors, squared)
    with threadpool_limits(threads.count(), "openmp"):
        index = faiss.index_factory(d, f"IVF{max(1, n // CELL)},Flat")
        index.cp.niter, index.nprobe = 5, PROBED
        index.train(points)
        index.add(points)
        squares, found = index.search(points, k + 1)  # the nearest is the point itself, or a copy of it
        few = np.flatnonzero(found[:, -1] < 0)
        if len(few):
            squares[few], _ = faiss.knn(points[few], points, k + 1)
        rows = np.random.default_rng(0).choice(n, min(CHECKED, n), replace=False)
        exact, _ = faiss.knn(points[rows], points, k + 1)
    recall = float((squares[rows, 1:] <= exact[:, -1:] * (1 + 1e-4)).mean())
    log.info("approximate neighbours of %d points: recall %.2f", n, recall)
    squares = np.maximum(squares[:, 1:], 0)
    return (squares if squared else np.sqrt(squares)).mean(axis=1, dtype=float)
