"""Near-duplicates: frames of a burst, copies in another size or compression. A label of one of them is a label of all."""

import numpy as np

from supclust.engine import geometry
from supclust.pool import Pool

SAME = 0.9999  # cosine of features that show no difference, whatever made them; for encoders that are known, see embedders.NEAR
ROWS = 1024  # points that are compared with all others at once
MANY = 20_000  # points, above which they are compared inside of clusters only


def groups(points: np.ndarray, threshold: float) -> np.ndarray:
    """Of normalised points (n, d), the first of each point's group, int64 (n,).

    Point after point joins the earliest one that is the first of a group and has a cosine of threshold or more with it, or begins a
    group. So all members are near to one of them, and groups do not grow into chains.
    """
    first, begins = np.arange(len(points)), np.ones(len(points), dtype=bool)
    for part in geometry.slices(len(points), ROWS):
        near = np.tril(points[part] @ points[: part.stop].T >= threshold, part.start - 1)  # of each point, those before it
        for row in np.flatnonzero(near.any(axis=1)):
            possible = near[row] & begins[: part.stop]
            earliest = possible.argmax()
            if possible[earliest]:
                first[part.start + row], begins[part.start + row] = earliest, False
    return first


def find(pool: Pool, budget: int, threshold: float) -> np.ndarray:
    """The groups (n,) of a pool, as in `groups`; of MANY points those in each cluster of a query of that budget."""
    found = np.arange(len(pool.points))
    for members in [found] if len(found) <= MANY else pool.clusters_for(budget).members:
        members = np.sort(members)  # clusters have an order of their own
        found[members] = members[groups(pool.points[members], threshold)]
    return found


def one_of_each(group: np.ndarray, candidates: np.ndarray, done: np.ndarray) -> np.ndarray:
    """Of each group the first candidate, ascending; none of a group of which a point is done, labelled or picked before."""
    free = candidates[~np.isin(group[candidates], group[done])]
    return np.sort(free[np.unique(group[free], return_index=True)[1]])


def facts(pool: Pool, group: np.ndarray) -> dict[str, str]:
    """What there is to say about the groups of a pool, and about an encoder that sees no difference between most of its images."""
    sizes, n, found = np.bincount(group), len(group), {}
    if sizes.max() > 1:
        found["Near-duplicates"] = (
            f"{n - np.count_nonzero(sizes):,} of {n:,} images repeat another one; {sizes.max():,} are one group"
        )
    same = np.count_nonzero(pool.points @ pool.points[sizes.argmax()] >= SAME)
    if same > 1 and same >= n / 2:
        found["Not told apart"] = f"{same:,} of {n:,} images have the same features: picks among them are arbitrary"
    return found
