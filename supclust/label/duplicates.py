"""Near-duplicates: frames of a burst, copies in another size or compression. A label of one of them is a label of all."""

import logging
from dataclasses import replace

import numpy as np
import pandas as pd

from supclust.engine import geometry
from supclust.label.annotations import counted
from supclust.pool import Pool

log = logging.getLogger(__name__)

# Cosines from which images are near-duplicates, by what the encoder is called (docs/label.md has the measurements).
SAME = 0.9999  # features that do not differ
NEAR = {"efficientnet_lite0": 0.93, "not trained further": 0.96, "given embeddings": SAME}
OTHERS = 0.98  # encoders that were trained on these images, which see small differences as nothing, or are not known
SOME, CLOSER = 500, 0.1  # points whose pairs tell how far images lie apart, and the share of it at which they are near
ROWS = 1024  # points that are compared with all others at once
MANY = 20_000  # points, above which they are compared inside of clusters only


def groups(points: np.ndarray, threshold: float) -> np.ndarray:
    """Of normalised points (n, d), the first of each point's group, int64 (n,).

    Point after point joins the earliest one that is the first of a group and has a cosine of threshold or more with it, or begins a
    group. So all members are near to one of them, and groups do not grow into chains.
    """
    first, begins = np.arange(len(points)), np.ones(len(points), dtype=bool)
    for part in geometry.slices(len(points), ROWS):
        near = np.tril(points[part] @ points[: part.stop].T >= threshold, part.start - 1)  # for each point, those before it
        for row in np.flatnonzero(near.any(axis=1)):
            possible = near[row] & begins[: part.stop]
            earliest = possible.argmax()
            if possible[earliest]:
                first[part.start + row], begins[part.start + row] = earliest, False
    return first


def find(pool: Pool, budget: int, encoder: str) -> np.ndarray:
    """The groups (n,) of a pool, as in `groups`; of more than MANY points, in each cluster of a query of that budget.

    encoder: what made the features. Where all images look alike to an encoder, as digits do, its threshold is higher; of
    features that were given, only those are grouped that show no difference.
    """
    found = np.arange(len(pool.features))
    some = pool.normalised[found[:: 1 + len(found) // SOME]]
    near = next((near for name, near in NEAR.items() if name in encoder), OTHERS)
    threshold = min(SAME, max(near, 1 - CLOSER * (1 - np.median(some @ some.T))))
    for members in [found] if len(found) <= MANY else pool.clusters_for(budget).members:
        members = np.sort(members)  # clusters have an order of their own
        found[members] = members[groups(pool.normalised[members], threshold)]
    return found


def one_of_each(pool: Pool, group: np.ndarray, budget: int) -> Pool:
    """The pool with the first candidate of each group of which no point is done; if those are too few, with second ones, too."""
    left = pool.queryable
    rank = pd.Series(left).groupby(group[left]).cumcount() + len(left) * np.isin(group[left], group[pool.labeled])
    if (firsts := np.count_nonzero(rank == 0)) < budget:
        repeated = counted(budget - firsts, "pick repeats another image", "picks repeat other images")
        log.warning("%s: too few different ones are left", repeated)
    return replace(pool, candidates=np.sort(left[np.argsort(rank, kind="stable")[: max(firsts, budget)]]))


def facts(pool: Pool, group: np.ndarray) -> dict[str, str]:
    """What there is to say about the groups of a pool, and about an encoder that sees no difference between half of its images."""
    sizes, n, found = np.bincount(group), len(group), {}
    if sizes.max() > 1:
        repeated = counted(n - np.count_nonzero(sizes), "repeats", "repeat")
        found["Near-duplicates"] = f"of {n:,} images, {repeated} another one; the largest group has {sizes.max():,}"
    largest = pool.normalised[np.flatnonzero(group == sizes.argmax())]
    same = np.count_nonzero(largest @ largest[0] >= SAME)
    if same > 1 and same >= n / 2:
        found["Not told apart"] = f"{same:,} of {n:,} images have the same features: picks among them are arbitrary"
    return found
