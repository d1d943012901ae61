"""Approximate neighbours: what is found is real, most of the nearest are found, and the recall that is stated is true."""

import numpy as np
import pytest

from supclust.engine import neighbours
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
