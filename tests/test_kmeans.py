"""k-means against scikit-learn's, and what it must not depend on."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans

from supclust.engine import geometry, threads
from supclust.engine.kmeans import kmeans
from tests.conftest import make_blobs


@pytest.mark.parametrize("n_clusters", [1, 2, 12, 100, 480])
def test_kmeans_assigns_each_point_to_its_nearest_center(blobs, n_clusters):
    assignments, centers = kmeans(geometry.Points(blobs), n_clusters, seed=3)
    blobs = geometry.normalise(blobs)
    assert (np.bincount(assignments, minlength=n_clusters) > 0).all()
    assert centers.shape == (n_clusters, 8)
    between = cdist(blobs, centers)
    own = between[np.arange(len(blobs)), assignments]
    np.testing.assert_allclose(own, between.min(axis=1), atol=1e-5)


def test_kmeans_finds_clear_blobs_as_well_as_scikit_learn(blobs):
    blobs = geometry.normalise(blobs)
    assignments, centers = kmeans(geometry.Points(blobs), 12, seed=0)
    inertia = ((blobs - centers[assignments]) ** 2).sum()
    assert inertia < 1.05 * KMeans(12, n_init=10, random_state=0).fit(blobs).inertia_


def test_kmeans_depends_on_the_seed_but_not_on_the_order():
    points = np.random.default_rng(0).standard_normal((300, 5)).astype(np.float32)
    order = np.random.default_rng(1).permutation(300)
    first, again, permuted, other = (
        kmeans(geometry.Points(p), 20, s)[0] for p, s in [(points, 0), (points, 0), (points[order], 0), (points, 1)]
    )
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first[order], permuted)
    assert (first != other).any()


@pytest.mark.parametrize("n_clusters", [0, 6])
def test_kmeans_refuses_fewer_points_than_clusters(n_clusters):
    with pytest.raises(ValueError, match=f"{n_clusters} clusters of 5 points"):
        kmeans(geometry.Points(np.eye(5)), n_clusters)


@pytest.mark.parametrize("sizes", [(2**16, 256, 2**12, 16), (600, 20, 300, 10)])
@pytest.mark.parametrize("n_clusters", [5, 30])
def test_inertia_is_within_a_hundredth_of_scikit_learns_best_of_ten(n_clusters, sizes, monkeypatch):
    """Also where centres are found on a sample, and in leading dimensions; features without clear clusters are the hard case."""
    monkeypatch.setattr("supclust.engine.kmeans.SAMPLE", sizes[:2])
    monkeypatch.setattr("supclust.engine.kmeans.SEEDED", sizes[2:])
    points = geometry.normalise(make_blobs(20, 50, 128, spread=1.0) + 2)
    best = KMeans(n_clusters, n_init=10, random_state=0).fit(points).inertia_
    for seed in range(3):
        assignments, centers = kmeans(geometry.Points(points), n_clusters, seed)
        assert ((points - centers[assignments]) ** 2).sum() < 1.01 * best


def test_kmeans_does_not_depend_on_the_number_of_threads_or_blocks(two_threads):
    points = geometry.Points(np.random.default_rng(0).standard_normal((3000, 100)))
    several = kmeans(points, 20)
    with threads.alone():
        one = kmeans(points, 20)
    for ours, alone in zip(several, one, strict=True):
        np.testing.assert_array_equal(ours, alone)


def test_more_clusters_than_different_points_leave_some_empty():
    assignments, _ = kmeans(geometry.Points(np.repeat(np.eye(3), 10, axis=0)), 5)
    assert len(set(assignments[::10])) == 3
    assert (assignments.reshape(3, 10) == assignments[::10, None]).all()
