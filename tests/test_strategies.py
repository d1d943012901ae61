import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supclust import method, strategies
from supclust import pool as pools
from tests import reference
from tests.conftest import check_picks, make_blobs
from tests.test_uncertainty import StubModel, random_probabilities


def query(name, pool, budget, seed=0):
    return strategies.query(name, pool, budget, np.random.default_rng(seed))


@pytest.mark.parametrize("name", strategies.STRATEGIES)
@pytest.mark.parametrize("n_labeled", [0, 20])
def test_every_strategy_gives_the_budget_distinct_unlabelled_and_reproducible(blobs, name, n_labeled):
    pool = strategies.Pool(blobs, np.arange(n_labeled), seed=1)
    picks = query(name, pool, 10)
    assert picks.dtype == np.int64
    assert len(set(picks.tolist())) == 10
    assert picks.min() >= n_labeled
    np.testing.assert_array_equal(picks, query(name, strategies.Pool(blobs, np.arange(n_labeled), seed=1), 10))


@st.composite
def pools_with_candidates(draw):
    """A pool with candidates, some of them labelled, with or without a model, and a budget."""
    n, seed = draw(st.integers(8, 120)), draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    labeled = rng.choice(n, draw(st.integers(0, n // 3)), replace=False)
    candidates = rng.choice(n, draw(st.integers(1, n)), replace=False)
    candidates = candidates if set(candidates) - set(labeled) else np.arange(n)
    model = StubModel(np.log(random_probabilities(n, 3))) if draw(st.booleans()) else None
    changes = {"max_clusters": draw(st.sampled_from([1, 4, 500])), "radius": draw(st.sampled_from([None, 0.5]))}
    pool = strategies.Pool(
        rng.standard_normal((n, 4)),
        labeled,
        seed,
        strategies.Settings(**changes),
        model,
        labels=rng.integers(0, 3, n),
        candidates=candidates,
    )
    return pool, draw(st.integers(1, min(20, np.count_nonzero(pool.free))))


EVERY_NAME = [*strategies.STRATEGIES, *strategies.CONTROLS]


@given(st.sampled_from(EVERY_NAME), pools_with_candidates())
def test_every_strategy_gives_the_budget_of_distinct_unlabelled_candidates(name, given_pool):
    pool, budget = given_pool
    picks = query(name, pool, budget)
    check_picks(picks, budget, pool)
    assert set(picks) <= set(pool.candidates)


@given(st.sampled_from(EVERY_NAME), pools_with_candidates())
def test_all_points_as_candidates_are_the_same_as_none_named(name, given_pool):
    pool, budget = given_pool
    n = len(pool.features)
    picks = [
        query(name, strategies.Pool(pool.features, pool.labeled, 1, pool.settings, pool.model, pool.labels, candidates), budget)
        for candidates in (None, np.arange(n), np.arange(n)[::-1])
    ]
    np.testing.assert_array_equal(picks[0], picks[1])
    np.testing.assert_array_equal(picks[0], picks[2])


@pytest.mark.parametrize("name", EVERY_NAME)
def test_the_same_candidates_serve_round_after_round_until_none_is_left(blobs, name):
    candidates = np.arange(50, 80)
    pool = strategies.Pool(blobs, [0, 60], labels=np.arange(480) % 3, candidates=candidates)
    for _ in range(3):
        picks = query(name, pool, 9)
        pool = pool.with_labeled(np.concatenate([pool.labeled, picks]), StubModel(np.log(random_probabilities(480, 3))))
    assert len(pool.labeled) == 29
    assert set(pool.labeled) <= {0, *candidates}
    with pytest.raises(ValueError, match="budget is 3, but only 2 candidates are unlabelled"):
        query(name, pool, 3)


def test_the_first_batch_keeps_to_the_candidates(blobs):
    pool = strategies.Pool(blobs, [5], candidates=[3, 5, 7, 9])
    assert set(strategies.first_batch(pool, 3)) == {3, 7, 9}
    assert set(query("bald", pool, 3)) == {3, 7, 9}


def test_coreset_looks_for_the_farthest_among_the_candidates_only():
    features = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
    candidates, chosen, between = np.arange(10, 40), [3, 4], reference.all_distances(features)
    for pick in query("coreset", strategies.Pool(features, chosen, candidates=candidates), 12):
        left = np.setdiff1d(candidates, chosen)
        assert pick == left[between[left][:, chosen].min(axis=1).argmax()]
        chosen.append(pick)


def test_probcover_centres_balls_at_candidates_and_counts_what_they_cover_among_all_points():
    rng, settings = np.random.default_rng(0), strategies.Settings(radius=0.4)
    candidates = np.arange(30, 60)
    pool = strategies.Pool(rng.standard_normal((200, 4)), [7], settings=settings, candidates=candidates)
    chosen, inside = [7], reference.all_distances(pool.points) <= 0.4
    for pick in query("probcover", pool, 10):
        counts = reference.uncovered_in_balls(inside, chosen)
        assert pick in candidates
        assert counts[pick] == counts[candidates].max()
        chosen.append(pick)


def test_typiclust_takes_the_most_typical_point_of_each_cluster(blobs):
    pool = strategies.Pool(blobs)
    clustered = pool.clusters(12)
    for pick in query("typiclust", pool, 12):
        members = clustered.members[clustered.assignments[pick]]
        assert pick == members[reference.typicality(pool.points[members]).argmax()]


def test_the_ablations_drop_what_their_names_say(blobs):
    pool = strategies.Pool(blobs)
    clustered = pool.clusters(12)
    without_typicality = query("supclust-no-typicality", pool, 12)
    draws = {seed: query("supclust-no-sup", pool, 12, seed) for seed in range(30)}
    for position, pick in enumerate(without_typicality):
        members = clustered.members[clustered.assignments[pick]]
        cluster = clustered.assignments[pick]
        sup = method.sup_in_cluster(pool, clustered, cluster, members)
        assert pick == members[sup.argmax()]
        ranked = members[np.argsort(-reference.typicality(pool.points[members]))]
        top = set(ranked[: math.ceil(len(members) / 10)].tolist())
        assert {int(picks[position]) for picks in draws.values()} == top  # each of them, and nothing else


def test_clustering_strategies_share_their_clusters(blobs, monkeypatch):
    pool, calls = strategies.Pool(blobs), []
    real = pools.kmeans
    monkeypatch.setattr(pools, "kmeans", lambda *args, **more: calls.append(args[1]) or real(*args, **more))
    for name in strategies.NAMES:
        query(name, pool.with_labeled(query(name, pool, 6)), 6)
    assert calls == [6, 12]  # probcover's six classes are the six of the first round


def test_random_is_uniform_over_the_unlabelled():
    pool, rng = strategies.Pool(make_blobs(1, 20, 3), np.arange(5)), np.random.default_rng(0)
    counts = np.bincount(np.concatenate([strategies.query("random", pool, 3, rng) for _ in range(2000)]), minlength=20)
    assert (counts[:5] == 0).all()
    assert abs(counts[5:] - 400).max() < 5 * math.sqrt(400)


def test_unknown_strategy_lists_the_known_ones(blobs):
    with pytest.raises(
        ValueError, match=r"'typclust'; known: random, margin, .*supclust-no-typicality, maxherding, .*; controls: class-balanced"
    ):
        query("typclust", strategies.Pool(blobs), 3)


def test_squared_typicality_is_a_setting_and_is_logged(blobs, caplog):
    caplog.set_level("INFO")
    plain = strategies.Pool(blobs)
    assert "squared" not in caplog.text
    squared = strategies.Pool(blobs, settings=strategies.Settings(squared=True))
    assert "squared" in caplog.text
    members = plain.clusters(12).members[0]
    expected = method.typicality(plain.points[members], squared=True)
    found = [method.explain(pool, 12).typicality[members] for pool in (squared, plain)]
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)
    assert not np.allclose(found[1], expected)


def test_the_names_come_in_the_order_of_the_papers_tables():
    assert strategies.NAMES[:6] == ("random", "margin", "least-confidence", "entropy", "bald", "dbal")
    assert strategies.NAMES[6:9] == ("coreset", "typiclust", "probcover")
    assert strategies.NAMES[9:] == ("supclust", "supclust-no-sup", "supclust-no-typicality")
    assert tuple(strategies.STRATEGIES) == strategies.NAMES + strategies.LATER
    assert set(strategies.STRATEGIES) > strategies.MODEL_BASED | strategies.MODEL_AIDED
    assert not set(strategies.STRATEGIES) & set(strategies.CONTROLS)


@pytest.mark.parametrize("budget", [1, 5, 37, 94])
def test_class_balanced_fills_the_classes_with_the_fewest_labels_first(budget):
    labels = np.repeat(["a", "b", "c", "d"], [60, 30, 6, 4])
    labeled = np.array([0, 1, 2, 60, 96, 97])
    pool = strategies.Pool(make_blobs(1, 100, 3), labeled, labels=labels).with_labeled(labeled)
    picks = query("class-balanced", pool, budget)
    assert picks.dtype == np.int64
    assert len(set(picks)) == budget
    assert not set(picks) & set(labeled)
    counts = {name: int((labels[labeled] == name).sum()) for name in "abcd"}
    for name in labels[picks]:  # in the order of the picks
        left = [other for other in "abcd" if counts[other] < (labels == other).sum()]
        assert counts[name] == min(counts[other] for other in left)
        counts[name] += 1


def test_class_balanced_draws_its_points_and_the_classes_that_tie_at_random():
    labels = np.repeat([0, 1], [90, 10])
    pool = strategies.Pool(make_blobs(1, 100, 3), labels=labels)
    draws = np.array([query("class-balanced", pool, 3, seed) for seed in range(400)])
    assert set(draws.ravel()) == set(range(100))
    assert abs((labels[draws[:, 0]] == 1).mean() - 0.5) < 0.1  # the rare class goes first as often as the other


def test_class_balanced_asks_for_labels_and_strategies_see_none(blobs):
    with pytest.raises(ValueError, match="the pool has none"):
        query("class-balanced", strategies.Pool(blobs), 3)
    strategies.check_name("class-balanced")
    for name in strategies.STRATEGIES:
        labelled = strategies.Pool(blobs, labels=np.zeros(len(blobs)))
        np.testing.assert_array_equal(query(name, labelled, 5), query(name, strategies.Pool(blobs), 5))


def test_settings_share_clusters_and_the_typicality_that_they_leave_alone(blobs, monkeypatch):
    calls = {"kmeans": 0, "mean_distances": 0}
    for name in calls:
        real = getattr(pools, name)

        def counted(*args, _real=real, _name=name, **more):
            calls[_name] += 1
            return _real(*args, **more)

        monkeypatch.setattr(pools, name, counted)
    pool = strategies.Pool(blobs)
    first = query("supclust", pool, 6)
    assert calls == {"kmeans": 1, "mean_distances": 6}
    others = [query("supclust", pool.with_settings(relative_temperature=t), 6) for t in (0.01, 10.0)]
    assert calls == {"kmeans": 1, "mean_distances": 6}
    fresh = [
        query("supclust", strategies.Pool(blobs, settings=strategies.Settings(relative_temperature=t)), 6) for t in (0.01, 10.0)
    ]
    np.testing.assert_array_equal(others, fresh)
    query("supclust", pool.with_settings(n_neighbors=5), 6)
    assert calls == {"kmeans": 3, "mean_distances": 24}  # two of each were for the fresh pools
    np.testing.assert_array_equal(first, query("supclust", pool, 6))


def test_features_may_be_a_tensor_or_a_list(blobs):
    torch = pytest.importorskip("torch")
    expected = query("supclust", strategies.Pool(blobs), 5)
    np.testing.assert_array_equal(query("supclust", strategies.Pool(torch.from_numpy(blobs)), 5), expected)
    np.testing.assert_array_equal(query("supclust", strategies.Pool(blobs.tolist()), 5), expected)
