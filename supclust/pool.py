"""What a query strategy sees: the pool's features, which of its points have labels, shared clusters, and a model's outputs."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from supclust.engine.geometry import Points, check_shape
from supclust.engine.kmeans import kmeans
from supclust.engine.neighbours import mean_distances

log = logging.getLogger(__name__)

COPIED_BYTES = 2**29  # as float32; larger features, and those in mapped files, are normalised block by block whenever they are read
APPROXIMATE_FROM = 1_000_000, 16_384  # points of a pool, and of a cluster in it, whose neighbours are then approximate


def check_count(name: str, value: int, least: int = 1) -> int:
    """The value as an int; ValueError unless it is a whole number, and at least that large."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")
    return int(value)


def check_positive(name: str, value: float, at_most: float = np.inf) -> None:
    """Raise ValueError unless value is a number above zero, and at most that large."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value <= at_most:
        raise ValueError(f"{name} must {'be positive' if at_most == np.inf else f'lie in (0, {at_most}]'}, not {value!r}")


@dataclass(frozen=True)
class Settings:
    """The numbers of the clustering strategies (paper, section 3), the experiment's by default. ValueError for one out of range."""

    n_neighbors: int = 20  # K of typicality
    max_clusters: int | None = 500  # as in TypiClust's code; None = no cap
    top_fraction: float = 0.1  # of each cluster, by typicality
    temperature: float | None = None  # T of the weights between clusters; None = method.default_temperature
    squared: bool = False  # squared distances in typicality, as in TypiClust's code
    relative_temperature: float = 0.1  # T where none is given, in mean distances between the centres
    radius: float | None = None  # delta of ProbCover, None = by a rule; s of MaxHerding and UHerding; of normalised features
    ball_share: float | None = None  # of the pool, that the median ball of ProbCover holds; None = by its rule of purity
    n_classes: int | None = None  # k-means clusters that ProbCover takes for classes; None = as many as it queries
    exact: bool | None = None  # neighbours in clusters of more than 16,384 points; None = exact below a million points in all

    def __post_init__(self) -> None:
        for name, value, kind in ((one.name, getattr(self, one.name), one.type) for one in dataclasses.fields(self)):
            if value is None and kind.endswith("None"):
                continue
            if kind.startswith("int"):
                check_count(name, value)
            elif kind.startswith("float"):
                check_positive(name, value, 1 if name in ("top_fraction", "ball_share") else np.inf)
            elif not isinstance(value, bool):
                raise ValueError(f"{name} must be True or False, not {value!r}")
        if self.squared:
            log.info("typicality from squared distances, as in the code of TypiClust and not as in the paper")


@dataclass(frozen=True)
class Clusters:
    """A partition of the pool: assignments (n,) in 0..K-1, centers (K, d), sizes (K,), and the members of each cluster."""

    assignments: np.ndarray
    centers: np.ndarray
    sizes: np.ndarray
    members: list[np.ndarray]  # indices (size,), in canonical order


