"""Approximate neighbours: what is found is real, most of the nearest are found, and the recall that is stated is true."""

import numpy as np
import pytest

from supclust.engine import geometry, threads
from supclust.scale import cells
from tests.conftest import make_blobs


@pytest.fixture(autouse=True)
def small_cells(monkeypatch):
    monkeypatch.setattr(cells, "CELL", 20)
    monkeypatch.setattr(cells, "PROBED", 8)


def exact_squares(points, k):
    return np.sort(geometry.nearest_squares(points, k)[0], axis=1)


@pytest.mark.parametrize(("n", "d"), [(30, 3), (500, 4), (2000, 4)])
def test_what_is_found_is_at_least_as_far_as_the_nearest_and_mostly_they(n, d):
    points, k = np.random.default_rng(n).standard_normal((n, d)).astype(np.float32), 10
    found, exact = np.sort(cells.nearest_squares(points, k), axis=1), exact_squares(points, k)
    assert found.shape == (n, k)
    assert (found >= exact * (1 - 1e-4)).all()
    assert (found <= exact[:, [-1]] * (1 + 1e-4)).mean() > 0.7


def test_all_are_found_where_all_cells_are_probed(monkeypatch):
    monkeypatch.setattr(cells, "PROBED", 1000)
    points = make_blobs(5, 100, 6)
    np.testing.assert_allclose(np.sort(cells.nearest_squares(points, 12), axis=1), exact_squares(points, 12), rtol=1e-3, atol=1e-5)


def test_the_recall_is_that_of_all_points():
    points = np.random.default_rng(0).standard_normal((3000, 12)).astype(np.float32)
    found, exact = cells.nearest_squares(points, 10), exact_squares(points, 10)
    true = (found <= exact[:, [-1]] * (1 + 1e-4)).mean()
    assert 0.3 < true < 0.99
    assert abs(cells.recall(points, found) - true) < 0.06
    assert cells.recall(points, exact) == 1


def test_copies_and_one_thread():
    points = np.repeat(make_blobs(4, 30, 5), 6, axis=0)
    found = cells.nearest_squares(points, 5)
    assert found.max() < 1e-4
    with threads.limit(1):
        np.testing.assert_array_equal(found, cells.nearest_squares(points, 5))


def test_cells_pay_where_fewer_points_are_probed_than_there_are():
    assert not cells.pay(4 * 20 * 8, 20)
    assert cells.pay(4 * 20 * 8 + 1, 20)
    assert not cells.pay(10**6, 21)


def test_thousands_of_copies_are_many_cells(monkeypatch):
    monkeypatch.setattr(cells, "LARGEST", 80)
    points = np.concatenate([np.zeros((3000, 4), dtype=np.float32), make_blobs(3, 100, 4)])
    asked, real = [], threads.workspace
    monkeypatch.setattr(threads, "workspace", lambda name, shape, dtype=np.float32: asked.append(shape) or real(name, shape, dtype))
    found = cells.nearest_squares(points, 10)
    assert np.isfinite(found).all()
    assert found[:3000].max() < 1e-4
    assert max(rows * columns for rows, columns in asked) < 10**6  # one cell of all copies would be nine times that


def test_an_outlier_in_a_cell_of_its_own_finds_as_many_as_asked_for(monkeypatch):
    monkeypatch.setattr(cells, "PROBED", 1)
    points = np.concatenate([make_blobs(4, 60, 5), 1000 + np.arange(15, dtype=np.float32).reshape(3, 5) ** 2])
    assert np.isfinite(cells.nearest_squares(points, 12)).all()
