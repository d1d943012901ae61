"""Equations 1 to 3 against slow versions in float64, and the query against the paper's text."""

import inspect
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import supclust
from supclust import method, strategies
from supclust.engine import geometry
from supclust.engine.kmeans import kmeans
from supclust.scale.points import Mapped
from tests import reference
from tests.conftest import grid, make_blobs

SIZES, CLUSTERS, TEMPERATURES, DIMENSIONS = (40, 61, 200), (2, 5, 17), (1e-3, 0.05, 1.0, 100.0), (2, 33)


@pytest.mark.parametrize(("n", "d", "k"), grid((2, 3, 20, 41, 150), DIMENSIONS, (1, 5, 20)))
def test_typicality_matches_the_slow_version(n, d, k):
    points = np.random.default_rng([n, d, k]).standard_normal((n, d)).astype(np.float32)
    np.testing.assert_allclose(method.typicality(points, k), reference.typicality(points, k), rtol=1e-5)


@pytest.mark.parametrize(("n_clusters", "temperature", "d"), grid(CLUSTERS, TEMPERATURES, DIMENSIONS))
def test_cluster_weights_match_the_slow_version(n_clusters, temperature, d):
    centers = np.random.default_rng(n_clusters).standard_normal((n_clusters, d)).astype(np.float32)
    weights = method.cluster_weights(centers, temperature)
    np.testing.assert_allclose(weights, reference.cluster_weights(centers, temperature), rtol=1e-5, atol=1e-12)
    assert (np.diag(weights) == 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1)


@pytest.mark.parametrize(("n", "n_clusters", "temperature"), grid(SIZES, CLUSTERS, TEMPERATURES))
def test_sup_matches_the_slow_version(n, n_clusters, temperature):
    points = geometry.Points(np.random.default_rng(n).standard_normal((n, 16)))
    assignments, centers = kmeans(points, n_clusters)
    args = np.asarray(points), assignments, centers, temperature
    np.testing.assert_allclose(method.sup(*args), reference.sup(*args), rtol=1e-6)


def test_small_temperature_leaves_the_nearest_other_center_and_infinity_the_mean():
    centers = np.array([[0.0], [1.0], [3.0]])
    np.testing.assert_allclose(method.cluster_weights(centers, 1e-300), [[0, 1, 0], [1, 0, 0], [0, 1, 0]])
    np.testing.assert_allclose(method.cluster_weights(centers, np.inf), (1 - np.eye(3)) / 2)
    assert method.sup([[0.2]], [0], centers, np.inf) == pytest.approx(-(0.8 + 2.8) / 2)


def test_sup_is_larger_nearer_to_the_boundary():
    centers, line = np.array([[0.0, 0.0], [1.0, 0.0]]), np.stack([np.linspace(0, 0.5, 6), np.zeros(6)], axis=1)
    assert (np.diff(method.sup(line, np.zeros(6, int), centers, 0.1)) > 0).all()


def test_one_cluster_has_no_weights_and_no_sup():
    assert method.cluster_weights([[1.0, 2.0]], 1.0).tolist() == [[0.0]]
    assert np.isnan(method.sup([[0.0, 0.0]], [0], [[1.0, 2.0]], 1.0)).all()


def test_typicality_of_copies_and_of_a_lone_point():
    copies = np.ones((50, 4))
    assert np.isinf(method.typicality(copies)).all()
    assert method.typicality([[1.0, 2.0]]).tolist() == [0.0]


def test_squared_typicality_is_that_of_squared_distances():
    points = [[0.0], [1.0], [3.0], [7.0]]
    np.testing.assert_allclose(method.typicality(points, 1, squared=True), [1, 1, 1 / 4, 1 / 16])


def test_default_temperature_is_a_tenth_of_the_mean_distance_between_centers():
    assert method.default_temperature([[0.0], [1.0], [3.0]]) == pytest.approx(0.1 * (1 + 3 + 2) / 3)
    assert method.default_temperature([[0.0]]) == method.default_temperature([[2.0], [2.0]]) == 1.0


