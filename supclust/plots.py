"""Every figure of the notebooks, in one style: a strategy has one colour everywhere, and colours can be told apart by everyone."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import DisplayHandle
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from PIL import Image
from sklearn.svm import SVC

from supclust import analysis, files, paths

log = logging.getLogger(__name__)

# Okabe and Ito's colours; markers differ too
STRATEGIES = {
    "random": ("Random", "#666666", "o", ":"),
    "typiclust": ("TypiClust", "#0072B2", "s", "-"),
    "supclust": ("SUPClust", "#D55E00", "D", "-"),
    "supclust-no-sup": ("SUPClust without SUP", "#009E73", "^", "--"),
    "supclust-no-typicality": ("SUPClust without typicality", "#CC79A7", "v", "--"),
}
TITLES = {
    "digits": "Digits",
    "cifar10": "CIFAR-10",
    "cifar10-lt50": "CIFAR-10-LT50",
    "cifar100": "CIFAR-100",
    "isic2019": "ISIC-2019",
}
GROUPS = sns.color_palette("colorblind", 10)  # of classes
CLUSTERS = GROUPS[3:] + GROUPS[:3]  # in another order: cluster 3 is not class 3
DRAWN_POINTS = 5_000  # a scatter of more is a blot


def set_style() -> None:
    """The look of all figures."""
    sns.set_theme(context="notebook", style="ticks", rc={"figure.dpi": 80, "savefig.dpi": 125, "axes.titleweight": "bold"})
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "pdf.fonttype": 42})


def save(figure: Figure, name: str, profile: str) -> None:
    """Write figures/<profile>/<name>.pdf and .png, the profile's name in a corner; the PDF holds no date, so it is byte-stable."""
    figure.text(1, -0.01, f"profile {profile}", ha="right", va="top", fontsize=7, color="0.5")
    for ending, metadata in (("pdf", {"CreationDate": None, "ModDate": None}), ("png", {"Software": None})):
        with files.replacing(paths.figures(profile) / f"{name}.{ending}") as temporary:
            figure.savefig(temporary, format=ending, bbox_inches="tight", metadata=metadata)


def save_animation(draw: Callable[[int], Figure], n_frames: int, name: str, profile: str, seconds: float = 1.2) -> None:
    """Write figures/<profile>/<name>.gif of the figures that draw(0), draw(1) ... return; the last one stays twice as long."""
    frames = [_as_image(draw(i), profile) for i in range(n_frames)]
    durations = [round(1000 * seconds)] * (n_frames - 1) + [round(2000 * seconds)]
    with files.replacing(paths.figures(profile) / f"{name}.gif") as temporary:
        frames[0].save(temporary, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=True)


def _as_image(figure: Figure, profile: str) -> Image.Image:
    figure.text(1, 0, f"profile {profile}", ha="right", va="bottom", fontsize=7, color="0.5")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    plt.close(figure)
    return Image.open(buffer).convert("P", palette=Image.Palette.ADAPTIVE, colors=64)


# -- 00: support vectors -------------------------------------------------------------------------------------------------------


def support_vectors(points: np.ndarray, labels: np.ndarray, model: SVC) -> Figure:
    """Figure 1: two classes, the boundary and margins of a linear SVM, and its support vectors ringed."""
    figure, ax = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    for label, marker in enumerate("os"):
        ax.scatter(*points[labels == label].T, s=28, marker=marker, color=GROUPS[label], label=f"class {label + 1}")
    ax.scatter(*model.support_vectors_.T, s=150, facecolors="none", edgecolors="black", linewidths=1.5, label="support vectors")
    limits = ax.get_xlim(), ax.get_ylim()
    grid = np.stack(np.meshgrid(*(np.linspace(*limit, 200) for limit in limits)), axis=-1)
    height = model.decision_function(grid.reshape(-1, 2)).reshape(200, 200)
    ax.contour(grid[..., 0], grid[..., 1], height, levels=[-1, 0, 1], linestyles=["--", "-", "--"], colors="0.3")
    ax.set(xlabel="feature 1", ylabel="feature 2", xlim=limits[0], ylim=limits[1], title="Few points hold the boundary")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


