"""Geometry of the feature space: checking, normalising, k-means, nearest neighbours and distances, with faiss underneath."""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import ArrayLike

ROWS_PER_BLOCK = 8192


@dataclass(frozen=True)
class Clustering:
    """A partition of n points into K clusters: assignments (n,) int64 in 0..K-1, and centers (K, d) float32."""

    assignments: np.ndarray
    centers: np.ndarray


def check_features(features: ArrayLike) -> np.ndarray:
    """The features as a C-contiguous float32 array (n, d); ValueError if not 2-d, empty, or not finite (naming the first rows)."""
    features = np.asarray(features)
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"features must be 2-d (points, dimensions) and not empty, not of shape {features.shape}")
    if features.dtype.kind not in "fiub":
        raise ValueError(f"features must be real numbers, not {features.dtype}")
    with np.errstate(over="ignore"):
        features = np.ascontiguousarray(features, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        more = " ..." if len(bad) > 5 else ""
        raise ValueError(
            f"features are NaN, infinite or too large for float32 in {len(bad)} row(s): {', '.join(map(str, bad[:5]))}{more}"
        )
    return features


def normalise(points: np.ndarray) -> np.ndarray:
    """Rows scaled to unit L2 length, float32 (n, d); a row of zeros stays as it is."""
    largest = np.abs(points).max(axis=1, keepdims=True)  # squares of very large or very small values leave float32
    points = points / np.where(largest > 0, largest, 1)
    length = np.linalg.norm(points, axis=1, keepdims=True)
    return points / np.where(length > 0, length, 1)


def kmeans(
    points: np.ndarray, n_clusters: int, seed: int = 0, n_iterations: int = 25, order: np.ndarray | None = None
) -> Clustering:
    """Lloyd's k-means from k-means++ centres on all the points (n, d) float32.

    The same seed gives the same clusters, in whatever order the points come: they are put into their canonical order first (pass
    it as order if it is known).
    Raises ValueError if there are fewer points than clusters.
    """
    n, d = points.shape
    if not 1 <= n_clusters <= n:
        raise ValueError(f"{n_clusters} clusters of {n} points: there must be at least one, and at least a point for each")
    order = canonical_order(points) if order is None else order
    ordered = np.ascontiguousarray(points[order])
    parameters = {
        "niter": n_iterations,
        "seed": int(seed) % 2**31,
        "init_method": faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS,
        "max_points_per_centroid": n,  # no subsampling
        "min_points_per_centroid": 1,  # no warning
    }
    engine = faiss.Kmeans(d, n_clusters, **parameters)
    engine.train(ordered)
    assignments = np.empty(n, dtype=np.int64)
    assignments[order] = engine.index.search(ordered, 1)[1][:, 0]
    return Clustering(assignments, engine.centroids.reshape(n_clusters, d).copy())


def canonical_order(points: np.ndarray) -> np.ndarray:
    """An order (n,) of the points that depends on their values only: along one random direction, fixed once and for all."""
    direction = np.random.default_rng(2403_03741).standard_normal(points.shape[1])
    blocks = range(0, len(points), ROWS_PER_BLOCK)
    return np.argsort(np.concatenate([points[i : i + ROWS_PER_BLOCK].astype(float) @ direction for i in blocks]))


def neighbour_distances(points: np.ndarray, k: int) -> np.ndarray:
    """Euclidean distances (n, k) from each of the points (n, d) to its k nearest others, 1 <= k < n.

    faiss finds the neighbours; their distances are then taken anew from the differences of the vectors, because
    |a|^2 + |b|^2 - 2ab, by which the search goes, loses the digits of small distances in float32.
    """
    points = np.ascontiguousarray(points - points.mean(axis=0))
    neighbours = _without_self(faiss.knn(points, points, k + 1)[1])
    distances = np.empty((len(points), k))
    step = max(1, 2**22 // (k * points.shape[1]))  # 16 MB of differences at a time
    for i in range(0, len(points), step):
        difference = points[i : i + step, None] - points[neighbours[i : i + step]]
        distances[i : i + step] = np.sqrt(np.einsum("ijk,ijk->ij", difference, difference))
    return distances


def _without_self(neighbours: np.ndarray) -> np.ndarray:
    """Drop each row's own index from (n, k + 1) neighbours, or the last one where copies of the point have crowded it out."""
    n, width = neighbours.shape
    own = neighbours == np.arange(n)[:, None]
    own[~own.any(axis=1), -1] = True
    return neighbours[~own].reshape(n, width - 1)


def distances(points: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Euclidean distances (n, K) float64 from points (n, d) to centers (K, d)."""
    origin = centers.mean(axis=0, dtype=float)
    centers = centers - origin
    result = np.empty((len(points), len(centers)))
    for i in range(0, len(points), ROWS_PER_BLOCK):
        block = points[i : i + ROWS_PER_BLOCK] - origin
        squared = (block**2).sum(axis=1)[:, None] + (centers**2).sum(axis=1) - 2 * block @ centers.T
        result[i : i + ROWS_PER_BLOCK] = np.sqrt(np.maximum(squared, 0))
    return result
