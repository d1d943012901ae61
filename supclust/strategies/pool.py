"""What a query strategy sees: the pool's features, which of its points are labelled, and the clusters that strategies share."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from supclust import geometry, scores

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """The numbers of the clustering strategies (paper, section 3); the defaults are the experiment's."""

    n_neighbors: int = scores.N_NEIGHBORS  # K of typicality
    max_clusters: int | None = 500  # as in TypiClust's code; None = no cap
    top_fraction: float = 0.1  # of each cluster, by typicality
    temperature: float | None = None  # of the weights between clusters; None = scores.default_temperature
    squared: bool = False  # squared distances in typicality, as in TypiClust's code

    def __post_init__(self) -> None:
        if not scores.is_count(self.n_neighbors):
            raise ValueError(f"n_neighbors must be a whole number of at least 1, not {self.n_neighbors!r}")
        if self.max_clusters is not None and not scores.is_count(self.max_clusters):
            raise ValueError(f"max_clusters must be a whole number of at least 1, or None, not {self.max_clusters!r}")
        if not 0 < self.top_fraction <= 1:
            raise ValueError(f"top_fraction must lie in (0, 1], not {self.top_fraction}")
        if self.temperature is not None:
            scores.check_temperature(self.temperature)
        if self.squared:
            log.info("typicality from squared distances, as in the code of TypiClust and not as in the paper")


class ClusteredPoints:
    """Normalised points (n, d) in K clusters, whose typicality and SUP are computed for a cluster when it is first asked for."""

    def __init__(self, points: np.ndarray, order: np.ndarray, clustering: geometry.Clustering, settings: Settings) -> None:
        self.points, self.settings = points, settings
        self.assignments, self.centers = clustering.assignments, clustering.centers
        self.sizes = np.bincount(self.assignments, minlength=len(self.centers))
        by_cluster = order[np.argsort(self.assignments[order], kind="stable")]
        self.members = np.split(by_cluster, np.cumsum(self.sizes)[:-1])  # of each cluster, in the pool's canonical order
        self._typicality = np.full(len(points), np.nan)
        self._sup = np.full(len(points), np.nan)
        self._scored: set[tuple[str, int]] = set()

    @cached_property
    def temperature(self) -> float:
        """T of the weights between the clusters."""
        return self.settings.temperature or scores.default_temperature(self.centers)

    @cached_property
    def weights(self) -> np.ndarray:
        """w_ij of Eq. 2, (K, K)."""
        return scores.cluster_weights(self.centers, self.temperature)

    def typicality(self, cluster: int) -> np.ndarray:
        """Typicality (n,) with the cluster's entries filled in; neighbours are sought inside the cluster."""
        if self._is_new("typicality", cluster):
            members = self.members[cluster]
            found = scores.typicality(self.points[members], self.settings.n_neighbors, squared=self.settings.squared)
            self._typicality[members] = found
        return self._typicality

    def sup(self, cluster: int) -> np.ndarray:
        """SUP (n,) with the cluster's entries filled in."""
        if self._is_new("sup", cluster) and len(self.centers) > 1:
            members = self.members[cluster]
            self._sup[members] = -geometry.distances(self.points[members], self.centers) @ self.weights[cluster]
        return self._sup

    def _is_new(self, score: str, cluster: int) -> bool:
        new = (score, cluster) not in self._scored and self.sizes[cluster] > 0
        self._scored.add((score, cluster))
        return bool(new)


@dataclass(frozen=True)
class Pool:
    """Points to choose from: features (n, d), indices of the labelled ones, and what strategies compute from them.

    Pools made with `with_labeled` share the normalised features and the clusterings, which depend on (features, K, seed) only.
    Whatever goes through the points one by one does so in their canonical order, so that the order in which they come, even where
    two of them tie, does not change which ones are picked.
    Raises ValueError for features that are not finite and 2-d, and labelled indices out of range or repeated.
    """

    features: np.ndarray
    labeled: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    seed: int = 0
    settings: Settings = Settings()
    _shared: dict = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int | np.integer) or self.seed < 0:
            raise ValueError(f"seed must be a whole number of at least 0, not {self.seed!r}")
        if "points" not in self._shared:
            features = geometry.check_features(self.features)
            self._shared["points"] = geometry.normalise(features)
            self._shared["order"] = geometry.canonical_order(self.points)
        object.__setattr__(self, "labeled", check_labeled(self.labeled, len(self.features)))

    def with_labeled(self, labeled: ArrayLike) -> Pool:
        """The same pool with other points labelled."""
        return Pool(self.features, labeled, self.seed, self.settings, self._shared)

    @property
    def points(self) -> np.ndarray:
        """The L2-normalised features, (n, d) float32."""
        return self._shared["points"]

    @property
    def unlabeled(self) -> np.ndarray:
        """Indices of the points without a label, ascending."""
        return np.setdiff1d(np.arange(len(self.features)), self.labeled, assume_unique=True)

    def clusters_for(self, budget: int) -> ClusteredPoints:
        """The clusters that a query of that budget goes by: as many as labelled points and budget together, up to the cap."""
        wanted = len(self.labeled) + budget
        return self.clusters(min(wanted, self.settings.max_clusters or wanted))

    def clusters(self, n_clusters: int) -> ClusteredPoints:
        """The k-means clusters of the pool, computed once for each number of clusters."""
        if n_clusters not in self._shared:
            order = self._shared["order"]
            clustering = geometry.kmeans(self.points, n_clusters, self.seed, order=order)
            self._shared[n_clusters] = ClusteredPoints(self.points, order, clustering, self.settings)
        return self._shared[n_clusters]


def check_labeled(labeled: ArrayLike | Sequence[int], n: int) -> np.ndarray:
    """Indices of labelled points as int64 (l,); ValueError if not whole numbers, out of 0..n-1, or repeated."""
    given = np.asarray(labeled)
    if given.size == 0:
        return np.empty(0, dtype=np.int64)
    if given.dtype == bool:
        raise ValueError("labeled must be a list of indices, not a mask: pass np.flatnonzero(mask)")
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise ValueError(f"labeled must be a list of indices, not {given.dtype} of shape {given.shape}")
    outside = given[(given < 0) | (given >= n)]
    if len(outside):
        raise ValueError(f"labeled indices must lie in 0..{n - 1}; out of range: {outside[:5].tolist()}")
    values, counts = np.unique(given, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"labeled indices must be distinct; repeated: {values[counts > 1][:5].tolist()}")
    return given.astype(np.int64)