# -- 01: training --------------------------------------------------------------------------------------------------------------


def training(history: Sequence[Mapping[str, Any]], title: str = "") -> Figure:
    """Loss and kNN accuracy of SimCLR, epoch by epoch."""
    table = pd.DataFrame(history, columns=["epoch", "loss", "knn", "seconds"])
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    left.plot(table["epoch"], table["loss"], color="0.2")
    left.set(xlabel="epoch", ylabel="NT-Xent loss", title="Loss")
    known = table.dropna(subset=["knn"])
    right.plot(known["epoch"], 100 * known["knn"].astype(float), color="0.2", marker="o")
    right.set(xlabel="epoch", ylabel="20-NN accuracy (%)", title="Neighbours that agree")
    figure.suptitle(title, fontweight="bold")
    return figure


class LiveTraining:
    """Draws `training` anew in a notebook after each epoch: pass it to simclr.train as on_epoch."""

    def __init__(self) -> None:
        self.handle = DisplayHandle()
        self.started = False

    def __call__(self, history: Sequence[Mapping[str, Any]]) -> None:
        figure = training(history)
        plt.close(figure)  # shown below, once
        (self.handle.update if self.started else self.handle.display)(figure)
        self.started = True


# -- 02: embedding -------------------------------------------------------------------------------------------------------------


def embedding(
    maps: Mapping[str, np.ndarray], labels: np.ndarray, classes: Sequence[str], assignments: np.ndarray, title: str
) -> Figure:
    """Figure 2: each 2-d map (m, 2) of the features coloured by class (m,) and by k-means cluster (m,)."""
    figure, axes = plt.subplots(2, len(maps), figsize=(5 * len(maps), 8.6), layout="constrained", squeeze=False)
    for column, (name, points) in enumerate(maps.items()):
        _scatter_groups(axes[0, column], points, labels, classes)
        _scatter_groups(axes[1, column], points, assignments, [str(k + 1) for k in range(assignments.max() + 1)], CLUSTERS)
        axes[0, column].set_title(f"{name}, coloured by class")
        axes[1, column].set_title(f"{name}, coloured by k-means cluster")
    figure.suptitle(title, fontweight="bold")
    return figure


def _scatter_groups(
    ax: Axes, points: np.ndarray, groups: np.ndarray, names: Sequence[str], palette: Sequence = GROUPS, faint: bool = False
) -> None:
    """Points in the colour of their group, the group's name at its median."""
    colors = np.array([palette[k % len(palette)] for k in range(len(names))])
    ax.scatter(*points.T, s=5, c=colors[groups], alpha=0.25 if faint else 0.6, linewidths=0, rasterized=True)
    if not faint:
        box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
        for k, name in enumerate(names):
            if (groups == k).any():
                ax.text(*np.median(points[groups == k], axis=0), name, ha="center", va="center", fontsize=9, bbox=box)
    ax.set(xticks=[], yticks=[])
    sns.despine(ax=ax, left=True, bottom=True)


# -- 03: queries ---------------------------------------------------------------------------------------------------------------


def queries(
    points: np.ndarray, assignments: np.ndarray, picks: Mapping[str, np.ndarray], gaps: Mapping[str, np.ndarray], title: str
) -> Figure:
    """Figure 3: where each strategy's picks (B, 2) lie on the map (m, 2), and how far they are (B,) from the nearest other centre.

    picks and gaps are by strategy; entry b of each belongs to the same cluster.
    """
    figure, axes = plt.subplots(1, len(picks) + 1, figsize=(15, 5), layout="constrained", width_ratios=[1] * len(picks) + [0.9])
    for ax, (strategy, places) in zip(axes, picks.items(), strict=False):
        _scatter_groups(ax, points, assignments, range(assignments.max() + 1), CLUSTERS, faint=True)
        _mark(ax, places, strategy)
        ax.set_title(f"{STRATEGIES[strategy][0]} queries", color=STRATEGIES[strategy][1])
    _dumbbells(axes[-1], gaps)
    figure.suptitle(title, fontweight="bold")
    return figure


