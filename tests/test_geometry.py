import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans

from supclust import geometry
from tests.conftest import make_blobs


def test_check_features_names_the_first_bad_rows():
    features = np.ones((20, 3))
    features[[2, 5, 7, 9, 11, 13], 1] = np.nan
    features[4, 0] = np.inf
    with pytest.raises(ValueError, match=r"7 row\(s\): 2, 4, 5, 7, 9 \.\.\."):
        geometry.check_features(features)


@pytest.mark.parametrize("features", [np.ones(5), np.ones((2, 3, 4)), np.ones((0, 3)), np.ones((3, 0)), [["a", "b"]]])
def test_check_features_refuses_other_shapes_and_types(features):
    with pytest.raises(ValueError, match="features must be"):
        geometry.check_features(features)


def test_check_features_refuses_numbers_too_large_for_float32():
    with pytest.raises(ValueError, match=r"too large for float32 in 1 row\(s\): 1"):
        geometry.check_features(np.array([[1.0], [1e300]]))


def test_normalise_gives_unit_rows_and_leaves_zeros():
    points = np.array([[3, 4], [0, 0], [1e30, 1e30], [1e-30, 0]], dtype=np.float32)
    expected = [[0.6, 0.8], [0, 0], [0.5**0.5, 0.5**0.5], [1, 0]]
    np.testing.assert_allclose(geometry.normalise(points), expected, rtol=1e-6)


@pytest.mark.parametrize("n_clusters", [1, 2, 12, 100, 480])
def test_kmeans_assigns_each_point_to_its_nearest_center(blobs, n_clusters):
    clustering = geometry.kmeans(blobs, n_clusters, seed=3)
    assert clustering.centers.shape == (n_clusters, 8)
    between = cdist(blobs, clustering.centers)
    own = between[np.arange(len(blobs)), clustering.assignments]
    np.testing.assert_allclose(own, between.min(axis=1), atol=1e-5)


def test_kmeans_finds_clear_blobs_as_well_as_scikit_learn(blobs):
    ours = geometry.kmeans(blobs, 12, seed=0)
    inertia = ((blobs - ours.centers[ours.assignments]) ** 2).sum()
    assert inertia < 1.05 * KMeans(12, n_init=10, random_state=0).fit(blobs).inertia_


def test_kmeans_depends_on_the_seed_but_not_on_the_order():
    points = np.random.default_rng(0).standard_normal((300, 5)).astype(np.float32)
    order = np.random.default_rng(1).permutation(300)
    first, again, permuted, other = (
        geometry.kmeans(p, 20, s) for p, s in [(points, 0), (points, 0), (points[order], 0), (points, 1)]
    )
    np.testing.assert_array_equal(first.assignments, again.assignments)
    np.testing.assert_array_equal(first.assignments[order], permuted.assignments)
    assert (first.assignments != other.assignments).any()


@pytest.mark.parametrize("n_clusters", [0, 6])
def test_kmeans_refuses_fewer_points_than_clusters(n_clusters):
    with pytest.raises(ValueError, match=f"{n_clusters} clusters of 5 points"):
        geometry.kmeans(np.eye(5, dtype=np.float32), n_clusters)


@pytest.mark.parametrize(("n", "d", "k"), [(2, 3, 1), (30, 1, 5), (200, 7, 20), (1500, 64, 20)])
def test_neighbour_distances_match_float64(n, d, k):
    points = make_blobs(2, n // 2, d, seed=n, spread=1e-3)  # close points far from the origin: hard for float32
    expected = np.sort(cdist(points.astype(float), points.astype(float)), axis=1)[:, 1 : k + 1]
    np.testing.assert_allclose(np.sort(geometry.neighbour_distances(points, k), axis=1), expected, rtol=1e-3, atol=1e-7)


def test_neighbour_distances_leave_out_the_point_itself_even_among_copies():
    points = np.repeat(np.eye(3, dtype=np.float32), 30, axis=0)
    assert geometry.neighbour_distances(points, 5).max() == 0
    assert geometry.neighbour_distances(points, 30)[:, -1].min() == pytest.approx(2**0.5)


@pytest.mark.parametrize(("n", "k", "d"), [(1, 1, 1), (5, 3, 2), (9000, 7, 16)])
def test_distances_match_float64(n, k, d):
    rng = np.random.default_rng(0)
    points, centers = rng.standard_normal((n, d)).astype(np.float32) + 10, rng.standard_normal((k, d)).astype(np.float32) + 10
    np.testing.assert_allclose(geometry.distances(points, centers), cdist(points.astype(float), centers.astype(float)), rtol=1e-6)
