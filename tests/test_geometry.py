import numpy as np
import pytest
from scipy.spatial.distance import cdist

from supclust.engine import geometry


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


@pytest.mark.parametrize(("n", "k", "d"), [(1, 1, 1), (5, 3, 2), (9000, 7, 16)])
def test_distances_match_float64(n, k, d):
    rng = np.random.default_rng(0)
    points, centers = rng.standard_normal((n, d)).astype(np.float32) + 10, rng.standard_normal((k, d)).astype(np.float32) + 10
    np.testing.assert_allclose(geometry.distances(points, centers), cdist(points.astype(float), centers.astype(float)), rtol=1e-6)


def test_a_row_of_zeros_leaves_the_others_as_they_are_to_the_last_bit():
    points = np.random.default_rng(0).standard_normal((300, 20)).astype(np.float32)
    stacked = np.concatenate([points, np.zeros((1, 20), np.float32), 1e25 * points[:1]])
    np.testing.assert_array_equal(geometry.normalise(stacked)[:300], geometry.normalise(points))
    np.testing.assert_allclose(geometry.normalise(stacked)[-1], geometry.normalise(points)[0], rtol=1e-6)
