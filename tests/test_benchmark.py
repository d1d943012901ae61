import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest

from supclust import features, profiles, strategies, sweep
from supclust.bench import benchmark, figures
from tests.conftest import make_features

QUICK = dataclasses.replace(profiles.get("smoke"), seeds=2, budgets=("tiny", "small"))


def make_table(accuracy, seeds=4, rounds=3, noise=0.01):
    """Runs with the encoder in a column; accuracy: by (data set, encoder, budget, strategy), at the first of the rounds."""
    rng, rows = np.random.default_rng(0), []
    for (dataset, encoder, budget, name), value in accuracy.items():
        for seed, number in itertools.product(range(seeds), range(1, rounds + 1)):
            labels = (10 if budget == "tiny" else 50) * number
            found = value + 0.05 * (number - 1) + noise * rng.standard_normal()
            rows.append((dataset, "ssl", name, budget, seed, number, labels, found, found - 0.1, np.nan, 9, encoder))
    return pd.DataFrame(rows, columns=[*sweep.COLUMNS, "encoder"])


WORLD = {
    (dataset, encoder, budget, name): {"random": 0.4, "coreset": 0.3, "supclust": 0.55, "typiclust": 0.5}[name]
    + 0.2 * (budget == "small")
    for dataset, encoder, budget in itertools.product(("cifar10", "cifar100"), ("own", "other"), ("tiny", "small"))
    for name in ("random", "coreset", "supclust", "typiclust")
}


def test_a_row_for_each_panel_and_strategy_with_the_numbers_by_hand():
    runs = make_table(WORLD)
    found = benchmark.panels(runs)
    assert len(found) == len(WORLD)
    row = found[(found[benchmark.CELL] == ["cifar100", "other", "tiny"]).all(axis=1) & (found["strategy"] == "supclust")].iloc[0]
    own = (
        runs[(runs[benchmark.CELL] == ["cifar100", "other", "tiny"]).all(axis=1)]
        .set_index(["strategy", "seed", "round"])
        .sort_index()
    )
    assert row["accuracy"] == pytest.approx(100 * own.loc["supclust", "accuracy"].mean())
    assert row["final"] == pytest.approx(100 * own.loc["supclust", "accuracy"].xs(3, level="round").mean())
    assert row["final_balanced"] == pytest.approx(row["final"] - 10)
    assert row["lead"] == pytest.approx(100 * (own.loc["supclust", "accuracy"] - own.loc["random", "accuracy"]).mean())
    assert row["low"] < row["lead"] < row["high"]
    assert (row["verdict"], row["rank"], row["seeds"]) == ("higher", 1, 4)
    assert found.groupby(benchmark.CELL)["rank"].apply(sorted).map(tuple).unique().tolist() == [(1, 2, 3, 4)]


def test_labels_needed_are_where_the_curve_comes_to_an_accuracy():
    """Random has 40, 45, 50 % at 10, 20, 30 labels and 60, 65, 70 % at 50, 100, 150, in all panels."""
    runs = make_table(WORLD, noise=0)
    one = runs[(runs["dataset"] == "cifar10") & (runs["encoder"] == "own")]
    asked = pd.Series({"first": 0.4, "between": 0.475, "in the gap": 0.55, "large": 0.675, "beyond": 0.71, "worse": 0.1})
    assert benchmark.labels_needed(one, asked).to_dict() == pytest.approx(
        {"first": 10, "between": 25, "in the gap": 40, "large": 125, "beyond": np.inf, "worse": 10}
    )
    assert benchmark.labels_needed(one, pd.Series([0.4]), "supclust").tolist() == [10]  # or fewer
    found = benchmark.panels(runs).set_index([*benchmark.CELL, "strategy"])
    assert found.loc[("cifar10", "own", "tiny", "supclust"), "over_labels"] == pytest.approx(100 / 30)  # 65 %
    assert found.loc[("cifar10", "own", "tiny", "random"), "over_labels"] == pytest.approx(1)


