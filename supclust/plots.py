"""Every figure of the notebooks, in one style: a strategy has one colour everywhere, and colours can be told apart by everyone."""

from __future__ import annotations

import io
import itertools
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import DisplayHandle
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, StrMethodFormatter
from PIL import Image
from sklearn.isotonic import isotonic_regression
from sklearn.manifold import TSNE
from sklearn.metrics import pairwise_distances_argmin

from supclust import analysis, budgets, kept
from supclust.engine import geometry
from supclust.features import Features
from supclust.profiles import TITLES, Profile
from supclust.strategies import LABELS, LATER

STYLES = {  # colour (Okabe and Ito's; uncertainty strategies are one family of purples), marker, line
    "random": ("#666666", "o", ":"),
    "margin": ("#4B2E83", "<", "--"),
    "least-confidence": ("#7B5EA7", ">", "-."),
    "entropy": ("#9C8AC0", "h", "--"),
    "bald": ("#8C7F99", "p", "-."),
    "dbal": ("#B5A3C9", "d", (0, (4, 1, 1, 1, 1, 1))),
    "coreset": ("#E69F00", "P", "-"),
    "probcover": ("#56B4E9", "X", "-"),
    "typiclust": ("#0072B2", "s", "-"),
    "supclust": ("#D55E00", "D", "-"),
    "supclust-no-sup": ("#009E73", "^", "--"),
    "supclust-no-typicality": ("#CC79A7", "v", "--"),
    "class-balanced": ("#000000", "*", (0, (7, 2, 1, 2))),
    budgets.DIVERSE: ("#8B5A2B", (7, 0, 0), "-"),
}
LATER_COLORS = ("#332288", "#117733", "#44AA99", "#882255", "#DDCC77", "#88CCEE", "#AA4499")  # Paul Tol's
LATER_MARKERS = ("8", "H", (5, 1, 0), (4, 1, 0), (6, 1, 0), (4, 1, 45), (3, 1, 0))  # the tuples: stars of that many points
STYLES |= {name: (*look, "-.") for name, *look in zip(LATER, LATER_COLORS, LATER_MARKERS, strict=True)}
HIGHLIGHTED = ("random", "coreset", "typiclust", "supclust", "supclust-no-sup")  # stand out where there are more than these five
VERDICTS = {"supported": ("#0072B2", "o"), "contradicted": ("#D55E00", "X"), "inconclusive": ("#999999", "d")}
UNITS = {"points": "points of accuracy", "rho": "Spearman's ρ", "distance": "distance"}
SETTINGS = {
    "relative_temperature": "T of SUP, in mean\ndistances of centres",
    "top_fraction": "share of a cluster that is typical",
    "n_neighbors": "neighbours K of typicality",
    "max_clusters": "cap on the clusters",
    "squared": "squared distances in typicality",
    "radius": "ProbCover: radius\n(None: by purity)",
}
NARROW = sns.plotting_context("paper")  # of figures 8 inches wide: a page has 800 pixels for them, so 8 points are 11 pixels
CLASS_COLORS = sns.color_palette("colorblind", 10)  # of classes
CLUSTER_COLORS = CLASS_COLORS[3:] + CLASS_COLORS[:3]  # in another order: cluster 3 is not class 3
DATASETS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # where lines are data sets


def set_style() -> None:
    """Set the look of all figures."""
    look = {
        "figure.dpi": 100,
        "savefig.dpi": 125,
        "axes.titleweight": "bold",
        "figure.titleweight": "bold",
        "legend.frameon": False,
    }
    sns.set_theme(style="ticks", rc=look | {"axes.spines.top": False, "axes.spines.right": False, "pdf.fonttype": 42})


def save(figure: Figure, name: str, profile: str) -> None:
    """Write figures/<profile>/<name>.pdf and .png, the profile's name in a corner."""
    figure.text(1, -0.02, f"profile {profile}", ha="right", va="top", fontsize=7, color="0.5")
    write(figure, kept.figures(profile) / name)


def write(figure: Figure, path: Path) -> None:
    """Write path.pdf and path.png; the PDF holds no date, so it is byte-stable."""
    for ending, metadata in ((".pdf", {"CreationDate": None, "ModDate": None}), (".png", {"Software": None})):
        with kept.replacing(path.with_name(path.name + ending)) as temporary:
            figure.savefig(temporary, format=ending[1:], bbox_inches="tight", metadata=metadata)


