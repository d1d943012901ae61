"""What a query strategy sees: the pool's features, which of its points are labelled, shared clusters, and a model's outputs."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from supclust import scores
from supclust.engine import geometry
from supclust.engine.kmeans import Clustering, kmeans
from supclust.scale import cells

log = logging.getLogger(__name__)

APPROXIMATE_FROM = 1_000_000  # points; neighbours in large clusters are approximate then


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
    exact: bool | None = (
        None  # whether neighbours are, in clusters of more than 16,384 points; None = below a million points in all
    )

    def __post_init__(self) -> None:
        if not scores.is_count(self.n_neighbors):
            raise ValueError(f"n_neighbors must be a whole number of at least 1, not {self.n_neighbors!r}")
        if self.max_clusters is not None and not scores.is_count(self.max_clusters):
            raise ValueError(f"max_clusters must be a whole number of at least 1, or None, not {self.max_clusters!r}")
        if not scores.is_number(self.top_fraction) or not 0 < self.top_fraction <= 1:
            raise ValueError(f"top_fraction must lie in (0, 1], not {self.top_fraction!r}")
        for name in ("temperature", "relative_temperature", "radius"):
            if getattr(self, name) is not None:
                scores.check_positive(name, getattr(self, name))
        if self.n_classes is not None and not scores.is_count(self.n_classes):
            raise ValueError(f"n_classes must be a whole number of at least 1, or None, not {self.n_classes!r}")
        if self.exact not in (None, False, True):
            raise ValueError(f"exact must be True, False or None, not {self.exact!r}")
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


class Typicality:
    """What is known of the typicality of n points inside their clusters: bounds of its inverse, the mean distance to neighbours."""

    def __init__(self, n: int) -> None:
        self.low, self.high = np.full((2, n), np.nan)  # NaN where nothing is known yet

    def values(self) -> np.ndarray:
        """Typicality (n,), right to the digits of float32; NaN where it is not known yet."""
        with np.errstate(divide="ignore"):
            return 2 / (self.low + self.high)


class ClusteredPoints:
    """Points (n, d) of unit length in K clusters, whose typicality and SUP are computed for a cluster when it is first asked for.

    Scores are computed in float32 first. Where its rounding leaves open which point comes first, float64 decides.
    """

    def __init__(self, points: geometry.Points, clustering: Clustering, settings: Settings, known: Typicality) -> None:
        self.points, self.settings, self._known = points, settings, known
        self.assignments, self.centers = clustering.assignments, clustering.centers
        self.sizes = np.bincount(self.assignments, minlength=len(self.centers))
        by_cluster = points.order[np.argsort(self.assignments[points.order], kind="stable")]
        self.members = np.split(by_cluster, np.cumsum(self.sizes)[:-1])  # of each cluster, in canonical order

    @cached_property
    def temperature(self) -> float:
        """T of the weights between the clusters."""
        return self.settings.temperature or scores.default_temperature(self.centers, self.settings.relative_temperature)

    @cached_property
    def weights(self) -> np.ndarray:
        """w_ij of Eq. 2, (K, K)."""
        return scores.cluster_weights(self.centers, self.temperature)

    def score(self, clusters: Iterable[int]) -> None:
        """Bound the typicality of all points in these clusters, together, which is faster than one cluster after the other."""
        new = [self.members[cluster] for cluster in dict.fromkeys(clusters) if self._is_new(cluster)]
        options = {"n_neighbors": self.settings.n_neighbors, "squared": self.settings.squared}
        large = [members for members in new if not self._exact and cells.pay(len(members), self.settings.n_neighbors)]
        function = partial(scores.approximate_mean_distances, **options)
        for members, (mean, recall) in zip(large, self.points.map_groups(function, large, "typicality"), strict=True):
            self._known.low[members] = self._known.high[members] = mean
            log.info("approximate neighbours of %d points: recall %.2f", len(members), recall)
        others = [members for members in new if np.isnan(self._known.low[members[:1]]).any()]
        function = partial(scores.mean_distance_bounds, **options)
        for members, (low, high) in zip(others, self.points.map_groups(function, others, "typicality"), strict=True):
            self._known.low[members], self._known.high[members] = low, high

    @property
    def _exact(self) -> bool:
        return self.settings.exact if self.settings.exact is not None else self.points.shape[0] < APPROXIMATE_FROM

    def _is_new(self, cluster: int) -> bool:
        return bool(np.isnan(self._known.low[self.members[cluster][:1]]).any())

    def typicality(self, clusters: Iterable[int]) -> np.ndarray:
        """Typicality (n,) with the entries of these clusters filled in, right to the digits of float32."""
        self.score(clusters)
        return self._known.values()

    def most_typical(self, cluster: int, candidates: np.ndarray, count: int) -> np.ndarray:
        """The count most typical (count,) of some points (m,) of a cluster, 1 <= count <= m; of those that tie, the first."""
        self.score([cluster])
        low, high = self._known.low[candidates], self._known.high[candidates]
        if count == len(candidates):
            return candidates
        surely = high < np.partition(low, count)[count]
        could = low <= np.partition(high, count - 1)[count - 1]
        undecided, wanted = candidates[could & ~surely], count - np.count_nonzero(surely)
        if wanted < len(undecided):
            undecided = undecided[np.argsort(self._mean_distances(cluster, undecided), kind="stable")[:wanted]]
        chosen = surely | np.isin(candidates, undecided)
        return candidates[chosen]

    def _mean_distances(self, cluster: int, some: np.ndarray) -> np.ndarray:
        """The mean distance to neighbours (m,) of some members (m,) of a cluster, in float64; henceforth these are known."""
        members = self.members[cluster]
        place = np.argsort(members, kind="stable")
        rows = place[np.searchsorted(members[place], some)]
        vague = self._known.low[some] < self._known.high[some]
        if vague.any():
            self._known.low[some[vague]] = self._known.high[some[vague]] = self._exact_mean_distances(members, rows[vague])
        return self._known.low[some]

    def _exact_mean_distances(self, members: np.ndarray, rows: np.ndarray) -> np.ndarray:
        settings = self.settings
        [candidates] = self.points.map_groups(
            partial(scores.could_be_neighbors, rows=rows, n_neighbors=settings.n_neighbors), [members]
        )
        return scores.mean_distances_among(
            candidates,
            lambda rows: self.points.exact(members[rows]),
            len(members),
            settings.n_neighbors,
            squared=settings.squared,
        )

    def sup(self, cluster: int, some: np.ndarray) -> np.ndarray:
        """SUP (m,) float64 of some points (m,) of a cluster; NaN where it is the only one."""
        if len(self.centers) == 1:
            return np.full(len(some), np.nan)
        return self.points.map_exact(partial(_sup, centers=self.centers, weights=self.weights[cluster]), some)


def _sup(points: np.ndarray, centers: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return -geometry.distances(points, centers) @ weights


@dataclass(frozen=True)
class Pool:
    """Points to choose from: features (n, d), indices of the labelled ones, a model, and what strategies compute from them.

    candidates: indices of the points that may be queried while they have no label; None = all. The others have their part in
    clusters, typicality and coverage, and are never picked.
    Features in shards on a cluster come as `sharded.Shards`, on which the strategies work that go by clusters, and the random one.
    Pools made with `with_labeled` share the normalised features and the clusterings, which depend on (features, K, seed) only.
    Whatever goes through the points one by one does so in their canonical order, so that the order in which they come, even where
    two of them tie, does not change which ones are picked; in pools larger than the sample of `kmeans`, up to the rounding of sums.
    Raises ValueError for features that are not finite and 2-d, and indices, of labelled points or of candidates, that are out of
    range or repeated.
    """

    features: np.ndarray | geometry.Points
    labeled: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    seed: int = 0
    settings: Settings = Settings()
    model: Model | None = None  # of the labelled points
    labels: np.ndarray | None = None  # of all the points (n,), for controls that are allowed to see them; no strategy is
    candidates: np.ndarray | None = None
    _shared: dict = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int | np.integer) or self.seed < 0:
            raise ValueError(f"seed must be a whole number of at least 0, not {self.seed!r}")
        if "normalised" not in self._shared:
            ready = isinstance(self.features, geometry.Points)
            self._shared["normalised"] = self.features if ready else geometry.Normalised(self.features)
        object.__setattr__(self, "labeled", check_indices("labeled", self.labeled, len(self.features)))
        if self.candidates is not None:
            object.__setattr__(self, "candidates", check_indices("candidates", self.candidates, len(self.features)))

    def with_labeled(self, labeled: ArrayLike, model: Model | None = None) -> Pool:
        """The same pool with other points labelled, and a model that was trained on them."""
        return dataclasses.replace(self, labeled=labeled, model=model)

    def with_settings(self, **changes: Any) -> Pool:
        """The same pool with some settings replaced; the k-means clusters stay shared."""
        return dataclasses.replace(self, settings=dataclasses.replace(self.settings, **changes))

    @property
    def normalised(self) -> geometry.Points:
        """The L2-normalised features, (n, d), handed out in blocks."""
        return self._shared["normalised"]

    @property
    def points(self) -> np.ndarray:
        """The L2-normalised features, (n, d) float32, all of them in memory; TypeError for those in shards on a cluster."""
        return self.shared(("points",), lambda: np.asarray(self.normalised))

    @property
    def free(self) -> np.ndarray:
        """Whether each of the points (n,) may be queried: it is a candidate and has no label yet."""
        free = np.full(len(self.features), self.candidates is None)
        if self.candidates is not None:
            free[self.candidates] = True
        free[self.labeled] = False
        return free

    @property
    def queryable(self) -> np.ndarray:
        """Indices of the points that may be queried, ascending."""
        return np.flatnonzero(self.free)

    def lots(self, rng: np.random.Generator, order: np.ndarray | None = None) -> np.ndarray:
        """A random number (n,) for each point, by which points that tie are ordered; drawn in order, else their canonical one."""
        lots = np.empty(len(self.features))
        lots[self.normalised.order if order is None else order] = rng.random(len(lots))
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
        settings = self.settings
        typicality = ("typicality", n_clusters, settings.n_neighbors, settings.squared, settings.exact)
        known = self.shared(typicality, lambda: Typicality(len(self.features)))
        clustering = self.shared(("k-means", n_clusters), lambda: kmeans(self.normalised, n_clusters, self.seed))
        return self.shared(("scored", n_clusters, settings), lambda: ClusteredPoints(self.normalised, clustering, settings, known))


def check_indices(name: str, indices: ArrayLike | Sequence[int], n: int) -> np.ndarray:
    """Indices of some of n points as int64 (m,); ValueError if not whole numbers, out of 0..n-1, or repeated."""
    given = np.asarray(indices)
    if given.size == 0:
        return np.empty(0, dtype=np.int64)
    if given.dtype == bool:
        raise ValueError(f"{name} must be a list of indices, not a mask: pass np.flatnonzero(mask)")
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise ValueError(f"{name} must be a list of indices, not {given.dtype} of shape {given.shape}")
    outside = given[(given < 0) | (given >= n)]
    if len(outside):
        raise ValueError(f"{name} indices must lie in 0..{n - 1}; out of range: {outside[:5].tolist()}")
    values, counts = np.unique(given, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"{name} indices must be distinct; repeated: {values[counts > 1][:5].tolist()}")
    return given.astype(np.int64)
