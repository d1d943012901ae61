"""The strategies that query one point of each of the largest clusters: SUPClust, its two ablations, and TypiClust."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from supclust.pool import ClusteredPoints, Pool

SMALL_CLUSTER = 5  # clusters of this size and smaller are used only when nothing else is left (TypiClust's code)

# picks one of the candidates (m,), which are points of one cluster
Choose = Callable[[ClusteredPoints, int, np.ndarray], int]


class Choice(NamedTuple):
    """A pick, the points (m,) of its cluster that it was chosen from, and their scores (m,), of which its own is the largest."""

    pick: int
    compared: np.ndarray
    scores: np.ndarray


def supclust(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """SUPClust (paper, section 3): the point of largest SUP among the most typical tenth of each queried cluster."""
    return np.array([choice.pick for choice in supclust_choices(pool, budget)], dtype=np.int64)


def supclust_choices(pool: Pool, budget: int) -> list[Choice]:
    """The picks of `supclust` in their order, each with what it was compared to."""
    choices = []

    def choose(clustered: ClusteredPoints, cluster: int, candidates: np.ndarray) -> int:
        choices.append(_choice_of_supclust(clustered, cluster, candidates))
        return choices[-1].pick

    query_clusters(pool, budget, choose)
    return choices


def supclust_no_sup(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """Ablation (Fig. 5): a random point among the most typical tenth of each queried cluster."""
    return query_clusters(pool, budget, lambda *cluster: rng.choice(_most_typical_fraction(*cluster)))


def supclust_no_typicality(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """Ablation (Fig. 5): the point of largest SUP of the whole of each queried cluster."""
    return query_clusters(pool, budget, _largest_sup, scored=False)


def typiclust(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """TypiClust-rp (Hacohen et al., 2022): the most typical point of each queried cluster."""
    return query_clusters(pool, budget, _most_typical)


def query_clusters(pool: Pool, budget: int, choose: Choose, *, scored: bool = True) -> np.ndarray:
    """Cluster the pool into labelled + budget clusters and choose a point of each that `clusters_to_query` names.

    choose gets those points of the cluster that may be queried; scored: whether it goes by typicality. Returns indices (budget,)
    int64 in the order of the clusters, largest first.
    """
    clustered = pool.clusters_for(budget)
    clusters = list(clusters_to_query(clustered, pool, budget))
    if scored:
        clustered.score(clusters)
    free, picks = pool.free, []
    for cluster in clusters:
        members = clustered.members[cluster]
        picks.append(choose(clustered, cluster, members[free[members]]))
        free[picks[-1]] = False
    return np.array(picks, dtype=np.int64)


def clusters_to_query(clustered: ClusteredPoints, pool: Pool, budget: int) -> Iterator[int]:
    """Yield the cluster of each of the budget's picks; a cluster comes up again only when all others had their turn.

    Clusters without a labelled point come first, the largest before the others; then, when the cap on clusters leaves too few of
    them, those with the fewest labelled points. Clusters of five points and fewer come only when the larger ones are used up. A
    cluster is used up when none of its points may be queried any more.
    """
    covered, left = (
        np.bincount(clustered.assignments[points], minlength=len(clustered.sizes)) for points in (pool.labeled, pool.queryable)
    )
    order = np.lexsort((-clustered.sizes, covered))
    large = clustered.sizes[order] > SMALL_CLUSTER
    for group in (order[large], order[~large]):
        while left[group].any():
            for cluster in group[left[group] > 0]:
                if budget == 0:
                    return
                yield int(cluster)
                left[cluster] -= 1
                budget -= 1


def _most_typical(clustered: ClusteredPoints, cluster: int, candidates: np.ndarray) -> int:
    return clustered.most_typical(cluster, candidates, 1)[0]


def _largest_sup(clustered: ClusteredPoints, cluster: int, candidates: np.ndarray) -> int:
    """The candidate of largest SUP; a single cluster has no other to be near to, so there the most typical one."""
    if len(clustered.centers) == 1:
        return _most_typical(clustered, cluster, candidates)
    return candidates[np.argmax(clustered.sup(cluster, candidates))]


def _choice_of_supclust(clustered: ClusteredPoints, cluster: int, candidates: np.ndarray) -> Choice:
    """The candidate of largest SUP among the most typical tenth of them; in a single cluster, the most typical of all."""
    if len(clustered.centers) == 1:
        pick = _most_typical(clustered, cluster, candidates)
        return Choice(pick, candidates, clustered.typicality([cluster])[candidates])
    typical = _most_typical_fraction(clustered, cluster, candidates)
    sup = clustered.sup(cluster, typical)
    return Choice(typical[np.argmax(sup)], typical, sup)


def _most_typical_fraction(clustered: ClusteredPoints, cluster: int, candidates: np.ndarray) -> np.ndarray:
    """The ceil(top_fraction * m) most typical of the m candidates."""
    share = round(clustered.settings.top_fraction * len(candidates), 9)  # 0.1 * 30 is a hair above 3
    return clustered.most_typical(cluster, candidates, max(1, math.ceil(share)))
