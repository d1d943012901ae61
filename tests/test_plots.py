import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from supclust import analysis, budgets, plots, profiles, strategies
from tests.conftest import make_features
from tests.test_analysis import make_table
from tests.test_budgets import make_table as make_budgets

mpl.use("Agg")
RNG = np.random.default_rng(0)
POINTS, GROUPS = RNG.standard_normal((200, 2)), np.arange(200) % 4
MAPS = plots.Maps(np.arange(0, 400, 2), {"t-SNE": POINTS, "UMAP": POINTS})
LABELS = np.arange(400) // 2 % 4
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
    "embedding": lambda: plots.embedding(MAPS, LABELS, list("abcd"), LABELS, "title"),
    "queries": lambda: plots.queries(MAPS, LABELS, PICKS, {name: places[:, 0] for name, places in PICKS.items()}, "title"),
    "query_round": lambda: plots.query_round(MAPS, LABELS, {name: [p, p + 1] for name, p in PICKS.items()}, 1),
    "thumbnails": lambda: plots.thumbnails(dict.fromkeys(PICKS, np.zeros((3, 3, 8, 8), np.uint8)), dict.fromkeys(PICKS, "abc")),
    "sup_against_typicality": lambda: plots.sup_against_typicality(*np.exp(POINTS.T), GROUPS, CORRELATION),
    "curves": lambda: plots.curves(TABLE, ["typiclust", "supclust"], "typiclust", "title"),
    "curves of many": lambda: plots.curves(MANY, NAMES, "random", "title"),
    "results": lambda: plots.results(MANY, NAMES[:-1], "title"),
    "seeds": lambda: plots.seeds(MANY, NAMES[:2], "random", "title"),
    "class_coverage": lambda: plots.class_coverage(MANY, NAMES, "title", CLASSES),
    "win_matrix": lambda: plots.win_matrix(analysis.win_matrix(MANY, NAMES), "title"),
    "forest": lambda: plots.forest(pd.concat([COMPARISONS, COMPARISONS.assign(claim="3 gain")]), "title"),
    "forest of one claim": lambda: plots.forest(COMPARISONS, "title"),
    "sensitivity": lambda: plots.sensitivity(SETTINGS, {"temperature": 0.1, "max_clusters": 500, "squared": False}, RIVAL, "title"),
    "growing_budgets": lambda: plots.growing_budgets(QUERIES, "title"),
    "criteria": lambda: plots.criteria(budgets.added(QUERIES), "title"),
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
    plots.save_animation(lambda i: plots.query_round(MAPS, LABELS, rounds, i), 3, "figure_3", "quick")
    with Image.open(tmp_path / "figures" / "quick" / "figure_3.gif") as animation:
        assert animation.n_frames == 3


def test_every_strategy_has_a_name_and_a_look_of_its_own():
    assert set(strategies.LABELS) == set(plots.STYLES) - {budgets.DIVERSE} == {*strategies.STRATEGIES, *strategies.CONTROLS}
    for looks in (strategies.LABELS.values(), *list(zip(*plots.STYLES.values(), strict=True))[:2]):
        assert len(set(looks)) == len(looks)


def test_training_is_shown_once_and_then_updated(monkeypatch):
    shown = []
    monkeypatch.setattr(plots.DisplayHandle, "display", lambda self, figure: shown.append(("display", figure)))
    monkeypatch.setattr(plots.DisplayHandle, "update", lambda self, figure: shown.append(("update", figure)))
    live, history = plots.LiveTraining(), [{"epoch": e, "loss": 1 / e, "knn": None, "seconds": 1} for e in (1, 2, 3)]
    for done in (1, 2, 3):
        live(history[:done])
    assert [what for what, _ in shown] == ["display", "update", "update"]
    assert [len(figure.axes[0].get_lines()[0].get_xdata()) for _, figure in shown] == [1, 2, 3]
    assert not plt.get_fignums()  # the cell shows no second one


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
    figures = (
        plots.curves(nothing, ["supclust"], "supclust", "From scratch"),
        plots.class_coverage(nothing, ["supclust"], "From scratch", CLASSES),
        plots.results(nothing, ["supclust"], "From scratch"),
        plots.seeds(nothing, ["supclust"], "random", "From scratch"),
    )
    assert [figure.get_suptitle() for figure in figures] == ["From scratch: not run yet"] * 4
    assert analysis.compare(nothing, "a", "b").empty


