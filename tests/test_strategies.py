import math

import numpy as np
import pytest

from supclust import scores, strategies
from tests.conftest import make_blobs


def query(name, pool, budget, seed=0):
    return strategies.query(name, pool, budget, np.random.default_rng(seed))


@pytest.mark.parametrize("name", strategies.NAMES)
@pytest.mark.parametrize("n_labeled", [0, 20])
def test_every_strategy_gives_the_budget_distinct_unlabelled_and_reproducible(blobs, name, n_labeled):
    pool = strategies.Pool(blobs, np.arange(n_labeled), seed=1)
    picks = query(name, pool, 10)
    assert picks.dtype == np.int64
    assert len(set(picks.tolist())) == 10
    assert picks.min() >= n_labeled
    np.testing.assert_array_equal(picks, query(name, strategies.Pool(blobs, np.arange(n_labeled), seed=1), 10))


def test_typiclust_takes_the_most_typical_point_of_each_cluster(blobs):
    pool = strategies.Pool(blobs)
    clustered = pool.clusters(12)
    for pick in query("typiclust", pool, 12):
        cluster = clustered.assignments[pick]
        assert pick == clustered.members[cluster][clustered.typicality(cluster)[clustered.members[cluster]].argmax()]


def test_the_ablations_drop_what_their_names_say(blobs):
    pool = strategies.Pool(blobs)
    clustered = pool.clusters(12)
    without_typicality = query("supclust-no-typicality", pool, 12)
    draws = {seed: query("supclust-no-sup", pool, 12, seed) for seed in range(30)}
    for position, pick in enumerate(without_typicality):
        members = clustered.members[clustered.assignments[pick]]
        cluster = clustered.assignments[pick]
        assert clustered.sup(cluster)[pick] == clustered.sup(cluster)[members].max()
        ranked = members[np.argsort(-clustered.typicality(cluster)[members])]
        top = set(ranked[: math.ceil(len(members) / 10)].tolist())
        assert {int(picks[position]) for picks in draws.values()} == top  # each of them, and nothing else


def test_clustering_strategies_share_their_clusters(blobs, monkeypatch):
    pool, calls = strategies.Pool(blobs), []
    real = strategies.pool.geometry.kmeans
    monkeypatch.setattr(strategies.pool.geometry, "kmeans", lambda *args, **more: calls.append(args[1]) or real(*args, **more))
    for name in strategies.NAMES:
        query(name, pool.with_labeled(query(name, pool, 6)), 6)
    assert calls == [6, 12]


def test_random_is_uniform_over_the_unlabelled():
    pool, rng = strategies.Pool(make_blobs(1, 20, 3), np.arange(5)), np.random.default_rng(0)
    counts = np.bincount(np.concatenate([strategies.query("random", pool, 3, rng) for _ in range(2000)]), minlength=20)
    assert (counts[:5] == 0).all()
    assert abs(counts[5:] - 400).max() < 5 * math.sqrt(400)


def test_unknown_strategy_lists_the_known_ones(blobs):
    with pytest.raises(ValueError, match="unknown strategy 'typclust'; known: random, typiclust, supclust"):
        query("typclust", strategies.Pool(blobs), 3)


def test_squared_typicality_is_a_setting_and_is_logged(blobs, caplog):
    caplog.set_level("INFO")
    plain = strategies.Pool(blobs).clusters(12)
    assert "squared" not in caplog.text
    squared = strategies.Pool(blobs, settings=strategies.Settings(squared=True)).clusters(12)
    assert "squared" in caplog.text
    members = plain.members[0]
    expected = scores.typicality(plain.points[members], squared=True)
    np.testing.assert_allclose(squared.typicality(0)[members], expected)
    assert not np.allclose(plain.typicality(0)[members], expected)
