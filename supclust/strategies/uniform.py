"""Random draws: the baseline that looks at nothing, and the control that looks at the labels."""

from __future__ import annotations

import numpy as np

from supclust.pool import Pool


def random(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """A uniform draw from the points that may be queried, without replacement."""
    return rng.choice(pool.queryable, budget, replace=False).astype(np.int64)


def class_balanced(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """Class-balanced random oracle: an upper control that sees all labels, no strategy that anyone could use.

    Random points that may be queried, each of the class that has the fewest labelled ones by then and any left; classes tie at
    random.
    """
    if pool.labels is None:
        raise ValueError("class-balanced sees the labels of all points, and the pool has none: pass Pool(..., labels=labels)")
    labels, free = np.unique(pool.labels, return_inverse=True)[1], pool.queryable
    free = free[np.lexsort((pool.lots(rng)[free], labels[free]))]  # class by class, in random order
    starts = np.searchsorted(labels[free], labels[free])
    # how many of its class are labelled when the turn comes to a point, if it comes in this order
    turn = np.bincount(labels[pool.labeled], minlength=labels.max() + 1)[labels[free]] + np.arange(len(free)) - starts
    return free[np.lexsort((pool.lots(rng)[free], turn))[:budget]]
