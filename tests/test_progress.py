"""What the labels tell after a round: how well they are learned, what was new, and what more may bring."""

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import curve_fit

from supclust import learners
from supclust.engine import geometry
from supclust.label import progress
from supclust.label.progress import Known
from tests.conftest import make_blobs

POINTS = geometry.normalise(make_blobs(4, 15, 8, spread=0.9))


def labels_of(points):
    return {int(point): f"class {point // 15}" for point in points}


def slow_report(labels):
    """Accuracy and weight, label by label and point by point."""
    points, names = list(labels), list(labels.values())
    fold = np.random.default_rng(0).permutation(len(points)) % 10
    share = np.zeros(len(points))
    for point in POINTS:
        share[np.argmax([point @ POINTS[one] for one in points])] += 1 / len(POINTS)
    right = 0.0
    for i, point in enumerate(points):
        others = [j for j in range(len(points)) if fold[j] != fold[i]]
        known = sorted({names[j] for j in others})
        head = learners.fit_linear_head(POINTS[points][others], np.array([known.index(names[j]) for j in others]), len(known))
        right += share[i] * (known[head.predict(POINTS[[point]])[0]] == names[i])
    return right, 1 / np.sum(share**2)


@pytest.mark.parametrize("count", [2, 7, 10, 33])
def test_cross_validation_weighs_labels_by_the_points_around(count):
    labels = labels_of(np.random.default_rng(count).permutation(60)[:count])
    [known], facts = progress.report(POINTS, labels, [], 10)
    assert known.labels == count
    np.testing.assert_allclose(known[1:], slow_report(labels), rtol=1e-6)
    assert list(facts) == ["Accuracy"]  # these labels came at once: none are newer than others


def test_what_the_last_labels_brought():
    first = labels_of([0, 1, 2, 15, 16, 17])
    rounds, _ = progress.report(POINTS, first, [], 6)
    labels = first | {3: "class 0", 18: "class 0", 30: "class 2", 31: "class 2"}  # one is wrong, two are of an unknown class
    rounds, facts = progress.report(POINTS, labels, map(list, rounds), 6)
    assert [known.labels for known in rounds] == [6, 10]
    assert facts["New labels"] == "4, 1 of them the first of a class; predictions from earlier labels get 75% wrong"
    again, _ = progress.report(POINTS, labels, rounds, 6)
    assert again == rounds  # no new labels, no new round


def test_more_labels_are_spoken_of_from_the_fourth_round_on():
    labels = labels_of(np.random.default_rng(0).permutation(60)[:40])
    rounds = [Known(10 * k, 0.4 + 0.1 * k, 10.0 * k) for k in range(1, 5)]
    assert "PALM" not in progress.report(POINTS, labels, rounds[:2], 10)[1]["Accuracy"]
    text = progress.report(POINTS, labels, rounds[:3], 10)[1]["Accuracy"]
    assert " in cross-validation on 40 labels; by the curve of PALM, 10 more bring " in text


def test_the_curve_is_the_one_that_least_squares_find():
    def palm(x, highest, delta, alpha, beta):
        return highest * (1 - (1 - delta) ** ((x + alpha) ** beta))

    x = np.arange(1, 9)
    accuracy = palm(x, 0.8, 0.4, 0.3, 0.8) + 0.01 * np.random.default_rng(0).standard_normal(8)
    bounds = [0, 0, 0, 0.1], [1, 1, 3, 2]
    found, _ = curve_fit(palm, x, accuracy, [0.8, 0.5, 0.5, 0.8], 1 / np.sqrt(x), bounds=bounds)
    gain = progress.expected_gain([Known(20 * k, a, 5.0 * k) for k, a in zip(x.tolist(), accuracy, strict=True)], 20)
    assert gain.mean == pytest.approx(palm(9, *found) - palm(8, *found), abs=0.001)
    missed = [(accuracy[k] - accuracy[k - 1] - palm(k + 1, *found) + palm(k, *found)) ** 2 * (k + 1) / 8 for k in range(1, 8)]
    assert gain.high - gain.mean == pytest.approx(stats.t(7).ppf(0.975) * np.mean(missed) ** 0.5, rel=0.1)
    assert gain.low + gain.high == pytest.approx(2 * gain.mean)


@pytest.mark.parametrize("accuracy", [[0, 0, 0, 0], [1, 1, 1, 1], [0.9, 0.7, 0.5, 0.3], [0.2, 0.9, 0.1, 0.8]])
def test_whatever_the_curve_the_gain_is_one_that_is_possible(accuracy):
    gain = progress.expected_gain([Known(10 * k, a, 8.0) for k, a in enumerate(accuracy, start=1)], 10**6)
    assert 0 <= gain.mean <= 1
    assert gain.low <= gain.mean <= gain.high
