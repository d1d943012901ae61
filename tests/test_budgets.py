import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import percentileofscore

from supclust import analysis, method, profiles
from supclust.studies import budgets
from tests.conftest import keep_digits, make_blobs, make_features

QUICK = profiles.get("quick", seeds=2)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An output folder, and a repository without reports, in which the digits' features are blobs that touch."""
    monkeypatch.setenv("SUPCLUST_OUT", str(tmp_path))
    monkeypatch.setattr(budgets.kept, "REPOSITORY", tmp_path / "repository")
    write_features(tmp_path)
    return tmp_path


def write_features(folder, spread=0.7):
    keep_digits(folder, QUICK, make_features(spread=spread))


def test_coverage_is_the_mean_distance_to_the_nearest_pick():
    points, picks = make_blobs(3, 20, 5), [4, 30, 59]
    slow = np.mean([min(np.sqrt(((point - points[pick].astype(float)) ** 2).sum()) for pick in picks) for point in points])
    assert budgets.coverage(points, picks) == pytest.approx(-slow, rel=1e-5)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 50)), min_size=1, max_size=40))
def test_percentiles_are_those_of_scipy_in_each_cluster_and_fifty_on_average(rows):
    assignments, typicality, sup = np.array(rows).T
    found = budgets.percentiles(method.Details(assignments, np.empty((4, 2)), typicality / 7, -sup / 3, 1.0))
    for cluster in np.unique(assignments):
        members = assignments == cluster
        for name, values in (("typicality", typicality[members]), ("sup", -sup[members])):
            slow = [percentileofscore(values, value, kind="mean") for value in values]
            np.testing.assert_allclose(found[name][members], slow)
            assert found[name][members].mean() == pytest.approx(50)


def test_a_criterion_is_highest_where_a_strategy_asks_for_it(workplace):
    table = budgets.table(QUICK)
    assert list(table.columns) == budgets.COLUMNS
    assert sorted(table["budget"].unique()) == [10, 25, 50]  # a third of the pool of 200 is 66
    assert len(table) == 3 * 2 * len(budgets.QUERIES)
    assert (table["labels"] == table["budget"]).all()
    means = table.groupby("strategy")[budgets.CRITERIA].mean()
    assert means["typicality"].idxmax() == "typiclust"
    assert means["sup"].idxmax() == "supclust-no-typicality"
    assert means["coverage"]["maxherding"] > means["coverage"]["random"]
    assert means["typicality"]["random"] == pytest.approx(50, abs=10)


def test_the_table_is_kept_and_made_anew_for_other_features(workplace, monkeypatch):
    asked = []
    monkeypatch.setattr(budgets, "measure", lambda *args: asked.append(args[1:3]) or pd.DataFrame({"run": [len(asked)]}))
    first = budgets.table(QUICK)
    pd.testing.assert_frame_equal(first, budgets.table(QUICK))
    assert asked == [("digits", 0), ("digits", 1)]
    write_features(workplace, spread=0.9)
    assert budgets.table(QUICK)["run"].tolist() == [3, 4]
    assert budgets.table(QUICK, recompute=True)["run"].tolist() == [5, 6]


def make_table(effects=(4.0, 0.0, -2.0), noise=0.0):
    """Runs at two budgets, with accuracies that depend on the standardised criteria alone, by these effects in points."""
    rng = np.random.default_rng(0)
    runs = pd.MultiIndex.from_product([(10, 50), budgets.QUERIES, range(6)], names=["budget", "strategy", "seed"]).to_frame(
        index=False
    )
    runs = runs.assign(dataset="digits", framework="ssl", round=1, labels=runs["budget"])
    runs[budgets.CRITERIA] = rng.normal(size=(len(runs), 3)) * (0.1, 20, 30)
    standard = runs.groupby("budget")[budgets.CRITERIA].transform(lambda values: (values - values.mean()) / values.std())
    return runs.assign(accuracy=(50 + standard @ np.array(effects) + noise * rng.normal(size=len(runs))) / 100)


def test_the_regression_finds_the_effects_and_its_intervals_hold_them():
    exact = budgets.regressed(make_table())
    assert exact["criterion"].tolist() == budgets.CRITERIA * 2
    assert exact["mean"].to_numpy() == pytest.approx(np.tile([4, 0, -2], 2), abs=1e-8)
    noisy = budgets.regressed(make_table(noise=3))
    assert ((noisy["low"] < exact["mean"]) & (exact["mean"] < noisy["high"])).all()
    assert (noisy["high"] - noisy["low"]).between(0.5, 5).all()


def test_a_step_adds_the_paired_difference_of_its_two_strategies():
    table = make_table()
    found = budgets.added(table).set_index(["criterion", "budget"])
    assert len(found) == 2 * len(budgets.STEPS)
    by_seed = 100 * table[table["budget"] == 50].pivot(index="seed", columns="strategy", values="accuracy")
    expected = analysis.mean_interval(by_seed["supclust"] - by_seed["supclust-no-sup"])
    assert found.loc[("SUP among the typical", 50), ["mean", "low", "high"]].to_list() == pytest.approx(list(expected))
