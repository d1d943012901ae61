"""One active-learning run: query, label, fit, evaluate, round after round (paper, section 4)."""

import logging
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from sklearn.metrics import recall_score

from supclust import learners, strategies
from supclust.datasets import Dataset
from supclust.engine import geometry
from supclust.features import Features
from supclust.profiles import FSL

log = logging.getLogger(__name__)
BUDGETS = {"tiny": 1, "small": 5}  # labels per class and round
FRAMEWORKS = ("ssl", "fsl")


@dataclass(frozen=True)
class Round:
    """The result of one round. Accuracies are of the test set, from 0 to 1."""

    labels: int  # there are now
    accuracy: float
    balanced_accuracy: float  # mean over the classes of the share of their images that are recognised
    tail_accuracy: float | None  # the same over the rarest third of the pool's classes; None where the pool is balanced
    classes: int  # that have a label
    picks: tuple[int, ...]  # points queried in this round


@dataclass(frozen=True, eq=False)
class Outputs:
    """A trained model's outputs on a pool of n points, for strategies that need a model: the `model` of a Pool."""

    head: learners.LinearHead
    embed: Callable[[], np.ndarray]  # the pool's points (n, d) that the head takes; called once, when they are first asked for
    learned: bool  # whether training has changed them

    @cached_property
    def points(self) -> np.ndarray:
        """What `embed` returns."""
        return self.embed()

    def log_probabilities(self) -> np.ndarray:
        """Logarithms of the class probabilities, (n, C)."""
        return self.head.log_probabilities(self.points)

    def dropout_log_probabilities(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """The same, (n, C), for each of the head's draws of dropout."""
        return self.head.dropout_log_probabilities(self.points, rng)


# Trains a model on the labelled points of a pool; returns it and the classes (m,) that it predicts for the test set.
Fit = Callable[[strategies.Pool], tuple[Outputs, np.ndarray]]


def step_size(budget: str, n_classes: int) -> int:
    """Labels that a round of a budget adds: one or five for each class, or a number; ValueError for an unknown budget."""
    if budget.isdecimal() and int(budget) > 0:
        return int(budget)
    if budget not in BUDGETS:
        raise ValueError(f"unknown budget {budget!r}; known: {', '.join(BUDGETS)}, or a number of labels")
    return BUDGETS[budget] * n_classes


def run(
    features: Features, pool: strategies.Pool, strategy: str, budget: str, rounds: int = 6, fsl: Fit | None = None,
    known: Mapping[str, strategies.Strategy] = strategies.STRATEGIES,
) -> Iterator[Round]:  # fmt: skip
    """Query, label, fit and evaluate, starting from nothing; yields a Round after each, while the pool has enough points left.

    pool: of features.train, with the run's seed. strategy: see `strategies.parse`; known: the strategies, by name.
    fsl: `network(...)`, for the fully supervised framework; the self-supervised one, `linear(features)`, is the default.
    In FSL Coreset, which goes by what the network has learned, gets a random first batch, too. Raises ValueError for an unknown
    strategy, setting or budget.
    """
    name, changes = strategies.parse(strategy, known)
    n_classes, fit, labels = len(features.classes), fsl or linear(features), features.test_labels
    step, tail = step_size(budget, n_classes), tail_classes(features.train_labels)
    rng = np.random.default_rng([pool.seed, zlib.crc32(name.encode())])  # does not depend on what runs before
    pool = pool.with_settings(**{"n_classes": n_classes} | changes)
    for _ in range(rounds):
        if step > np.count_nonzero(pool.free):
            log.info("%s ends at %d labels: its pool holds no further %d points", strategy, len(pool.labeled), step)
            return
        shared = name == "coreset" and fsl and pool.model is None
        picks = strategies.first_batch(pool, step) if shared else strategies.query(name, pool, step, rng, known)
        labeled = np.concatenate([pool.labeled, picks])
        model, predicted = fit(pool.with_labeled(labeled))
        pool = pool.with_labeled(labeled, model)
        recalls = recall_score(labels, predicted, labels=range(n_classes), average=None, zero_division=np.nan)  # NaN: no images
        tail_accuracy = float(np.nanmean(recalls[tail])) if len(tail) else None
        accuracies = float((predicted == labels).mean()), float(np.nanmean(recalls)), tail_accuracy
        yield Round(len(labeled), *accuracies, len(np.unique(features.train_labels[labeled])), tuple(picks.tolist()))


def linear(features: Features) -> Fit:
    """The self-supervised framework: one linear layer on the normalised features, which stay as they are."""
    test = geometry.normalise(features.test)

    def fit(pool: strategies.Pool) -> tuple[Outputs, np.ndarray]:
        labels = features.train_labels[pool.labeled]
        head = learners.fit_linear_head(pool.points[pool.labeled], labels, len(features.classes))
        return Outputs(head, lambda: pool.points, learned=False), head.predict(test)

    return fit


def network(train: Dataset, test: Dataset, config: FSL) -> Fit:
    """The fully supervised framework: a network trained from scratch on train's labelled images; a seed fixes its first weights."""
    from supclust.train import supervised

    test_images, pool_images = test.images[:], cache(lambda: train.images[:])  # images in files are read once

    def fit(pool: strategies.Pool) -> tuple[Outputs, np.ndarray]:
        rows, seed = pool.labeled, (pool.seed, len(pool.labeled))
        body, head = supervised.fit_network(train.images[rows], train.labels[rows], len(train.classes), config, seed)
        predicted = head.predict(supervised.embed(body, test_images, config))
        return Outputs(head, lambda: supervised.embed(body, pool_images(), config), learned=True), predicted

    return fit


def tail_classes(labels: np.ndarray) -> np.ndarray:
    """The rarest third of the classes that a pool has, rarest first; none where the largest is less than twice the smallest."""
    classes, counts = np.unique(labels, return_counts=True)
    imbalanced = counts.max() >= 2 * counts.min()
    return classes[np.argsort(counts, kind="stable")][: imbalanced * (len(classes) // 3)]
