import matplotlib as mpl
import numpy as np
import pandas as pd

from supclust.bench import figures
from supclust.studies import figures as studies_figures

mpl.use("Agg")


def test_ratios_show_both_times_for_each_pool():
    times = {"x": 10.0, "y": 1.0, "z": 0.5}
    rows = [{"features": f, "job": job, "ours": 2 / n, "theirs": 2.0, "times": n} for f in "ab" for job, n in times.items()]
    figure = figures.ratios(pd.DataFrame(rows), "title")
    first, second = figure.axes
    assert [first.get_title(), second.get_title()] == ["a", "b"]
    _, theirs, ours = first.collections
    np.testing.assert_allclose(theirs.get_offsets()[:, 0], 2)
    np.testing.assert_allclose(ours.get_offsets()[:, 0], [0.2, 2, 4])
    assert [text.get_text() for text in first.texts] == ["10.0×", "1.0×", "0.5×"]


def test_growth_draws_the_measured_seconds():
    points = pd.DataFrame({"points": [1e4, 1e5, 1e6], "budget": 100, "seconds": [0.1, 1.0, 10.0]})
    budget = pd.DataFrame({"points": 100_000, "budget": [10, 100], "seconds": [1.0, 2.0]})
    left, right = figures.growth(points, budget, "title").axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), points["seconds"])
    np.testing.assert_allclose(right.lines[0].get_xdata(), budget["budget"])


def test_speeds_are_told_beside_their_bars():
    table = pd.DataFrame({"images per second": [20.0, 50.0], "times stock": [1.0, 2.5], "pixels": [32, 16]}, ["stock", "engine"])
    (ax,) = figures.speeds(table, "title").axes
    assert [bar.get_width() for bar in ax.patches] == [20, 50]
    assert [text.get_text() for text in ax.texts] == ["20  (1.0×, same work)", "50  (2.5×, less work)"]
    assert [bool(bar.get_hatch()) for bar in ax.patches] == [False, True]


def test_an_effect_that_is_clear_of_zero_has_a_filled_marker():
    effects = pd.DataFrame({"budget": [10, 50], "mean": [2.0, -1.0], "low": [1.0, -3.0], "high": [3.0, 1.0]})
    figure = studies_figures.criteria(effects.assign(dataset="digits", criterion="coverage"), "title")
    (dots,) = [one for one in figure.axes[0].collections if len(one.get_offsets()) == 2]
    assert [tuple(face) == (1, 1, 1, 1) for face in dots.get_facecolors()] == [False, True]
