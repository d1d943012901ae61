"""The strategies that query the points a model is least sure of: margin, least confidence, entropy, BALD and DBAL."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import entr

from supclust.engine.geometry import blocks
from supclust.pool import Pool


def margin(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """The points whose two largest class probabilities differ least (Scheffer et al., 2001)."""
    return _most_uncertain(pool, margin_uncertainty(pool), budget, rng)


def margin_uncertainty(pool: Pool) -> np.ndarray:
    """1 - p1 + p2 of the two largest probabilities that the model gives each point, (n,) float64. With one class, 0."""
    second, first = np.partition(np.pad(probabilities(pool), ((0, 0), (0, 1))), -2, axis=1)[:, -2:].T  # a class more, of 0
    return 1 - first + second


def least_confidence(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """The points whose largest class probability is smallest (Lewis & Gale, 1994)."""
    return _most_uncertain(pool, 1 - probabilities(pool).max(axis=1), budget, rng)


def entropy(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """The points of largest predictive entropy (Settles, 2009)."""
    return _most_uncertain(pool, entr(probabilities(pool)).sum(axis=1), budget, rng)


def bald(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """The points on whose class the passes with dropout disagree most (Houlsby et al., 2011; Gal et al., 2017)."""
    of_mean, of_each = entropies_of_passes(model_of(pool).dropout_log_probabilities(rng))
    return _most_uncertain(pool, np.maximum(of_mean - of_each, 0), budget, rng)  # below zero by rounding only


def dbal(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """The points of largest entropy over the mean of the passes with dropout (Gal, Islam & Ghahramani, 2017)."""
    return _most_uncertain(pool, entropies_of_passes(model_of(pool).dropout_log_probabilities(rng))[0], budget, rng)


def entropies_of_passes(passes: Iterable[ArrayLike]) -> tuple[np.ndarray, np.ndarray]:
    """Entropy in nats of the passes' mean, and mean of their entropies, (n,) float64 each.

    passes: log-probabilities (n, C), taken one after the other, so that only one of them needs to exist.
    """
    total, entropies, count = 0.0, 0.0, 0
    for one in map(_checked, passes):
        entropies, count = entropies + np.concatenate([entr(one[part]).sum(axis=1) for part in blocks(one.shape)]), count + 1
        total = np.add(total, one, out=one)  # the passes' arrays are large: no others are made
    return entr(total / count).sum(axis=1), entropies / count


def probabilities(pool: Pool) -> np.ndarray:
    """Class probabilities (n, C) float64 of all points by the pool's model."""
    return _checked(model_of(pool).log_probabilities())


def _checked(log_probabilities: ArrayLike) -> np.ndarray:
    """Probabilities (n, C) float64; ValueError if the logarithms are not 2-d, without a class, NaN, or clearly above zero."""
    logs = np.asarray(log_probabilities, dtype=float)
    if logs.ndim != 2 or logs.shape[1] == 0:
        raise ValueError(f"log-probabilities must be 2-d (points, classes), not of shape {logs.shape}")
    if not (logs <= 1e-3).all():  # NaN fails too; float32 rounds a certain 0 up a little
        raise ValueError("log-probabilities must not be NaN, nor above zero")
    return np.exp(logs)


def model_of(pool: Pool) -> Any:
    if pool.model is None:
        raise ValueError("this strategy asks a model, and the pool has none: pass with_labeled(labeled, model)")
    return pool.model


def _most_uncertain(pool: Pool, uncertainty: np.ndarray, budget: int, rng: np.random.Generator) -> np.ndarray:
    """The queryable points of largest uncertainty (n,), the largest first; points that tie come in random order."""
    if len(uncertainty) != len(pool.features):
        raise ValueError(f"the model answers for {len(uncertainty)} points, and the pool has {len(pool.features)}")
    free = pool.queryable
    ranked = np.lexsort((pool.tie_breakers(rng)[free], -uncertainty[free]))
    return free[ranked[:budget]]
