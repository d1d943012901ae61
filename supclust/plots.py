"""Every figure of the notebooks, in one style: a strategy has one colour everywhere, and colours can be told apart by everyone."""

from __future__ import annotations

import io
import itertools
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
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from PIL import Image
from sklearn.svm import SVC

from supclust import analysis, kept

log = logging.getLogger(__name__)

# Label, colour, marker and line. Okabe and Ito's colours for what is compared most; the uncertainty strategies are one family of
# purples, told apart by marker and line.
STRATEGIES = {
    "random": ("Random", "#666666", "o", ":"),
    "margin": ("Margin", "#4B2E83", "<", "--"),
    "least-confidence": ("Least confidence", "#7B5EA7", ">", "-."),
    "entropy": ("Entropy", "#9C8AC0", "h", "--"),
    "bald": ("BALD", "#8C7F99", "p", "-."),
    "dbal": ("DBAL", "#B5A3C9", "d", (0, (4, 1, 1, 1, 1, 1))),
    "coreset": ("Coreset", "#E69F00", "P", "-"),
    "probcover": ("ProbCover", "#56B4E9", "X", "-"),
    "typiclust": ("TypiClust", "#0072B2", "s", "-"),
    "supclust": ("SUPClust", "#D55E00", "D", "-"),
    "supclust-no-sup": ("SUPClust without SUP", "#009E73", "^", "--"),
    "supclust-no-typicality": ("SUPClust without typicality", "#CC79A7", "v", "--"),
    "class-balanced": ("class-balanced oracle", "#000000", "*", (0, (7, 2, 1, 2))),
}
HIGHLIGHTED = ("random", "typiclust", "supclust")  # among many
FEW = 5  # strategies, of which none needs to step back
MEASURES = {
    "accuracy": "test accuracy (%)",
    "balanced_accuracy": "balanced test accuracy (%)",
    "tail_accuracy": "accuracy on rare classes (%)",
    "classes": "classes with a label",
}
VERDICTS = {
    "supported": ("#0072B2", "o"),
    "contradicted": ("#D55E00", "X"),
    "inconclusive": ("#999999", "d"),
}
TITLES = {
    "digits": "Digits",
    "cifar10": "CIFAR-10",
    "cifar10-lt50": "CIFAR-10-LT50",
    "cifar100": "CIFAR-100",
    "isic2019": "ISIC-2019",
}
SETTINGS = {
    "relative_temperature": "T of SUP, in mean distances of centres",
    "top_fraction": "share of a cluster that is typical",
    "n_neighbors": "neighbours K of typicality",
    "max_clusters": "cap on the clusters",
    "squared": "squared distances in typicality",
    "radius": "ProbCover: radius (None: by purity)",
}
GROUPS = sns.color_palette("colorblind", 10)  # of classes
DATASETS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # where lines are data sets
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
        with kept.replacing(kept.figures(profile) / f"{name}.{ending}") as temporary:
            figure.savefig(temporary, format=ending, bbox_inches="tight", metadata=metadata)


def save_animation(draw: Callable[[int], Figure], n_frames: int, name: str, profile: str, seconds: float = 1.2) -> None:
    """Write figures/<profile>/<name>.gif of the figures that draw(0), draw(1) ... return; the last one stays twice as long."""
    frames = [_as_image(draw(i), profile) for i in range(n_frames)]
    durations = [round(1000 * seconds)] * (n_frames - 1) + [round(2000 * seconds)]
    with kept.replacing(kept.figures(profile) / f"{name}.gif") as temporary:
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


# -- 05 to 07: accuracy -------------------------------------------------------------------------------------------------------


def panel_title(panel: Sequence[str], framework: bool = True) -> str:
    """The name of a panel (dataset, framework, budget), with or without the framework."""
    dataset, name, budget = panel
    parts = [TITLES.get(dataset, dataset), name.upper() if framework else "", budget]
    return ", ".join(filter(None, parts))


