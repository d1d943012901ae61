"""Approximate neighbours: what is found is real, most of the nearest are found, and the recall that is stated is true."""

import numpy as np
import pytest

from supclust.engine import neighbours, threads
from supclust.scale import approximate
from tests.conftest import make_blobs


def found_and_recall(caplog, points, k, squared=False):
    caplog.clear()
    with caplog.at_level("INFO"):
        found = approximate.mean_distances(points, k, squared)
    return found, float(caplog.text.split("recall ")[1])


@pytest.mark.parametrize("squared", [False, True])
def test_most_neighbours_are_found_and_none_is_nearer_than_the_nearest(squared, caplog):
    points = np.random.default_rng(0).standard_normal((5000, 8)).astype(np.float32)
    found, recall = found_and_recall(caplog, points, 20, squared)
    exact = neighbours.mean_distances(points, 20, squared)
    assert (found >= exact * (1 - 1e-4)).all()
    assert 0.8 < recall <= 1
    assert np.median(found / exact) < 1.05


def test_all_are_found_where_all_cells_are_probed(monkeypatch, caplog):
    monkeypatch.setattr(approximate, "PROBED", 1000)
    points = make_blobs(5, 400, 6, spread=0.5)
    found, recall = found_and_recall(caplog, points, 12)
    assert recall == 1
    np.testing.assert_allclose(found, neighbours.mean_distances(points, 12), rtol=1e-3)


def test_the_recall_is_that_of_all_points(monkeypatch, caplog):
    monkeypatch.setattr(approximate, "PROBED", 2)
    points = np.random.default_rng(0).standard_normal((4000, 12)).astype(np.float32)
    _, sampled = found_and_recall(caplog, points, 10)
    monkeypatch.setattr(approximate, "CHECKED", 4000)
    _, true = found_and_recall(caplog, points, 10)
    assert 0.2 < true < 0.99
    assert abs(true - sampled) < 0.06


def test_copies_are_neighbours_of_each_other():
    points = np.concatenate([np.zeros((3000, 4), dtype=np.float32), make_blobs(3, 400, 4)])
    found = approximate.mean_distances(points, 10)
    assert np.isfinite(found).all()
    assert (found[:3000] == 0).all()


def test_an_outlier_in_a_cell_of_its_own_finds_as_many_as_asked_for(monkeypatch):
    monkeypatch.setattr(approximate, "PROBED", 1)
    points = np.concatenate([make_blobs(4, 600, 5), 1000 + np.arange(15, dtype=np.float32).reshape(3, 5) ** 2])
    found, exact = approximate.mean_distances(points, 12), neighbours.mean_distances(points, 12)
    np.testing.assert_allclose(found[-3:], exact[-3:], rtol=1e-3)


def test_very_many_neighbours_are_exact():
    points = np.random.default_rng(0).standard_normal((3000, 4)).astype(np.float32)
    np.testing.assert_array_equal(approximate.mean_distances(points, 600), neighbours.mean_distances(points, 600))


def test_faiss_keeps_to_the_threads_that_are_available(monkeypatch):
    import faiss

    used, before = [], faiss.omp_get_max_threads()
    real = faiss.knn
    monkeypatch.setattr(faiss, "knn", lambda *data: used.append(faiss.omp_get_max_threads()) or real(*data))
    with threads.alone():
        approximate.mean_distances(make_blobs(2, 400, 4), 5)
    assert used == [1]
    assert faiss.omp_get_max_threads() == before
