"""The strategies that query the points a model is least sure of: margin, least confidence, entropy, BALD and DBAL."""

from __future__ import annotations

import numpy as np

from supclust import scores
from supclust.pool import Model, Pool


def margin(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """The points whose two largest class probabilities differ least (Scheffer et al., 2001)."""
    return _most_uncertain(pool, scores.margin_uncertainty(_model(pool).log_probabilities()), budget, rng)


def least_confidence(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """The points whose largest class probability is smallest (Lewis & Gale, 1994)."""
    return _most_uncertain(pool, scores.least_confidence(_model(pool).log_probabilities()), budget, rng)


def entropy(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """The points of largest predictive entropy (Settles, 2009)."""
    return _most_uncertain(pool, scores.entropy(_model(pool).log_probabilities()), budget, rng)


def bald(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """The points on whose class the passes with dropout disagree most (Houlsby et al., 2011; Gal et al., 2017)."""
    return _most_uncertain(pool, scores.bald(_model(pool).dropout_log_probabilities(rng)), budget, rng)


def dbal(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """The points of largest entropy over the mean of the passes with dropout (Gal, Islam & Ghahramani, 2017)."""
    return _most_uncertain(pool, scores.mean_entropy(_model(pool).dropout_log_probabilities(rng)), budget, rng)


def _model(pool: Pool) -> Model:
    if pool.model is None:
        raise ValueError("this strategy asks a model, and the pool has none: pass with_labeled(labeled, model)")
    return pool.model


def _most_uncertain(pool: Pool, uncertainty: np.ndarray, budget: int, rng: np.random.Generator) -> np.ndarray:
    """Of the points that may be queried, those of largest uncertainty (n,), the largest first; points that tie, in random order."""
    if len(uncertainty) != len(pool.features):
        raise ValueError(f"the model answers for {len(uncertainty)} points, and the pool has {len(pool.features)}")
    free = pool.queryable
    ranked = np.lexsort((pool.lots(rng)[free], -uncertainty[free]))
    return free[ranked[:budget]]