def curves(table: pd.DataFrame, strategies: Sequence[str], reference: str, title: str, measure: str = "accuracy") -> Figure:
    """Figures 5 and 6: accuracy against labels with 95 % intervals over seeds, and below it the paired difference to `reference`.

    table has the columns of sweep.run. A column of panels per data set and budget, at most four in a row; a framework starts a
    row. Of more than five strategies the highlighted ones stand out. measure: one of analysis.MEASURES; a panel without it is left
    out.
    """
    table = table.dropna(subset=[measure])
    strategies = [name for name in strategies if name in set(table["strategy"])]
    figure, grid = _paired_panels(table)
    frameworks = table["framework"].nunique() > 1
    for panel, (above, below) in grid.items():
        part = analysis.panel_of(table, panel)
        _draw_accuracy(above, part, strategies, measure)
        _draw_differences(below, part, strategies, reference, measure)
        above.set_title(panel_title(panel, frameworks) + ("" if frameworks else " budget"), fontsize=12)
        if above.get_subplotspec().is_first_col():
            above.set_ylabel(MEASURES[measure])
            below.set_ylabel(f"{'classes' if measure == 'classes' else 'points'} above\n{STRATEGIES[reference][0]}")
    _legend_below(figure, strategies, columns=5 if len(grid) > 1 else 2)  # not wider than the figure
    figure.suptitle(title, fontweight="bold")
    return figure


def _paired_panels(table: pd.DataFrame) -> tuple[Figure, dict[tuple[str, ...], tuple[Axes, Axes]]]:
    """For each panel of the table an upper and a lower axes; rows of at most four panels, each of one framework."""
    panels = list(table[analysis.PANEL].drop_duplicates().itertuples(index=False, name=None))
    by_framework = [[p for p in panels if p[1] == framework] for framework in dict.fromkeys(p[1] for p in panels)]
    blocks = [group[i : i + 4] for group in by_framework for i in range(0, len(group), 4)]
    width = max(map(len, blocks))
    figure = plt.figure(figsize=(1 + 3.6 * width, 0.4 + 6 * len(blocks)), layout="constrained")
    cells = figure.add_gridspec(2 * len(blocks), width, height_ratios=[3, 2] * len(blocks))
    grid = {}
    for (row, block), column in itertools.product(enumerate(blocks), range(width)):
        if column < len(block):
            above = figure.add_subplot(cells[2 * row, column])
            grid[block[column]] = above, figure.add_subplot(cells[2 * row + 1, column], sharex=above)
            above.tick_params(labelbottom=False)
    return figure, grid


def _legend_below(figure: Figure, strategies: Sequence[str], columns: int = 5) -> None:
    """One legend for all axes, in the order of the strategies."""
    known = _labelled(figure)
    labels = [STRATEGIES[name][0] for name in strategies if STRATEGIES[name][0] in known]
    figure.legend([known[label] for label in labels], labels, loc="outside lower center", ncols=columns, handlelength=3)


def _labelled(figure: Figure) -> dict[str, Any]:
    """What a legend of all axes holds, each label once."""
    known = {}
    for ax in figure.axes:
        handles, labels = ax.get_legend_handles_labels()
        known |= dict(zip(labels, handles, strict=True))
    return known


def _draw_accuracy(ax: Axes, part: pd.DataFrame, strategies: Sequence[str], measure: str) -> None:
    summary, scale = analysis.summarise(part, measure), analysis.units(measure)
    for strategy in strategies:
        rows = summary[summary["strategy"] == strategy]
        bands = (scale * rows[name] for name in ("mean", "low", "high"))
        _draw_band(ax, strategy, rows["labels"], *bands, stands_out=_stands_out(strategy, strategies))
    _keep_means_apart(ax)


def _keep_means_apart(ax: Axes) -> None:
    """With two or three seeds intervals are so wide that the means would lie on one line: the axis then ends before they do."""
    means = np.concatenate([line.get_ydata() for line in ax.get_lines()])
    low, high = means.min(), means.max()
    bottom, top = ax.get_ylim()
    if high > low:
        ax.set_ylim(max(bottom, 2 * low - high), min(top, 2 * high - low))


