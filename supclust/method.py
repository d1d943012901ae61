"""SUPClust as in the paper (arXiv 2403.03741, section 3): typicality, cluster weights, SUP, the queries and the ablations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from supclust.engine import geometry
from supclust.engine.neighbours import mean_distances
from supclust.pool import Clusters, Pool, Settings, check_count, check_positive

SMALL_CLUSTER = 5  # points; clusters up to this size are used only when nothing else is left (TypiClust's code)

# -- the scores ----------------------------------------------------------------------------------------------------------------


def typicality(points: ArrayLike, n_neighbors: int = 20, *, squared: bool = False) -> np.ndarray:
    """Typicality of each of the points among the others: Typ(x) = 1 / mean distance to the K nearest (Eq. 1).

    points (n, d), taken as they are: normalise them first, and pass the points of one cluster. K = min(n_neighbors, n // 2), at
    least 1. squared=True takes squared distances, as the code of TypiClust does, where the paper has plain ones.
    Returns (n,) float64; inf for a point with K exact copies, 0 for a point that is alone. ValueError unless points are finite.
    """
    check_count("n_neighbors", n_neighbors)
    return _inverse(mean_distances(geometry.check_features(points), n_neighbors, squared))


def default_temperature(centers: ArrayLike, relative: float = 0.1) -> float:
    """The temperature T where none is given: a tenth of the mean distance between the centres (K, d). This choice is ours.

    The paper does not print its T. At a tenth, a centre that is farther by a tenth of the mean distance weighs e^-1 as much, so
    nearer clusters count more but no single one alone. 1.0 where all the centres are one.
    """
    centers = np.asarray(centers, dtype=float)
    between = geometry.distances(centers, centers)[np.triu_indices(len(centers), 1)]
    return relative * float(between.mean()) if len(between) and between.any() else 1.0


def cluster_weights(centers: ArrayLike, temperature: float) -> np.ndarray:
    """Weights of the other clusters: w_ij = softmax over j != i of -||c_i - c_j|| / T (Eq. 2).

    centers (K, d); temperature T > 0 in units of distance: towards 0 only the nearest other centre counts, at infinity all alike.
    Returns (K, K) float64 with a zero diagonal and rows that sum to 1; for one centre alone [[0.]]. ValueError unless T > 0.
    """
    check_positive("temperature", temperature)
    centers = geometry.check_features(centers).astype(float)
    if len(centers) == 1:
        return np.zeros((1, 1))
    logits = -geometry.distances(centers, centers) / temperature
    np.fill_diagonal(logits, -np.inf)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def sup(points: ArrayLike, assignments: ArrayLike, centers: ArrayLike, temperature: float) -> np.ndarray:
    """SUP(x) = - sum over j != i of w_ij ||x - c_j|| for x in cluster i (Eq. 3); larger is nearer to the decision boundary.

    points (n, d), assignments (n,) in 0..K-1, centers (K, d), temperature > 0. Returns (n,) float64: NaN with a single cluster,
    which has no boundary. Raises ValueError for arrays that are not finite or do not fit together.
    """
    points, centers = geometry.check_features(points), geometry.check_features(centers)
    assignments = np.asarray(assignments)
    if assignments.shape != (len(points),) or assignments.dtype.kind not in "iu":
        raise ValueError(f"assignments must be whole numbers ({len(points)},), not {assignments.dtype} {assignments.shape}")
    if points.shape[1] != centers.shape[1]:
        raise ValueError(f"points have {points.shape[1]} dimensions and centers {centers.shape[1]}")
    if assignments.min() < 0 or assignments.max() >= len(centers):
        raise ValueError(f"assignments must lie in 0..{len(centers) - 1}")
    weights = cluster_weights(centers, temperature)
    if len(centers) == 1:
        return np.full(len(points), np.nan)
    return -np.einsum("nk,nk->n", weights[assignments], geometry.distances(points, centers))


# -- the query -----------------------------------------------------------------------------------------------------------------


def select(
    features: ArrayLike | geometry.Points,
    budget: int,
    labeled: Sequence[int] | np.ndarray = (),
    *,
    temperature: float | None = None,
    top_fraction: float = 0.1,
    n_neighbors: int = 20,
    max_clusters: int | None = 500,
    exact: bool | None = None,
    candidates: Sequence[int] | np.ndarray | None = None,
    seed: int = 0,
    return_details: bool = False,
) -> np.ndarray | tuple[np.ndarray, Details]:
    """Choose which points to label next, by SUPClust (arXiv 2403.03741, section 3).

    The pool is clustered by k-means into min(labelled + budget, max_clusters) clusters. In each of the largest clusters without a
    label, the point of largest SUP among the top_fraction most typical ones is taken.

    features (n, d), finite, for example SimCLR features; they are L2-normalised here. Those of a memory-mapped file
    (np.load(..., mmap_mode="r")) are never copied whole; those in shards on a cluster come as `scale.Shards`. labeled: indices
    that have labels already. temperature: T of Eq. 2, in units of distance between normalised features; None: see
    `default_temperature`. exact: whether neighbours are exact in clusters of more than 16,384 points too; None = in pools of less
    than a million points. candidates: indices of the points that may be picked while they have no label; None = all. The others
    still count in clusters and typicality.

    Returns indices (budget,) int64, distinct; with return_details also the Details. With one cluster only (nothing labelled, budget
    1) SUP is undefined (NaN in the details) and the most typical point is taken. Raises ValueError for features that are not finite
    and 2-d, indices out of range or repeated, a budget larger than what is left to query, and settings out of their range.
    """
    settings = Settings(n_neighbors, max_clusters, top_fraction, temperature, exact=exact)
    pool = Pool(features, labeled, seed, settings, candidates=candidates)
    picks = supclust(pool, pool.check_budget(budget), np.random.default_rng(seed))
    return (picks, explain(pool, budget)) if return_details else picks


@dataclass(frozen=True)
class Details:
    """The basis of a query: assignments (n,), centers (K_c, d) of the normalised features, typicality (n,), sup (n,)."""

    assignments: np.ndarray
    centers: np.ndarray
    typicality: np.ndarray
    sup: np.ndarray
    temperature: float


def explain(pool: Pool, budget: int) -> Details:
    """The clusters of a query of that budget, with the typicality and SUP of every point."""
    clusters = pool.clusters_for(budget)
    nearness = np.empty(len(pool.features))
    for cluster, members in enumerate(clusters.members):
        nearness[members] = sup_in_cluster(pool, clusters, cluster, members)
    typical = typicality_in(pool, clusters)
    return Details(clusters.assignments, clusters.centers, typical, nearness, temperature_of(pool, clusters))


def typicality_in(pool: Pool, clusters: Clusters) -> np.ndarray:
    """The typicality (n,) of every point in its cluster."""
    return _inverse(pool.neighbor_distances(clusters, range(len(clusters.sizes))))


# -- strategies: functions of (pool, budget, rng) that return indices (budget,) int64, the largest cluster's first -------------


def supclust(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """SUPClust (paper, section 3): the point of largest SUP among the most typical tenth of each queried cluster."""

    def choose(clusters: Clusters, cluster: int, candidates: np.ndarray) -> int:
        compared, scores = supclust_scores(pool, clusters, cluster, candidates)
        return compared[np.argmax(scores)]

    return query_clusters(pool, budget, choose, by_typicality=pool.settings.top_fraction < 1)


def supclust_scores(pool: Pool, clusters: Clusters, cluster: int, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points (m,) that SUPClust chooses from in a cluster, and their scores (m,): SUP of the most typical candidates.

    A single cluster has no SUP: there it is the typicality of all candidates.
    """
    if len(clusters.centers) == 1:
        return candidates, _inverse(pool.neighbor_distances(clusters, [cluster])[candidates])
    typical = most_typical(pool, clusters, cluster, candidates, pool.settings.top_fraction)
    return typical, sup_in_cluster(pool, clusters, cluster, typical)


def supclust_no_sup(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """Ablation (Fig. 5): a random point among the most typical tenth of each queried cluster."""
    return query_clusters(pool, budget, lambda *cluster: rng.choice(most_typical(pool, *cluster, pool.settings.top_fraction)))


def supclust_no_typicality(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """Ablation (Fig. 5): the point of largest SUP of the whole of each queried cluster; in a single cluster, the most typical."""
    return supclust(pool.with_settings(top_fraction=1.0), budget, rng)


def typiclust(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """TypiClust-rp (Hacohen et al., 2022): the most typical point of each queried cluster."""
    return query_clusters(pool, budget, lambda *cluster: most_typical(pool, *cluster, 0)[0])


def query_clusters(
    pool: Pool, budget: int, choose: Callable[[Clusters, int, np.ndarray], int], by_typicality: bool = True
) -> np.ndarray:
    """Cluster the pool into labelled + budget clusters and choose a point of each that `clusters_to_query` names.

    choose(clusters, cluster, candidates (m,)) gets those points of a cluster that may be queried, and returns one of them.
    """
    clusters = pool.clusters_for(budget)
    queried = list(clusters_to_query(clusters, pool, budget))
    if by_typicality:
        pool.neighbor_distances(clusters, queried)  # together, which is faster than one cluster after the other
    free, picks = pool.free, np.empty(budget, dtype=np.int64)
    for i, cluster in enumerate(queried):
        members = clusters.members[cluster]
        picks[i] = choose(clusters, cluster, members[free[members]])
        free[picks[i]] = False
    return picks


def clusters_to_query(clusters: Clusters, pool: Pool, budget: int) -> Iterator[int]:
    """Yield the cluster of each of the budget's picks; a cluster comes up again only when all others had their turn.

    Clusters without a labelled point come first, the largest before the others; then, when the cap on clusters leaves too few of
    them, those with the fewest labelled points. Clusters of five points and fewer come only when the larger ones are used up. A
    cluster is used up when none of its points may be queried any more.
    """
    assignments, n_clusters = clusters.assignments, len(clusters.sizes)
    covered, left = (np.bincount(assignments[some], minlength=n_clusters) for some in (pool.labeled, pool.free))
    order = np.lexsort((-clusters.sizes, covered))
    large = clusters.sizes[order] > SMALL_CLUSTER
    for group in (order[large], order[~large]):
        while left[group].any():
            for cluster in group[left[group] > 0]:
                if budget == 0:
                    return
                yield int(cluster)
                left[cluster] -= 1
                budget -= 1


def most_typical(pool: Pool, clusters: Clusters, cluster: int, candidates: np.ndarray, fraction: float) -> np.ndarray:
    """That fraction of some points (m,) of a cluster, rounded up and at least one: the most typical, in the order of the points."""
    count = max(1, math.ceil(round(fraction * len(candidates), 9)))  # 0.1 * 30 is a hair above 3
    if count == len(candidates):
        return candidates
    distances = pool.neighbor_distances(clusters, [cluster])[candidates]
    return candidates[np.sort(np.argsort(distances, kind="stable")[:count])]


def sup_in_cluster(pool: Pool, clusters: Clusters, cluster: int, some: np.ndarray) -> np.ndarray:
    """SUP (m,) float64 of some points (m,) of a cluster; NaN where it is the only one."""
    if len(clusters.centers) == 1:
        return np.full(len(some), np.nan)
    centers, key = clusters.centers, (len(clusters.centers), pool.settings.temperature, pool.settings.relative_temperature)
    weights = pool.shared(("weights", *key), lambda: cluster_weights(centers, temperature_of(pool, clusters)))[cluster]
    return pool.normalised.map_rows(lambda points: -geometry.distances(points, centers) @ weights, some)


def temperature_of(pool: Pool, clusters: Clusters) -> float:
    """T of the weights between the clusters: that of the pool's settings, else `default_temperature`."""
    return pool.settings.temperature or default_temperature(clusters.centers, pool.settings.relative_temperature)


def _inverse(distances: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return 1 / distances
