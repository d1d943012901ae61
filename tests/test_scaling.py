"""The measurements of notebook 09 on small pools: their columns, their counting, and the stock parts they compare with."""

import numpy as np
import pandas as pd
import pytest

from supclust import features, kept, profiles
from supclust.bench import scaling, tables
from supclust.engine import geometry
from tests.conftest import make_blobs, make_features


def test_each_job_is_run_by_both_on_both_pools(monkeypatch):
    pytest.importorskip("skactiveml")
    jobs = [(*job, 1) for *job, _ in scaling.jobs() if "500" not in job[0]]
    monkeypatch.setattr(scaling, "jobs", lambda: jobs)
    monkeypatch.setattr(scaling, "LABELED", 20)
    monkeypatch.setattr(scaling, "_pools", lambda profile: {f"{d}-d": make_blobs(10, 40, d, spread=0.5) for d in (16, 8)})
    table = scaling.ratios(profiles.get("laptop"))
    assert len(table) == 2 * len(jobs) == 8
    np.testing.assert_allclose(table["times"], table["theirs"] / table["ours"])
    assert (table["ours"] > 0).all()


def test_synthetic_features_are_compared_beside_the_profiles_own(monkeypatch):
    monkeypatch.setattr(scaling, "synthetic", lambda: np.ones((3, 2)))
    monkeypatch.setattr(features, "obtain", lambda profile, dataset: make_features())
    pools = scaling._pools(profiles.get("laptop"))
    assert list(pools) == ["synthetic, 512-d", "cifar10"]
    np.testing.assert_allclose(np.linalg.norm(pools["cifar10"], axis=1), 1, rtol=1e-5)


def test_the_stock_query_takes_the_most_typical_point_of_each_large_cluster_without_a_label():
    points = geometry.normalise(make_blobs(8, 30, 16, spread=0.05))
    picks = scaling.minibatch_select(points, 5, np.array([0, 1, 31]))
    assert len(set(picks)) == 5
    assert not {pick // 30 for pick in picks} & {0, 1}


def test_growth_measures_fresh_processes_on_files_of_each_size():
    table = scaling.growth((500, 2000), 8, (10,))
    assert table["points"].tolist() == [500, 2000]
    assert table["features"].tolist() == pytest.approx([500 * 32 / 1e9, 2000 * 32 / 1e9], abs=1e-6)
    assert table["peak"].between(0.02, 2).all()
    assert (table["seconds"] > 0).all()


def test_a_table_is_measured_when_asked_for_and_read_afterwards(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPCLUST_OUT", str(tmp_path))
    made = pd.DataFrame({"clusters": [10], "ratio": [1.23456]})
    found, machine = tables.table("inertias_of_a_test", lambda: made, measure=True)
    assert found["ratio"].tolist() == [1.2346]
    assert "threads" in machine
    again, _ = tables.table("inertias_of_a_test", None)
    pd.testing.assert_frame_equal(found, again)
    assert (kept.reports("laptop") / "inertias_of_a_test.csv").exists()
    with pytest.raises(FileNotFoundError, match="measure = True"):
        tables.table("no_such_table", None)