def test_the_weights_between_clusters_are_computed_once_for_a_clustering(monkeypatch):
    computed = []
    for name in ("default_temperature", "cluster_weights"):
        function = getattr(method, name)
        monkeypatch.setattr(method, name, lambda *arguments, f=function: computed.append(f) or f(*arguments))
    supclust.select(make_blobs(30, 20, 6), 30)
    assert len(computed) == 2


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), "warm", None])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match="temperature must be positive"):
        method.cluster_weights(np.eye(3), temperature)


@pytest.mark.parametrize("assignments", [[0, 1], [0, 1, 3], [0, -1, 1], [0.0, 1.0, 2.0]])
def test_sup_refuses_assignments_that_do_not_fit(assignments):
    with pytest.raises(ValueError, match="assignments must"):
        method.sup(np.eye(3), assignments, np.eye(3), 1.0)


def test_sup_refuses_centers_of_another_width():
    with pytest.raises(ValueError, match="points have 3 dimensions and centers 2"):
        method.sup(np.eye(3), [0, 1, 1], np.eye(2), 1.0)


def test_scores_refuse_features_that_are_not_finite():
    with pytest.raises(ValueError, match=r"row\(s\): 1"):
        method.typicality([[0.0], [np.nan]])


def test_precision_holds_for_tight_clusters_far_from_the_origin():
    points = geometry.normalise(make_blobs(1, 60, 32, spread=1e-3))
    np.testing.assert_allclose(method.typicality(points), reference.typicality(points), rtol=1e-3)


@pytest.mark.parametrize(
    ("scale", "squared"), [(2.0**-90, False), (2.0**-60, True), (1.0, False), (2.0**60, True), (2.0**90, False)]
)
def test_typicality_of_tiny_and_huge_points_is_that_of_others_scaled(scale, squared):
    points = np.random.default_rng(0).standard_normal((60, 5)).astype(np.float32)
    expected = method.typicality(points, squared=squared) / (scale**2 if squared else scale)
    np.testing.assert_allclose(method.typicality(points * np.float32(scale), squared=squared), expected, rtol=1e-9)


