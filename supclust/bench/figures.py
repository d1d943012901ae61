"""The figures of notebooks 09 and 10: how fast training and selection are, and which strategy leads where."""

import itertools
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from supclust import plots
from supclust.bench.benchmark import LABELS
from supclust.plots import NARROW, STYLES
from supclust.pool import APPROXIMATE_FROM
from supclust.profiles import TITLES

OURS = "#0072B2"
VARIANT_COLORS = {"probcover:ball_share=0.02": "#1B6C8C", "supclust:top_fraction=0.03": "#8C3A00"}


@NARROW
def speeds(table: pd.DataFrame, title: str) -> Figure:
    """Images per second of each way to train, the stock way first, with how many times the stock way's that is.

    Hatched: views of fewer pixels, which are less work.
    """
    figure, ax = plt.subplots(figsize=(8, 0.5 * len(table) + 1), layout="constrained")
    rates, times, less = table["images per second"], table["times stock"], table["pixels"] < table["pixels"].max()
    bars = ax.barh(table.index, rates, color=["0.7", *[OURS] * (len(table) - 1)], edgecolor="white")
    for bar in itertools.compress(bars, less):
        bar.set(hatch="//", alpha=0.6)
    work = np.where(less, "less work", "same work")
    texts = [f"{rate:.0f}  ({ratio:.1f}×, {what})" for rate, ratio, what in zip(rates, times, work, strict=True)]
    ax.bar_label(bars, texts, padding=4)
    ax.invert_yaxis()
    ax.margins(x=0.3)
    ax.set(xlabel="images per second", title=title)
    return figure


@NARROW
def ratios(table: pd.DataFrame, title: str) -> Figure:
    """Seconds that each job takes here and in another library, with their ratio, a panel for each pool of features."""
    pools = list(table.groupby("features", sort=False))
    figure, axes = plt.subplots(1, len(pools), figsize=(8, 2.9), sharey=True, sharex=True, layout="constrained", squeeze=False)
    for ax, (pool, part) in zip(axes.flat, pools, strict=True):
        ax.hlines(part["job"], part["ours"], part["theirs"], color="0.8", linewidth=3, zorder=1)
        ax.scatter(part["theirs"], part["job"], color="0.5", marker="s", label="other library")
        ax.scatter(part["ours"], part["job"], color=OURS, label="supclust")
        for row in part.itertuples():
            ax.annotate(f"{row.times:.1f}×", (max(row.ours, row.theirs), row.job), (8, 0), textcoords="offset points", va="center")
        ax.set(xscale="log", xlabel="seconds", title=TITLES.get(pool, pool))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.set_xlim(0.5 * table["ours"].min(), 4 * table["theirs"].max())
        ax.margins(y=0.1)
    axes[0, 0].invert_yaxis()
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.suptitle(title)
    return figure


@NARROW
def growth(by_points: pd.DataFrame, by_budget: pd.DataFrame, title: str) -> Figure:
    """Seconds of a query against the points of the pool and against the budget."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for ax, table, column in zip(axes, (by_points, by_budget), ("points", "budget"), strict=True):
        ax.plot(table[column], table["seconds"], "o-", color=OURS)
        ax.set(xscale="log", ylabel="seconds")
        ax.xaxis.set_major_formatter("{x:,.0f}")
    axes[0].set(yscale="log", xlabel=f"points (budget {by_points['budget'].iloc[0]})")
    axes[0].set_yticks([0.1, 1, 10, 60, 600], ["0.1", "1", "10", "60", "600"])
    axes[0].axvspan(APPROXIMATE_FROM[0], 2 * by_points["points"].max(), color="0.92", zorder=0)
    axes[0].text(0.03, 0.95, "shaded: approximate neighbours\nin large clusters", transform=axes[0].transAxes, va="top")
    axes[1].set(ylim=(0, None), xlabel=f"budget ({by_budget['points'].iloc[0]:,} points)")
    figure.suptitle(title)
    return figure


def leads(found: pd.DataFrame, order: Sequence[str], title: str) -> Figure:
    """Points above Random in each panel (columns) of each strategy (rows, in this order); what is clear is bold.

    found: as benchmark.panels gives it.
    """
    wide = found.pivot(index="strategy", columns=["encoder", "dataset", "budget"], values=["lead", "verdict"])
    shown, clear = wide["lead"].loc[list(order)].astype(float), wide["verdict"].loc[list(order)].isin(["higher", "lower"])
    names = [f"{TITLES.get(dataset, dataset)}, {budget}" for _, dataset, budget in shown]
    figure, ax = plt.subplots(figsize=(4 + 0.62 * shown.shape[1], 2.6 + 0.3 * len(order)), layout="constrained")
    style = {"cmap": "RdBu", "center": 0, "vmin": -20, "vmax": 20, "annot": shown.round() + 0.0}  # and no minus zero
    plots.heat_map(ax, shown.set_axis(names, axis=1).rename(index=LABELS), **style)
    cells = clear.to_numpy()[shown.notna().to_numpy()]
    for text, sure in zip(ax.texts, cells, strict=True):
        look = {"fontweight": "bold"} if sure else {"alpha": 0.6}
        text.set(text=text.get_text().replace("-", "−"), fontsize=9, **look)
    encoder = shown.columns.get_level_values("encoder")
    for name in encoder.unique():
        places = np.flatnonzero(encoder == name)
        ax.text(places.mean() + 0.5, -0.25, f"encoder: {name}", ha="center", va="bottom", fontsize=11)
        ax.axvline(places.min(), color="white", linewidth=8)
    ax.set(xlabel="", ylabel="")
    figure.suptitle(title)
    return figure


def critical_difference(accuracies: pd.DataFrame, title: str) -> Figure:
    """Mean ranks of strategies (columns) over panels (rows); a bar joins those that Nemenyi's test cannot tell apart.

    See Demšar (2006). Test and diagram are scikit-posthocs'.
    """
    import scikit_posthocs  # takes a second, and one figure needs it

    ranks, unlike = accuracies.rank(axis=1, ascending=False).mean(), scikit_posthocs.posthoc_nemenyi_friedman(accuracies.to_numpy())
    unlike = unlike.set_axis(accuracies.columns).set_axis(accuracies.columns, axis=1)
    figure, ax = plt.subplots(figsize=(9, 0.6 + 0.2 * len(ranks)), layout="constrained")
    styles = {"label_fmt_left": "{label} ({rank:.1f})", "label_fmt_right": "({rank:.1f}) {label}", "text_h_margin": 0.2}
    colors = {name: look[0] for name, look in STYLES.items()} | VARIANT_COLORS
    styles["color_palette"] = {label: colors[name] for name, label in LABELS.items() if label in accuracies}
    drawn = scikit_posthocs.critical_difference_diagram(ranks, unlike, ax=ax, **styles)
    for (bar,) in drawn["crossbars"]:
        bar.set_xdata(np.sort(bar.get_xdata()))  # they come from sets, whose order changes from run to run
    ax.set_title("mean rank, 1 is best; bars join what the test cannot tell apart", fontsize=9, fontweight="normal")
    figure.suptitle(title)
    return figure
