"""The measurements of notebook 09 on small pools: their columns, their counting, and the stock parts they compare with."""

import numpy as np
import pandas as pd
import pytest

from supclust import active, kept, strategies
from supclust.bench import scaling
from supclust.engine import geometry, kmeans
from tests.conftest import make_blobs, make_features


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Small synthetic features, in place of the profile's own too, and a folder for tables."""
    monkeypatch.setattr(scaling, "N", 400)
    monkeypatch.setattr(scaling, "synthetic", lambda: make_blobs(10, 40, 16, spread=0.5))
    monkeypatch.setattr(scaling, "_own_features", lambda profile: make_blobs(10, 40, 8, spread=0.5))
    monkeypatch.setattr(scaling, "LABELED", 20)
    monkeypatch.setenv("SUPCLUST_OUT", str(tmp_path))


def test_each_job_is_run_by_both_on_both_pools(small, monkeypatch):
    pytest.importorskip("skactiveml")
    jobs = [job._replace(repeats=1) for job in scaling.jobs() if "500" not in job.name]
    monkeypatch.setattr(scaling, "jobs", lambda: jobs)
    from supclust import profiles

    table = scaling.ratios(profiles.get("laptop"))
    assert len(table) == 2 * len(jobs) == 8
    np.testing.assert_allclose(table["times"], table["theirs"] / table["ours"])
    assert (table["ours"] > 0).all()
    assert table["target"].tolist() == 2 * [25, 15, 40, 1]


def test_the_stock_query_takes_the_most_typical_point_of_each_large_cluster_without_a_label():
    points = geometry.normalise(make_blobs(8, 30, 16, spread=0.05))
    picks = scaling.minibatch_select(points, 5, np.array([0, 1, 31]))
    assert len(set(picks)) == 5
    assert not {pick // 30 for pick in picks} & {0, 1}


def test_the_floor_counts_each_pair_once_and_the_passes_that_are_made(small, monkeypatch):
    from supclust import profiles

    monkeypatch.setattr(scaling, "rates", lambda: (1e11, 1e10))
    table = scaling.floor(profiles.get("laptop"), repeats=1).set_index(["features", "clusters", "step"]).sort_index()
    sizes = strategies.Pool(scaling.synthetic()).clusters(10).sizes
    synthetic = table.loc["synthetic, 512-d", 10]
    assert synthetic.loc["neighbours", "operations"] == pytest.approx((sizes**2).sum() * 16 / 1e9)
    passes = (synthetic.loc["k-means", "operations"] * 1e9 - 0 * kmeans.LEADING) / (2 * 400 * 16 * 10)
    assert passes >= 3  # all points, once at least for each of the four starts, and after them
    np.testing.assert_allclose(table["times floor"], table["taken"] / table["floor"], rtol=1e-6)


def test_stock_parts_are_scikit_learns_and_share_nothing():
    data = make_features(4, 60)
    pool = strategies.Pool(data.train, seed=0, labels=data.train_labels)
    stock_pool = scaling.StockPool(data.train, seed=0, labels=data.train_labels)
    ours, stock = (list(active.run(data, one, "typiclust", "tiny", 3)) for one in (pool, stock_pool))
    assert set(stock_pool._shared) == {("normalised",)}
    assert [one.labels for one in stock] == [one.labels for one in ours]
    assert sorted(stock[0].picks) == sorted(ours[0].picks)  # four clear blobs have one clustering


def test_growth_measures_fresh_processes_on_files_of_each_size():
    table = scaling.growth((500, 2000), 8, (10,), "float16")
    assert table["points"].tolist() == [500, 2000]
    assert table["features"].tolist() == pytest.approx([500 * 16 / 1e9, 2000 * 16 / 1e9], abs=1e-6)
    assert table["peak"].between(0.02, 2).all()
    assert (table["seconds"] > 0).all()


def test_the_exponent_is_the_slope():
    table = pd.DataFrame({"points": [10, 100, 1000], "seconds": [1.0, 10**1.5, 1000.0]})
    assert scaling.exponent(table, "points") == pytest.approx(1.5)


def test_a_table_is_measured_when_asked_for_and_read_afterwards(small, monkeypatch):
    made = pd.DataFrame({"clusters": [10], "ratio": [1.23456]})
    found, machine = scaling.table("inertias_of_a_test", lambda: made, measure=True)
    assert found["ratio"].tolist() == [1.2346]
    assert "threads" in machine
    again, _ = scaling.table("inertias_of_a_test", None)
    pd.testing.assert_frame_equal(found, again)
    assert (kept.reports("laptop") / "inertias_of_a_test.csv").exists()
    with pytest.raises(FileNotFoundError, match="measure = True"):
        scaling.table("no_such_table", None)


def test_rates_are_of_the_order_of_a_computer():
    products, copying = scaling.rates()
    assert 1e9 < products < 1e14
    assert 1e8 < copying < 1e12