def save_animation(draw: Callable[[int], Figure], n_frames: int, name: str, profile: str) -> None:
    """Write figures/<profile>/<name>.gif of the figures that draw(0), draw(1) ... return; the last one stays twice as long."""
    frames = []
    for number in range(n_frames):
        figure, buffer = draw(number), io.BytesIO()
        figure.text(1, 0, f"profile {profile}", ha="right", va="bottom", fontsize=7, color="0.5")
        figure.savefig(buffer, format="png", dpi=90)
        plt.close(figure)
        frames.append(Image.open(buffer).convert("P", palette=Image.Palette.ADAPTIVE, colors=64))
    rest = {"append_images": frames[1:], "duration": [1200] * (n_frames - 1) + [2400], "loop": 0, "optimize": True}
    with kept.replacing(kept.figures(profile) / f"{name}.gif") as temporary:
        frames[0].save(temporary, "GIF", save_all=True, **rest)


def _finish(figure: Figure, title: str, columns: int = 5) -> Figure:
    """The figure with a title and one legend below for all axes, each label once."""
    known = {label: handle for ax in figure.axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=columns, handlelength=3)
    return _title(figure, title)


def _title(figure: Figure, title: str) -> Figure:
    figure.suptitle(title if figure.axes else f"{title}: not run yet")
    return figure


def _grid(rows: Sequence[Sequence[Any]], heights: Sequence[float], width: float) -> tuple[Figure, dict[Any, list[Axes]]]:
    """A figure with a column of axes of these heights, in inches, for each key of each row."""
    columns, size = max(map(len, rows), default=1), len(heights)
    figure = plt.figure(figsize=(1 + width * columns, 0.6 + len(rows) * sum(heights)), layout="constrained")
    cells = rows and figure.add_gridspec(len(rows) * size, columns, height_ratios=[*heights] * len(rows))
    places = {key: [(size * i + k, j) for k in range(size)] for i, row in enumerate(rows) for j, key in enumerate(row)}
    return figure, {key: [figure.add_subplot(cells[place]) for place in column] for key, column in places.items()}


def training(history: Sequence[Mapping[str, Any]], title: str = "") -> Figure:
    """Loss and kNN accuracy of SimCLR, epoch by epoch."""
    table = pd.DataFrame(history, columns=["epoch", "loss", "knn"]).astype(float).assign(knn=lambda rows: 100 * rows["knn"])
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    left.plot("epoch", "loss", data=table, color="0.2")
    left.set(xlabel="epoch", ylabel="NT-Xent loss", title="Loss")
    right.plot("epoch", "knn", data=table.dropna(), color="0.2", marker="o")
    right.set(xlabel="epoch", ylabel="20-NN accuracy (%)", title="Neighbours that agree")
    figure.suptitle(title)
    return figure


class LiveTraining:
    """Draws `training` anew in a notebook after each epoch: pass it to simclr.train as on_epoch."""

    handle: DisplayHandle | None = None

    def __call__(self, history: Sequence[Mapping[str, Any]]) -> None:
        figure, first = training(history), self.handle is None
        plt.close(figure)  # shown below, once
        self.handle = self.handle or DisplayHandle()
        (self.handle.display if first else self.handle.update)(figure)


@dataclass(frozen=True)
class Maps:
    """Some points of a pool in the plane: indices (m,) of the points, and by method their places (m, 2)."""

    indices: np.ndarray
    places: Mapping[str, np.ndarray]

    def place(self, features: np.ndarray, points: np.ndarray, method: str = "UMAP") -> np.ndarray:
        """Places (B, 2) on a map of points (B,) of the features (n, d), or of the nearest ones that are drawn."""
        drawn, wanted = (geometry.normalise(features[some]) for some in (self.indices, points))
        return self.places[method][pairwise_distances_argmin(wanted, drawn)]


def embedding_maps(profile: Profile, features: Features, *, recompute: bool = False, seed: int = 0) -> Maps:
    """The pool's features by t-SNE and UMAP; kept as embedding-<seed>.safetensors, because they differ from machine to machine."""
    name, made_from = f"embedding-{seed}.safetensors", {"features": features.checksum}
    make = partial(make_maps, features.train, profile.embedding_points, seed)
    arrays = kept.read_or_make(profile.name, name, made_from, make, recompute=recompute)
    return Maps(arrays["indices"], {method: arrays[method] for method in ("t-SNE", "UMAP")})


