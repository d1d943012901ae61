import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
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


def test_a_band_shows_the_interval_of_the_accuracy():
    figure = FIGURES["curves"]()
    line = next(line for line in figure.axes[0].get_lines() if line.get_label() == "SUPClust")
    summary = analysis.summarise(TABLE)
    np.testing.assert_allclose(line.get_ydata(), 100 * summary[summary["strategy"] == "supclust"]["mean"])
    plt.close("all")
