import matplotlib as mpl
import numpy as np
import pandas as pd

from supclust.bench import figures

mpl.use("Agg")


def test_ratios_show_times_for_each_pool():
    rows = [{"features": f, "job": job, "ours": 0.2, "theirs": 2.0, "times": 10.0} for f in "ab" for job in "xyz"]
    figure = figures.ratios(pd.DataFrame(rows), "title")
    first, second = figure.axes
    assert [first.get_title(), second.get_title()] == ["a", "b"]
    assert [bar.get_width() for bar in first.patches] == [10, 10, 10]
    assert [text.get_text() for text in first.texts] == ["10× (200 ms against 2.0 s)"] * 3


def test_growth_draws_the_measured_seconds():
    points = pd.DataFrame({"points": [1e4, 1e5, 1e6], "budget": 100, "seconds": [0.1, 1.0, 10.0]})
    budget = pd.DataFrame({"points": 100_000, "budget": [10, 100], "seconds": [1.0, 2.0]})
    left, right = figures.growth(points, budget, "title").axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), points["seconds"])
    np.testing.assert_allclose(right.lines[0].get_xdata(), budget["budget"])


def test_speeds_are_told_beside_their_bars():
    table = pd.DataFrame({"images per second": [20.0, 50.0], "times stock": [1.0, 2.5]}, index=["stock", "engine"])
    (ax,) = figures.speeds(table, "title").axes
    assert [bar.get_width() for bar in ax.patches] == [20, 50]
    assert [text.get_text() for text in ax.texts] == ["20  (1.0 x)", "50  (2.5 x)"]
