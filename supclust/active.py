"""One active-learning run: query, label, fit, evaluate, round after round (paper, section 4)."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from supclust import learners, strategies
from supclust.datasets import Dataset
from supclust.engine import geometry
from supclust.features import Features
from supclust.learners import LinearHead
from supclust.profiles import FSL

log = logging.getLogger(__name__)

BUDGETS = {"tiny": 1, "small": 5}  # labels per class and round
FRAMEWORKS = ("ssl", "fsl")


@dataclass(frozen=True)
class Round:
    """What one round came to. Accuracies are of the test set, from 0 to 1."""

    labels: int  # there are now
    accuracy: float
    balanced_accuracy: float  # mean over the classes of the share of their images that are recognised
    tail_accuracy: float | None  # the same over the rarest third of the pool's classes; None where the pool is balanced
    classes: int  # that have a label
    picks: tuple[int, ...]  # points queried in this round


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a trained model makes of a pool, computed when first asked for: a strategies.pool.Model."""

    head: LinearHead
    embed: Callable[[], np.ndarray]  # the pool's points (n, d) that the head takes
    learned: bool  # whether training has changed them

    @cached_property
    def points(self) -> np.ndarray:
        """What the head takes, (n, d)."""
        return self.embed()

    @property
    def penultimate(self) -> np.ndarray | None:
        return self.points if self.learned else None

    def log_probabilities(self) -> np.ndarray:
        return self.head.log_probabilities(self.points)

    def dropout_log_probabilities(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        return self.head.dropout_log_probabilities(self.points, rng)


@dataclass(frozen=True)
class Framework:
    """How a model is trained in each round, and whether that changes the features that its last layer sees."""

    fit: Callable[[strategies.Pool], tuple[Outputs, np.ndarray]]  # on the labelled points; also predicts the test set's classes
    learns_features: bool


def step_size(budget: str, n_classes: int) -> int:
    """Labels that a round of the tiny or the small budget adds: one or five for each class; ValueError for another budget."""
    if budget not in BUDGETS:
        raise ValueError(f"unknown budget {budget!r}; known: {', '.join(BUDGETS)}")
    return BUDGETS[budget] * n_classes


def run(
    features: Features, pool: strategies.Pool, strategy: str, budget: str, rounds: int = 6, framework: Framework | None = None
) -> Iterator[Round]:
    """Query, label, fit and evaluate, starting from nothing; yields a Round after each.

    pool holds features.train and the run's seed; runs on the same pool share its clusters. strategy: a name, or one with other
    settings, see `strategies.parse`. framework: `linear(features)` (SSL, the default) or `network(...)` (FSL). A strategy that asks
    for a model that is not there yet gets a random first batch, the same for all of them at a seed; in FSL, so does Coreset, which
    goes by what the network has learned. The run ends early when fewer points are left than a round needs.
    """
    name, changes = strategies.parse(strategy)
    step, rng = step_size(budget, len(features.classes)), random_stream(pool.seed, name)
    pool = pool.with_settings(**{"n_classes": len(features.classes)} | changes)
    framework = framework or linear(features)
    tail = tail_classes(features.train_labels, len(features.classes))
    for _ in range(rounds):
        if step > np.count_nonzero(pool.free):
            log.info(
                "%s ends at %d labels: its pool of %d holds no further %d", strategy, len(pool.labeled), len(pool.features), step
            )
            return
        picks = _query(name, pool, step, rng, framework)
        labeled = np.concatenate([pool.labeled, picks])
        model, predicted = framework.fit(pool.with_labeled(labeled))
        pool = pool.with_labeled(labeled, model)
        recalls = recall_per_class(predicted, features.test_labels, len(features.classes))
        yield Round(
            labels=len(labeled),
            accuracy=float((predicted == features.test_labels).mean()),
            balanced_accuracy=float(np.nanmean(recalls)),
            tail_accuracy=float(np.nanmean(recalls[tail])) if len(tail) else None,
            classes=len(np.unique(features.train_labels[labeled])),
            picks=tuple(picks.tolist()),
        )


def _query(name: str, pool: strategies.Pool, step: int, rng: np.random.Generator, framework: Framework) -> np.ndarray:
    if name == "coreset" and framework.learns_features and pool.model is None:
        return strategies.first_batch(pool, step)
    return strategies.query(name, pool, step, rng)


def linear(features: Features) -> Framework:
    """The self-supervised framework: one linear layer on the normalised features, which stay as they are."""
    test = geometry.normalise(features.test)

    def fit(pool: strategies.Pool) -> tuple[Outputs, np.ndarray]:
        labels = features.train_labels[pool.labeled]
        head = learners.fit_linear_head(pool.points[pool.labeled], labels, len(features.classes))
        return Outputs(head, lambda: pool.points, learned=False), head.predict(test)

    return Framework(fit, learns_features=False)


def network(train: Dataset, test: Dataset, config: FSL) -> Framework:
    """The fully supervised framework: a network trained from scratch on the labelled images of train, the pool's, row by row.

    At a seed, all strategies start their networks from the same weights, round by round. Images in files are read once: those of
    the test set now, those of the pool when a strategy first asks a model about it.
    """
    test_images = test.images[:]

    @cache
    def pool_images() -> np.ndarray:
        return train.images[:]

    def fit(pool: strategies.Pool) -> tuple[Outputs, np.ndarray]:
        rows, seed = pool.labeled, (pool.seed, len(pool.labeled))
        trained = learners.fit_network(train.images[rows], train.labels[rows], len(train.classes), config, seed)
        return Outputs(trained.head, lambda: trained.embed(pool_images()), learned=True), trained.predict(test_images)

    return Framework(fit, learns_features=True)


def recall_per_class(predicted: np.ndarray, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Share of the points of each class that are recognised, (C,); NaN for a class without points."""
    right = np.bincount(labels[predicted == labels], minlength=n_classes)
    there = np.bincount(labels, minlength=n_classes)
    return np.divide(right, there, out=np.full(n_classes, np.nan), where=there > 0)


def tail_classes(labels: np.ndarray, n_classes: int) -> np.ndarray:
    """The rarest third of the pool's classes, rarest first; none of a pool whose largest class is less than twice its smallest."""
    counts = np.bincount(labels, minlength=n_classes)
    there = np.flatnonzero(counts)  # of an incomplete ISIC-2019, classes may be absent
    rarest = there[np.argsort(counts[there], kind="stable")]
    return rarest[: len(there) // 3] if counts.max() >= 2 * counts[there].min() else rarest[:0]


def random_stream(seed: int, strategy: str) -> np.random.Generator:
    """The random numbers of a run: the same for the same (seed, strategy), whatever runs before it."""
    return np.random.default_rng([seed, zlib.crc32(strategy.encode())])