@st.composite
def pools(draw):
    """Features (n, d) without ties, a budget, labelled indices, and a seed."""
    n, d = draw(st.integers(8, 150)), draw(st.integers(2, 12))
    seed = draw(st.integers(0, 2**31))
    features = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    n_labeled = draw(st.integers(0, n // 3))
    labeled = np.random.default_rng(seed + 1).choice(n, n_labeled, replace=False)
    return features, draw(st.integers(1, min(30, n - n_labeled))), labeled, seed


@given(pools(), st.sampled_from([1, 5, 500, None]))
def test_always_the_budget_distinct_and_never_labelled(pool, max_clusters):
    features, budget, labeled, seed = pool
    picks = supclust.select(features, budget, labeled, max_clusters=max_clusters, seed=seed)
    assert picks.shape == (budget,)
    assert picks.dtype == np.int64
    assert len(set(picks)) == budget
    assert not set(picks) & set(labeled)
    np.testing.assert_array_equal(picks, supclust.select(features, budget, labeled, max_clusters=max_clusters, seed=seed))


@given(pools())
def test_picks_come_from_the_right_clusters_and_the_most_typical_tenth_with_the_largest_sup(pool):
    features, budget, labeled, seed = pool
    picks, details = supclust.select(features, budget, labeled, seed=seed, return_details=True)
    sizes = np.bincount(details.assignments, minlength=len(details.centers))
    covered = set(details.assignments[labeled])
    eligible = sorted((size for k, size in enumerate(sizes) if k not in covered and size > 5), reverse=True)
    first = picks[: len(eligible)]  # after them the strategy goes round clusters that have labels
    assert sizes[details.assignments[first]].tolist() == eligible[:budget]
    for pick in first:
        cluster = details.assignments[pick]
        assert cluster not in covered
        members = np.flatnonzero(details.assignments == cluster)
        ranked = members[np.argsort(-details.typicality[members])]
        top = ranked[: math.ceil(len(members) / 10)]
        assert pick in top
        if len(details.centers) > 1:
            assert details.sup[pick] == details.sup[top].max()


@given(pools(), st.randoms(use_true_random=False))
def test_permuting_the_pool_permutes_the_answer(pool, random):
    features, budget, labeled, seed = pool
    order = list(range(len(features)))
    random.shuffle(order)
    position = np.argsort(order)  # where each point went
    straight = supclust.select(features, budget, labeled, seed=seed)
    permuted = supclust.select(features[order], budget, position[labeled], seed=seed)
    np.testing.assert_array_equal(permuted, position[straight])


@pytest.mark.parametrize(("budget", "n_labeled", "temperature"), grid((1, 3, 8), (0, 4), (0.01, 0.3, 10.0)))
def test_picks_are_those_of_the_slow_version_given_the_clusters(budget, n_labeled, temperature):
    features = make_blobs(20, 30, 6, seed=budget, spread=0.3)
    labeled = list(range(n_labeled))
    picks, d = supclust.select(features, budget, labeled, temperature=temperature, return_details=True)
    points = features.astype(float) / np.linalg.norm(features.astype(float), axis=1, keepdims=True)
    if budget + n_labeled == 1:
        assert picks == np.argmax(reference.typicality(points))
        return
    slow = reference.select_given_clusters(points, d.assignments, d.centers, budget, temperature, labeled)
    assert picks.tolist() == slow


@pytest.mark.parametrize(("budget", "n_labeled", "share"), grid((2, 5), (0, 4), (0.02, 0.3, 0.9)))
def test_picks_among_candidates_are_those_of_the_slow_version_given_the_clusters(budget, n_labeled, share):
    features = make_blobs(20, 30, 6, seed=budget, spread=0.3)
    rng, labeled = np.random.default_rng(budget), list(range(n_labeled))
    candidates = rng.choice(np.arange(n_labeled, 600), math.ceil(share * 596), replace=False)
    picks, d = supclust.select(features, budget, labeled, candidates=candidates, return_details=True)
    points = features.astype(float) / np.linalg.norm(features.astype(float), axis=1, keepdims=True)
    slow = reference.select_given_clusters(points, d.assignments, d.centers, budget, d.temperature, labeled, candidates=candidates)
    assert picks.tolist() == slow


def test_candidates_change_neither_clusters_nor_scores(blobs):
    _, all_of_them = supclust.select(blobs, 12, return_details=True)
    picks, some = supclust.select(blobs, 12, candidates=range(100, 200), return_details=True)
    assert set(picks) <= set(range(100, 200))
    np.testing.assert_array_equal(some.assignments, all_of_them.assignments)
    np.testing.assert_allclose(some.typicality, all_of_them.typicality, rtol=1e-6)
    np.testing.assert_array_equal(some.sup, all_of_them.sup)


def test_clusters_without_candidates_are_passed_over_for_the_next_largest():
    features = np.concatenate([make_blobs(1, size, 6, seed=s, spread=0.001) for s, size in [(1, 40), (2, 30), (3, 20)]])
    picks = supclust.select(features, 3, candidates=range(40, 90))
    assert np.searchsorted([40, 70, 90], picks, side="right").tolist() == [1, 2, 1]


def test_one_cluster_takes_the_most_typical_candidate(blobs):
    candidates = np.arange(7, 400, 9)
    picks, details = supclust.select(blobs, 1, candidates=candidates, return_details=True)
    assert picks[0] == candidates[details.typicality[candidates].argmax()]


def test_details_hold_the_scores_of_every_point(blobs):
    _, details = supclust.select(blobs, 12, return_details=True)
    points = blobs / np.linalg.norm(blobs, axis=1, keepdims=True)
    np.testing.assert_allclose(
        details.sup, reference.sup(points, details.assignments, details.centers, details.temperature), rtol=1e-5
    )
    for cluster in range(12):
        members = details.assignments == cluster
        np.testing.assert_allclose(details.typicality[members], reference.typicality(points[members]), rtol=1e-4)


def test_a_tenth_of_thirty_is_three():
    """0.1 * 30 is a hair above 3 in floating point; the fourth most typical point must not slip in."""
    features = make_blobs(4, 30, 6, spread=0.01)
    picks, d = supclust.select(features, 4, return_details=True)
    assert np.bincount(d.assignments).tolist() == [30] * 4
    for pick in picks:
        assert (d.typicality[d.assignments == d.assignments[pick]] > d.typicality[pick]).sum() < 3


def test_one_cluster_falls_back_to_the_most_typical_point(blobs):
    picks, details = supclust.select(blobs, 1, return_details=True)
    assert picks[0] == details.typicality.argmax()
    assert np.isnan(details.sup).all()


def test_small_clusters_are_used_only_when_nothing_else_is_left():
    small = make_blobs(3, 5, 6, seed=1, spread=0.001)
    features = np.concatenate([make_blobs(2, 40, 6, seed=2, spread=0.001), small])
    picks, details = supclust.select(features, 5, return_details=True)
    assert sorted(np.bincount(details.assignments)) == [5, 5, 5, 40, 40]
    assert (picks < 80).all()
    assert len(set(supclust.select(features, 95).tolist())) == 95  # all of them, the small ones too


def test_a_cluster_of_six_is_large_enough():
    features = np.concatenate([make_blobs(1, size, 6, seed=s, spread=0.001) for s, size in [(1, 40), (2, 6), (3, 5)]])
    assert np.searchsorted([40, 46], supclust.select(features, 3), side="right").tolist() == [0, 1, 0]


def test_capped_clusters_are_gone_round_fewest_labels_first():
    features = np.concatenate([make_blobs(1, size, 6, seed=s, spread=0.001) for s, size in [(1, 40), (2, 30), (3, 20)]])
    picks = supclust.select(features, 4, labeled=[0], max_clusters=3)
    blob = np.searchsorted([40, 70, 90], picks, side="right")
    assert blob.tolist() == [1, 2, 0, 1]  # the two without a label, larger first; then the labelled one; then round again


def test_all_copies_of_one_point():
    picks = supclust.select(np.ones((50, 4)), 7)
    assert len(set(picks.tolist())) == 7


@pytest.mark.parametrize("budget", [0, -3, 2.0, True, "5"])
def test_budget_must_be_a_positive_whole_number(blobs, budget):
    with pytest.raises(ValueError, match="budget must be a whole number of at least 1"):
        supclust.select(blobs, budget)


def test_budget_may_not_exceed_what_is_unlabelled():
    with pytest.raises(ValueError, match="budget is 4, but only 3 points are unlabelled"):
        supclust.select(np.eye(5), 4, labeled=[0, 1])
    with pytest.raises(ValueError, match="budget is 3, but only 2 candidates are unlabelled"):
        supclust.select(np.eye(5), 3, labeled=[0, 1], candidates=[1, 2, 3])
    with pytest.raises(ValueError, match="budget is 1, but only 0 candidates are unlabelled"):
        supclust.select(np.eye(5), 1, candidates=[])


@pytest.mark.parametrize(
    ("labeled", "message"),
    [
        ([480], "out of range"),
        ([-1], "out of range"),
        ([3, 3], "repeated"),
        ([0.5], "list of indices"),
        ([[1]], "list of indices"),
        ([True], r"of a mask, pass np\.flatnonzero"),
    ],
)
def test_labeled_and_candidates_must_be_distinct_indices(blobs, labeled, message):
    with pytest.raises(ValueError, match=f"^labeled .*{message}"):
        supclust.select(blobs, 3, labeled)
    with pytest.raises(ValueError, match=f"^candidates .*{message}"):
        supclust.select(blobs, 3, candidates=labeled)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"temperature": float("nan")}, "temperature must be positive"),
        ({"top_fraction": 0.0}, "top_fraction"),
        ({"top_fraction": 1.5}, "top_fraction"),
        ({"n_neighbors": 0}, "n_neighbors"),
        ({"max_clusters": 0}, "max_clusters"),
        ({"max_clusters": 2.5}, "max_clusters"),
        ({"n_neighbors": 2.5}, "n_neighbors"),
        ({"temperature": "warm"}, "temperature must be positive"),
        ({"exact": "yes"}, "exact must be True or False"),
        ({"seed": -1}, "seed must be"),
        ({"seed": None}, "seed must be"),
    ],
)
def test_settings_out_of_range_are_refused(blobs, setting, message):
    with pytest.raises(ValueError, match=message):
        supclust.select(blobs, 3, **setting)


