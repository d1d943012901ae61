"""What the labels so far tell: how well a linear layer learns them, what the last ones brought, and what the next may bring."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from scipy.optimize import least_squares
from sklearn.metrics import pairwise_distances_argmin

from supclust import learners
from supclust.analysis import Interval

FOLDS = 10
LEAST = 4  # rounds that determine the four parameters of a curve
START = 0.8, 0.5, 0.5, 0.8
BOUNDS = [0, 0, 0, 0.1], [1, 1, 3, 2]  # of these parameters, in the order of `palm`


class Known(NamedTuple):
    """How well the labels of a round were learned."""

    labels: int  # there were
    accuracy: float  # from 0 to 1, in cross-validation
    weight: float  # as many labels, each as important as the others, would tell as much

    @property
    def possible(self) -> Any:
        """The distribution of the accuracy, given what was seen (Jeffreys)."""
        return stats.beta(self.weight * self.accuracy + 0.5, self.weight * (1 - self.accuracy) + 0.5)


def report(
    points: np.ndarray, labels: Mapping[int, str], earlier: Iterable[Sequence[float]], more: int
) -> tuple[list[Known], dict[str, str]]:
    """How well the labels of some points (n, d), normalised, are learned, and what there is to say about it, for readers.

    labels: by point, in the order in which they came. earlier: what was Known in earlier rounds. more: labels to come.
    A label counts as often as it is the nearest one of a point: picks are seldom typical, and harder to learn than the others.
    """
    labeled, classes = np.array([*labels]), np.unique([*labels.values()], return_inverse=True)[1]
    fold, right = np.random.default_rng(0).permutation(len(labels)) % FOLDS, np.empty(len(labels), dtype=bool)
    for part in range(min(FOLDS, len(labels))):
        right[fold == part] = _predicted(points[labeled], classes, fold == part)
    share = np.bincount(pairwise_distances_argmin(points, points[labeled]), minlength=len(labels)) / len(points)
    last = Known(len(labels), float(share @ right), float(1 / (share @ share)))
    rounds, facts = [*(Known(*one) for one in earlier if one[0] < len(labels)), last], {}
    if len(rounds) > 1:
        new = np.arange(len(labels)) >= rounds[-2].labels
        firsts = f"{len(np.setdiff1d(classes[new], classes[~new]))} of them the first of a class"
        wrong = f"{1 - _predicted(points[labeled], classes, new).mean():.0%} wrong"
        facts["New labels"] = f"{new.sum():,}, {firsts}; predictions from earlier labels get {wrong}"
    low, high = 100 * np.array(last.possible.interval(0.95))
    facts["Accuracy"] = f"roughly {last.accuracy:.0%} [{low:.0f}, {high:.0f}] in cross-validation on {len(labels):,} labels"
    if len(rounds) >= LEAST:
        gain = "{:.1f} points [{:.1f}, {:.1f}]".format(*100 * np.array(expected_gain(rounds, more)))
        facts["Accuracy"] += f"; by the curve of PALM, {more} more bring {gain}"
    return rounds, facts


def _predicted(points: np.ndarray, classes: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Whether a linear layer that is fitted on the others predicts each of the hidden classes."""
    head = learners.fit_linear_head(points[~hidden], classes[~hidden], classes.max() + 1)
    return head.predict(points[hidden]) == classes[hidden]


def palm(turn: np.ndarray, highest: float, delta: float, alpha: float, beta: float) -> np.ndarray:
    """The curve of PALM (Machnio, Nielsen & Ghazi, ICCV 2025): accuracy after a number of rounds of equal size."""
    return highest * (1 - (1 - delta) ** ((turn + alpha) ** beta))


def expected_gain(rounds: Sequence[Known], more: int) -> Interval:
    """What more labels add to the accuracy, by the curve of PALM that is nearest to the rounds so far (at least LEAST).

    A round counts as much as its weight. Interval: 95 % by Student's t, from how far the steps so far were from those of the curve.
    """
    labels, accuracy, weight = np.array(rounds).T
    turns = np.array([*labels, labels[-1] + more]) * len(labels) / labels[-1]
    found = least_squares(lambda curve: np.sqrt(weight) * (palm(turns[:-1], *curve) - accuracy), START, bounds=BOUNDS).x
    *steps, gain = np.diff(palm(turns, *found))
    spread = stats.t.ppf(0.975, len(steps)) * np.sqrt(np.mean(weight[1:] * (np.diff(accuracy) - steps) ** 2) / weight[-1])
    return Interval(gain, gain - spread, gain + spread)