def _draw_differences(ax: Axes, part: pd.DataFrame, strategies: Sequence[str], reference: str, measure: str) -> None:
    ax.axhline(0, color=STRATEGIES[reference][1], linewidth=1.5)
    known = set(part["strategy"])
    for strategy in strategies:
        if strategy == reference or not {strategy, reference} <= known:
            continue
        by_labels = analysis.paired_differences(part, strategy, reference, measure).groupby("labels")["difference"]
        intervals = {labels: analysis.mean_interval(values) for labels, values in by_labels}
        bands = np.array([(i.mean, i.low, i.high) for i in intervals.values()]).reshape(-1, 3).T
        _draw_band(ax, strategy, list(intervals), *bands, stands_out=_stands_out(strategy, strategies))
    _keep_means_apart(ax)
    ax.set_xlabel("labels")


def _stands_out(strategy: str, strategies: Sequence[str]) -> bool:
    return strategy in HIGHLIGHTED or len(strategies) <= FEW


def _draw_band(ax: Axes, strategy: str, x: Any, mean: Any, low: Any, high: Any, stands_out: bool = True) -> None:
    label, color, marker, line = STRATEGIES[strategy]
    width, size, order, alpha = (1.8, 5, 3, 0.15) if stands_out else (1, 4, 2, 0.06)
    ax.plot(x, mean, color=color, marker=marker, linestyle=line, linewidth=width, markersize=size, label=label, zorder=order)
    low, high = (np.where(np.isfinite(bound), bound, mean) for bound in (low, high))  # of one seed there is no band
    ax.fill_between(x, low, high, color=color, alpha=alpha, linewidth=0, zorder=order - 2)


def class_coverage(
    table: pd.DataFrame, strategies: Sequence[str], title: str, n_classes: Mapping[str, int] | None = None
) -> Figure:
    """How many classes have a label, against labels, with 95 % intervals over seeds; dashed: all of a data set's n_classes."""
    table = table.dropna(subset=["classes"])
    panels = list(table[analysis.PANEL].drop_duplicates().itertuples(index=False, name=None))
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1 + 3.6 * columns, 0.6 + 3.4 * rows), layout="constrained", squeeze=False)
    for ax, panel in itertools.zip_longest(axes.flat, panels):
        if panel is None:
            ax.set_axis_off()
            continue
        _draw_accuracy(ax, analysis.panel_of(table, panel), strategies, "classes")
        if total := (n_classes or {}).get(panel[0]):
            ax.axhline(total, color="0.5", linestyle="--", linewidth=1, zorder=1)
        ax.set(xlabel="labels", title=panel_title(panel, table["framework"].nunique() > 1))
        ax.set_ylim(bottom=0)
    for ax in axes[:, 0]:
        ax.set_ylabel(MEASURES["classes"])
    _legend_below(figure, strategies)
    figure.suptitle(title, fontweight="bold")
    return figure


def win_matrix(matrix: pd.DataFrame, title: str) -> Figure:
    """analysis.win_matrix as a heat map, in per cent, the strategy that wins most on top, with the mean of each row."""
    order = matrix.mean(axis=1).sort_values(ascending=False, kind="stable").index
    shares = 100 * matrix.loc[order, order].mask(np.eye(len(order), dtype=bool))
    names = [STRATEGIES[name][0] for name in order]
    side = 2.6 + 0.62 * len(order)
    figure, (left, right) = plt.subplots(1, 2, figsize=(side + 1.2, side - 0.6), layout="constrained", width_ratios=[len(order), 1])
    style = {"vmin": 0, "vmax": 100, "cmap": "Blues", "cbar": False, "annot": True, "fmt": ".0f", "linewidths": 1}
    sns.heatmap(shares, ax=left, xticklabels=names, yticklabels=names, **style)
    sns.heatmap(shares.mean(axis=1).to_frame(), ax=right, xticklabels=["mean"], yticklabels=False, **style)
    left.set(ylabel="this strategy ...", xlabel="... is clearly better than this one (% of panels and rounds)")
    left.set_xticks(left.get_xticks(), names, rotation=40, ha="right", rotation_mode="anchor")
    for ax in (left, right):
        ax.tick_params(length=0)
        sns.despine(ax=ax, left=True, bottom=True)
    right.set(ylabel="", xlabel="")
    left.tick_params(axis="y", rotation=0)
    figure.suptitle(title, fontweight="bold")
    return figure


