import importlib
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from supclust import strategies
from supclust.strategies import uncertainty
from tests import reference

METHODS = {"margin": "margin_sampling", "least-confidence": "least_confident", "entropy": "entropy"}  # scikit-activeml's names
MODEL_BASED = sorted(strategies.MODEL_BASED.intersection(strategies.NAMES))


class StubModel:
    """Answers with log-probabilities that it is given, (n, C), with dropout (passes, n, C). The last layer takes probabilities."""

    learned, head = False, SimpleNamespace(predict=lambda points: points.argmax(axis=1))

    def __init__(self, log_probabilities, passes=None):
        self._log_probabilities, self.points = log_probabilities, np.exp(log_probabilities)
        self._passes = [log_probabilities] * 3 if passes is None else passes

    def log_probabilities(self):
        return self._log_probabilities

    def dropout_log_probabilities(self, rng):
        return iter(self._passes)


def random_probabilities(n, n_classes, seed=0, passes=()):
    return np.random.default_rng(seed).dirichlet(np.full(n_classes, 0.5), (*passes, n))


def pool_of(model, n, labeled=()):
    return strategies.Pool(np.random.default_rng(0).standard_normal((n, 3)), np.array(labeled, dtype=int)).with_labeled(
        labeled, model
    )


def query(name, pool, budget, seed=0):
    return strategies.query(name, pool, budget, np.random.default_rng(seed))


def scores(name, passes):
    """What a strategy goes by, of a model with these log-probabilities: (passes, n, C), the first of them without dropout."""
    model = StubModel(np.asarray(passes[0]), passes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uncertainty, "_most_uncertain", lambda pool, found, *_: found)
        return strategies.STRATEGIES[name](pool_of(model, len(passes[0])), 1, np.random.default_rng(0))


@pytest.mark.parametrize("n", [1, 7, 200])
@pytest.mark.parametrize("n_classes", [1, 2, 10])
def test_scores_are_those_of_the_slow_versions(n, n_classes):
    probabilities = random_probabilities(n, n_classes, passes=(5,))
    slow = [*reference.uncertainties(probabilities[0]), *reference.bald(probabilities)]
    for name, expected in zip((*METHODS, "bald", "dbal"), slow, strict=True):
        np.testing.assert_allclose(scores(name, np.log(probabilities)), expected, atol=1e-12)


LOGITS = arrays.arrays(
    np.float64,
    st.tuples(st.just(3), st.integers(1, 20), st.integers(1, 5)),
    elements=st.one_of(st.floats(-50, 50), st.sampled_from([-1e300, -800.0, 0.0, 800.0])),
)


@given(LOGITS, st.data())
def test_extreme_log_probabilities_give_numbers_in_range(logits, data):
    unknown = data.draw(st.integers(0, logits.shape[2] - 1))  # so many classes have no label yet
    logits[..., logits.shape[2] - unknown :] = -np.inf
    top = logits.max(axis=-1, keepdims=True)
    logs = logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))
    most = np.log(logs.shape[2]) + 1e-9
    for name in METHODS:
        assert ((scores(name, logs) >= 0) & (scores(name, logs) <= max(1, most) + 1e-9)).all()
    information, of_mean = scores("bald", logs), scores("dbal", logs)
    assert ((information >= 0) & (information <= of_mean + 1e-9) & (of_mean <= most)).all()


@pytest.mark.parametrize("bad", [np.array([[np.nan, 0.0]]), np.array([[0.5, -1.0]]), np.zeros(3), np.zeros((3, 0))])
def test_what_are_no_log_probabilities_is_refused(bad):
    with pytest.raises(ValueError, match="log-probabilities must"):
        scores("entropy", [bad])


def test_bald_is_zero_where_the_passes_agree_and_largest_where_they_are_sure_and_differ():
    agree, differ = [[0.5, 0.5], [0.9, 0.1]], [[1 - 1e-9, 1e-9], [1e-9, 1 - 1e-9]]
    passes = np.log([[agree[0], agree[1], differ[0]], [agree[0], agree[1], differ[1]]])
    np.testing.assert_allclose(scores("bald", passes), [0, 0, np.log(2)], atol=1e-6)
    assert query("bald", pool_of(StubModel(passes[0], passes), 3), 1) == [2]
    assert set(query("dbal", pool_of(StubModel(passes[0], passes), 3), 2)) == {0, 2}


def test_passes_are_taken_one_at_a_time():
    alive = []

    class Pass(np.ndarray):
        def __del__(self):
            alive.remove(id(self))

    def passes():
        for _ in range(10):
            made = np.log(random_probabilities(5, 3)).view(Pass)
            alive.append(id(made))
            assert len(alive) <= 2
            yield made
            del made

    assert uncertainty.entropies_of_passes(passes())[0].shape == (5,)