def _mark(ax: Axes, places: np.ndarray, strategy: str, **style: Any) -> None:
    _, color, marker, _ = STRATEGIES[strategy]
    ax.scatter(*places.T, **({"s": 110, "color": color, "edgecolors": "white", "linewidths": 1.5} | style), marker=marker, zorder=3)


def _dumbbells(ax: Axes, gaps: Mapping[str, np.ndarray]) -> None:
    """One line per cluster, from one strategy's distance to the other's; sorted, so that the shift is seen at once."""
    order = np.argsort(next(iter(gaps.values())))
    heights = np.arange(len(order))
    stacked = np.array([values[order] for values in gaps.values()])
    ax.hlines(heights, stacked.min(axis=0), stacked.max(axis=0), color="0.75", zorder=1)
    for strategy, values in gaps.items():
        label, color, marker, _ = STRATEGIES[strategy]
        ax.scatter(values[order], heights, color=color, marker=marker, s=55, label=label)
    ax.set(yticks=[], ylabel="queried cluster", xlabel="distance to the nearest other centre\n← nearer to the boundary")
    ax.set_title("How near to other clusters")
    ax.legend(loc="lower right")


def query_round(points: np.ndarray, assignments: np.ndarray, rounds: Mapping[str, Sequence[np.ndarray]], number: int) -> Figure:
    """One frame of the animation: picks (B, 2) of each strategy up to round `number` (from 0), the newest ones large."""
    figure, axes = plt.subplots(1, len(rounds), figsize=(10, 5.2), layout="constrained")
    for ax, (strategy, places) in zip(axes, rounds.items(), strict=True):
        _scatter_groups(ax, points, assignments, range(assignments.max() + 1), CLUSTERS, faint=True)
        if number:
            _mark(ax, np.concatenate(places[:number]), strategy, s=40, alpha=0.75, linewidths=0.7)
        _mark(ax, places[number], strategy)
        ax.set_title(STRATEGIES[strategy][0], color=STRATEGIES[strategy][1])
    labeled = sum(len(places) for places in next(iter(rounds.values()))[: number + 1])
    figure.suptitle(f"Round {number + 1}: {labeled} labels", fontweight="bold")
    return figure


