"""Query strategies: which points of a pool to label next. A new one is a function and a line in STRATEGIES."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from supclust import scores
from supclust.strategies import clustered
from supclust.strategies.pool import Pool, Settings
from supclust.strategies.uniform import random

__all__ = ["NAMES", "STRATEGIES", "Pool", "Settings", "check_names", "query"]

Strategy = Callable[[Pool, int, np.random.Generator], np.ndarray]

STRATEGIES: dict[str, Strategy] = {
    "random": random,
    "typiclust": clustered.typiclust,
    "supclust": clustered.supclust,
    "supclust-no-sup": clustered.supclust_no_sup,
    "supclust-no-typicality": clustered.supclust_no_typicality,
}
NAMES = tuple(STRATEGIES)


def query(name: str, pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """The indices (budget,) int64 that the strategy of that name wants labelled next: distinct, none of them labelled.

    Raises ValueError for an unknown strategy (listing the known ones) and a budget that is not a positive whole number or larger
    than the number of unlabelled points.
    """
    check_names([name])
    unlabeled = len(pool.features) - len(pool.labeled)
    if not scores.is_count(budget):
        raise ValueError(f"budget must be a positive whole number, not {budget!r}")
    if budget > unlabeled:
        raise ValueError(f"budget is {budget}, but only {unlabeled} points are unlabelled")
    return STRATEGIES[name](pool, int(budget), rng)


def check_names(names: list[str] | tuple[str, ...]) -> None:
    """ValueError for the first name that is no strategy, listing those that are."""
    for name in names:
        if name not in STRATEGIES:
            raise ValueError(f"unknown strategy {name!r}; known: {', '.join(NAMES)}")
