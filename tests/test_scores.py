import itertools

import numpy as np
import pytest

from supclust import scores
from supclust.engine import geometry
from supclust.engine.kmeans import kmeans
from tests import reference
from tests.conftest import make_blobs

SIZES, CLUSTERS, TEMPERATURES, DIMENSIONS = (40, 61, 200), (1, 2, 5, 17), (1e-3, 0.05, 1.0, 100.0), (2, 33)


@pytest.mark.parametrize(("n", "d", "k"), list(itertools.product((2, 3, 20, 41, 150), DIMENSIONS, (1, 5, 20))))
def test_typicality_matches_the_slow_version(n, d, k):
    points = np.random.default_rng([n, d, k]).standard_normal((n, d)).astype(np.float32)
    np.testing.assert_allclose(scores.typicality(points, k), reference.typicality(points, k), rtol=1e-5)


@pytest.mark.parametrize(("n_clusters", "temperature", "d"), list(itertools.product(CLUSTERS[1:], TEMPERATURES, DIMENSIONS)))
def test_cluster_weights_match_the_slow_version(n_clusters, temperature, d):
    centers = np.random.default_rng(n_clusters).standard_normal((n_clusters, d)).astype(np.float32)
    weights = scores.cluster_weights(centers, temperature)
    np.testing.assert_allclose(weights, reference.cluster_weights(centers, temperature), rtol=1e-5, atol=1e-12)
    assert (np.diag(weights) == 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1)


@pytest.mark.parametrize(("n", "n_clusters", "temperature"), list(itertools.product(SIZES, CLUSTERS[1:], TEMPERATURES)))
def test_sup_matches_the_slow_version(n, n_clusters, temperature):
    points = geometry.Normalised(np.random.default_rng(n).standard_normal((n, 16)))
    clustering = kmeans(points, n_clusters)
    args = np.asarray(points), clustering.assignments, clustering.centers, temperature
    np.testing.assert_allclose(scores.sup(*args), reference.sup(*args), rtol=1e-6)


def test_small_temperature_leaves_the_nearest_other_center_and_infinity_the_mean():
    centers = np.array([[0.0], [1.0], [3.0]])
    np.testing.assert_allclose(scores.cluster_weights(centers, 1e-300), [[0, 1, 0], [1, 0, 0], [0, 1, 0]])
    np.testing.assert_allclose(scores.cluster_weights(centers, np.inf), (1 - np.eye(3)) / 2)
    assert scores.sup([[0.2]], [0], centers, np.inf) == pytest.approx(-(0.8 + 2.8) / 2)


def test_sup_is_larger_nearer_to_the_boundary():
    centers, line = np.array([[0.0, 0.0], [1.0, 0.0]]), np.stack([np.linspace(0, 0.5, 6), np.zeros(6)], axis=1)
    assert (np.diff(scores.sup(line, np.zeros(6, int), centers, 0.1)) > 0).all()


def test_one_cluster_has_no_weights_and_no_sup():
    assert scores.cluster_weights([[1.0, 2.0]], 1.0).tolist() == [[0.0]]
    assert np.isnan(scores.sup([[0.0, 0.0]], [0], [[1.0, 2.0]], 1.0)).all()


def test_typicality_of_copies_and_of_a_lone_point():
    copies = np.ones((50, 4))
    assert np.isinf(scores.typicality(copies)).all()
    assert scores.typicality([[1.0, 2.0]]).tolist() == [0.0]


def test_squared_typicality_is_that_of_squared_distances():
    points = [[0.0], [1.0], [3.0], [7.0]]
    np.testing.assert_allclose(scores.typicality(points, 1, squared=True), [1, 1, 1 / 4, 1 / 16])


def test_default_temperature_is_a_tenth_of_the_mean_distance_between_centers():
    assert scores.default_temperature([[0.0], [1.0], [3.0]]) == pytest.approx(0.1 * (1 + 3 + 2) / 3)
    assert scores.default_temperature([[0.0]]) == scores.default_temperature([[2.0], [2.0]]) == 1.0


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), "warm", None])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match="temperature must be positive"):
        scores.cluster_weights(np.eye(3), temperature)


@pytest.mark.parametrize("assignments", [[0, 1], [0, 1, 3], [0, -1, 1], [0.0, 1.0, 2.0]])
def test_sup_refuses_assignments_that_do_not_fit(assignments):
    with pytest.raises(ValueError, match="assignments must"):
        scores.sup(np.eye(3), assignments, np.eye(3), 1.0)


def test_sup_refuses_centers_of_another_width():
    with pytest.raises(ValueError, match="points have 3 dimensions and centers 2"):
        scores.sup(np.eye(3), [0, 1, 1], np.eye(2), 1.0)


def test_scores_refuse_features_that_are_not_finite():
    with pytest.raises(ValueError, match=r"row\(s\): 1"):
        scores.typicality([[0.0], [np.nan]])


def test_precision_holds_for_tight_clusters_far_from_the_origin():
    points = geometry.normalise(make_blobs(1, 60, 32, spread=1e-3))
    np.testing.assert_allclose(scores.typicality(points), reference.typicality(points), rtol=1e-3)


@pytest.mark.parametrize("scale", [2.0**-90, 2.0**-60, 1.0, 2.0**60, 2.0**90])
@pytest.mark.parametrize("squared", [False, True])
def test_typicality_of_tiny_and_huge_points_is_that_of_others_scaled(scale, squared):
    points = np.random.default_rng(0).standard_normal((60, 5)).astype(np.float32)
    expected = scores.typicality(points, squared=squared) / (scale**2 if squared else scale)
    np.testing.assert_allclose(scores.typicality(points * np.float32(scale), squared=squared), expected, rtol=1e-9)
