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


SIMCLR = "SimCLR, 3 epochs on these images"


@pytest.mark.parametrize("many", [20_000, 50])
def test_bursts_are_groups_also_where_clusters_are_searched(many, monkeypatch):
    monkeypatch.setattr(duplicates, "MANY", many)
    group = duplicates.find(strategies.Pool(bursts()), 5, SIMCLR)
    assert group.tolist() == [4 * (i // 4) for i in range(120)]


@pytest.mark.parametrize(
    ("encoder", "cosine", "near"),
    [
        ("tf_efficientnet_lite0 of timm, pretrained", 0.94, True),
        ("tf_efficientnet_lite0 of timm, pretrained", 0.92, False),
        ("CIFAR-10 encoder of the package, not trained further", 0.97, True),
        ("CIFAR-10 encoder of the package, not trained further", 0.95, False),
        ("SimCLR, 3 epochs on these images", 0.985, True),
        ("SimCLR, 3 epochs on these images", 0.975, False),
        ("given embeddings", 0.999, False),
        ("given embeddings", 1.0, True),
    ],
)
def test_what_is_near_depends_on_the_encoder(encoder, cosine, near):
    points = np.eye(9)
    points[1, :2] = cosine, (1 - cosine**2) ** 0.5
    found = duplicates.find(strategies.Pool(points), 1, encoder)
    assert found.tolist() == [0, 0 if near else 1, *range(2, 9)]


def test_images_that_all_look_alike_to_the_encoder_are_near_only_if_they_are_nearer_than_usual():
    alike = np.random.default_rng(0).standard_normal((40, 64)) + 5  # cosines of 0.96
    copies = alike[:10] + 0.1 * np.random.default_rng(1).standard_normal((10, 64))
    group = duplicates.find(strategies.Pool(np.concatenate([alike, copies])), 5, "efficientnet_lite0")
    assert group.tolist() == [*range(40), *range(10)]


def test_of_each_group_the_first_candidate_is_left_and_none_of_those_that_are_done(caplog):
    group = np.array([0, 0, 2, 0, 4, 4, 6, 7])

    def left(candidates, done, budget=1):
        pool = strategies.Pool(np.eye(8), np.array(done, dtype=int), candidates=np.array(candidates))
        return duplicates.one_of_each(pool, group, budget).queryable.tolist()

    assert left([1, 3, 2, 4, 5, 7], []) == [1, 2, 4, 7]
    assert left([1, 3, 2, 4, 7], [0, 5]) == [2, 7]
    assert caplog.text == ""
    assert left([1, 3, 2, 4, 7], [0, 5], budget=3) == [1, 2, 7]
    assert "1 pick repeats another image: too few different ones are left" in caplog.text
    assert left([0, 1, 3, 4, 5, 2], [], budget=5) == [0, 1, 2, 4, 5]  # a second one of each before a third of any


def test_what_is_told_of_groups():
    def told(features):
        pool = strategies.Pool(features)
        return duplicates.facts(pool, duplicates.find(pool, 1, SIMCLR))

    assert told(np.eye(16)) == {}
    assert told(bursts(3)) == {"Near-duplicates": "of 12 images, 9 repeat another one; the largest group has 4"}
    assert told(np.concatenate([np.ones((57, 16)), np.eye(16)[:3]])) == {
        "Near-duplicates": "of 60 images, 56 repeat another one; the largest group has 57",
        "Not told apart": "57 of 60 images have the same features: picks among them are arbitrary",
    }
