import matplotlib as mpl
import pandas as pd

from supclust.studies import figures as studies_figures

mpl.use("Agg")


def test_an_effect_that_is_clear_of_zero_has_a_filled_marker():
    effects = pd.DataFrame({"budget": [10, 50], "mean": [2.0, -1.0], "low": [1.0, -3.0], "high": [3.0, 1.0]})
    figure = studies_figures.criteria(effects.assign(dataset="digits", criterion="coverage"), "title")
    (dots,) = [one for one in figure.axes[0].collections if len(one.get_offsets()) == 2]
    assert [tuple(face) == (1, 1, 1, 1) for face in dots.get_facecolors()] == [False, True]
