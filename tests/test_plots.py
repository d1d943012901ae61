import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.svm import SVC

from supclust import analysis, plots, strategies
from tests.test_analysis import make_table

mpl.use("Agg")
RNG = np.random.default_rng(0)
POINTS, GROUPS = RNG.standard_normal((200, 2)), np.arange(200) % 4
CORRELATION = analysis.Correlation(0.1, np.array([0.1, -0.2, np.nan]))
TABLE = make_table(0.05).replace({"a": "typiclust", "b": "supclust"})
PICKS = {name: RNG.standard_normal((4, 2)) for name in ("typiclust", "supclust")}

MANY = pd.concat(
    [
        make_table(0.05).replace({"a": a, "b": b, "data": data, "ssl": framework}).assign(classes=4.0)
        for a, b in (("typiclust", "supclust"), ("random", "margin"), ("coreset", "class-balanced"))
        for data, framework in (("cifar10", "ssl"), ("cifar10", "fsl"), ("digits", "ssl"))
    ]
)
NAMES = list(MANY["strategy"].unique())
COMPARISONS = pd.DataFrame(
    [
        ("2 order", what, panel, expected, 1.0, low, 2.0, 5, unit, True, verdict)
        for what, expected, unit in (("a", "> 0", "points"), ("b", "within ±0.1", "rho"))
        for panel, low, verdict in (("p", 0.5, "supported"), ("q", -np.inf, "inconclusive"), ("r", np.nan, "no data"))
    ],
    columns=["claim", "what", "panel", "expected", "mean", "low", "high", "seeds", "unit", "counts", "verdict"],
)
SETTINGS = pd.DataFrame(
    [
        (setting, "supclust", value, "cifar10", budget, 0.5, -1.0, 2.0)
        for setting, values in {"temperature": (0.01, 0.1, 1), "max_clusters": (50, None), "squared": (False, True)}.items()
        for value in values
        for budget in ("tiny", "small")
    ],
    columns=["setting", "strategy", "value", "dataset", "budget", "mean", "low", "high"],
)
RIVAL = pd.DataFrame({"dataset": ["cifar10"], "budget": ["tiny"], "strategy": ["supclust"], "rival": ["typiclust"], "mean": [3.0]})
ENCODERS = pd.DataFrame({"comparison": list("aabb"), "knn": [0.5, 0.8] * 2, "mean": [1.0, 2.0, 3.0, 4.0]})

