"""The figures of notebook 11: what strategies and criteria are worth as budgets grow."""

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from supclust import plots
from supclust.plots import STYLES
from supclust.profiles import TITLES
from supclust.studies import budgets

STYLES[budgets.DIVERSE] = ("#8B5A2B", (7, 0, 0), "-")


def growing_budgets(table: pd.DataFrame, title: str) -> Figure:
    """budgets.table, a panel for each data set: lead over Random, paired by seed, and accuracy below it, with 95 % intervals."""
    figure, panels = plots.panels(table.assign(budget="single-query"), list(budgets.QUERIES), "accuracy", heights=(3.8, 2.8))
    for (dataset, *_), ((above, below), values) in panels.items():
        above.axhline(0, color=STYLES["random"][0], linewidth=1.5, zorder=1)
        plots.draw_lines(above, values.sub(values["random"], axis=0).assign(random=np.nan))
        plots.draw_lines(below, values)
        above.set_title(TITLES.get(dataset, dataset), fontsize=12)
        plots.name_row(above, "points above Random")
        plots.name_row(below, "test accuracy (%)")
        below.set_xlabel("labels")
        below.sharex(above)
        _logarithmic(above)
        above.tick_params(labelbottom=False)
    return plots.finish(figure, title, columns=3 if len(panels) > 1 else 2)


def criteria(effects: pd.DataFrame, title: str) -> Figure:
    """A row of panels for each data set, a panel for each criterion: its effect (mean, low, high) in points against the budget.

    Filled markers: the interval is clear of zero.
    """
    names, datasets = effects["criterion"].unique(), effects["dataset"].unique()
    figure, grid = plots.grid([[(dataset, name) for name in names] for dataset in datasets], (2.6,), width=2.2)
    for i, ((dataset, name), (ax,)) in enumerate(grid.items()):
        rows = effects[(effects["dataset"] == dataset) & (effects["criterion"] == name)]
        color = plots.CLASS_COLORS[3 if "sup" in name.lower() else i % len(names)]
        ax.sharey(figure.axes[i // len(names) * len(names)])
        ax.axhline(0, color="0.6", linewidth=1, zorder=1)
        ax.plot(rows["budget"], rows["mean"], color=color)
        ax.fill_between(rows["budget"], rows["low"], rows["high"], color=color, alpha=0.2, linewidth=0)
        faces = np.where((rows["low"] > 0) | (rows["high"] < 0), mpl.colors.to_hex(color), "white")
        ax.scatter(rows["budget"], rows["mean"], c=faces, edgecolors=[color], zorder=3)
        ax.set(xlabel="labels", ylabel=f"{TITLES.get(dataset, dataset)}\npoints of accuracy")
        ax.set_title(name.replace("sup", "SUP") if i < len(names) else "", fontsize=11)
        ax.label_outer()
        _logarithmic(ax)
    figure.suptitle(title)
    return figure


def _logarithmic(ax: Axes) -> None:
    """Budgets and differences on logarithmic axes, but for differences below a point."""
    ax.set_xscale("log")
    ax.set_yscale("symlog", linthresh=1)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.yaxis.set_major_locator(FixedLocator([-30, -10, -3, -1, 0, 1, 3, 10, 30]))
    ax.yaxis.set_major_formatter(lambda y, _: f"{y:+g}".replace("-", "−") if y else "0")
