"""The figures of notebooks 07 and 11: what settings are worth, and strategies and criteria as budgets grow."""

import itertools
import textwrap
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from supclust import plots
from supclust.profiles import TITLES
from supclust.strategies import LABELS
from supclust.studies import budgets

plots.STYLES[budgets.DIVERSE] = ("#8B5A2B", (7, 0, 0), "-")
SETTINGS = {
    "relative_temperature": "T of SUP, in mean\ndistances of centres",
    "top_fraction": "share of a cluster that is typical",
    "n_neighbors": "neighbours K of typicality",
    "max_clusters": "cap on the clusters",
    "squared": "squared distances in typicality",
    "radius": "ProbCover: radius\n(None: by purity)",
}


@plots.NARROW
def sensitivity(table: pd.DataFrame, defaults: Mapping[str, Any], rival: pd.DataFrame, title: str) -> Figure:
    """The effect of each setting: points of accuracy against its default (marked), with 95 % intervals, a panel for each setting.

    table: as sensitivity.differences gives it. rival: rows with dataset, strategy, and the mean by which the one in the column
    rival is ahead of that strategy's default, a line for settings to reach.
    """
    colors = dict(zip(table["dataset"].unique(), itertools.cycle(plots.DATASETS), strict=False))
    settings = list(table["setting"].unique())
    figure, places = plots.grid([settings[i : i + 3] for i in range(0, len(settings), 3)], (2.2,), width=7 / 3)
    for setting, (ax,) in places.items():
        part = table[table["setting"] == setting]
        values = list(part["value"].unique())
        ax.axhline(0, color="0.6", linewidth=1, zorder=1)
        for i, (dataset, rows) in enumerate(part.groupby("dataset", sort=False)):
            style = {"color": colors[dataset], "fmt": "osD^"[i % 4], "markersize": 5, "capsize": 2}
            spread = rows[["low", "high"]].sub(rows["mean"], axis=0).abs().T
            ax.errorbar(np.arange(len(rows)) + 0.2 * i - 0.1, rows["mean"], spread, label=TITLES.get(dataset, dataset), **style)
        for row in rival[rival["strategy"].isin(part["strategy"])].itertuples():
            label = f"{LABELS[row.rival]}, {TITLES.get(row.dataset, row.dataset)}"
            ax.axhline(row.mean, color=colors[row.dataset], linewidth=1.2, linestyle=(0, (5, 3)), label=label)
        ax.set_xticks(range(len(values)), [f"{value}\ndefault" if value == defaults[setting] else f"{value}" for value in values])
        low, high = ax.get_ylim()
        ax.set(xlim=(-0.5, len(values) - 0.5), ylim=(min(low, -6), max(high, 6)), title=SETTINGS.get(setting, setting))
        plots.name_row(ax, "points above the default")
    return plots.finish(figure, title, columns=4)


def growing_budgets(table: pd.DataFrame, title: str) -> Figure:
    """budgets.table, a panel for each data set: lead over Random, paired by seed, and accuracy below it.

    The 95 % intervals are SUPClust's and TypiClust's: those of all strategies would hide the lines.
    """
    runs = table.assign(budget="single-query")
    figure, panels = plots.panels(runs, list(budgets.QUERIES), "accuracy", heights=(3.8, 2.8), width=3.5)
    bands = ("supclust", "typiclust")
    for (dataset, *_), ((above, below), values) in panels.items():
        above.axhline(0, color=plots.STYLES["random"][0], linewidth=1.5, zorder=1)
        plots.draw_lines(above, values.sub(values["random"], axis=0).assign(random=np.nan), bands=bands)
        plots.draw_lines(below, values, bands=bands)
        above.set_title(TITLES.get(dataset, dataset), fontsize=12)
        plots.name_row(above, "points above Random")
        plots.name_row(below, "test accuracy (%)")
        below.set_xlabel("labels")
        below.sharex(above)
        _logarithmic(above)
        above.tick_params(labelbottom=False)
        below.fill_between([], [], color="0.5", alpha=0.2, linewidth=0, label="95 % intervals")
    return plots.finish(figure, title, columns=3 if len(panels) > 1 else 2)


@plots.NARROW
def criteria(effects: pd.DataFrame, title: str) -> Figure:
    """A row of panels for each data set, a panel for each criterion: its effect (mean, low, high) in points against the budget.

    Filled markers: the interval is clear of zero.
    """
    names, datasets = effects["criterion"].unique(), effects["dataset"].unique()
    figure, grid = plots.grid([[(dataset, name) for name in names] for dataset in datasets], (2.4,), width=7 / len(names))
    for i, ((dataset, name), (ax,)) in enumerate(grid.items()):
        rows = effects[(effects["dataset"] == dataset) & (effects["criterion"] == name)]
        color = plots.CLASS_COLORS[3 if "sup" in name.lower() else i % len(names)]
        ax.sharey(figure.axes[i // len(names) * len(names)])
        ax.axhline(0, color="0.6", linewidth=1, zorder=1)
        ax.plot(rows["budget"], rows["mean"], color=color)
        ax.fill_between(rows["budget"], rows["low"], rows["high"], color=color, alpha=0.2, linewidth=0)
        faces = np.where((rows["low"] > 0) | (rows["high"] < 0), mpl.colors.to_hex(color), "white")
        ax.scatter(rows["budget"], rows["mean"], s=25, c=faces, edgecolors=[color], zorder=3)
        ax.set(xlabel="labels", ylabel=f"{TITLES.get(dataset, dataset)}\npoints of accuracy")
        ax.set_title("\n".join(textwrap.wrap(name.replace("sup", "SUP"), 16)) if i < len(names) else "")
        ax.label_outer()
        _logarithmic(ax)
    return plots.titled(figure, title)


def _logarithmic(ax: Axes) -> None:
    """Budgets and differences on logarithmic axes, but for differences below a point."""
    ax.set_xscale("log")
    ax.set_yscale("symlog", linthresh=1)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.yaxis.set_major_locator(FixedLocator([-30, -10, -3, -1, 0, 1, 3, 10, 30]))
    ax.yaxis.set_major_formatter(lambda y, _: f"{y:+g}".replace("-", "−") if y else "0")