@dataclass
class Pool:
    """Points to choose from: features (n, d), indices of the labelled ones, a model, and what strategies compute from them.

    candidates: indices of the points that may be queried while they have no label; None = all. The others still count in clusters,
    typicality and coverage.
    Pools made by `with_labeled` share the normalised features and the clusters, which depend on (features, K, seed) only.
    Strategies go through the points in canonical order, so the order of the features does not change which points are picked,
    unless two of them tie. Raises ValueError for features that are not finite and 2-d, and for indices out of range or repeated.
    """

    features: np.ndarray | Points
    labeled: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    seed: int = 0
    settings: Settings = Settings()
    model: Any = None  # of the labelled points, with the outputs that active.Outputs has
    labels: np.ndarray | None = None  # of all the points (n,), for controls that are allowed to see them; no strategy is
    candidates: np.ndarray | None = None
    _shared: dict[tuple, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_count("seed", self.seed, least=0)
        self.normalised = self.shared(("normalised",), lambda: _normalised(self.features))  # Points, handed out in blocks
        self.labeled = check_indices("labeled", self.labeled, len(self.features))
        if self.candidates is not None:
            self.candidates = check_indices("candidates", self.candidates, len(self.features))

    def with_labeled(self, labeled: ArrayLike, model: Any = None) -> Pool:
        """The same pool with other points labelled, and a model that was trained on them."""
        return dataclasses.replace(self, labeled=labeled, model=model)

    def with_settings(self, **changes: Any) -> Pool:
        """The same pool with some settings replaced; the k-means clusters stay shared."""
        return dataclasses.replace(self, settings=dataclasses.replace(self.settings, **changes))

    def shared(self, key: tuple, compute: Callable[[], Any]) -> Any:
        """The result of compute(), computed once for each key among the pools that share."""
        if key not in self._shared:
            self._shared[key] = compute()
        return self._shared[key]

    @property
    def points(self) -> np.ndarray:
        """The L2-normalised features, (n, d) float32, all of them in memory; TypeError for those in shards on a cluster."""
        return self.shared(("points",), lambda: np.asarray(self.normalised))

    @property
    def free(self) -> np.ndarray:
        """Whether each of the points (n,) may be queried: it is a candidate and has no label yet."""
        free = np.zeros(len(self.features), dtype=bool)
        free[slice(None) if self.candidates is None else self.candidates] = True
        free[self.labeled] = False
        return free

    @property
    def queryable(self) -> np.ndarray:
        """Indices of the points that may be queried, ascending."""
        return np.flatnonzero(self.free)

    def check_budget(self, budget: int) -> int:
        """The budget as an int; ValueError unless it is positive, whole, and at most the number of points that may be queried."""
        if check_count("budget", budget) > (left := np.count_nonzero(self.free)):
            points = "points" if self.candidates is None else "candidates"
            raise ValueError(f"budget is {budget}, but only {left} {points} are unlabelled")
        return int(budget)

    def tie_breakers(self, rng: np.random.Generator, order: np.ndarray | None = None) -> np.ndarray:
        """A random number (n,) for each point, by which points that tie are ordered; drawn in order, else their canonical one."""
        numbers = np.empty(len(self.features))
        numbers[self.normalised.order if order is None else order] = rng.random(len(numbers))
        return numbers

    def clusters_for(self, budget: int) -> Clusters:
        """The clusters of a query of that budget: as many as labelled points and budget together, up to the cap."""
        wanted = len(self.labeled) + budget
        return self.clusters(min(wanted, self.settings.max_clusters or wanted))

    def clusters(self, n_clusters: int) -> Clusters:
        """The k-means clusters of the pool, computed once for each number of clusters."""

        def compute() -> Clusters:
            (assignments, centers), order = kmeans(self.normalised, n_clusters, self.seed), self.normalised.order
            sizes = np.bincount(assignments, minlength=n_clusters)
            by_cluster = order[np.argsort(assignments[order], kind="stable")]
            return Clusters(assignments, centers, sizes, np.split(by_cluster, np.cumsum(sizes)[:-1]))

        return self.shared(("k-means", n_clusters), compute)

    def neighbor_distances(self, clusters: Clusters, some: Iterable[int]) -> np.ndarray:
        """Mean distance (n,) to the K nearest in a point's cluster; NaN but in some clusters, and those asked for before."""
        settings = self.settings
        key = ("neighbours", len(clusters.sizes), settings.n_neighbors, settings.squared, settings.exact)
        known = self.shared(key, lambda: np.full(len(self.features), np.nan))
        new = [clusters.members[cluster] for cluster in dict.fromkeys(some) if np.isnan(known[clusters.members[cluster][:1]]).any()]
        exact = settings.exact if settings.exact is not None else len(self.features) < APPROXIMATE_FROM[0]
        largest = len(self.features) if exact else APPROXIMATE_FROM[1]  # cluster that is searched exactly
        search = partial(_search, largest=largest, n_neighbors=settings.n_neighbors, squared=settings.squared)
        for members, means in zip(new, self.normalised.map_groups(search, new, "typicality"), strict=True):
            known[members] = means
        return known


def _search(points: np.ndarray, largest: int, **options: Any) -> np.ndarray:
    if len(points) <= largest:
        return mean_distances(points, **options)
    from supclust.scale import approximate

    return approximate.mean_distances(points, **options)


def _normalised(features: ArrayLike | Points) -> Points:
    if isinstance(features, Points):
        return features
    features = check_shape(features)
    if not isinstance(features, np.memmap) and 4 * features.size <= COPIED_BYTES:
        return Points(features)
    from supclust.scale.points import Mapped

    return Mapped(features)


def check_indices(name: str, indices: ArrayLike | Sequence[int], n: int) -> np.ndarray:
    """Indices of some of n points as int64 (m,); ValueError if not whole numbers, out of 0..n-1, or repeated."""
    given = np.asarray(indices)
    if given.size == 0:
        return np.empty(0, dtype=np.int64)
    if given.ndim != 1 or given.dtype.kind not in "iu":
        mask = " (of a mask, pass np.flatnonzero)" * (given.dtype == bool)
        raise ValueError(f"{name} must be a list of indices, not {given.dtype} of shape {given.shape}{mask}")
    if len(outside := given[(given < 0) | (given >= n)]):
        raise ValueError(f"{name} indices must lie in 0..{n - 1}; out of range: {outside[:5].tolist()}")
    values, counts = np.unique(given, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"{name} indices must be distinct; repeated: {values[counts > 1][:5].tolist()}")
    return given.astype(np.int64)