def make_maps(features: np.ndarray, n_points: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Indices (m,) of at most n_points of the features (n, d), drawn at random, and their "t-SNE" and "UMAP" (m, 2) float32."""
    import umap  # takes seconds, and most users never need it

    indices = np.sort(np.random.default_rng(seed).choice(len(features), min(n_points, len(features)), replace=False))
    points = geometry.normalise(features[indices])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of umap, about its own seed and threads
        tsne = TSNE(init="pca", perplexity=30, random_state=seed).fit_transform(points)
        return {"indices": indices, "t-SNE": tsne, "UMAP": umap.UMAP(random_state=seed).fit_transform(points)}


def embedding(maps: Maps, labels: np.ndarray, classes: Sequence[str], assignments: np.ndarray, title: str) -> Figure:
    """Figure 2: each map coloured by the classes (n,) of the pool's points and by their k-means clusters (n,)."""
    clusters = range(1, assignments.max() + 2)  # the first is called 1
    looks = {"class": (labels, CLASS_COLORS, classes), "k-means cluster": (assignments, CLUSTER_COLORS, clusters)}
    figure, grid = _grid([[(by, method) for method in maps.places] for by in looks], (4.1,), 4.6)
    for (by, method), (ax,) in grid.items():
        groups, palette, names = looks[by]
        _scatter_groups(ax, maps.places[method], groups[maps.indices], palette, names)
        ax.set_title(f"{method}, coloured by {by}")
    figure.suptitle(title)
    return figure


def _scatter_groups(ax: Axes, points: np.ndarray, groups: np.ndarray, palette: Sequence, names: Sequence = ()) -> None:
    """Points in the colour of their group, the group's name at its median; faint where groups have no names."""
    colors = np.array(palette)[groups % len(palette)]
    ax.scatter(*points.T, s=5, c=colors, alpha=0.6 if names else 0.25, linewidths=0, rasterized=True)
    box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
    for k in np.unique(groups) if names else ():
        ax.text(*np.median(points[groups == k], axis=0), names[k], ha="center", va="center", fontsize=9, bbox=box)
    ax.set_axis_off()


def queries(
    maps: Maps, assignments: np.ndarray, picks: Mapping[str, np.ndarray], gaps: Mapping[str, np.ndarray], title: str
) -> Figure:
    """Figure 3: each strategy's picks (B, 2) on the UMAP, and their gaps (B,); entry b of each belongs to the same cluster."""
    figure, axes = plt.subplots(1, len(picks) + 1, figsize=(15, 5), width_ratios=[1] * len(picks) + [0.9], layout="constrained")
    for ax, (strategy, places) in zip(axes, picks.items(), strict=False):
        _draw_picks(ax, maps, assignments, [places], strategy)
    distances = pd.DataFrame(gaps).sort_values(next(iter(gaps)), ignore_index=True)  # so that the shift is seen at once
    axes[-1].hlines(distances.index, distances.min(axis=1), distances.max(axis=1), color="0.75", zorder=1)
    for strategy, values in distances.items():
        color, marker, _ = STYLES[strategy]
        axes[-1].scatter(values, distances.index, color=color, marker=marker, s=55, label=LABELS[strategy])
    axes[-1].set(yticks=[], ylabel="queried cluster", title="How near to other clusters")
    axes[-1].set_xlabel("distance to the nearest other centre\n← nearer to the boundary")
    axes[-1].legend(loc="lower right")
    figure.suptitle(title)
    return figure


def query_round(maps: Maps, groups: np.ndarray, rounds: Mapping[str, Sequence[np.ndarray]], number: int) -> Figure:
    """One frame of the animation: each strategy's picks (B, 2) up to round `number`, on the UMAP in the colours of groups (n,)."""
    figure, axes = plt.subplots(1, len(rounds), figsize=(10, 5.2), layout="constrained")
    for ax, (strategy, places) in zip(axes, rounds.items(), strict=True):
        _draw_picks(ax, maps, groups, places[: number + 1], strategy)
    labeled = sum(map(len, places[: number + 1]))
    figure.suptitle(f"Round {number + 1}: {labeled} labels")
    return figure


def _draw_picks(ax: Axes, maps: Maps, groups: np.ndarray, rounds: Sequence[np.ndarray], strategy: str) -> None:
    _scatter_groups(ax, maps.places["UMAP"], groups[maps.indices], CLUSTER_COLORS)
    color, marker, _ = STYLES[strategy]
    for age, places in enumerate(reversed(rounds)):
        style = {"s": 40, "alpha": 0.75, "linewidths": 0.7, "zorder": 3} if age else {"s": 110, "linewidths": 1.5, "zorder": 4}
        ax.scatter(*places.T, color=color, marker=marker, edgecolors="white", **style)
    ax.set_title(LABELS[strategy], color=color)


def thumbnails(images: Mapping[str, np.ndarray], captions: Mapping[str, Sequence[str]]) -> Figure:
    """The queried images uint8 (B, 3, height, width) of each strategy and their captions (B,), a row each."""
    width = len(next(iter(images.values())))
    figure, axes = plt.subplots(len(images), width, figsize=(1.1 * width, 1.5 * len(images)), layout="constrained", squeeze=False)
    for row, (strategy, pictures) in zip(axes, images.items(), strict=True):
        for ax, picture, caption in zip(row, pictures, captions[strategy], strict=True):
            ax.imshow(picture.transpose(1, 2, 0), interpolation="nearest")
            ax.set_title(caption, fontsize=8, fontweight="normal")
            ax.set_axis_off()
        row[0].text(-0.15, 0.5, LABELS[strategy], transform=row[0].transAxes, rotation=90, ha="right", va="center")
    return figure


def sup_against_typicality(
    typicality: np.ndarray, sup: np.ndarray, assignments: np.ndarray, correlation: analysis.Correlation, seed: int = 0
) -> Figure:
    """Figure 4: scatter of the two scores (n,) with their distributions, coloured by cluster (n,)."""
    shown = np.random.default_rng(seed).permutation(len(sup))[:5_000]  # a scatter of more is a blot
    colors = np.array(CLUSTER_COLORS)[assignments[shown] % len(CLUSTER_COLORS)]
    grid = sns.JointGrid(x=typicality[shown], y=sup[shown], height=6, ratio=6)
    grid.ax_joint.scatter(typicality[shown], sup[shown], c=colors, s=7, alpha=0.6, linewidths=0, rasterized=True)
    grid.ax_joint.set_xscale("log")  # images that are in the set more than once are very typical
    grid.plot_marginals(sns.histplot, color="0.6", element="step", bins=50)
    ticks = {"major_locator": LogLocator(subs=(1, 2, 3, 5)), "major_formatter": StrMethodFormatter("{x:g}")}
    grid.ax_joint.xaxis.set(**ticks, minor_formatter=NullFormatter())
    grid.set_axis_labels("typicality (Eq. 1)", "SUP (Eq. 3), larger = nearer to the boundary")
    low, high = np.nanmin(correlation.per_cluster), np.nanmax(correlation.per_cluster)
    text = f"Spearman's ρ\nall points: {correlation.overall:.2f}\nwithin clusters: {low:.2f} to {high:.2f}"
    grid.ax_joint.legend([], title=text, title_fontsize=10, loc="upper right", frameon=True)
    return grid.figure


@NARROW
def curves(table: pd.DataFrame, strategies: Sequence[str], reference: str, title: str) -> Figure:
    """Figure 5: accuracy against labels with 95 % intervals over seeds, and below it the paired difference to `reference`.

    table: as sweep.run gives it. A framework starts a row of panels. Of more than five strategies the highlighted ones stand out,
    and only they have bands.
    """
    width = 3.6 if table["dataset"].nunique() == 1 else 1.75
    figure, panels = _panels(table, strategies, "accuracy", heights=(2, 1.7), width=width)
    for (above, below), values in panels.values():
        _draw_lines(above, values)
        below.axhline(0, color=STYLES[reference][0], linewidth=1.5, zorder=1)
        _draw_lines(below, values.sub(values[reference], axis=0).assign(**{reference: np.nan}))
        above.tick_params(labelbottom=False)
        below.sharex(above)
        below.set_xlabel("labels")
        if above.get_subplotspec().is_first_col():
            above.set_ylabel("test accuracy (%)")
            below.set_ylabel(f"points above\n{LABELS[reference]}")
    _share_y(panels)
    return _finish(figure, title, columns=4 if len(panels) > 1 else 2)  # not wider than the figure


@NARROW
def results(table: pd.DataFrame, strategies: Sequence[str], title: str) -> Figure:
    """Figure 6: accuracy against labels; highlighted strategies have 95 % intervals over seeds and names, the others are grey.

    table: as sweep.run gives it. Dashed: the oracle's accuracy in the last round, at the edge of the panel where it lies outside.
    """
    figure, panels = _panels(table, [*strategies, "class-balanced"], "accuracy", heights=(2.2,), width=3.5, columns=2)
    for (ax,), values in panels.values():
        means = values.groupby("labels").mean()
        _draw_lines(ax, values[[name for name in strategies if name in HIGHLIGHTED]])
        ax.plot(means.drop(columns=[*HIGHLIGHTED, "class-balanced"], errors="ignore"), color="0.75", linewidth=0.8, zorder=1)
        ax.set_ylabel("test accuracy (%)" if ax.get_subplotspec().is_first_col() else "")
        ax.set_xlabel("labels" if ax.get_subplotspec().is_last_row() else "")
    _share_y(panels)
    for (ax,), values in panels.values():
        ends, (low, high) = values.groupby("labels").mean().iloc[-1].dropna(), ax.get_ylim()
        oracle = ends.get("class-balanced", np.nan)
        ax.axhline(np.clip(oracle, low, high), color="black", linestyle="--", linewidth=1)
        text = f"{'↑ ' if oracle > high else '↓ ' if oracle < low else ''}oracle {oracle:.0f} %"
        _name_ends(ax, ends[ends.index.isin([*HIGHLIGHTED, "class-balanced"])].clip(low, high), {"class-balanced": text})
    return _title(figure, title)


def _share_y(panels: Mapping[tuple, tuple[Sequence[Axes], pd.DataFrame]]) -> None:
    """One scale, with few round ticks, for the panels of a data set."""
    for key in {panel[:2] for panel in panels}:
        for axes in zip(*(axes for panel, (axes, _) in panels.items() if panel[:2] == key), strict=True):
            limits = np.array([ax.get_ylim() for ax in axes])
            for ax in axes:
                ax.set_ylim(limits[:, 0].min(), limits[:, 1].max())
                ax.locator_params(axis="y", nbins=6, steps=[1, 2, 5, 10])


def _name_ends(ax: Axes, ends: pd.Series, names: Mapping[str, str] = LABELS) -> None:
    """The names of lines that end at these heights, by strategy, beside the axes and as near to the ends as they can be read."""
    ends, (low, high) = ends.sort_values(), ax.get_ylim()
    gaps = 0.085 * (high - low) * np.arange(len(ends))
    places = isotonic_regression(ends - gaps, y_min=low, y_max=high - gaps[-1]) + gaps
    for (name, end), place in zip(ends.items(), places, strict=True):
        style = {"color": STYLES[name][0], "va": "center", **dict.fromkeys(("xycoords", "textcoords"), ("axes fraction", "data"))}
        style["arrowprops"] = {"arrowstyle": "-", "color": STYLES[name][0], "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0}
        ax.annotate(names.get(name, LABELS[name]).removeprefix("SUPClust "), (0.97, end), (1.03, place), **style)


@NARROW
def seeds(table: pd.DataFrame, strategies: Sequence[str], reference: str, title: str) -> Figure:
    """The lead of each strategy over the reference in points, paired and averaged over the rounds: a dot a seed, a bar the mean.

    table: as sweep.run gives it; a row of panels for each framework, on the scale of the one above it.
    """
    known = table[analysis.PANEL].drop_duplicates()
    rows = [list(part.itertuples(index=False, name=None)) for _, part in known.groupby("framework", sort=False)]
    figure, grid = _grid(rows, (2.3,), width=7 / max(map(len, rows), default=1))
    top: dict[tuple, Axes] = {}
    for panel, (ax,) in grid.items():
        part = analysis.panel_of(table, panel).groupby("strategy")
        curve = {name: analysis.by_round(part.get_group(name)) for name in [*strategies, reference] if name in part.groups}
        leads = pd.DataFrame({name: analysis.seed_differences(one, curve[reference]) for name, one in curve.items()})
        for name, column in leads.drop(columns=reference).items():
            y, color = strategies.index(name), STYLES[name][0]
            ax.scatter(column, [y] * len(column), s=9, color=color, alpha=0.5)
            ax.scatter(column.mean(), y, marker="|", s=110, linewidths=2, color=color)
        ax.axvline(0, color=STYLES[reference][0], linewidth=1)
        name, size = TITLES.get(panel[0], panel[0]).replace(" ", "\n", 1), f"{panel[2]}, n = {len(leads)}"
        ax.set_title(f"{name}\n{size}", fontsize=8)
        ax.sharex(top.setdefault((panel[0], panel[2]), ax))
        ax.set_ylim(len(strategies) - 0.5, -0.5)
        ax.set_yticks(range(len(strategies)), [LABELS[name] for name in strategies])
        ax.set_ylabel(panel[1].upper(), fontweight="bold")
        ax.label_outer(remove_inner_ticks=False)
        ax.tick_params(labelbottom=True)
        ax.locator_params(axis="x", nbins=4, steps=[1, 2, 5, 10])
    _title(figure, title)
    figure.supxlabel(f"points of accuracy above {LABELS[reference]}", fontsize="medium")
    return figure


@NARROW
def class_coverage(table: pd.DataFrame, strategies: Sequence[str], title: str, n_classes: Mapping) -> Figure:
    """Number of classes with a label, against labels, with 95 % intervals over seeds; dashed: all of a data set's n_classes."""
    figure, panels = _panels(table, strategies, "classes", heights=(2.2,), width=3.5, columns=2)
    for (dataset, *_), ((ax,), values) in panels.items():
        _draw_lines(ax, values)
        ax.axhline(n_classes[dataset], color="0.5", linestyle="--", linewidth=1, zorder=1)
        ax.set_ylim(top=n_classes[dataset] + 0.05 * np.ptp(ax.get_ylim()))
        ax.set(xlabel="labels", ylabel="classes with a label" if ax.get_subplotspec().is_first_col() else "")
        _name_ends(ax, values.groupby("labels").mean().iloc[-1].dropna())
    return _title(figure, title)


def _panels(
    table: pd.DataFrame, strategies: Sequence[str], measure: str, heights: Sequence[float], width: float = 3.6, columns: int = 0
) -> tuple[Figure, dict]:
    """A figure, and by panel its axes and the measure: a row for each seed and number of labels, a column for each strategy."""
    table = table.dropna(subset=[measure])
    known = list(table[analysis.PANEL].drop_duplicates().itertuples(index=False, name=None))
    groups = [[panel for panel in known if panel[1] == framework] for framework in table["framework"].unique()]
    lengths = [columns or (3 if len(group) in (5, 6) else 4) for group in groups]  # rows of about one length
    rows = [group[i : i + n] for group, n in zip(groups, lengths, strict=True) for i in range(0, len(group), n)]
    figure, grid = _grid(rows, heights, width)
    panels = {}
    for (dataset, framework, budget), axes in grid.items():
        size = f"{budget} labels a round" if budget.isdecimal() else f"{budget} budget"
        title = (dataset, framework, budget) if len(groups) > 1 else (dataset, "", size)
        axes[0].set_title(analysis.panel_title(*title).replace(", ", "\n" if width < 3 else ", ", 1), fontsize=9)
        part = analysis.panel_of(table, (dataset, framework, budget))
        values = analysis.units(measure) * part.pivot(index=["seed", "labels"], columns="strategy", values=measure)
        panels[dataset, framework, budget] = axes, values.reindex(columns=strategies)
    return figure, panels


def _draw_lines(ax: Axes, values: pd.DataFrame) -> None:
    """Mean over the seeds, against labels: a line for each strategy, with a 95 % interval if it stands out, as all of a few do."""
    for strategy, column in values.dropna(axis=1, how="all").items():
        color, marker, line = STYLES[strategy]
        stands_out = values.shape[1] <= len(HIGHLIGHTED) or strategy in HIGHLIGHTED or strategy not in LABELS
        width, size, order = (1.8, 4, 3) if stands_out else (1, 3, 2)
        style = {"color": color, "marker": marker, "linestyle": line, "linewidth": width, "markersize": size, "mec": color}
        style |= {"zorder": order, "label": LABELS.get(strategy, strategy)}
        style |= {"err_kws": {"alpha": 0.15, "linewidth": 0, "zorder": 1}}
        rows, interval = column.dropna().rename("value").reset_index(), lambda some: analysis.mean_interval(some)[1:]
        sns.lineplot(rows, x="labels", y="value", errorbar=interval if stands_out else None, legend=False, ax=ax, **style)
    ax.set(xlabel="", ylabel="")
    # With two or three seeds intervals are so wide that the means would lie on one line: the axis then ends before they do. And
    # the oracle, which no strategy is near where the test images are imbalanced, may lie outside.
    means = np.concatenate([line.get_ydata() for line in ax.get_lines() if line.get_label() != LABELS["class-balanced"]])
    low, high, (bottom, top) = means.min(), means.max(), ax.get_ylim()
    if high > low:
        ax.set_ylim(max(bottom, 2 * low - high), min(top, 2 * high - low))


@NARROW
def win_matrix(matrix: pd.DataFrame, title: str) -> Figure:
    """analysis.win_matrix as a heat map, in per cent, the strategy that wins most on top, with the mean of each row."""
    order = matrix.mean(axis=1).sort_values(ascending=False, kind="stable").index
    shares = 100 * matrix.loc[order, order].mask(np.eye(len(order), dtype=bool)).rename(index=LABELS, columns=LABELS)
    side = 2 + 0.5 * len(order)
    figure, ax = plt.subplots(figsize=(side + 1, side - 0.5), layout="constrained")
    style = {"vmin": 0, "vmax": 100, "cmap": "Blues", "cbar": False, "annot": True, "fmt": ".0f", "linewidths": 1}
    sns.heatmap(shares.assign(mean=shares.mean(axis=1)), ax=ax, **style)
    ax.axvline(len(order), color="white", linewidth=8)  # sets the means apart
    ax.set(ylabel="this strategy ...", xlabel="... is clearly better than this one (% of panels and rounds)", title=title)
    ax.tick_params(length=0, rotation=0)
    plt.setp(ax.get_xticklabels(), rotation=40, ha="right", rotation_mode="anchor")
    return figure


def forest(comparisons: pd.DataFrame, title: str) -> Figure:
    """A dot and a 95 % interval for each comparison, an axes for each claim, in the colour of its verdict.

    comparisons: as claims.as_table gives them; those that do not count are left out. A row holds all panels of one comparison, or
    one panel where the claim has one comparison only.
    """
    shown = comparisons[comparisons["counts"] & comparisons["verdict"].isin(list(VERDICTS))]
    parts = [rows for _, rows in shown.groupby("claim", sort=False)]
    parts = [rows.assign(row=rows["what" if rows["what"].nunique() > 1 else "panel"]) for rows in parts]
    heights = [0.9 + sum(0.1 + max(0.2, 0.115 * size) for size in rows["row"].value_counts()) for rows in parts]  # inches
    figure = plt.figure(figsize=(8.5, 0.9 + sum(heights)), layout="constrained")
    for cell, rows in zip(figure.add_gridspec(max(1, len(parts)), height_ratios=heights or None), parts, strict=False):
        _draw_claim(figure.add_subplot(cell), rows)
    return _finish(figure, title, columns=2)


def _draw_claim(ax: Axes, rows: pd.DataFrame) -> None:
    names, groups = list(rows["row"].unique()), rows.groupby("row", sort=False)
    rows = rows.assign(y=groups.ngroup() + 0.85 * ((groups.cumcount() + 0.5) / groups["row"].transform("size") - 0.5))
    for verdict, (color, marker) in VERDICTS.items():
        part = rows[rows["verdict"] == verdict]
        ax.hlines("y", "low", "high", data=part[np.isfinite(part["low"])], color=color, linewidth=1.2, label="_")
        ax.scatter("mean", "y", data=part, s=12 if len(rows) > 12 else 36, color=color, marker=marker, zorder=3, label=verdict)
    ax.axvline(0, color="0.3", linewidth=1)
    ax.set(xlim=ax.get_xlim(), ylim=(len(names) - 0.4, -0.6))
    for i, expected in enumerate(rows.drop_duplicates("row")["expected"]):
        margin = float(expected.partition("±")[2] or 0)
        where = (-margin, margin) if margin else (0, 1e9) if expected.startswith(">") else (-1e9, 0)
        style = {"color": "#56B4E9", "alpha": 0.15, "linewidth": 0, "zorder": 0, "label": "where the claim puts it"}
        ax.fill_between(where, i - 0.5, i + 0.5, **style)
    for one in rows[rows["row"] != rows["panel"]].itertuples():  # where a row holds several panels
        ax.text(1.01, one.y, one.panel, transform=ax.get_yaxis_transform(), va="center", fontsize=6, color="0.3")
    ax.set_yticks(range(len(names)), [textwrap.fill(name, 36) for name in names])
    ax.tick_params(labelsize=8)
    ax.set_title(rows["claim"].iloc[0], loc="left", fontsize=10)
    ax.set_xlabel(UNITS[rows["unit"].iloc[0]], fontsize=8)


@NARROW
def sensitivity(table: pd.DataFrame, defaults: Mapping[str, Any], rival: pd.DataFrame, title: str) -> Figure:
    """The effect of each setting: points of accuracy against its default (marked), with 95 % intervals, a panel for each setting.

    table: as sensitivity.differences gives it. rival: rows with dataset, strategy, and the mean by which the one in the column
    rival is ahead of that strategy's default, a line for settings to reach.
    """
    looks = dict(zip(table["dataset"].unique(), itertools.cycle(zip(DATASETS, "osD^", strict=True)), strict=False))
    settings = list(table["setting"].unique())
    figure, grid = _grid([settings[i : i + 3] for i in range(0, len(settings), 3)], (2.2,), width=7 / 3)
    for setting, (ax,) in grid.items():
        part = table[table["setting"] == setting]
        values = list(part["value"].unique())
        ax.axhline(0, color="0.6", linewidth=1, zorder=1)
        for i, (dataset, rows) in enumerate(part.groupby("dataset", sort=False)):
            color, marker = looks[dataset]
            style = {"color": color, "fmt": marker, "markersize": 5, "capsize": 2, "label": TITLES.get(dataset, dataset)}
            places, spread = np.arange(len(rows)) + 0.2 * (i - 0.5), (rows["mean"] - rows["low"], rows["high"] - rows["mean"])
            ax.errorbar(places, rows["mean"], spread, **style)
        for row in rival[rival["strategy"].isin(part["strategy"])].itertuples():
            label = f"{LABELS[row.rival]}, {TITLES.get(row.dataset, row.dataset)}"
            ax.axhline(row.mean, color=looks[row.dataset][0], linewidth=1.2, linestyle=(0, (5, 3)), label=label)
        marks = [f"{value}\ndefault" if value == defaults[setting] else f"{value}" for value in values]
        ax.set_xticks(range(len(values)), marks)
        low, high = ax.get_ylim()
        ax.set(xlim=(-0.5, len(values) - 0.5), ylim=(min(low, -6), max(high, 6)), title=SETTINGS.get(setting, setting))
        ax.set_ylabel("points above the default" if ax.get_subplotspec().is_first_col() else "")
    return _finish(figure, title, columns=4)


def growing_budgets(table: pd.DataFrame, title: str) -> Figure:
    """budgets.table, a panel for each data set: lead over Random, paired by seed, and accuracy below it, with 95 % intervals."""
    figure, panels = _panels(table.assign(budget="single-query"), list(budgets.QUERIES), "accuracy", heights=(3.8, 2.8))
    for (dataset, *_), ((above, below), values) in panels.items():
        above.axhline(0, color=STYLES["random"][0], linewidth=1.5, zorder=1)
        _draw_lines(above, values.sub(values["random"], axis=0).assign(random=np.nan))
        _draw_lines(below, values)
        above.set_title(TITLES.get(dataset, dataset), fontsize=12)
        above.set_ylabel("points above Random" if above.get_subplotspec().is_first_col() else "")
        below.set(xlabel="labels", ylabel="test accuracy (%)" if below.get_subplotspec().is_first_col() else "")
        below.sharex(above)
        _logarithmic(above)
        above.tick_params(labelbottom=False)
    return _finish(figure, title, columns=3 if len(panels) > 1 else 2)


def criteria(effects: pd.DataFrame, title: str) -> Figure:
    """A row of panels for each data set, a panel for each criterion: its effect (mean, low, high) in points against the budget.

    Filled markers: the interval is clear of zero.
    """
    names, datasets = effects["criterion"].unique(), effects["dataset"].unique()
    figure, grid = _grid([[(dataset, name) for name in names] for dataset in datasets], (2.6,), width=2.2)
    for i, ((dataset, name), (ax,)) in enumerate(grid.items()):
        rows = effects[(effects["dataset"] == dataset) & (effects["criterion"] == name)]
        color = CLASS_COLORS[3 if "sup" in name.lower() else i % len(names)]
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
