"""Mean distances to neighbours against float64, where float32 has digits and where it has none."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from supclust.engine import neighbours, threads
from tests.conftest import grid, make_blobs


def slow(points, k, squared=False):
    points = points.astype(float)
    distances = np.sort(cdist(points, points, "sqeuclidean" if squared else "euclidean"), axis=1)
    return distances[:, 1 : k + 1].mean(axis=1)


@pytest.mark.parametrize(
    ("shape", "spread", "squared"),
    grid([(2, 3, 1), (30, 1, 5), (200, 7, 20), (700, 3, 20), (1500, 64, 20)], (1e-3, 1.0), (False, True)),
)
def test_mean_distances_are_those_of_float64(shape, spread, squared):
    """A spread of 1e-3 has close points far from the origin: hard for float32."""
    n, d, k = shape
    points = make_blobs(2, n // 2, d, seed=n, spread=spread)
    found = neighbours.mean_distances(points, k, squared)
    np.testing.assert_allclose(found, slow(points, max(1, min(k, n // 2)), squared), rtol=1e-5)


def test_near_copies_are_sought_again_in_float64():
    """Neighbours a thousand times nearer than others, where the expansion in float32 has no digit right."""
    rng = np.random.default_rng(0)
    points = np.repeat(rng.standard_normal((20, 16)), 30, axis=0) + 1e-4 * rng.standard_normal((600, 16))
    points = points.astype(np.float32)
    np.testing.assert_allclose(neighbours.mean_distances(points, 20), slow(points, 20), rtol=1e-5)


def test_copies_are_at_distance_zero_and_no_point_is_its_own_neighbour():
    points = np.repeat(np.eye(3, dtype=np.float32), 30, axis=0)
    assert (neighbours.mean_distances(points, 20) == 0).all()
    np.testing.assert_allclose(neighbours.mean_distances(points, 40), 11 * 2**0.5 / 40, rtol=1e-6)
    assert np.isinf(neighbours.mean_distances(points[:1], 20)).all()


@pytest.mark.parametrize("far", [1e3, 1e6])
def test_one_point_far_away_makes_no_copies_of_the_others(far):
    points = np.random.default_rng(0).random((1000, 8)).astype(np.float32)
    points = np.concatenate([points, np.full((1, 8), far, np.float32)])
    np.testing.assert_allclose(neighbours.mean_distances(points, 20)[:-1], slow(points[:-1], 20), rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 7, 1024])
def test_blocks_and_threads_change_nothing_but_the_last_digits(rows, monkeypatch, two_threads):
    points = make_blobs(3, 300, 20, spread=0.5)
    whole = neighbours.mean_distances(points, 20)
    monkeypatch.setattr(neighbours, "ROWS", rows)
    with threads.alone():
        np.testing.assert_allclose(neighbours.mean_distances(points, 20), whole, rtol=1e-6)


@pytest.mark.parametrize(("n", "k"), [(5, 2), (300, 20), (2000, 20), (4001, 7)])
def test_the_largest_are_the_largest_where_many_tie_too(n, k):
    rng = np.random.default_rng(n)
    for values in (rng.standard_normal((9, n)), rng.integers(0, 4, (9, n)).astype(float), np.full((9, n), -np.inf)):
        np.testing.assert_array_equal(np.sort(neighbours._largest(values, k), axis=1), np.sort(values, axis=1)[:, -k:])
