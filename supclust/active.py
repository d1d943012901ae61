"""One active-learning run: query, label, fit, evaluate, round after round (paper, section 4)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from supclust import geometry, learners, strategies
from supclust.features import Features

BUDGETS = {"tiny": 1, "small": 5}  # labels per class and round
FRAMEWORKS = ("ssl",)


@dataclass(frozen=True)
class Round:
    """What one round came to: how many labels there are now, test accuracy in 0..1, and the points queried, as a tuple."""

    labels: int
    accuracy: float
    picks: tuple[int, ...]


def step_size(budget: str, n_classes: int) -> int:
    """Labels that a round of the tiny or the small budget adds: one or five for each class; ValueError for another budget."""
    if budget not in BUDGETS:
        raise ValueError(f"unknown budget {budget!r}; known: {', '.join(BUDGETS)}")
    return BUDGETS[budget] * n_classes


def run(features: Features, pool: strategies.Pool, strategy: str, budget: str, rounds: int = 6) -> Iterator[Round]:
    """Query, label, fit and evaluate in the SSL framework, starting from nothing; yields a Round after each.

    pool holds features.train and the run's seed; runs on the same pool share its clusters. The run ends early when fewer points
    are left than a round needs.
    """
    step, rng = step_size(budget, len(features.classes)), random_stream(pool.seed, strategy)
    test = geometry.normalise(features.test)
    for _ in range(rounds):
        if step > len(pool.features) - len(pool.labeled):
            return
        picks = strategies.query(strategy, pool, step, rng)
        pool = pool.with_labeled(np.concatenate([pool.labeled, picks]))
        head = learners.fit_linear_head(pool.points[pool.labeled], features.train_labels[pool.labeled], len(features.classes))
        accuracy = float((head.predict(test) == features.test_labels).mean())
        yield Round(len(pool.labeled), accuracy, tuple(picks.tolist()))


def random_stream(seed: int, strategy: str) -> np.random.Generator:
    """The random numbers of a run: the same for the same (seed, strategy), whatever runs before it."""
    return np.random.default_rng([seed, zlib.crc32(strategy.encode())])