def test_features_must_be_finite(blobs):
    blobs[17, 2] = np.nan
    with pytest.raises(ValueError, match=r"row\(s\): 17"):
        supclust.select(blobs, 3)


def test_defaults_are_those_of_the_design(blobs):
    """K = 20, the most typical tenth, at most 500 clusters."""
    explicit = {"temperature": None, "top_fraction": 0.1, "n_neighbors": 20, "max_clusters": 500, "seed": 0}
    parameters = inspect.signature(supclust.select).parameters
    assert {name: parameters[name].default for name in explicit} == explicit
    assert strategies.Settings() == strategies.Settings(20, 500, 0.1, None, squared=False)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_memory_mapped_file_gives_the_picks_of_the_array(dtype, tmp_path):
    features = make_blobs(20, 200, 24, seed=1, spread=0.3).astype(dtype)
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    np.testing.assert_array_equal(supclust.select(mapped, 20, [3, 500]), supclust.select(features, 20, [3, 500]))


def test_a_memory_mapped_file_is_read_in_parts(tmp_path, monkeypatch):
    """No part that is asked for at once is as large as the whole, but for the sample that the centres are found on."""
    monkeypatch.setattr("supclust.engine.kmeans.SAMPLE", (1000, 1))
    monkeypatch.setattr(geometry, "ROWS_PER_BLOCK", 500)
    np.save(tmp_path / "features.npy", make_blobs(20, 200, 24, spread=0.3))
    mapped, real, asked = np.load(tmp_path / "features.npy", mmap_mode="r"), Mapped.__getitem__, []
    monkeypatch.setattr(Mapped, "__getitem__", lambda self, rows: asked.append(len(got := real(self, rows))) or got)
    supclust.select(mapped, 20)
    assert len(asked) > 20
    assert max(asked) <= 1000