FIGURES = {
    "support_vectors": lambda: plots.support_vectors(
        POINTS, (POINTS[:, 0] > 0) * 1, SVC(kernel="linear").fit(POINTS, POINTS[:, 0] > 0)
    ),
    "training": lambda: plots.training(
        [{"epoch": e, "loss": 1 / e, "knn": 0.5 if e % 2 else None, "seconds": 1} for e in (1, 2, 3)]
    ),
    "embedding": lambda: plots.embedding({"t-SNE": POINTS, "UMAP": POINTS}, GROUPS, list("abcd"), GROUPS, "title"),
    "queries": lambda: plots.queries(POINTS, GROUPS, PICKS, {name: RNG.random(4) for name in PICKS}, "title"),
    "query_round": lambda: plots.query_round(POINTS, GROUPS, {name: [p, p + 1] for name, p in PICKS.items()}, 1),
    "thumbnails": lambda: plots.thumbnails(dict.fromkeys(PICKS, np.zeros((3, 3, 8, 8), np.uint8)), dict.fromkeys(PICKS, "abc")),
    "sup_against_typicality": lambda: plots.sup_against_typicality(RNG.random(200), RNG.random(200), GROUPS, CORRELATION),
    "curves": lambda: plots.curves(TABLE, ["typiclust", "supclust"], "typiclust", "title"),
    "curves of many": lambda: plots.curves(MANY, NAMES, "random", "title"),
    "class_coverage": lambda: plots.class_coverage(MANY, NAMES, "title", {"cifar10": 10}),
    "win_matrix": lambda: plots.win_matrix(analysis.win_matrix(MANY, NAMES), "title"),
    "forest": lambda: plots.forest(pd.concat([COMPARISONS, COMPARISONS.assign(claim="3 gain")]), "title"),
    "forest of one claim": lambda: plots.forest(COMPARISONS, "title"),
    "sensitivity": lambda: plots.sensitivity(SETTINGS, {"temperature": 0.1, "max_clusters": 500}, RIVAL, "title"),
    "encoders": lambda: plots.encoders(ENCODERS.assign(low=ENCODERS["mean"] - 1, high=ENCODERS["mean"] + 1), "title"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_saved_as_pdf_and_png_the_same_bytes_each_time(name, tmp_path, monkeypatch):
    monkeypatch.setenv("SUPCLUST_OUT", str(tmp_path))
    plots.set_style()
    figure = FIGURES[name]()
    plots.save(figure, "figure_9", "quick")
    folder = tmp_path / "figures" / "quick"
    assert sorted(path.name for path in folder.iterdir()) == ["figure_9.pdf", "figure_9.png"]
    first = (folder / "figure_9.pdf").read_bytes()
    assert first.startswith(b"%PDF")
    assert b"CreationDate" not in first
    assert min(Image.open(folder / "figure_9.png").size) > 200
    plt.close("all")


def test_a_frame_for_each_round_in_the_animation(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPCLUST_OUT", str(tmp_path))
    rounds = {name: [p, p + 1, p - 1] for name, p in PICKS.items()}
    plots.save_animation(lambda i: plots.query_round(POINTS, GROUPS, rounds, i), 3, "figure_3", "quick")
    with Image.open(tmp_path / "figures" / "quick" / "figure_3.gif") as animation:
        assert animation.n_frames == 3


def test_every_strategy_has_a_look_of_its_own():
    assert set(strategies.NAMES) <= set(plots.STRATEGIES)
    assert len({color for _, color, _, _ in plots.STRATEGIES.values()}) == len(plots.STRATEGIES)
    assert len({marker for _, _, marker, _ in plots.STRATEGIES.values()}) == len(plots.STRATEGIES)


def test_frameworks_have_rows_of_their_own_and_are_named_where_there_are_two():
    titles = [ax.get_title() for ax in FIGURES["curves of many"]().axes if ax.get_title()]
    assert titles == ["CIFAR-10, SSL, tiny", "Digits, SSL, tiny", "CIFAR-10, FSL, tiny"]
    assert FIGURES["curves"]().axes[0].get_title() == "data, tiny budget"
    plt.close("all")


def test_a_strategy_that_a_panel_lacks_is_not_drawn_there_and_the_control_is_called_what_it_is():
    table = pd.concat([TABLE, TABLE[TABLE["strategy"] == "supclust"].assign(dataset="digits")])
    figure = plots.curves(table, ["typiclust", "supclust"], "typiclust", "title")
    assert [len(ax.get_lines()) for ax in figure.axes] == [2, 2, 2, 1]  # and the line at zero below
    assert "class-balanced oracle" in {text.get_text() for text in FIGURES["curves of many"]().legends[0].get_texts()}
    plt.close("all")


def test_comparisons_without_data_have_no_place_in_the_forest():
    assert [label.get_text() for label in FIGURES["forest of one claim"]().axes[0].get_yticklabels()] == ["a", "b"]
    assert plots.forest(COMPARISONS[COMPARISONS["verdict"] == "no data"], "title").axes == []
    plt.close("all")


def test_the_strategy_that_wins_most_stands_on_top():
    matrix = pd.DataFrame([[0, 0.0], [0.5, 0]], index=["random", "supclust"], columns=["random", "supclust"])
    figure = plots.win_matrix(matrix, "title")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["SUPClust", "Random"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["50", "0"]
    plt.close("all")


def test_a_band_shows_the_interval_of_the_accuracy():
    figure = FIGURES["curves"]()
    line = next(line for line in figure.axes[0].get_lines() if line.get_label() == "SUPClust")
    summary = analysis.summarise(TABLE)
    np.testing.assert_allclose(line.get_ydata(), 100 * summary[summary["strategy"] == "supclust"]["mean"])
    plt.close("all")


def test_ratios_show_times_and_target_for_each_pool():
    rows = [{"features": f, "job": job, "ours": 0.2, "theirs": 2.0, "times": 10.0, "target": 4} for f in "ab" for job in "xyz"]
    figure = plots.ratios(pd.DataFrame(rows), "title")
    first, second = figure.axes
    assert [first.get_title(), second.get_title()] == ["a", "b"]
    assert [bar.get_width() for bar in first.patches] == [10, 10, 10]
    assert [text.get_text() for text in first.texts] == ["10× (200 ms against 2.0 s)"] * 3


def test_growth_draws_the_measured_seconds_and_the_fitted_slope():
    points = pd.DataFrame({"points": [1e4, 1e5, 1e6], "budget": 100, "seconds": [0.1, 1.0, 10.0]})
    budget = pd.DataFrame({"points": 100_000, "budget": [10, 100], "seconds": [1.0, 2.0]})
    left, right = plots.growth(points, budget, (1.0, 0.3), "title").axes
    measured, fitted = left.lines
    np.testing.assert_allclose(measured.get_ydata(), fitted.get_ydata())
    assert "0.30" in right.get_title()
