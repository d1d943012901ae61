"""A round of labelling: what was picked, and why."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from supclust import method, strategies
from supclust.engine import geometry
from supclust.label.annotations import counted, visible
from supclust.label.request import TAKEN, Request
from supclust.label.sources import Source

NEAR = 3  # clusters that are named as neighbours of a pick's own
NEIGHBORS = 4  # images beside a pick on the sheet, one below the other; together as high as the pick


@dataclass(frozen=True)
class Pick:
    """A point that is to be labelled, and what speaks for it."""

    order: int  # 1, 2, ...
    point: int
    cluster: int
    cluster_size: int
    typicality: float
    rank: int  # by typicality in its cluster, 1 = the most typical
    sup: float  # NaN where there is one cluster only
    typical: tuple[int, ...] = ()  # the most typical other points of the cluster, at most NEIGHBORS
    group_size: int = 1  # itself and its near-duplicates
    why: str = ""  # a few sentences, a line each, which can be printed whatever the ids are


@dataclass(frozen=True, eq=False)
class Round:
    """What a round came to."""

    request: Request
    source: Source
    pool: strategies.Pool
    points: np.ndarray  # (budget,) that were picked, in their order
    group: np.ndarray  # (n,) of near-duplicates, as in duplicates.groups
    labels: Mapping[int, str]  # of points, known before
    problems: Mapping[str, str]  # ids whose labels cannot be used, and why
    wanted: Mapping[int, str]  # picks for classes that have few labels
    facts: Mapping[str, str]  # what the labels tell, and what there is to say about near-duplicates

    @cached_property
    def picks(self) -> tuple[Pick, ...]:
        """The points, and what speaks for each of them."""
        pool, budget, ids, sizes = self.pool, self.request.budget, self.source.ids, np.bincount(self.group)
        details, clusters = method.explain(pool, budget), pool.clusters_for(budget)
        typicality, weights = details.typicality, method.cluster_weights(details.centers, details.temperature)
        by_typicality = [members[np.argsort(-typicality[members], kind="stable")] for members in clusters.members]
        size_ranks = 1 + np.argsort(np.argsort(-clusters.sizes, kind="stable"))
        labeled = np.bincount(clusters.assignments[pool.labeled], minlength=len(clusters.sizes))
        picks = []
        for order, point in enumerate(self.points.tolist(), start=1):
            cluster = int(clusters.assignments[point])
            members, size = by_typicality[cluster], len(by_typicality[cluster])
            rank = 1 + int(np.count_nonzero(typicality[members] > typicality[point]))
            done = f"{labeled[cluster]} of them labelled or picked before" if labeled[cluster] else "none of them labelled"
            why = [
                f"Cluster {cluster}: {size:,} of {counted(len(ids), 'image')}, number {size_ranks[cluster]} by size, {done}.",
                f"Typicality {typicality[point]:.3f}: number {rank:,} of {size:,} in its cluster.",
            ]
            distances = geometry.distances(pool.normalised[np.array([point])], clusters.centers)[0]
            others = [k for k in np.argsort(-weights[cluster], kind="stable").tolist() if k != cluster and len(by_typicality[k])]
            near = [
                f"{k} (weight {weights[cluster, k]:.2f}, distance {distances[k]:.3f}, such as {visible(ids[by_typicality[k][0]])})"
                for k in others[:NEAR]
            ]
            if near:
                why.append(f"SUP {details.sup[point]:.3f}; nearest clusters: {'; '.join(near)}.")
            why.append(self._reason(point))
            typical = tuple(members[members != point][:NEIGHBORS].tolist())
            how_typical, sup = (float(f"{score:.6g}") for score in (typicality[point], details.sup[point]))  # what float32 knows
            alike = int(sizes[self.group[point]])
            picks.append(Pick(order, point, cluster, size, how_typical, rank, sup, typical, alike, "\n".join(why)))
        return tuple(picks)

    def _reason(self, point: int) -> str:
        """What a point was picked by: the first sentence of the strategy's docstring, but for rounds in which it cannot."""
        if label := self.wanted.get(point):
            count = [*self.labels.values()].count(label)
            return f"Picked as the linear layer finds it likely to be {visible(label)!r}, of which there are few labels ({count})."
        name, _ = strategies.parse(self.request.strategy_for(self.labels))
        rule = strategies.STRATEGIES[name].__doc__ or "its rule is in docs/method.md."  # python -OO keeps no docstrings
        rule = rule.strip().splitlines()[0].rpartition(": ")[2]
        if name in strategies.MODEL_BASED and not self.labels:
            rule = "a random draw, as there are no labels yet to train a model on."
        elif name.startswith("supclust") and self.clusters == 1:
            rule = "the most typical point, or one of them, as a single cluster has no SUP."
        return f"Picked by {self.strategy}: {rule}"

    @property
    def strategy(self) -> str:
        """The one that picked, why it did if nobody asked for it, and what it left to the classes that have few labels."""
        strategy = self.request.strategy_for(self.labels)
        strategy = strategy if strategy == self.request.strategy else f"{strategy} ({TAKEN[strategy]})"
        few = f" after {len(self.wanted)} picks for classes of fewer than {self.request.per_class_min} labels"
        return strategy + few * bool(self.wanted)

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
        names = sorted({unicodedata.normalize("NFC", one.name).strip() for one in parents if any(map(str.isalpha, one.name))})
        return tuple(dict.fromkeys([*self.classes, *(names if len(names) > 1 and not self.request.classes else [])]))