# -- the claims ----------------------------------------------------------------------------------------------------------------


def forest(comparisons: pd.DataFrame, title: str) -> Figure:
    """A dot and a 95 % interval for each comparison, an axes for each claim, in the colour of its verdict.

    comparisons: as claims.as_table gives them. Where a claim compares several things, each has a row that holds all its panels;
    else each panel has a row. Shaded: where the claim wants the interval to be. Rows that do not count are left out.
    """
    shown = comparisons[comparisons["counts"] & comparisons["verdict"].isin(list(VERDICTS))]
    by_claim = [(name, _with_rows(rows)) for name, rows in shown.groupby("claim", sort=False)]
    heights = [_height(rows) for _, rows in by_claim]
    columns = _two_columns(heights)
    figure = plt.figure(figsize=(14, 0.9 + max(sum(heights[i] for i in column) for column in columns)), layout="constrained")
    for part, column in zip(figure.subfigures(1, 2), columns, strict=True):
        if column:
            axes = part.subplots(len(column), 1, height_ratios=[heights[i] for i in column], squeeze=False)[:, 0]
            for ax, i in zip(axes, column, strict=True):
                _draw_forest(ax, *by_claim[i])
    _verdict_legend(figure)
    figure.suptitle(title, fontweight="bold")
    return figure


def _with_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """With the label and the height of each comparison's row, and its place in the row."""
    several = rows["what"].nunique() > 1
    labels = rows["what"] if several else rows["panel"]
    number = pd.Series(pd.factorize(labels)[0], index=rows.index)
    size = labels.map(labels.value_counts())
    place = labels.groupby(labels).cumcount()
    return rows.assign(label=labels, y=number + 0.7 * ((place + 0.5) / size - 0.5))


def _height(rows: pd.DataFrame) -> float:
    """Of an axes, in inches."""
    return 0.9 + sum(0.1 + max(0.2, 0.075 * size) for size in rows["label"].value_counts())


def _two_columns(heights: Sequence[float]) -> tuple[list[int], list[int]]:
    """Indices for the left and the right column, in order, cut where the taller one is lowest."""
    cut = min(range(1, len(heights) + 1), default=0, key=lambda i: max(sum(heights[:i]), sum(heights[i:])))
    return list(range(cut)), list(range(cut, len(heights)))


def _draw_forest(ax: Axes, name: str, rows: pd.DataFrame) -> None:
    small = 3.5 if len(rows) > 12 else 6
    for verdict, part in rows.groupby("verdict"):
        color, marker = VERDICTS[verdict]
        low, high = (part[bound].where(np.isfinite(part[bound]), part["mean"]) for bound in ("low", "high"))
        ax.hlines(part["y"], low, high, color=color, linewidth=1.2)
        ax.scatter(part["mean"], part["y"], color=color, marker=marker, s=small**2, zorder=3)
    _shade_expected(ax, rows)
    ax.set_yticks(range(rows["label"].nunique()), rows["label"].unique(), fontsize=8)
    ax.set_ylim(rows["label"].nunique() - 0.4, -0.6)
    ax.tick_params(axis="x", labelsize=8)
    ax.tick_params(axis="y", length=0)
    ax.set_title(name, loc="left", fontsize=10)
    ax.set_xlabel({"points": "points of accuracy", "rho": "Spearman's ρ", "distance": "distance"}[rows["unit"].iloc[0]], fontsize=8)


def _shade_expected(ax: Axes, rows: pd.DataFrame) -> None:
    """Where the claim says that the means lie, row by row."""
    ax.axvline(0, color="0.3", linewidth=1)
    limits = ax.get_xlim()
    for number, label in enumerate(rows["label"].unique()):
        expected = rows.loc[rows["label"] == label, "expected"].iloc[0]
        margin = float(expected.rpartition("±")[2]) if "±" in expected else 0
        start, end = (-margin, margin) if margin else (0, 1e9) if expected.startswith(">") else (-1e9, 0)
        ax.fill_between([start, end], number - 0.5, number + 0.5, color="#56B4E9", alpha=0.15, linewidth=0, zorder=0)
    ax.set_xlim(limits)