def test_the_summary_is_over_panels_that_are_complete():
    runs = make_table(WORLD)
    runs = runs[
        ~((runs["dataset"] == "cifar100") & (runs["budget"] == "small") & (runs["strategy"] == "coreset") & (runs["seed"] == 3))
    ]
    found = benchmark.panels(runs)
    assert len(benchmark.complete(found)) == 4 * 6
    table = benchmark.summary(found)
    assert table.index.tolist() == ["SUPClust", "TypiClust", "Random", "Coreset"]
    assert table["mean rank"].tolist() == [1, 2, 3, 4]
    assert table["higher"].tolist() == [6, 6, 0, 0]
    assert table["lower"].tolist() == [0, 0, 0, 6]


def test_the_table_holds_both_encoders_and_all_strategies_and_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPCLUST_OUT", str(tmp_path))
    made = {name: make_features(n_classes=5, spread=spread) for name, spread in (("digits", 0.2), ("digits@1", 0.6))}
    for where in ("obtain", "find"):
        monkeypatch.setattr(features, where, lambda profile, name, seed=0: made[name])
    monkeypatch.setattr(benchmark, "LATER", ("kmeans-centroid",))
    monkeypatch.setattr(benchmark, "STRATEGIES", (*strategies.NAMES, "kmeans-centroid"))
    monkeypatch.setattr(sweep, "complete", lambda *known, complete=sweep.complete: complete(*known[:3], 1))
    table = benchmark.table(QUICK)
    assert set(table["encoder"]) == {"own", "1"}
    assert set(table["strategy"]) == {*strategies.NAMES, "kmeans-centroid"}
    assert len(table) == 2 * 13 * 2 * 2 * QUICK.rounds
    assert {"curves.csv", "later.csv", "pretrained.csv"} <= {file.name for file in (tmp_path / "reports/smoke").iterdir()}
    monkeypatch.setattr(sweep, "complete", lambda *_: pytest.fail("it is kept"))
    pd.testing.assert_frame_equal(benchmark.table(QUICK), table)
    shipped = dataclasses.replace(QUICK, features="shipped", seeds=3)
    assert set(benchmark.table(shipped)["seed"]) == {0, 1}  # what is kept: more is made on request only
    with pytest.raises(pytest.fail.Exception, match="it is kept"):
        benchmark.table(shipped, rerun=True)
    found = benchmark.panels(table)
    benchmark.write(QUICK, found)
    assert len(pd.read_csv(tmp_path / "reports/smoke/benchmark.csv")) == len(found) == 4 * 13


def test_both_figures_show_every_strategy():
    found = benchmark.panels(make_table(WORLD))
    order = ["supclust", "typiclust", "random", "coreset"]
    figure = figures.leads(found, order, "title")
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["SUPClust", "TypiClust", "Random", "Coreset"]
    values = [text.get_text() for text in figure.axes[0].texts]
    assert values[:2] == ["15", "15"]
    assert values[16:24] == ["0"] * 8
    accuracies = found.pivot(index=benchmark.CELL, columns="strategy", values="accuracy").rename(columns=strategies.LABELS)
    figure = figures.critical_difference(accuracies, "title")
    shown = " ".join(text.get_text() for text in figure.axes[0].texts)
    for label in ("SUPClust (1.0)", "TypiClust (2.0)", "(3.0) Random", "(4.0) Coreset"):
        assert label in shown
    lines = [(line.get_xdata(), set(line.get_ydata())) for line in figure.axes[0].get_lines()]
    bars = [places for places, heights in lines if len(heights) == 1]
    assert bars
    assert all(list(bar) == sorted(bar) for bar in bars)


def test_the_strategy_that_wins_most_stands_on_top():
    matrix = pd.DataFrame([[0, 0.0], [0.5, 0]], index=["random", "supclust"], columns=["random", "supclust"])
    figure = figures.win_matrix(matrix, "title")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["SUPClust", "Random"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["50", "50", "0", "0"]  # and the means