def test_a_row_that_is_not_finite_is_named_in_a_memory_mapped_file_too(tmp_path):
    features = make_blobs(2, 5000, 4)
    features[[4999, 9000], 1] = np.inf
    np.save(tmp_path / "features.npy", features)
    with pytest.raises(ValueError, match=r"2 row\(s\): 4999, 9000"):
        supclust.select(np.load(tmp_path / "features.npy", mmap_mode="r"), 3)


def test_near_copies_are_told_apart_as_in_float64():
    """Where many points are within rounding of the threshold: copies with noise in the last digits."""
    rng = np.random.default_rng(0)
    features = np.repeat(make_blobs(4, 30, 8, spread=0.3), 4, axis=0)
    features = (features * (1 + 1e-6 * rng.standard_normal(features.shape))).astype(np.float32)
    picks, d = supclust.select(features, 4, return_details=True)
    points = features.astype(float) / np.linalg.norm(features.astype(float), axis=1, keepdims=True)
    assert picks.tolist() == reference.select_given_clusters(points, d.assignments, d.centers, 4, d.temperature)


def test_approximate_neighbours_are_for_large_clusters_of_large_pools_only(monkeypatch, caplog):
    caplog.set_level("INFO")
    features = make_blobs(3, 400, 8, spread=0.3)
    monkeypatch.setattr("supclust.pool.APPROXIMATE_FROM", (10**6, 100))
    exact = supclust.select(features, 3, n_neighbors=5)
    assert "recall" not in caplog.text
    approximate = supclust.select(features, 3, n_neighbors=5, exact=False)
    assert caplog.text.count("recall") == 3
    monkeypatch.setattr("supclust.pool.APPROXIMATE_FROM", (1000, 100))
    np.testing.assert_array_equal(supclust.select(features, 3, n_neighbors=5), approximate)
    np.testing.assert_array_equal(supclust.select(features, 3, n_neighbors=5, exact=True), exact)