def _verdict_legend(figure: Figure) -> None:
    handles = [Line2D([], [], color=color, marker=marker, label=name) for name, (color, marker) in VERDICTS.items()]
    handles.append(Patch(color="#56B4E9", alpha=0.15, label="where the claim puts it"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4)


# -- 07: sensitivity -----------------------------------------------------------------------------------------------------------


def sensitivity(table: pd.DataFrame, defaults: Mapping[str, Any], rival: pd.DataFrame, title: str) -> Figure:
    """What each setting does: points of accuracy against the default setting, with 95 % intervals, a panel for each setting.

    table: a row for each setting, value, dataset and budget, with the paired difference's mean, low and high, in points.
    defaults: the value of each setting at which the difference is zero; marked. A setting whose values are not all numbers has
    them side by side, as they come.
    rival: rows with dataset, budget, mean and strategy (which turns the knob), and the mean by which another one, in the column
    rival, is ahead of that strategy's default: drawn as a line for settings to reach.
    """
    settings = list(table["setting"].unique())
    columns = min(3, len(settings))
    rows = -(-len(settings) // columns)
    size = (1 + 4 * columns, 1 + 3.1 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, sharey=True)
    for ax, setting in itertools.zip_longest(axes.flat, settings):
        if setting is None:
            ax.set_axis_off()
        else:
            _draw_sensitivity(ax, table[table["setting"] == setting], defaults.get(setting), setting)
            _draw_rival(ax, table[table["setting"] == setting], rival)
    for ax in axes[:, 0]:
        ax.set_ylabel("points above the default")
    known = _labelled(figure)
    figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=5)
    figure.suptitle(title, fontweight="bold")
    return figure


def _draw_sensitivity(ax: Axes, part: pd.DataFrame, default: Any, setting: str) -> None:
    """One panel: a line per data set (colour) and budget (filled or open marks, solid or dashed)."""
    places = _places(ax, [*part["value"], *([] if default is None else [default])])
    ax.axhline(0, color="0.6", linewidth=1, zorder=1)
    if default is not None:
        ax.axvline(places[default], color="0.6", linewidth=1, linestyle=":", zorder=1, label="default")
    palette = _palette(part)
    for (dataset, budget), rows in part.groupby(["dataset", "budget"], sort=False):
        ordered = rows.assign(x=[places[value] for value in rows["value"]]).sort_values("x")
        tiny = budget == "tiny"
        style = {"marker": "o", "markerfacecolor": palette[dataset] if tiny else "white", "linestyle": "-" if tiny else "--"}
        label = f"{TITLES.get(dataset, dataset)}, {budget}"
        ax.plot(ordered["x"], ordered["mean"], color=palette[dataset], markersize=5, label=label, **style)
        ax.fill_between(ordered["x"], ordered["low"], ordered["high"], color=palette[dataset], alpha=0.1, linewidth=0)
    ax.set_title(SETTINGS.get(setting, setting), fontsize=12)


def _palette(part: pd.DataFrame) -> dict[str, str]:
    """A colour for each data set, in the order in which they come."""
    return {name: DATASETS[i % len(DATASETS)] for i, name in enumerate(part["dataset"].unique())}


def _draw_rival(ax: Axes, part: pd.DataFrame, rival: pd.DataFrame) -> None:
    """How far the rival is ahead of the default, a dashed line in the colour of each data set."""
    palette = _palette(part)
    for row in rival[rival["strategy"].isin(part["strategy"])].itertuples():
        label = f"{STRATEGIES[row.rival][0]}, {TITLES.get(row.dataset, row.dataset)}"
        ax.axhline(row.mean, color=palette[row.dataset], linewidth=1.2, linestyle=(0, (5, 3)), label=label)


def _places(ax: Axes, values: Sequence[Any]) -> dict[Any, float]:
    """Where each value stands on the x axis: at itself, on a logarithmic axis if they span a factor of ten, or side by side."""
    values = list(dict.fromkeys(values))
    numbers = all(isinstance(v, int | float | np.number) and not isinstance(v, bool) and np.isfinite(v) for v in values)
    if not numbers:
        ax.set_xticks(range(len(values)), [str(value) for value in values])
        return dict(zip(values, range(len(values)), strict=True))
    if min(values) > 0 and max(values) >= 10 * min(values):
        ax.set_xscale("log")
        ax.set_xticks(sorted(values), [f"{value:g}" for value in sorted(values)])
        ax.xaxis.set_minor_formatter(NullFormatter())
    return {value: float(value) for value in values}


def encoders(table: pd.DataFrame, title: str) -> Figure:
    """What better features change: a paired difference in points against the encoder's 20-NN accuracy, a line per comparison.

    table: a row for each encoder and comparison, with knn (0 to 1), mean, low and high.
    """
    figure, ax = plt.subplots(figsize=(7.5, 4), layout="constrained")
    ax.axhline(0, color="0.6", linewidth=1)
    for i, (comparison, rows) in enumerate(table.groupby("comparison", sort=False)):
        rows = rows.sort_values("knn")
        spread = rows["mean"] - rows["low"], rows["high"] - rows["mean"]
        places = 100 * rows["knn"] + 0.4 * i  # side by side
        ax.errorbar(places, rows["mean"], spread, color=DATASETS[i], marker="osD^"[i], capsize=3, label=comparison)
    ax.set(xlabel="20-NN accuracy of the encoder's features (%)", ylabel="points of accuracy")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    ax.set_title(title)
    return figure


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


def ratios(table: pd.DataFrame, title: str) -> Figure:
    """How many times as fast as another library each job is, with the target, a group of bars for each pool of features."""
    pools = list(table["features"].unique())
    figure, axes = plt.subplots(1, len(pools), figsize=(10, 3.4), sharey=True, sharex=True, layout="constrained")
    for ax, pool in zip(np.atleast_1d(axes), pools, strict=True):
        part = table[table["features"] == pool]
        places = np.arange(len(part))
        ax.barh(places, part["times"], color="#0072B2", height=0.6)
        for place, row in zip(places, part.itertuples(), strict=True):
            ax.annotate(
                _times(row), (max(row.times, row.target), place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8
            )
        ax.vlines(part["target"], places - 0.42, places + 0.42, color="#D55E00", lw=2.5, label="target")
        ax.axvline(1, color="0.6", lw=0.8)
        ax.set(xscale="log", xlabel="times as fast", title=pool, yticks=places, yticklabels=part["job"])
        ax.xaxis.set_major_formatter("{x:g}×")
        ax.set_xlim(0.5, 20 * max(table["times"].max(), table["target"].max()))
    np.atleast_1d(axes)[0].invert_yaxis()
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper right", frameon=False)
    figure.suptitle(title)
    sns.despine(figure)
    return figure


def _times(row: Any) -> str:
    return f"{row.times:.2g}× ({_duration(row.ours)} against {_duration(row.theirs)})"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def growth(by_points: pd.DataFrame, by_budget: pd.DataFrame, slopes: tuple[float, float], title: str) -> Figure:
    """Seconds of a query against the points of the pool and against the budget, both axes logarithmic, with the fitted slopes."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for ax, table, column, slope in zip(axes, (by_points, by_budget), ("points", "budget"), slopes, strict=True):
        ax.plot(table[column], table["seconds"], "o-", color="#0072B2")
        middle = np.exp(np.log(table[[column, "seconds"]]).mean())
        ax.plot(table[column], middle["seconds"] * (table[column] / middle[column]) ** slope, "--", color="0.5", lw=1)
        for x, y in zip(table[column], table["seconds"], strict=True):
            ax.annotate(_duration(y), (x, y), textcoords="offset points", xytext=(-4, 6), ha="right", fontsize=8)
        ax.set(xscale="log", yscale="log", ylabel="seconds")
        ax.margins(0.15)
    axes[0].set(xlabel=f"points (budget {by_points['budget'].iloc[0]})", title=f"grows as points$^{{{slopes[0]:.2f}}}$")
    axes[1].set(xlabel=f"budget ({by_budget['points'].iloc[0]:,} points)", title=f"grows as budget$^{{{slopes[1]:.2f}}}$")
    figure.suptitle(title)
    sns.despine(figure)
    return figure
