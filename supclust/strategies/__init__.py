"""Query strategies: which points of a pool to label next. A new one is a function and a line in ADDED."""

import ast
import logging
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from supclust import method
from supclust.pool import Pool, Settings
from supclust.strategies import coverage, later, uncertainty

log = logging.getLogger(__name__)

Strategy = Callable[[Pool, int, np.random.Generator], np.ndarray]


def random(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """A uniform draw from the points that may be queried, without replacement."""
    return rng.choice(pool.queryable, budget, replace=False).astype(np.int64)


def class_balanced(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """Class-balanced random oracle: an upper control that sees all labels, which no strategy can.

    Random points that may be queried, each of the class that has the fewest labelled ones by then and any left; classes tie at
    random. Raises ValueError for a pool without labels.
    """
    if pool.labels is None:
        raise ValueError("class-balanced sees the labels of all points, and the pool has none: pass Pool(..., labels=labels)")
    labels, free = np.unique(pool.labels, return_inverse=True)[1], pool.queryable
    free = free[np.lexsort((pool.tie_breakers(rng)[free], labels[free]))]  # class by class, in random order
    starts = np.searchsorted(labels[free], labels[free])
    # how many of its class are labelled when the turn comes to a point, if it comes in this order
    turn = np.bincount(labels[pool.labeled], minlength=labels.max() + 1)[labels[free]] + np.arange(len(free)) - starts
    return free[np.lexsort((pool.tie_breakers(rng)[free], turn))[:budget]]


# By name: what a reader calls a strategy, and the strategy. The paper's, which every profile runs:
OF_THE_PAPER: dict[str, tuple[str, Strategy]] = {
    "random": ("Random", random),
    "margin": ("Margin", uncertainty.margin),
    "least-confidence": ("Least confidence", uncertainty.least_confidence),
    "entropy": ("Entropy", uncertainty.entropy),
    "bald": ("BALD", uncertainty.bald),
    "dbal": ("DBAL", uncertainty.dbal),
    "coreset": ("Coreset", coverage.coreset),
    "typiclust": ("TypiClust", method.typiclust),
    "probcover": ("ProbCover", coverage.probcover),
    "supclust": ("SUPClust", method.supclust),
    "supclust-no-sup": ("SUPClust without SUP", method.supclust_no_sup),
    "supclust-no-typicality": ("SUPClust without typicality", method.supclust_no_typicality),
}
ADDED: dict[str, tuple[str, Strategy]] = {  # these run only if they are named
    "maxherding": ("MaxHerding", later.maxherding),
    "uherding": ("UHerding", later.uherding),
    "balanced-herding": ("balanced herding", later.balanced_herding),
    "kmeans-centroid": ("k-means centroid", later.kmeans_centroid),
    "tcm": ("TCM", later.tcm),
    "dropquery": ("DropQuery", later.dropquery),
    "dcom": ("DCoM", later.dcom),
    "badge": ("BADGE", later.badge),
}
NAMES, LATER = tuple(OF_THE_PAPER), tuple(ADDED)
STRATEGIES = {name: strategy for name, (_, strategy) in (OF_THE_PAPER | ADDED).items()}
CONTROLS: dict[str, Strategy] = {"class-balanced": class_balanced}  # see labels that no strategy sees
LABELS = {name: label for name, (label, _) in (OF_THE_PAPER | ADDED).items()} | {"class-balanced": "class-balanced oracle"}
MODEL_BASED = frozenset({"margin", "least-confidence", "entropy", "bald", "dbal", "badge"})  # cannot query before there is a model
MODEL_AIDED = frozenset({"uherding", "balanced-herding", "tcm", "dropquery", "dcom"})  # ask one as soon as there is one
FIRST_BATCH = 2012  # sets the draw of the first batch apart from others of the same seed


def query(name: str, pool: Pool, budget: int, rng: np.random.Generator, known: Mapping[str, Strategy] = STRATEGIES) -> np.ndarray:
    """The indices (budget,) int64 that the strategy or control of that name wants labelled next: distinct, none of them labelled.

    A strategy that goes by a model gets `first_batch` while the pool has none. Raises ValueError for an unknown strategy, listing
    the known ones, and for a budget that is not a positive whole number or larger than the number of points that may be queried.
    """
    check_name(name, known)
    budget = pool.check_budget(budget)
    if name in MODEL_BASED and pool.model is None:
        return first_batch(pool, budget)
    return (known | CONTROLS)[name](pool, budget, rng)


def first_batch(pool: Pool, budget: int) -> np.ndarray:
    """Random points to query (budget,) for those who have no model to ask yet: the same for all of them at a seed."""
    log.info("no model yet: a random first batch of %d, from seed %d", budget, pool.seed)
    return random(pool, budget, np.random.default_rng([pool.seed, FIRST_BATCH]))


def check_name(name: str, known: Mapping[str, Strategy] = STRATEGIES) -> None:
    """ValueError for what is neither a strategy nor a control, listing those that are."""
    if name not in known and name not in CONTROLS:
        raise ValueError(f"unknown strategy {name!r}; known: {', '.join(known)}; controls: {', '.join(CONTROLS)}")


def parse(strategy: str, known: Mapping[str, Strategy] = STRATEGIES) -> tuple[str, dict[str, Any]]:
    """Read `supclust:top_fraction=0.05,n_neighbors=10`: the strategy, and the settings that differ from the default.

    Raises ValueError for an unknown strategy or setting.
    """
    name, _, text = strategy.partition(":")
    check_name(name, known)
    try:
        changes = {key: _value(value) for key, value in (part.split("=") for part in text.split(",") if text)}
        Settings(**changes)
    except (TypeError, ValueError) as error:
        settings = ", ".join(one.name for one in fields(Settings))
        wanted = "does not name settings of a strategy as in 'supclust:top_fraction=0.05'"
        raise ValueError(f"{strategy!r} {wanted} (known: {settings}): {error}") from error
    return name, changes


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        raise ValueError(f"{text!r} is not a valid value, such as 0.05, True or None") from None
