import dataclasses
import itertools

import numpy as np
import pytest

from supclust import active, datasets, strategies
from supclust.features import Features
from supclust.profiles import FSL
from tests.conftest import make_features


def run(strategy="supclust", budget="tiny", seed=0, rounds=6, features=None, fsl=None):
    features = features or make_features()
    pool = strategies.Pool(features.train, seed=seed, labels=features.train_labels)
    return list(active.run(features, pool, strategy, budget, rounds, fsl))


@pytest.mark.parametrize(("budget", "step"), [("tiny", 4), ("small", 20)])
def test_six_rounds_of_the_step_from_nothing(budget, step):
    rounds = run(budget=budget)
    assert [r.labels for r in rounds] == [step * i for i in range(1, 7)]
    assert len({pick for r in rounds for pick in r.picks}) == 6 * step
    assert all(0 <= r.accuracy <= 1 for r in rounds)


@pytest.mark.parametrize("strategy", [*strategies.STRATEGIES, *strategies.CONTROLS])
def test_a_run_depends_on_its_seed_only(strategy):
    assert run(strategy, seed=1) == run(strategy, seed=1)
    if strategy not in ("maxherding", "uherding"):  # in a small pool there is nothing to draw
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


def test_the_run_ends_when_its_candidates_are_used_up():
    features = make_features()
    pool = strategies.Pool(features.train, labels=features.train_labels, candidates=np.arange(30, 40))
    rounds = list(active.run(features, pool, "supclust", "tiny", 6))
    assert [r.labels for r in rounds] == [4, 8]
    assert {pick for r in rounds for pick in r.picks} <= set(range(30, 40))


def test_unknown_budget_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown budget 'large'; known: tiny, small"):
        run(budget="large")


def test_the_length_of_a_feature_vector_does_not_matter():
    """The head is trained and tested on normalised features."""
    features = make_features()
    lengths = np.random.default_rng(0).uniform(0.1, 10, (len(features.test), 1)).astype(np.float32)
    longer = dataclasses.replace(features, train=features.train * 3, test=features.test * lengths, checksum="")
    assert [r.accuracy for r in run("random", features=longer)] == [r.accuracy for r in run("random", features=features)]


def test_each_round_trains_on_all_labels_so_far(monkeypatch):
    features, labeled = make_features(), []
    fit = active.linear(features)

    def recording(pool):
        labeled.append(tuple(pool.labeled.tolist()))
        return fit(pool)

    monkeypatch.setattr(active, "linear", lambda _: recording)
    picks = [r.picks for r in run("margin", features=features)]
    assert labeled == list(itertools.accumulate(picks))


def test_strategies_that_need_a_model_share_their_first_batch_and_differ_later(caplog):
    caplog.set_level("INFO")
    names = sorted(strategies.MODEL_BASED)
    rounds = {name: run(name, seed=3, rounds=3, features=make_features(spread=1.0)) for name in names}
    assert len({r[0].picks for r in rounds.values()}) == 1
    assert len({r[1].picks for r in rounds.values()}) > 1
    assert caplog.text.count("no model yet") == len(names)
    assert rounds[names[0]][0].picks != run(names[0], seed=4, rounds=1)[0].picks


def test_coreset_starts_with_the_shared_batch_only_where_it_goes_by_learned_features():
    features = make_features()
    shared = run("margin", rounds=1)[0].picks
    assert run("coreset", rounds=1)[0].picks != shared
    assert run("coreset", rounds=1, fsl=active.linear(features))[0].picks == shared


def test_accuracies_are_those_of_the_classes():
    """A class without test images does not count; one that is never predicted counts as 0."""
    features = make_features()
    there = np.flatnonzero(features.test_labels != 3)
    features = dataclasses.replace(features, test=features.test[there], test_labels=features.test_labels[there])
    predicted = np.where(features.test_labels == 1, 2, features.test_labels)
    last = run(features=features, rounds=1, fsl=lambda pool: (active.linear(features)(pool)[0], predicted))[-1]
    assert last.accuracy == np.mean(features.test_labels != 1)
    assert last.balanced_accuracy == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("counts", "tail"), [([9, 9, 8], []), ([8, 4, 5], [1]), ([90, 1, 50, 2, 70, 3], [1, 3]), ([5, 0], []), ([9, 0, 3, 1], [3])]
)
def test_the_tail_is_the_rarest_third_of_an_imbalanced_pool(counts, tail):
    labels = np.repeat(np.arange(len(counts)), counts)
    assert active.tail_classes(labels).tolist() == tail


def test_rounds_say_what_is_covered_and_how_the_tail_fares():
    features = make_features()
    few = features.subset(np.flatnonzero((features.train_labels != 2) | (np.cumsum(features.train_labels == 2) <= 3)))
    rounds = run("random", features=few)
    assert all(r.tail_accuracy is not None and 1 <= r.classes <= 4 for r in rounds)
    assert rounds[0].classes < 4
    assert rounds[0].balanced_accuracy <= rounds[0].classes / 4
    assert run("class-balanced", features=few)[0].classes == 4
    assert all(r.tail_accuracy is None for r in run("random"))


def test_settings_of_a_strategy_are_named_behind_a_colon():
    assert strategies.parse("supclust") == ("supclust", {})
    named = "supclust:relative_temperature=0.5,squared=True,max_clusters=None"
    assert strategies.parse(named) == ("supclust", {"relative_temperature": 0.5, "squared": True, "max_clusters": None})
    assert run("supclust:top_fraction=0.1") == run("supclust")
    assert [r.picks for r in run("supclust:top_fraction=1.0")] == [r.picks for r in run("supclust-no-typicality")]


@pytest.mark.parametrize(
    "name", ["supclust:t=1", "supclust:top_fraction", "supclust:top_fraction=2", "supclust:squared=yes", "sup:"]
)
def test_settings_that_there_are_not_are_refused(name):
    with pytest.raises(ValueError, match=r"does not name settings|unknown strategy"):
        strategies.parse(name)


def test_networks_are_trained_on_the_labelled_images_and_asked_about_the_pool():
    train, test = (datasets.load("digits", split) for split in datasets.SPLITS)
    pixels = [part.images[:, 0].reshape(len(part), -1).astype(np.float32) for part in (train, test)]
    features = Features(*pixels, train.labels, test.labels, train.classes, {"dataset": "digits"})
    fsl = active.network(train, test, FSL(width=4, side=8, epochs=40, learning_rate=0.1, flip=0.0))
    for strategy in ("margin", "bald", "coreset"):
        rounds = run(strategy, "small", rounds=2, features=features, fsl=fsl)
        assert [r.labels for r in rounds] == [50, 100]
        assert rounds[-1].accuracy > 0.25  # chance: 0.1