def thumbnails(images: Mapping[str, np.ndarray], captions: Mapping[str, Sequence[str]]) -> Figure:
    """The queried images uint8 (B, 3, height, width) of each strategy, a row each."""
    width = max(len(row) for row in images.values())
    figure, axes = plt.subplots(len(images), width, figsize=(1.1 * width, 1.5 * len(images)), layout="constrained", squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for row, (strategy, pictures) in zip(axes, images.items(), strict=True):
        for ax, picture, caption in zip(row, pictures, captions[strategy], strict=False):
            ax.imshow(picture.transpose(1, 2, 0), interpolation="nearest")
            ax.set_title(caption, fontsize=8, fontweight="normal")
        row[0].text(-0.15, 0.5, STRATEGIES[strategy][0], transform=row[0].transAxes, rotation=90, ha="right", va="center")
    return figure


# -- 04: SUP against typicality ------------------------------------------------------------------------------------------------


def sup_against_typicality(
    typicality: np.ndarray, sup: np.ndarray, assignments: np.ndarray, correlation: analysis.Correlation, seed: int = 0
) -> Figure:
    """Figure 4: scatter of the two scores (n,) with their distributions, coloured by cluster (n,)."""
    shown = np.random.default_rng(seed).permutation(len(sup))[:DRAWN_POINTS]
    colors = [CLUSTERS[k % len(CLUSTERS)] for k in assignments[shown]]
    grid = sns.JointGrid(x=typicality[shown], y=sup[shown], height=6, ratio=6)
    grid.ax_joint.scatter(typicality[shown], sup[shown], c=colors, s=7, alpha=0.6, linewidths=0, rasterized=True)
    grid.ax_joint.set_xscale("log")  # images that are in the set more than once are very typical
    grid.plot_marginals(sns.histplot, color="0.6", element="step", bins=50)
    for axis in (grid.ax_joint.xaxis, grid.ax_marg_x.xaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    grid.set_axis_labels("typicality (Eq. 1)", "SUP (Eq. 3), larger = nearer to the boundary")
    within = correlation.per_cluster[np.isfinite(correlation.per_cluster)]
    text = f"Spearman's ρ\nall points: {correlation.overall:.2f}\nwithin clusters: {within.min():.2f} to {within.max():.2f}"
    box = {"boxstyle": "round", "facecolor": "white", "edgecolor": "0.8"}
    grid.ax_joint.text(0.97, 0.97, text, transform=grid.ax_joint.transAxes, ha="right", va="top", fontsize=10, bbox=box)
    return grid.figure


# -- 05 and 06: accuracy -------------------------------------------------------------------------------------------------------


def curves(table: pd.DataFrame, strategies: Sequence[str], reference: str, title: str) -> Figure:
    """Figures 5 and 6: accuracy against labels with 95 % intervals over seeds, and below it the paired difference to `reference`.

    table has the columns of sweep.run. A column of panels per data set and budget.
    """
    panels = list(table[analysis.RUN].drop_duplicates().itertuples(index=False))
    figure, axes = plt.subplots(
        2,
        len(panels),
        figsize=(1 + 3.6 * len(panels), 6.4),
        height_ratios=[3, 2],
        sharex="col",
        layout="constrained",
        squeeze=False,
    )
    for (above, below), panel in zip(axes.T, panels, strict=True):
        part = table[(table[analysis.RUN] == list(panel)).all(axis=1)]
        _draw_accuracy(above, part, strategies)
        _draw_differences(below, part, strategies, reference)
        above.set_title(f"{TITLES.get(panel.dataset, panel.dataset)}, {panel.budget} budget")
    axes[0, 0].set_ylabel("test accuracy (%)")
    axes[1, 0].set_ylabel(f"points above\n{STRATEGIES[reference][0]}")
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=len(strategies))
    figure.suptitle(title, fontweight="bold")
    return figure


def _draw_accuracy(ax: Axes, part: pd.DataFrame, strategies: Sequence[str]) -> None:
    summary = analysis.summarise(part)
    for strategy in strategies:
        rows = summary[summary["strategy"] == strategy]
        _draw_band(ax, strategy, rows["labels"], 100 * rows["mean"], 100 * rows["low"], 100 * rows["high"])


def _draw_differences(ax: Axes, part: pd.DataFrame, strategies: Sequence[str], reference: str) -> None:
    ax.axhline(0, color=STRATEGIES[reference][1], linewidth=1.5)
    for strategy in strategies:
        if strategy == reference:
            continue
        by_labels = analysis.paired_differences(part, strategy, reference).groupby("labels")["difference"]
        intervals = {labels: analysis.mean_interval(values) for labels, values in by_labels}
        bands = np.array([(i.mean, i.low, i.high) for i in intervals.values()]).T
        _draw_band(ax, strategy, list(intervals), *bands)
    ax.set_xlabel("labels")


def _draw_band(ax: Axes, strategy: str, x: Any, mean: Any, low: Any, high: Any) -> None:
    label, color, marker, line = STRATEGIES[strategy]
    ax.plot(x, mean, color=color, marker=marker, linestyle=line, markersize=5, label=label)
    ax.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)


# -- 09: speed -----------------------------------------------------------------------------------------------------------------


def speeds(table: pd.DataFrame, title: str) -> Figure:
    """Images per second of each way to train, the stock way first, with how many times the stock way's that is."""
    figure, ax = plt.subplots(figsize=(9, 0.6 * len(table) + 1.2), layout="constrained")
    rates, times = table["images per second"], table["times stock"]
    bars = ax.barh(table.index, rates, color=["0.7", *["#0072B2"] * (len(table) - 1)])
    ax.bar_label(bars, [f"{rate:.0f}  ({ratio:.1f} x)" for rate, ratio in zip(rates, times, strict=True)], padding=4)
    ax.invert_yaxis()
    ax.margins(x=0.15)
    ax.set(xlabel="images per second", title=title)
    sns.despine(ax=ax)
    return figure
