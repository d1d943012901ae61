"""The one call that most users want: which points to label next, by SUPClust, and what that choice rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from supclust import strategies
from supclust.engine import geometry


@dataclass(frozen=True)
class Details:
    """What a query rests on: assignments (n,), centers (K_c, d) of the normalised features, typicality (n,), sup (n,)."""

    assignments: np.ndarray
    centers: np.ndarray
    typicality: np.ndarray
    sup: np.ndarray
    temperature: float


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

    features (n, d), finite, for example SimCLR features; they are L2-normalised here. Those that are in shards on a cluster come as
    `sharded.Shards`. labeled: indices that have labels already.
    The pool is clustered by k-means into min(labelled + budget, max_clusters) clusters. In each of the largest clusters without a
    label, the point of largest SUP among the top_fraction most typical ones is taken. temperature is T of Eq. 2, in units of
    distance between normalised features; None = a tenth of the mean distance between the centres (`default_temperature`).
    exact: whether neighbours are, in clusters of more than 16,384 points too; None = in pools of less than a million points. The
    recall of those that are not is logged. candidates: indices of the points that may be picked while they have no label; None =
    all. The others still have their part in clusters and typicality. Features of a memory-mapped file
    (np.load(..., mmap_mode="r")) are never copied whole.

    Returns indices (budget,) int64, distinct, of candidates without a label; with return_details also the Details. With one
    cluster only (nothing labelled, budget 1) SUP is undefined (NaN in the details) and the most typical point is taken.
    Raises ValueError for features that are not finite and 2-d, indices out of range or repeated, a budget that is not positive or
    larger than what is left to query, and a temperature that is not positive.
    """
    settings = strategies.Settings(n_neighbors, max_clusters, top_fraction, temperature, exact=exact)
    pool = strategies.Pool(features, labeled, seed, settings, candidates=candidates)
    picks = strategies.query("supclust", pool, budget, np.random.default_rng(seed))
    return (picks, explain(pool, budget)) if return_details else picks


def explain(pool: strategies.Pool, budget: int) -> Details:
    """The clusters that a query of that budget goes by, with the typicality and SUP of every point."""
    clustered = pool.clusters_for(budget)
    typicality, sup = clustered.typicality(range(len(clustered.sizes))), np.empty(len(pool.features))
    for cluster, members in enumerate(clustered.members):
        sup[members] = clustered.sup(cluster, members)
    return Details(clustered.assignments, clustered.centers, typicality, sup, clustered.temperature)
