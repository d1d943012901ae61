"""Near-duplicates: groups that do not chain, one pick of each, and what is told of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supclust import strategies
from supclust.engine import geometry
from supclust.label import duplicates


def slow(points, threshold):
    first = []
    for i, point in enumerate(points):
        first.append(next((j for j in range(i) if first[j] == j and point @ points[j] >= threshold), i))
    return first


@given(n=st.integers(1, 60), rows=st.integers(1, 70), seed=st.integers(0, 999), threshold=st.sampled_from([0.5, 0.9, 0.99]))
def test_groups_are_those_of_the_obvious_way(n, rows, seed, threshold):
    points = geometry.normalise(np.random.default_rng(seed).standard_normal((n, 3)).astype(np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "ROWS", rows)
        assert duplicates.groups(points, threshold).tolist() == slow(points, threshold)


def test_groups_do_not_chain():
    angles = np.deg2rad(np.arange(0, 90, 5))  # each is near to the next one
    group = duplicates.groups(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32), np.cos(np.deg2rad(11)))
    assert group.tolist() == [3 * (i // 3) for i in range(18)]


def bursts(n=30, size=4, d=16):
    """n points and near copies of each, one burst after the other."""
    rng = np.random.default_rng(0)
    return np.repeat(rng.standard_normal((n, d)), size, axis=0) + 0.01 * rng.standard_normal((n * size, d))


@pytest.mark.parametrize("many", [20_000, 50])
def test_bursts_are_groups_also_where_clusters_are_searched(many, monkeypatch):
    monkeypatch.setattr(duplicates, "MANY", many)
    group = duplicates.find(strategies.Pool(bursts()), 5, 0.96)
    assert group.tolist() == [4 * (i // 4) for i in range(120)]


def test_of_each_group_the_first_candidate_is_left_and_none_of_those_that_are_done():
    group = np.array([0, 0, 2, 0, 4, 4, 6, 7])
    assert duplicates.one_of_each(group, np.array([1, 3, 2, 4, 5, 7]), np.array([], dtype=int)).tolist() == [1, 2, 4, 7]
    assert duplicates.one_of_each(group, np.array([1, 3, 2, 4, 7]), np.array([0, 5])).tolist() == [2, 7]
    assert duplicates.one_of_each(group, np.array([7]), np.array([7])).tolist() == []


def test_what_is_told_of_groups():
    def told(features, threshold=0.96):
        pool = strategies.Pool(features)
        return duplicates.facts(pool, duplicates.find(pool, 1, threshold))

    other = np.eye(16)[:3]
    assert told(np.eye(16)) == {}
    assert told(bursts(3)) == {"Near-duplicates": "9 of 12 images repeat another one; 4 are one group"}
    told_apart = {"Not told apart": "57 of 60 images have the same features: picks among them are arbitrary"}
    assert told(np.concatenate([np.ones((57, 16)), other])) == {
        "Near-duplicates": "56 of 60 images repeat another one; 57 are one group",
        **told_apart,
    }