def test_comparisons_without_data_have_no_place_in_the_forest():
    assert [label.get_text() for label in FIGURES["forest of one claim"]().axes[0].get_yticklabels()] == ["a", "b"]
    assert plots.forest(COMPARISONS[COMPARISONS["verdict"] == "no data"], "title").axes == []
    named = {text.get_text() for text in FIGURES["forest of one claim"]().legends[0].get_texts()}
    assert named <= {*plots.VERDICTS, "where the claim puts it"}
    plt.close("all")


def test_a_row_of_several_panels_names_them():
    texts = [text.get_text() for text in FIGURES["forest of one claim"]().axes[0].texts]
    assert texts == ["p", "q"] * 2
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


def test_each_seed_has_a_dot_at_its_lead_over_the_reference():
    figure = plots.seeds(TABLE, ["supclust"], "typiclust", "title")
    dots, mean = figure.axes[0].collections
    expected = analysis.seed_differences(
        *(analysis.by_round(TABLE[TABLE["strategy"] == name]) for name in ("supclust", "typiclust"))
    )
    np.testing.assert_allclose(dots.get_offsets()[:, 0], expected)
    assert mean.get_offsets()[0, 0] == pytest.approx(expected.mean())
    assert figure.axes[0].get_title().endswith(f"n = {len(expected)}")
    plt.close("all")


def test_the_strategy_that_wins_most_stands_on_top():
    matrix = pd.DataFrame([[0, 0.0], [0.5, 0]], index=["random", "supclust"], columns=["random", "supclust"])
    figure = plots.win_matrix(matrix, "title")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["SUPClust", "Random"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["50", "50", "0", "0"]  # and the means
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


def test_an_effect_that_is_clear_of_zero_has_a_filled_marker():
    effects = pd.DataFrame({"budget": [10, 50], "mean": [2.0, -1.0], "low": [1.0, -3.0], "high": [3.0, 1.0]})
    figure = plots.criteria(effects.assign(dataset="digits", criterion="coverage"), "title")
    (dots,) = [one for one in figure.axes[0].collections if len(one.get_offsets()) == 2]
    assert [tuple(face) == (1, 1, 1, 1) for face in dots.get_facecolors()] == [False, True]
    plt.close("all")


# -- maps of the embedding -----------------------------------------------------------------------------------------------------


def test_maps_are_made_once_and_kept_for_the_same_features(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPCLUST_OUT", str(tmp_path))
    calls = []

    def make_maps(features, n_points, seed):
        calls.append(n_points)
        indices = np.arange(0, len(features), 2)
        return {"indices": indices, "t-SNE": features[indices, :2], "UMAP": features[indices, 2:4]}

    monkeypatch.setattr(plots, "make_maps", make_maps)
    profile, features = profiles.get("quick"), make_features()
    first, again = plots.embedding_maps(profile, features), plots.embedding_maps(profile, features)
    assert calls == [profile.embedding_points]
    assert list(first.places) == ["t-SNE", "UMAP"]
    np.testing.assert_array_equal(first.places["UMAP"], again.places["UMAP"])
    np.testing.assert_array_equal(first.indices, again.indices)
    plots.embedding_maps(profile, make_features(size=60))
    plots.embedding_maps(profile, features, recompute=True)
    path = tmp_path / "reports" / "quick" / "embedding-0.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    plots.embedding_maps(profile, features)
    assert len(calls) == 4


def test_a_point_is_placed_where_it_or_its_nearest_drawn_neighbour_is():
    features = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]], dtype=np.float32)
    maps = plots.Maps(np.array([0, 2]), {"UMAP": np.array([[5.0, 5.0], [7.0, 7.0]])})
    np.testing.assert_array_equal(maps.place(features, np.array([0, 1, 3, 2])), [[5, 5], [5, 5], [7, 7], [7, 7]])


@pytest.mark.night
def test_both_methods_keep_clear_blobs_apart():
    features = make_features(n_classes=3, size=40)
    found = plots.make_maps(features.train, 90)
    indices = found.pop("indices")
    labels = features.train_labels[indices]
    assert len(indices) == 90
    for places in found.values():
        centers = np.stack([places[labels == k].mean(axis=0) for k in range(3)])
        nearest = ((places[:, None] - centers) ** 2).sum(axis=2).argmin(axis=1)
        assert (nearest == labels).mean() > 0.95
