import dataclasses

import numpy as np
import pytest

from supclust import active, strategies
from tests.conftest import make_features


def run(strategy="supclust", budget="tiny", seed=0, rounds=6, features=None):
    features = features or make_features()
    return list(active.run(features, strategies.Pool(features.train, seed=seed), strategy, budget, rounds))


@pytest.mark.parametrize(("budget", "step"), [("tiny", 4), ("small", 20)])
def test_six_rounds_of_the_step_from_nothing(budget, step):
    rounds = run(budget=budget)
    assert [r.labels for r in rounds] == [step * i for i in range(1, 7)]
    assert len({pick for r in rounds for pick in r.picks}) == 6 * step
    assert all(0 <= r.accuracy <= 1 for r in rounds)


@pytest.mark.parametrize("strategy", strategies.NAMES)
def test_a_run_depends_on_its_seed_only(strategy):
    assert run(strategy, seed=1) == run(strategy, seed=1)
    assert run(strategy, seed=1) != run(strategy, seed=2)


def test_accuracy_is_that_of_a_classifier_trained_on_the_picks():
    features = make_features()
    last = run(features=features)[-1]
    assert last.accuracy > 0.95  # four clear blobs
    shuffled = np.random.default_rng(0).permutation(features.test_labels)
    assert run(features=dataclasses.replace(features, test_labels=shuffled))[-1].accuracy < 0.6


def test_the_run_ends_when_the_pool_is_used_up():
    features = make_features()
    rounds = run(features=features.subset(np.arange(10)), rounds=6)
    assert [r.labels for r in rounds] == [4, 8]


def test_unknown_budget_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown budget 'large'; known: tiny, small"):
        run(budget="large")


def test_the_length_of_a_feature_vector_does_not_matter():
    """The head is trained and tested on normalised features."""
    features = make_features()
    lengths = np.random.default_rng(0).uniform(0.1, 10, (len(features.test), 1)).astype(np.float32)
    longer = dataclasses.replace(features, train=features.train * 3, test=features.test * lengths, checksum="")
    assert [r.accuracy for r in run("random", features=longer)] == [r.accuracy for r in run("random", features=features)]
