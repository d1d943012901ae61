import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from PIL import Image

from supclust import analysis, plots, strategies
from supclust.bench import figures as bench_figures
from supclust.studies import budgets
from supclust.studies import figures as studies_figures
from tests.test_analysis import make_table
from tests.test_budgets import make_table as make_budgets

mpl.use("Agg")
RNG = np.random.default_rng(0)
POINTS = RNG.standard_normal((200, 2))
MAPS = analysis.Maps(np.arange(0, 400, 2), {"t-SNE": POINTS, "UMAP": POINTS})
LABELS = np.arange(400) // 2 % 4
ASSIGNMENTS = np.where(np.arange(400) % 10, LABELS, 0)  # a tenth of the points in the cluster of another class, but for class 0
TABLE = make_table(0.05).replace({"a": "typiclust", "b": "supclust"})
PICKS = {name: RNG.standard_normal((4, 2)) for name in ("typiclust", "supclust")}

GAPS = pd.DataFrame({"typiclust": [4.0, 2.0, 3.0, 5.0], "supclust": [1.0, 1.5, 2.0, 2.5]}, index=["a", "b", "b", "c"])
MEMBERS = {f"cluster {k}": np.arange(k, 200, 6) for k in range(6)}

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
        ("2 order", what, dataset, framework, budget, expected, 1.0, low, 2.0, unit, "decides", True, verdict)
        for what, expected, unit in (("a", "> 0", "points"), ("b", "within ±0.1", "rho"))
        for dataset, framework, budget, low, verdict in (
            ("cifar10", "ssl", "tiny", 0.5, "supported"),
            ("digits", "ssl", "small", -np.inf, "open"),
            ("digits", "fsl", "small", 0.1, "contradicted"),
            ("digits", "ssl", "tiny", np.nan, "no data"),
        )
    ],
    columns=["claim", "what", *analysis.PANEL, "expected", "mean", "low", "high", "unit", "role", "subject", "verdict"],
)
SETTINGS = pd.DataFrame(
    [
        (setting, "supclust", value, "cifar10", budget, 0.5, -1.0, 2.0)
        for setting, values in {"temperature": (0.01, 0.1, 1), "max_clusters": (50, 500), "squared": (False, True)}.items()
        for value in values
        for budget in ("tiny",)
    ],
    columns=["setting", "strategy", "value", "dataset", "budget", "mean", "low", "high"],
)
RIVAL = pd.DataFrame({"dataset": ["cifar10"], "budget": ["tiny"], "strategy": ["supclust"], "rival": ["typiclust"], "mean": [3.0]})
CLASSES = {"cifar10": 10, "digits": 12, "data": 10}
QUERIES = pd.concat([make_budgets(noise=3), make_budgets().assign(dataset="cifar10")])

FIGURES = {
    "training": lambda: plots.training(
        [{"epoch": e, "loss": 1 / e, "knn": 0.5 if e % 2 else None, "seconds": 1} for e in (1, 2, 3)]
    ),
    "embedding": lambda: plots.embedding(MAPS, LABELS, list("abcd"), ASSIGNMENTS, "title"),
    "queries": lambda: plots.queries(MAPS, LABELS, PICKS, GAPS, "title"),
    "query_round": lambda: plots.query_round(MAPS, [LABELS] * 2, {name: [p, p + 1] for name, p in PICKS.items()}, 1),
    "thumbnails": lambda: plots.thumbnails(dict.fromkeys(PICKS, np.zeros((3, 3, 8, 8), np.uint8)), dict.fromkeys(PICKS, "abc")),
    "sup_against_typicality": lambda: plots.sup_against_typicality(*np.exp(POINTS.T), MEMBERS, {"supclust": np.arange(6)}, "title"),
    "curves": lambda: plots.curves(TABLE, ["typiclust", "supclust"], "typiclust", "title"),
    "curves of many": lambda: plots.curves(MANY, NAMES, "random", "title"),
    "results": lambda: plots.results(MANY, NAMES[:-1], "title"),
    "class_coverage": lambda: plots.class_coverage(MANY, NAMES, "title", CLASSES),
    "win_matrix": lambda: bench_figures.win_matrix(analysis.win_matrix(MANY, NAMES), "title"),
    "forest": lambda: plots.forest(pd.concat([COMPARISONS, COMPARISONS.assign(claim="3 gain")]), "title"),
    "forest of one claim": lambda: plots.forest(COMPARISONS, "title"),
    "sensitivity": lambda: studies_figures.sensitivity(
        SETTINGS, {"temperature": 0.1, "max_clusters": 500, "squared": False}, RIVAL, "title"
    ),
    "growing_budgets": lambda: studies_figures.growing_budgets(QUERIES, "title"),
    "criteria": lambda: studies_figures.criteria(budgets.added(QUERIES), "title"),
}


