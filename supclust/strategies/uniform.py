"""The baseline that looks at nothing."""

from __future__ import annotations

import numpy as np

from supclust.strategies.pool import Pool


def random(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """A uniform draw from the unlabelled points, without replacement."""
    return rng.choice(pool.unlabeled, budget, replace=False).astype(np.int64)
