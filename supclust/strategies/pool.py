"""What a query strategy sees: the pool's features, which of its points are labelled, shared clusters, and a model's outputs."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

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
    relative_temperature: float = scores.DEFAULT_TEMPERATURE  # T where none is given, in mean distances between the centres
    radius: float | None = None  # delta of ProbCover, between normalised features; None = by its rule of purity
    n_classes: int | None = None  # k-means clusters that ProbCover takes for classes; None = as many as it queries

    def __post_init__(self) -> None:
        if not scores.is_count(self.n_neighbors):
            raise ValueError(f"n_neighbors must be a whole number of at least 1, not {self.n_neighbors!r}")
        if self.max_clusters is not None and not scores.is_count(self.max_clusters):
            raise ValueError(f"max_clusters must be a whole number of at least 1, or None, not {self.max_clusters!r}")
        if not 0 < self.top_fraction <= 1:
            raise ValueError(f"top_fraction must lie in (0, 1], not {self.top_fraction}")
        for name in ("temperature", "relative_temperature", "radius"):
            if getattr(self, name) is not None:
                scores.check_positive(name, getattr(self, name))
        if self.n_classes is not None and not scores.is_count(self.n_classes):
            raise ValueError(f"n_classes must be a whole number of at least 1, or None, not {self.n_classes!r}")
        if self.squared:
            log.info("typicality from squared distances, as in the code of TypiClust and not as in the paper")


class Model(Protocol):
    """What a model that was trained on the labelled points makes of all n points of the pool; costly, so asked for when needed."""

    @property
    def penultimate(self) -> np.ndarray | None:
        """Features (n, d) that its last layer sees, where training has changed them; None where they are the pool's own."""

    def log_probabilities(self) -> np.ndarray:
        """Logarithms of the class probabilities, (n, C); -inf for a class that it does not know."""

    def dropout_log_probabilities(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """The same, one array (n, C) after the other, from forward passes with dropout before the last layer."""


class ClusteredPoints:
    """Normalised points (n, d) in K clusters, whose typicality and SUP are computed for a cluster when it is first asked for."""

    def __init__(
        self, points: np.ndarray, order: np.ndarray, clustering: geometry.Clustering, settings: Settings, typicality: np.ndarray
    ) -> None:
        self.points, self.settings = points, settings
        self.assignments, self.centers = clustering.assignments, clustering.centers
        self.sizes = np.bincount(self.assignments, minlength=len(self.centers))
        by_cluster = order[np.argsort(self.assignments[order], kind="stable")]
        self.members = np.split(by_cluster, np.cumsum(self.sizes)[:-1])  # of each cluster, in the pool's canonical order
        self._typicality = typicality  # (n,), NaN where it is not known yet
        self._sup = np.full(len(points), np.nan)

    @cached_property
    def temperature(self) -> float:
        """T of the weights between the clusters."""
        return self.settings.temperature or scores.default_temperature(self.centers, self.settings.relative_temperature)

    @cached_property
    def weights(self) -> np.ndarray:
        """w_ij of Eq. 2, (K, K)."""
        return scores.cluster_weights(self.centers, self.temperature)

    def typicality(self, cluster: int) -> np.ndarray:
        """Typicality (n,) with the cluster's entries filled in; neighbours are sought inside the cluster."""
        members = self.members[cluster]
        if np.isnan(self._typicality[members[:1]]).any():
            found = scores.typicality(self.points[members], self.settings.n_neighbors, squared=self.settings.squared)
            self._typicality[members] = found
        return self._typicality

    def sup(self, cluster: int) -> np.ndarray:
        """SUP (n,) with the cluster's entries filled in."""
        members = self.members[cluster]
        if np.isnan(self._sup[members[:1]]).any() and len(self.centers) > 1:
            self._sup[members] = -geometry.distances(self.points[members], self.centers) @ self.weights[cluster]
        return self._sup


@dataclass(frozen=True)
class Pool:
    """Points to choose from: features (n, d), indices of the labelled ones, a model, and what strategies compute from them.

    Pools made with `with_labeled` share the normalised features and the clusterings, which depend on (features, K, seed) only.
    Whatever goes through the points one by one does so in their canonical order, so that the order in which they come, even where
    two of them tie, does not change which ones are picked.
    Raises ValueError for features that are not finite and 2-d, and labelled indices out of range or repeated.
    """

    features: np.ndarray
    labeled: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    seed: int = 0
    settings: Settings = Settings()
    model: Model | None = None  # of the labelled points
    labels: np.ndarray | None = None  # of all the points (n,), for controls that are allowed to see them; no strategy is
    _shared: dict = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int | np.integer) or self.seed < 0:
            raise ValueError(f"seed must be a whole number of at least 0, not {self.seed!r}")
        if "points" not in self._shared:
            features = geometry.check_features(self.features)
            self._shared["points"] = geometry.normalise(features)
            self._shared["order"] = geometry.canonical_order(self.points)
        object.__setattr__(self, "labeled", check_labeled(self.labeled, len(self.features)))

    def with_labeled(self, labeled: ArrayLike, model: Model | None = None) -> Pool:
        """The same pool with other points labelled, and a model that was trained on them."""
        return Pool(self.features, labeled, self.seed, self.settings, model, self.labels, self._shared)

    def with_settings(self, **changes: Any) -> Pool:
        """The same pool with some settings replaced; the k-means clusters stay shared."""
        return dataclasses.replace(self, settings=dataclasses.replace(self.settings, **changes))

    @property
    def points(self) -> np.ndarray:
        """The L2-normalised features, (n, d) float32."""
        return self._shared["points"]

    @property
    def unlabeled(self) -> np.ndarray:
        """Indices of the points without a label, ascending."""
        return np.setdiff1d(np.arange(len(self.features)), self.labeled, assume_unique=True)

    def lots(self, rng: np.random.Generator, order: np.ndarray | None = None) -> np.ndarray:
        """A random number (n,) for each point, by which points that tie are ordered; drawn in order, else their canonical one."""
        lots = np.empty(len(self.features))
        lots[self._shared["order"] if order is None else order] = rng.random(len(lots))
        return lots

    def shared(self, key: tuple, compute: Callable[[], Any]) -> Any:
        """What compute returns, computed once for each key among the pools that share."""
        if key not in self._shared:
            self._shared[key] = compute()
        return self._shared[key]

    def clusters_for(self, budget: int) -> ClusteredPoints:
        """The clusters that a query of that budget goes by: as many as labelled points and budget together, up to the cap."""
        wanted = len(self.labeled) + budget
        return self.clusters(min(wanted, self.settings.max_clusters or wanted))

    def clusters(self, n_clusters: int) -> ClusteredPoints:
        """The k-means clusters of the pool, computed once for each number of clusters, and their scores, once for each settings.

        Typicality, the costly score, is shared by the settings that do not concern it.
        """
        order, settings = self._shared["order"], self.settings
        typicality = self.shared(
            ("typicality", n_clusters, settings.n_neighbors, settings.squared), lambda: np.full(len(self.points), np.nan)
        )
        clustering = self.shared(("k-means", n_clusters), lambda: geometry.kmeans(self.points, n_clusters, self.seed, order=order))
        return self.shared(
            ("scored", n_clusters, settings), lambda: ClusteredPoints(self.points, order, clustering, settings, typicality)
        )


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