@pytest.mark.parametrize("name", MODEL_BASED)
def test_one_known_class_makes_all_points_tie_and_ties_are_broken_at_random(name):
    logs = np.full((50, 4), -np.inf)
    logs[:, 2] = 0
    pool = pool_of(StubModel(logs), 50, labeled=range(10))
    picks = [query(name, pool, 5, seed) for seed in range(60)]
    np.testing.assert_array_equal(picks[0], query(name, pool, 5, 0))
    assert set(np.concatenate(picks)) == set(range(10, 50))


@pytest.mark.parametrize("name", MODEL_BASED)
@pytest.mark.parametrize("budget", [1, 20, 40])
def test_picks_are_the_most_uncertain_of_the_unlabelled(name, budget):
    probabilities = random_probabilities(60, 4, passes=(25,))
    labeled = np.random.default_rng(1).permutation(60)[:20]
    slow = dict(zip(METHODS, reference.uncertainties(probabilities[0]), strict=True))
    slow |= dict(zip(("bald", "dbal"), reference.bald(probabilities), strict=True))
    picks = query(name, pool_of(StubModel(np.log(probabilities[0]), np.log(probabilities)), 60, labeled), budget)
    free = np.setdiff1d(np.arange(60), labeled)
    np.testing.assert_array_equal(picks, free[np.argsort(-slow[name][free])][:budget])


@pytest.mark.parametrize("name", MODEL_BASED)
def test_the_order_of_the_points_does_not_matter_even_where_they_tie(name):
    logs = np.log(np.repeat(random_probabilities(6, 4), 5, axis=0))
    features, order = np.random.default_rng(2).standard_normal((30, 4)), np.random.default_rng(3).permutation(30)
    picks = query(name, strategies.Pool(features).with_labeled([], StubModel(logs)), 12)
    permuted = query(name, strategies.Pool(features[order]).with_labeled([], StubModel(logs[order])), 12)
    np.testing.assert_array_equal(order[permuted], picks)


def test_without_a_model_all_get_one_random_first_batch_that_depends_on_the_seed_of_the_pool_only(caplog):
    caplog.set_level("INFO")
    features = np.random.default_rng(0).standard_normal((100, 4))
    batches = {
        tuple(query(name, strategies.Pool(features, seed=3), 7, seed)) for name in strategies.MODEL_BASED for seed in range(3)
    }
    assert batches == {tuple(strategies.first_batch(strategies.Pool(features, seed=3), 7))}
    assert "random first batch of 7" in caplog.text
    assert batches != {tuple(strategies.first_batch(strategies.Pool(features, seed=4), 7))}
    again = strategies.first_batch(strategies.Pool(features, next(iter(batches)), seed=3), 93)
    assert set(again) == set(range(100)) - set(*batches)


def test_a_model_of_other_points_and_no_model_are_said_in_a_sentence():
    with pytest.raises(ValueError, match="answers for 4 points, and the pool has 5"):
        query("margin", pool_of(StubModel(np.zeros((4, 1))), 5), 1)
    with pytest.raises(ValueError, match="the pool has none"):
        strategies.STRATEGIES["bald"](pool_of(None, 5), 1, np.random.default_rng(0))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_picks_are_those_of_scikit_activeml(name, n_classes):
    """Its utilities are the same three scores.

    They differ only where a model is surer than float64 can say of 1 - p: there scikit-activeml's margin and least confidence tie,
    and ours do not.
    """
    importlib.import_module("skactiveml")
    from skactiveml.base import SkactivemlClassifier
    from skactiveml.pool import UncertaintySampling

    probabilities = random_probabilities(300, n_classes, seed=n_classes)

    class Given(SkactivemlClassifier):
        def fit(self, X, y, sample_weight=None):
            return self

        def predict_proba(self, X):
            return probabilities[X[:, 0].astype(int)]

    labeled = np.arange(0, 300, 10)
    y = np.full(300, np.nan)
    y[labeled] = 0
    theirs = UncertaintySampling(METHODS[name], random_state=0)
    theirs = theirs.query(np.arange(300.0)[:, None], y, Given(classes=range(n_classes)), fit_clf=False, batch_size=25)
    np.testing.assert_array_equal(query(name, pool_of(StubModel(np.log(probabilities)), 300, labeled), 25), theirs)


def test_bald_is_that_of_scikit_activeml():
    """The first utility of its BatchBALD, which clips probabilities at 1e-7."""
    importlib.import_module("skactiveml")
    from skactiveml.pool import batch_bald

    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), (6, 80))
    theirs = batch_bald(probabilities.copy(), 1, random_state=0)[0]
    np.testing.assert_allclose(scores("bald", np.log(probabilities)), theirs, atol=1e-5)
