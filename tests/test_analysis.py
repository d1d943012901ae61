import numpy as np
import pandas as pd
import pytest
from scipy import stats

from supclust import analysis


def make_table(offset: float, noise: float = 0.01, seeds: int = 10) -> pd.DataFrame:
    """Two strategies over two rounds, the second better by offset, whose accuracy shares a large part from seed to seed."""
    rng, rows = np.random.default_rng(0), []
    for seed in range(seeds):
        shared = rng.normal(0, 0.1)
        for number in (1, 2):
            for strategy, gain in (("a", 0.0), ("b", offset)):
                accuracy = 0.5 + shared + gain + rng.normal(0, noise)
                rows.append(("data", "ssl", strategy, "tiny", seed, number, 10 * number, accuracy))
    return pd.DataFrame(rows, columns=["dataset", "framework", "strategy", "budget", "seed", "round", "labels", "accuracy"])


def test_mean_interval_is_students():
    values = [1.0, 2.0, 4.0, 9.0]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    interval = analysis.mean_interval(values)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((4.0, *expected))


def test_intervals_of_one_value_are_infinite_and_of_none_an_error():
    assert analysis.mean_interval([3.0]).low == -np.inf
    with pytest.raises(ValueError, match="at least one value"):
        analysis.mean_interval([])


def test_pairing_by_seed_finds_what_the_spread_of_seeds_would_hide():
    table = make_table(0.02)
    summary = analysis.summarise(table)
    assert (summary["std"] > 0.05).all()
    row = analysis.compare(table, "b", "a").iloc[0]
    assert row["verdict"] == "higher"
    assert row["b - a"] == pytest.approx(2, abs=1)
    assert analysis.compare(table, "a", "b").iloc[0]["verdict"] == "lower"


def test_no_difference_is_called_none():
    assert analysis.compare(make_table(0.0), "b", "a").iloc[0]["verdict"] == "no clear difference"


def test_summary_and_final_accuracy():
    table = make_table(0.1, noise=0)
    summary = analysis.summarise(table)
    assert len(summary) == 4
    assert (summary["low"] < summary["mean"]).all()
    final = analysis.final_accuracy(table)
    values = 100 * table[(table["strategy"] == "b") & (table["round"] == 2)]["accuracy"]
    assert final.loc["b"].item() == f"{values.mean():.1f} ± {values.std():.1f}"


def test_unknown_strategy_is_named():
    with pytest.raises(ValueError, match="no strategy 'c'; it has: a, b"):
        analysis.compare(make_table(0), "c", "a")


def test_rank_correlation_over_all_and_within():
    first, groups = np.arange(12.0), np.repeat([0, 1, 2], [5, 5, 2])
    second = np.concatenate([np.arange(5) - 100, -np.arange(5), [7, 8]])
    found = analysis.rank_correlation(first, second, groups)
    np.testing.assert_allclose(found.per_cluster, [1, -1, np.nan])
    assert found.overall == pytest.approx(stats.spearmanr(first, second).statistic)
    with pytest.raises(ValueError, match="differ in length"):
        analysis.rank_correlation(first, second[:-1], groups)
