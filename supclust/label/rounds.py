"""A round of labelling: what was picked, and why."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from supclust import method, strategies
from supclust.engine import geometry
from supclust.label.contact_sheet import NEIGHBORS, visible
from supclust.label.request import TAKEN, Request
from supclust.label.sources import Source

NEAR = 3  # clusters that are named as neighbours of a pick's own


@dataclass(frozen=True)
class Near:
    """A cluster near to the cluster of a pick, as SUP sees it (Eq. 2)."""

    cluster: int
    weight: float  # w_ij
    distance: float  # from the pick to its centre
    example: int  # its most typical point


@dataclass(frozen=True)
class Pick:
    """A point that is to be labelled, and what speaks for it."""

    order: int  # 1, 2, ...
    point: int
    cluster: int
    cluster_size: int
    size_rank: int  # of the cluster, 1 = the largest
    labeled: int  # points of the cluster that are
    typicality: float
    rank: int  # by typicality in its cluster, 1 = the most typical
    sup: float  # NaN where there is one cluster only
    typical: tuple[int, ...]  # the most typical other points of the cluster
    near: tuple[Near, ...]  # the largest weight first
    group_size: int = 1  # itself and its near-duplicates


@dataclass(frozen=True, eq=False)
class Round:
    """What a round came to."""

    request: Request
    source: Source
    pool: strategies.Pool
    picks: tuple[Pick, ...]
    labels: Mapping[int, str]  # of points, known before
    first: Path | None = None  # folder of the first round of the chain; None if this is it
    problems: Mapping[str, str] = field(default_factory=dict)  # ids whose labels cannot be used, and why
    alike: Mapping[str, str] = field(default_factory=dict)  # what there is to say about near-duplicates

    @property
    def strategy(self) -> str:
        """The one that picked, and why it did if nobody asked for it."""
        strategy = self.request.strategy_for(self.labels)
        return strategy if strategy == self.request.strategy else f"{strategy} ({TAKEN[strategy]})"

    @property
    def clusters(self) -> int:
        """How many the pool was divided into."""
        return len(self.pool.clusters_for(self.request.budget).sizes)

    @property
    def classes(self) -> tuple[str, ...]:
        """Those that were named, and those that labels have shown."""
        named = (unicodedata.normalize("NFC", name) for name in self.request.classes)
        return tuple(dict.fromkeys([*named, *self.source.classes, *sorted(set(self.labels.values()))]))

    @property
    def offered(self) -> tuple[str, ...]:
        """Names to choose labels from: the classes, and the folders of the picks where there are several with a letter."""
        files = (self.source.files[pick.point] for pick in self.picks)
        parents = {file.parent for file in files if file is not None} - {self.source.folder}
        names = sorted({one.name for one in parents if any(map(str.isalpha, one.name))})
        return tuple(dict.fromkeys([*self.classes, *(names if len(names) > 1 else [])]))


def describe(pool: strategies.Pool, points: np.ndarray, budget: int, group: np.ndarray) -> tuple[Pick, ...]:
    """Why each of the points (B,) that a query of that budget has picked was picked; group (n,): near-duplicates."""
    details, clusters = method.explain(pool, budget), pool.clusters_for(budget)
    typicality, weights = details.typicality, method.cluster_weights(details.centers, details.temperature)
    by_typicality = [members[np.argsort(-typicality[members], kind="stable")] for members in clusters.members]
    size_ranks = 1 + np.argsort(np.argsort(-clusters.sizes, kind="stable"))
    labeled = np.bincount(clusters.assignments[pool.labeled], minlength=len(clusters.sizes))
    picks, sizes = [], np.bincount(group)
    for order, point in enumerate(points.tolist(), start=1):
        cluster = int(clusters.assignments[point])
        members = by_typicality[cluster]
        rank = 1 + int(np.count_nonzero(typicality[members] > typicality[point]))
        others = [k for k in np.argsort(-weights[cluster], kind="stable").tolist() if k != cluster and len(by_typicality[k])][:NEAR]
        distances = geometry.distances(pool.normalised[np.array([point])], clusters.centers)[0]
        near = tuple(Near(k, float(weights[cluster, k]), float(distances[k]), int(by_typicality[k][0])) for k in others)
        typical = tuple(members[members != point][:NEIGHBORS].tolist())
        counts = int(size_ranks[cluster]), int(labeled[cluster])
        scores = float(typicality[point]), rank, float(details.sup[point])
        picks.append(Pick(order, point, cluster, len(members), *counts, *scores, typical, near, int(sizes[group[point]])))
    return tuple(picks)


def explain(found: Round, pick: Pick) -> str:
    """Why a pick was picked, in a few sentences, which can be printed whatever the ids are."""
    ids, n = found.source.ids, len(found.source.ids)
    labeled = f"{pick.labeled} of them labelled or picked before" if pick.labeled else "none of them labelled"
    lines = [
        f"Cluster {pick.cluster}: {pick.cluster_size:,} of {n:,} images, number {pick.size_rank} by size, {labeled}.",
        f"Typicality {pick.typicality:.3f}: number {pick.rank} of {pick.cluster_size:,} in its cluster.",
    ]
    if pick.near:
        near = [
            f"{one.cluster} (weight {one.weight:.2f}, distance {one.distance:.3f}, such as {visible(ids[one.example])})"
            for one in pick.near
        ]
        lines.append(f"SUP {pick.sup:.3f}; nearest clusters: {'; '.join(near)}.")
    lines.append(f"Picked by {found.strategy}: {_rule(found)}")
    return "\n".join(lines)


def _rule(found: Round) -> str:
    """What the strategy picks by: the first sentence of its docstring without the title, but for rounds in which it cannot."""
    name, _ = strategies.parse(found.request.strategy_for(found.labels))
    if name in strategies.MODEL_BASED and not found.labels:
        return "a random draw, as there are no labels yet to train a model on."
    if name.startswith("supclust") and found.clusters == 1:
        return "the most typical point, or one of them, as a single cluster has no SUP."
    text = strategies.STRATEGIES[name].__doc__ or "its rule is in docs/method.md."  # python -OO keeps no docstrings
    return text.strip().splitlines()[0].rpartition(": ")[2]