def saved(name, folder, monkeypatch):
    """The files that a figure leaves, by name."""
    monkeypatch.setenv("SUPCLUST_OUT", str(folder))
    plots.set_style()
    plots.save(FIGURES[name](), "figure_9", "quick")
    plt.close("all")
    return {path.name: path.read_bytes() for path in (folder / "figures" / "quick").iterdir()}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_saved_as_pdf_and_png(name, tmp_path, monkeypatch):
    assert sorted(saved(name, tmp_path, monkeypatch)) == ["figure_9.pdf", "figure_9.png"]
    assert min(Image.open(tmp_path / "figures" / "quick" / "figure_9.png").size) > 200


@pytest.mark.parametrize("name", [name if name == "queries" else pytest.param(name, marks=pytest.mark.night) for name in FIGURES])
def test_figures_are_the_same_bytes_each_time(name, tmp_path, monkeypatch):
    assert saved(name, tmp_path / "first", monkeypatch) == saved(name, tmp_path / "second", monkeypatch)


def test_a_frame_for_each_round_in_the_animation(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPCLUST_OUT", str(tmp_path))
    rounds = {name: [p, p + 1, p - 1] for name, p in PICKS.items()}
    plots.save_animation(lambda i: plots.query_round(MAPS, [LABELS] * 2, rounds, i), 3, "figure_3", "quick")
    with Image.open(tmp_path / "figures" / "quick" / "figure_3.gif") as animation:
        assert animation.n_frames == 3


def test_the_files_name_the_profile_in_their_metadata(tmp_path, monkeypatch):
    files = saved("training", tmp_path, monkeypatch)
    with Image.open(tmp_path / "figures" / "quick" / "figure_9.png") as picture:
        assert picture.info["Description"] == "profile quick"
    assert b"profile quick" in files["figure_9.pdf"]


def test_every_strategy_has_a_name_and_a_look_of_its_own():
    assert set(strategies.LABELS) == set(plots.STYLES) - {budgets.DIVERSE} == {*strategies.STRATEGIES, *strategies.CONTROLS}
    for looks in (strategies.LABELS.values(), *list(zip(*plots.STYLES.values(), strict=True))[:2]):
        assert len(set(looks)) == len(looks)


def test_frameworks_have_rows_of_their_own_and_are_named_where_there_are_two():
    titles = [ax.get_title() for ax in FIGURES["curves of many"]().axes if ax.get_title()]
    assert titles == ["CIFAR-10\nSSL, tiny", "Digits\nSSL, tiny", "CIFAR-10\nFSL, tiny"]
    assert FIGURES["curves"]().axes[0].get_title() == "data, tiny budget"
    plt.close("all")


def test_a_strategy_that_a_panel_lacks_is_not_drawn_there_and_the_control_is_called_what_it_is():
    table = pd.concat([TABLE, TABLE[TABLE["strategy"] == "supclust"].assign(dataset="digits")])
    figure = plots.curves(table, ["typiclust", "supclust"], "typiclust", "title")
    assert [len(ax.get_lines()) for ax in figure.axes] == [2, 2, 1, 1]  # below: the difference and the line at zero
    assert "class-balanced oracle" in {text.get_text() for text in FIGURES["curves of many"]().legends[0].get_texts()}
    plt.close("all")


def test_what_was_not_run_is_said_to_be_so():
    nothing = make_table(0.1).iloc[:0].assign(classes=0)
    empty = (
        plots.curves(nothing, ["supclust"], "supclust", "From scratch"),
        plots.class_coverage(nothing, ["supclust"], "From scratch", CLASSES),
        plots.results(nothing, ["supclust"], "From scratch"),
    )
    assert [figure.get_suptitle() for figure in empty] == ["From scratch: not run yet"] * 3
    assert analysis.compare(nothing, "a", "b").empty


def test_comparisons_without_data_have_no_place_in_the_forest():
    figure = FIGURES["forest of one claim"]()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a, claimed > 0", "b, claimed within ±0.1"]
    assert plots.forest(COMPARISONS[COMPARISONS["verdict"] == "no data"], "title").axes == []
    named = {text.get_text() for text in figure.legends[0].get_texts()}
    assert named == {"CIFAR-10", "Digits", "tiny budget", "small budget", *plots.VERDICTS, "as claimed"}
    plt.close("all")


def test_the_forest_has_an_axes_for_fsl_beside_ssl_and_no_extra_comparisons():
    ssl, fsl = plots.forest(COMPARISONS, "title").axes
    drawn = [[part.get_offsets() for part in ax.collections if isinstance(part, PathCollection)] for ax in (ssl, fsl)]
    dots = [np.concatenate(some) for some in drawn]
    assert [len(some) for some in dots] == [4, 2]
    assert dots[0][:, 1].tolist() == pytest.approx([-0.2, 0.2, 0.8, 1.2])  # a row for each comparison, panels apart
    assert len(plots.forest(COMPARISONS.assign(role="extra"), "title").axes) == 0
    plt.close("all")


def test_among_many_strategies_only_those_that_stand_out_have_bands_and_the_oracle_does_not_set_the_scale():
    far = MANY.assign(accuracy=MANY["accuracy"] - 5 * (MANY["strategy"] == "class-balanced"))
    above = plots.curves(far, NAMES, "random", "title").axes[0]
    assert len(above.collections) == sum(name in plots.HIGHLIGHTED for name in NAMES) < len(NAMES)
    oracle = next(line for line in above.get_lines() if line.get_label() == "class-balanced oracle")
    assert above.get_ylim()[0] > oracle.get_ydata().max()
    plt.close("all")


def test_all_classes_of_a_data_set_fit_into_its_panel():
    table = MANY.assign(classes=MANY["round"]).query("framework == 'ssl'")
    tops = {ax.get_title(): ax.get_ylim()[1] for ax in plots.class_coverage(table, NAMES, "title", CLASSES).axes}
    assert tops["CIFAR-10, tiny budget"] > 10
    assert tops["Digits, tiny budget"] > 12
    plt.close("all")


def test_the_panels_of_a_data_set_have_one_scale():
    table = pd.concat([TABLE, TABLE.assign(budget="small", accuracy=TABLE["accuracy"] + 0.3)])
    first, second = plots.results(table, ["typiclust", "supclust"], "title").axes
    assert first.get_ylim() == second.get_ylim()
    accuracy, differences, *others = plots.curves(table, ["typiclust", "supclust"], "typiclust", "title").axes
    assert [ax.get_ylim() for ax in others] == [accuracy.get_ylim(), differences.get_ylim()]
    plt.close("all")


def test_strategies_that_stand_out_are_named_at_their_ends_and_the_others_are_grey():
    far = MANY.assign(accuracy=MANY["accuracy"] + 5 * (MANY["strategy"] == "class-balanced"))
    ax = plots.results(far, NAMES[:-1], "title").axes[0]
    (low, high), named = ax.get_ylim(), {text.get_text(): text for text in ax.texts}
    (oracle,) = set(named) - {"Random", "Coreset", "TypiClust", "SUPClust"}
    assert oracle.startswith("↑ oracle ")
    heights = sorted(text.xyann[1] for text in named.values())
    assert low <= heights[0]
    assert heights[-1] <= high + 1e-9
    assert min(np.diff(heights)) > 0.08 * (high - low)  # they can be read
    assert [line.get_color() for line in ax.get_lines()].count("0.75") == 1  # Margin
    plt.close("all")


def test_a_band_shows_the_interval_of_the_accuracy():
    figure = FIGURES["curves"]()
    line = next(line for line in figure.axes[0].get_lines() if line.get_label() == "SUPClust")
    values = [100 * part["accuracy"] for _, part in TABLE[TABLE["strategy"] == "supclust"].groupby("labels")]
    intervals = [analysis.mean_interval(one) for one in values]
    np.testing.assert_allclose(line.get_ydata(), [one.mean for one in intervals])
    band = figure.axes[0].collections[1].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx(
        (min(one.low for one in intervals), max(one.high for one in intervals))
    )
    plt.close("all")


def test_points_that_most_of_their_cluster_outvotes_are_grey():
    left, right, *_ = FIGURES["embedding"]().axes
    grey = [(ax.collections[0].get_facecolors()[:, :3] == 0.75).all(axis=1).mean() for ax in (left, right)]
    purity = analysis.purity(LABELS[MAPS.indices], ASSIGNMENTS[MAPS.indices])
    assert grey == [0, pytest.approx(1 - purity)]
    assert 0 < purity < 1
    assert "purity" in right.get_title()
    assert [text.get_text() for text in left.texts] == list("abcd")
    plt.close("all")


def test_arrows_lead_from_the_first_strategys_pick_to_the_seconds_and_rows_are_sorted_by_the_first():
    left, right = FIGURES["queries"]().axes
    arrows = [text for text in left.texts if not text.get_text()]
    np.testing.assert_array_equal([arrow.xy for arrow in arrows], PICKS["supclust"])
    np.testing.assert_array_equal([arrow.xyann for arrow in arrows], PICKS["typiclust"])
    assert [label.get_text() for label in right.get_yticklabels()] == ["b", "b", "a", "c"]
    first, second = (ax.get_offsets()[:, 0] for ax in right.collections[1:])
    np.testing.assert_array_equal(np.array([first, second]), [[2, 3, 4, 5], [1.5, 2, 1, 2.5]])
    plt.close("all")


def test_excluded_clusters_are_grey_in_the_animation_for_each_strategy():
    groups = np.array([np.where(LABELS == 0, -1, LABELS), np.where(LABELS > 0, -1, LABELS)])
    figure = plots.query_round(MAPS, groups, {name: [places] for name, places in PICKS.items()}, 0)
    grey = [(ax.collections[0].get_facecolors()[:, :3] == 0.75).all(axis=1).mean() for ax in figure.axes]
    assert grey == [0.25, 0.75]
    plt.close("all")


def test_each_cluster_has_its_points_its_typical_tenth_and_its_picks():
    typicality, sup = np.exp(POINTS.T)
    for k, ax in enumerate(FIGURES["sup_against_typicality"]().axes[:6]):
        points, picked = (one.get_offsets() for one in ax.collections)
        np.testing.assert_allclose(points, np.column_stack([typicality, sup])[MEMBERS[f"cluster {k}"]])
        np.testing.assert_allclose(picked, [[typicality[k], sup[k]]])
        band = ax.patches[0].get_extents().transformed(ax.transData.inverted())
        assert (points[:, 0] >= band.x0 * (1 - 1e-9)).mean() == pytest.approx(0.1, abs=0.03)
    plt.close("all")
