"""What the labels so far tell: how well a linear layer learns them, what the last ones brought, and what the next may bring."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from sklearn.metrics import pairwise_distances_argmin

from supclust import learners
from supclust.analysis import Interval

FOLDS = 10
LEAST = 4  # rounds that determine the four parameters of a curve
DRAWS = 1000
# The curves of PALM (Machnio, Nielsen & Ghazi, ICCV 2025), A_max (1 - (1 - delta)^((B / b + alpha)^beta)), without their A_max.
DELTA, ALPHA, BETA = np.meshgrid(1 - np.exp(-np.geomspace(1e-3, 4, 30)), np.linspace(0, 3, 7), np.linspace(0.1, 2, 20))


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
        firsts, wrong = len(np.setdiff1d(classes[new], classes[~new])), 1 - _predicted(points[labeled], classes, new).mean()
        facts["New labels"] = (
            f"{new.sum():,}, {firsts} of them the first of a class; predictions from earlier labels get {wrong:.0%} wrong"
        )
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


def expected_gain(rounds: Sequence[Known], more: int) -> Interval:
    """What more labels add to the accuracy, by the curve of PALM that is nearest to the rounds so far (at least LEAST).

    A_max, at most 1, follows from the other parameters by least squares, in which a round counts as much as its weight. Interval:
    95 % of the gains by such curves through accuracies that are drawn from what is possible.
    """
    labels, accuracy, weight = np.array(rounds).T
    drawn = [one.possible.rvs(DRAWS, random_state=k) for k, one in enumerate(rounds)]
    seen = np.vstack([accuracy, np.transpose(drawn)])
    after = np.array([*labels, labels[-1] + more]) * len(labels) / labels[-1]  # B / b
    curves = 1 - (1 - DELTA.reshape(-1, 1)) ** ((after + ALPHA.reshape(-1, 1)) ** BETA.reshape(-1, 1))
    product, square = seen @ (weight * curves[:, :-1]).T, curves[:, :-1] ** 2 @ weight
    highest = np.minimum(product / square, 1)
    best = np.argmin(highest**2 * square - 2 * highest * product, axis=1)
    gains = highest[np.arange(len(seen)), best] * np.diff(curves[best, -2:])[:, 0]
    return Interval(gains[0], *np.quantile(gains[1:], (0.025, 0.975)))
