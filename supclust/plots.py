"""Every figure of the notebooks, in one style: a strategy has one colour everywhere, and colours can be told apart by everyone."""

import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from sklearn.isotonic import isotonic_regression
from sklearn.metrics import adjusted_rand_score

from supclust import analysis, kept
from supclust.analysis import Maps
from supclust.claims import BOUNDS
from supclust.profiles import TITLES
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
}
LATER_COLORS = ("#332288", "#117733", "#44AA99", "#882255", "#DDCC77", "#88CCEE", "#999933", "#AA4499")  # Paul Tol's
LATER_MARKERS = ("8", "H", (5, 1, 0), (4, 1, 0), (6, 1, 0), (4, 1, 45), (5, 1, 36), (3, 1, 0))  # tuples: stars
STYLES |= {name: (*look, "-.") for name, *look in zip(LATER, LATER_COLORS, LATER_MARKERS, strict=True)}
HIGHLIGHTED = ("random", "coreset", "typiclust", "supclust", "supclust-no-sup")  # stand out where there are more than these five
VERDICTS = {"supported": "#0072B2", "contradicted": "#D55E00", "open": "#999999"}
NARROW = sns.plotting_context("paper")  # of figures 8 inches wide: a page has 800 pixels for them, so 8 points are 11 pixels
CLASS_COLORS = [*sns.color_palette("colorblind", 7), *sns.color_palette(["#332288", "#882255", "#56B4E9"])]  # none grey or pale
CLUSTER_COLORS = CLASS_COLORS[3:] + CLASS_COLORS[:3]  # in another order: cluster 3 is not class 3
DATASETS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # where lines are data sets


def set_style() -> None:
    """Set the look of all figures."""
    look = {"figure.dpi": 100, "savefig.dpi": 125, "pdf.fonttype": 42, "legend.frameon": False}
    look |= {"axes.titleweight": "bold", "figure.titleweight": "bold", "axes.spines.top": False, "axes.spines.right": False}
    sns.set_theme(style="ticks", rc=look)


def save(figure: Figure, name: str, profile: str) -> None:
    """Write figures/<profile>/<name>.pdf and .png, which name the profile in their metadata."""
    write(figure, kept.figures(profile) / name, f"profile {profile}")


def write(figure: Figure, path: Path, about: str | None = None) -> None:
    """Write path.pdf and path.png; the PDF holds no date, so it is byte-stable. about: kept in their metadata."""
    pdf, png = {"CreationDate": None, "ModDate": None, "Subject": about}, {"Software": None, "Description": about}
    for ending, metadata in ((".pdf", pdf), (".png", png)):
        with kept.replacing(path.with_name(path.name + ending)) as temporary:
            figure.savefig(temporary, format=ending[1:], bbox_inches="tight", metadata=metadata)


def save_animation(draw: Callable[[int], Figure], n_frames: int, name: str, profile: str) -> None:
    """Write figures/<profile>/<name>.gif of the figures that draw(0), draw(1) ... return; the last one stays twice as long."""
    frames = []
    for number in range(n_frames):
        figure, buffer = draw(number), io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100)
        plt.close(figure)
        frames.append(Image.open(buffer).convert("P", palette=Image.Palette.ADAPTIVE, colors=64))
    rest = {"append_images": frames[1:], "duration": [1200] * (n_frames - 1) + [2400], "loop": 0, "optimize": True}
    with kept.replacing(kept.figures(profile) / f"{name}.gif") as temporary:
        frames[0].save(temporary, "GIF", save_all=True, comment=f"profile {profile}", **rest)


def finish(figure: Figure, title: str, columns: int = 5) -> Figure:
    """The figure with a title and one legend below for all axes, each label once."""
    known = {label: handle for ax in figure.axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=columns, handlelength=3)
    return titled(figure, title)


def titled(figure: Figure, title: str) -> Figure:
    """The figure with a title, which says so where there is nothing to show."""
    figure.suptitle(title if figure.axes else f"{title}: not run yet")
    return figure


def grid(rows: Sequence[Sequence[Any]], heights: Sequence[float], width: float) -> tuple[Figure, dict[Any, list[Axes]]]:
    """A figure with a column of axes of these heights, in inches, for each key of each row."""
    columns, size = max(map(len, rows), default=1), len(heights)
    figure = plt.figure(figsize=(1 + width * columns, 0.6 + len(rows) * sum(heights)), layout="constrained")
    cells = rows and figure.add_gridspec(len(rows) * size, columns, height_ratios=[*heights] * len(rows))
    places = {key: [(size * i + k, j) for k in range(size)] for i, row in enumerate(rows) for j, key in enumerate(row)}
    return figure, {key: [figure.add_subplot(cells[place]) for place in column] for key, column in places.items()}


def training(history: Sequence[Mapping[str, Any]], title: str = "") -> Figure:
    """Loss and kNN accuracy of SimCLR, epoch by epoch."""
    table = pd.DataFrame(history, columns=["epoch", "loss", "knn"]).astype(float).assign(knn=lambda rows: 100 * rows["knn"])
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    left.plot("epoch", "loss", data=table, color="0.2")
    left.set(xlabel="epoch", ylabel="NT-Xent loss", title="Loss")
    right.plot("epoch", "knn", data=table.dropna(), color="0.2", marker="o")
    right.set(xlabel="epoch", ylabel="20-NN accuracy (%)", title="20-NN accuracy, training images")
    return titled(figure, title)


def embedding(maps: Maps, labels: np.ndarray, classes: Sequence[str], assignments: np.ndarray, title: str) -> Figure:
    """Figure 2: each map in the colours of the classes (n,), and again, grey where most of the cluster (n,) is of another."""
    shares = pd.crosstab(assignments, labels, normalize="index")
    names = [f"{classes[k]} {share:.0%}" for k, share in zip(shares.idxmax(axis=1), shares.max(axis=1), strict=True)]
    pure, agreement = analysis.in_majority(labels, assignments), adjusted_rand_score(labels, assignments)
    figure, grid = plt.subplots(len(maps.places), 2, figsize=(8, 3.6 * len(maps.places)), layout="constrained", squeeze=False)
    box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
    looks = (labels, labels, classes), (np.where(pure, labels, -1), assignments, names)  # colours, groups, and their names
    for (method, points), row in zip(maps.places.items(), grid, strict=True):
        for ax, (colors, groups, texts) in zip(row, looks, strict=True):
            _scatter_groups(ax, points, colors[maps.indices], CLASS_COLORS)
            for k in np.unique(groups[maps.indices]):
                own = points[groups[maps.indices] == k]
                middle = own[np.linalg.norm(own - np.median(own, axis=0), axis=1).argmin()]
                ax.text(*middle, texts[k], ha="center", va="center", fontsize=8, bbox=box)
        row[0].set_title(f"{method}: classes", fontsize=11)
        row[1].set_title(f"{method}: clusters, purity {pure.mean():.0%}, ARI {agreement:.2f}", fontsize=11)
    return titled(figure, title)


def _scatter_groups(ax: Axes, points: np.ndarray, groups: np.ndarray, palette: Sequence, alpha: float = 0.6) -> None:
    """Points in the colour of their group, grey in group -1."""
    colors = np.array([*palette, (0.75, 0.75, 0.75)])[np.where(groups < 0, -1, groups % len(palette))]
    ax.scatter(*points.T, s=4, c=colors, alpha=alpha, linewidths=0, rasterized=True)
    ax.set_axis_off()


def queries(maps: Maps, assignments: np.ndarray, picks: Mapping[str, np.ndarray], gaps: pd.DataFrame, title: str) -> Figure:
    """Figure 3: an arrow from the first strategy's pick to the second's in each cluster, on the t-SNE; beside it their gaps.

    assignments (n,). picks: places (B, 2) by strategy. gaps: a column for each strategy, and the B clusters' names as its index.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 4.3), width_ratios=[1.3, 1], layout="constrained")
    _scatter_groups(left, maps.places["t-SNE"], assignments[maps.indices], CLUSTER_COLORS, 0.3)
    for name, start, end in zip(gaps.index, *picks.values(), strict=True):
        left.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "0.15", "shrinkA": 3, "shrinkB": 5}, zorder=3)
        side, align = (-7, "right") if start[0] < end[0] else (7, "left")  # away from the arrow
        left.annotate(name, start, (side, 0), textcoords="offset points", ha=align, va="center", fontsize=9, zorder=5)
    rows, heights = gaps.sort_values(next(iter(gaps))), range(len(gaps))  # sorted, so that the shift is seen at once
    right.hlines(heights, rows.min(axis=1), rows.max(axis=1), color="0.75", zorder=1)
    for strategy, values in rows.items():
        style = {"color": STYLES[strategy][0], "marker": STYLES[strategy][1], "s": 45, "label": LABELS[strategy]}
        left.scatter(*picks[strategy].T, edgecolors="white", linewidths=1, zorder=4, **style)
        right.scatter(values, heights, **style)
    right.set_xlabel("distance to the nearest other centre\n← nearer to other clusters", fontsize=10)
    right.set_yticks(heights, rows.index, fontsize=9)
    figure.legend(*right.get_legend_handles_labels(), loc="lower left", fontsize=10)
    return titled(figure, title)


def query_round(maps: Maps, groups: Sequence[np.ndarray], rounds: Mapping[str, Sequence[np.ndarray]], number: int) -> Figure:
    """One frame of the animation: each strategy's picks (B, 2) up to a round, on the t-SNE in the colours of its groups (n,)."""
    figure, axes = plt.subplots(1, len(rounds), figsize=(8, 4.3), layout="constrained")
    for ax, (strategy, places), own in zip(axes, rounds.items(), groups, strict=True):
        _scatter_groups(ax, maps.places["t-SNE"], own[maps.indices], CLUSTER_COLORS, 0.3)
        color, marker, _ = STYLES[strategy]
        for age, part in enumerate(reversed(places[: number + 1])):
            style = {"s": 25, "alpha": 0.75, "linewidths": 0.5, "zorder": 3} if age else {"s": 90, "linewidths": 1.5, "zorder": 4}
            ax.scatter(*part.T, color=color, marker=marker, edgecolors="white", **style)
        ax.set_title(LABELS[strategy], color=color)
    return titled(figure, f"Round {number + 1}: {sum(map(len, places[: number + 1]))} labels")


def thumbnails(images: Mapping[str, np.ndarray], captions: Mapping[str, Sequence[str]]) -> Figure:
    """The queried images uint8 (B, 3, height, width) of each strategy and their captions (B,), a row each."""
    rows, columns = len(images), len(next(iter(images.values())))
    figure, axes = plt.subplots(rows, columns, figsize=(8, (8 / columns + 0.2) * rows), layout="constrained", squeeze=False)
    for row, (strategy, pictures) in zip(axes, images.items(), strict=True):
        for ax, picture, caption in zip(row, pictures, captions[strategy], strict=True):
            ax.imshow(picture.transpose(1, 2, 0), interpolation="nearest")
            ax.set_title(caption, fontsize=8, fontweight="normal")
            ax.set_axis_off()
        row[0].text(-0.15, 0.5, LABELS.get(strategy, strategy), transform=row[0].transAxes, rotation=90, ha="right", va="center")
    return figure


def sup_against_typicality(
    typicality: np.ndarray, sup: np.ndarray, members: Mapping[str, np.ndarray], picks: Mapping[str, np.ndarray], title: str
) -> Figure:
    """Figure 4: SUP against typicality (n,), an axes for each cluster's members (m,), by title, with each strategy's picks (B,)."""
    n_rows = -(-len(members) // 5)
    figure, axes = plt.subplots(n_rows, 5, figsize=(8, 1 + 2 * n_rows), sharex=True, sharey=True, layout="constrained")
    for ax, (name, points) in zip(axes.flat, members.items(), strict=False):
        tenth = np.quantile(typicality[points], 0.9), typicality[points].max()
        ax.axvspan(*tenth, color=CLASS_COLORS[2], alpha=0.15, linewidth=0, label="most typical tenth")
        ax.scatter(typicality[points], sup[points], s=2, color="0.6", linewidths=0, rasterized=True)
        for strategy, chosen in picks.items():
            style = {"color": STYLES[strategy][0], "marker": STYLES[strategy][1], "edgecolors": "white", "label": LABELS[strategy]}
            ax.scatter(*(scores[np.intersect1d(chosen, points)] for scores in (typicality, sup)), s=40, zorder=3, **style)
        ax.set_title(name, fontsize=9)
        ax.tick_params(labelsize=8)
        ax.set(xscale="log", xticks=[1, 2, 5, 20], xticklabels=[1, 2, 5, 20])
        ax.minorticks_off()
    axes[-1, 2].set_xlabel("typicality (Eq. 1)", fontsize=10)
    figure.supylabel("SUP (Eq. 3), larger = nearer to other clusters", fontsize=10)
    return finish(figure, title)


@NARROW
def curves(table: pd.DataFrame, strategies: Sequence[str], reference: str, title: str, styles: Mapping = STYLES) -> Figure:
    """Figure 5: accuracy against labels with 95 % intervals over seeds, and below it the paired difference to `reference`.

    table: as sweep.run gives it. A framework starts a row of panels. Of more than five strategies the highlighted ones stand out,
    and only they have bands.
    """
    width = 3.6 if table["dataset"].nunique() == 1 else 1.75
    figure, found = panels(table, strategies, "accuracy", heights=(2, 1.7), width=width)
    for (above, below), values in found.values():
        draw_lines(above, values, styles)
        below.axhline(0, color=STYLES[reference][0], linewidth=1.5, zorder=1)
        draw_lines(below, values.sub(values[reference], axis=0).assign(**{reference: np.nan}), styles)
        above.tick_params(labelbottom=False)
        below.sharex(above)
        below.set_xlabel("labels")
        name_row(above, "test accuracy (%)")
        name_row(below, f"points above\n{LABELS[reference]}")
    _share_y(found)
    return finish(figure, title, columns=4 if len(found) > 1 else 2)  # not wider than the figure


@NARROW
def results(table: pd.DataFrame, strategies: Sequence[str], title: str) -> Figure:
    """Figure 6: accuracy against labels; highlighted strategies have 95 % intervals over seeds and names, the others are grey.

    table: as sweep.run gives it. Dashed: the oracle's accuracy in the last round, at the edge of the panel where it lies outside.
    """
    figure, found = panels(table, [*strategies, "class-balanced"], "accuracy", heights=(2.2,), width=3.5, columns=2)
    for (ax,), values in found.values():
        means = values.groupby("labels").mean()
        draw_lines(ax, values[[name for name in strategies if name in HIGHLIGHTED]])
        ax.plot(means.drop(columns=[*HIGHLIGHTED, "class-balanced"], errors="ignore"), color="0.75", linewidth=0.8, zorder=1)
        name_row(ax, "test accuracy (%)")
        ax.set_xlabel("labels" if ax.get_subplotspec().is_last_row() else "")
    _share_y(found)
    for (ax,), values in found.values():
        ends, (low, high) = values.groupby("labels").mean().iloc[-1].dropna(), ax.get_ylim()
        oracle = ends.get("class-balanced", np.nan)
        ax.axhline(np.clip(oracle, low, high), color="black", linestyle="--", linewidth=1)
        text = f"{'↑ ' if oracle > high else '↓ ' if oracle < low else ''}oracle {oracle:.0f} %"
        _name_ends(ax, ends[ends.index.isin([*HIGHLIGHTED, "class-balanced"])].clip(low, high), {"class-balanced": text})
    return titled(figure, title)


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
        style["arrowprops"] |= {"relpos": (0, 0.5)}  # lines end at their names, and do not cross others
        ax.annotate(names.get(name, LABELS[name]).removeprefix("SUPClust "), (0.97, end), (1.03, place), **style)


@NARROW
def class_coverage(table: pd.DataFrame, strategies: Sequence[str], title: str, n_classes: Mapping) -> Figure:
    """Number of classes with a label, against labels, with 95 % intervals over seeds; dashed: all of a data set's n_classes."""
    figure, found = panels(table, strategies, "classes", heights=(2.2,), width=3.5, columns=2)
    for (dataset, *_), ((ax,), values) in found.items():
        draw_lines(ax, values)
        ax.axhline(n_classes[dataset], color="0.5", linestyle="--", linewidth=1, zorder=1)
        ax.set_ylim(top=n_classes[dataset] + 0.05 * np.ptp(ax.get_ylim()))
        ax.set_xlabel("labels")
        name_row(ax, "classes with a label")
        _name_ends(ax, values.groupby("labels").mean().iloc[-1].dropna())
    return titled(figure, title)


def name_row(ax: Axes, name: str) -> None:
    """Name the vertical axis of the first panel of a row; the others are alike."""
    if ax.get_subplotspec().is_first_col():
        ax.set_ylabel(name)


def panels(
    table: pd.DataFrame, strategies: Sequence[str], measure: str, heights: Sequence[float], width: float = 3.6, columns: int = 0
) -> tuple[Figure, dict]:
    """A figure, and by panel its axes and the measure: a row for each seed and number of labels, a column for each strategy."""
    table = table.dropna(subset=[measure])
    parts = dict(iter(table.groupby(analysis.PANEL, sort=False)))
    groups = [[panel for panel in parts if panel[1] == framework] for framework in table["framework"].unique()]
    lengths = [columns or (3 if len(group) in (5, 6) else 4) for group in groups]  # rows of about one length
    rows = [group[i : i + n] for group, n in zip(groups, lengths, strict=True) for i in range(0, len(group), n)]
    figure, places = grid(rows, heights, width)
    found = {}
    for (dataset, framework, budget), axes in places.items():
        size = f"{budget} labels a round" if budget.isdecimal() else f"{budget} budget"
        title = (dataset, framework, budget) if len(groups) > 1 else (dataset, "", size)
        axes[0].set_title(analysis.panel_title(*title).replace(", ", "\n" if width < 3 else ", ", 1), fontsize=9)
        wide = parts[dataset, framework, budget].pivot(index=["seed", "labels"], columns="strategy", values=measure)
        found[dataset, framework, budget] = axes, analysis.SCALE[measure] * wide.reindex(columns=strategies)
    return figure, found


def draw_lines(ax: Axes, values: pd.DataFrame, styles: Mapping[str, tuple] = STYLES, bands: Sequence[str] = ()) -> None:
    """Mean over the seeds, against labels: a line for each strategy; it stands out where it is highlighted, as all of a few are.

    bands: strategies that have a 95 % interval, all that stand out unless some are named.
    """
    for strategy, column in values.dropna(axis=1, how="all").items():
        color, marker, line = styles[strategy]
        stands_out = values.shape[1] <= len(HIGHLIGHTED) or strategy in HIGHLIGHTED or strategy not in LABELS
        width, size, order = (1.8, 4, 3) if stands_out else (1, 3, 2)
        style = {"color": color, "marker": marker, "linestyle": line, "linewidth": width, "markersize": size, "mec": color}
        style |= {"zorder": order, "label": LABELS.get(strategy, strategy), "legend": False, "errorbar": None}
        if stands_out and strategy in (bands or values):
            style["errorbar"] = lambda some: analysis.mean_interval(some)[1:]
            style["err_kws"] = {"alpha": 0.15, "linewidth": 0, "zorder": 1}
        sns.lineplot(column.dropna().reset_index(), x="labels", y=strategy, ax=ax, **style)
    ax.set(xlabel="", ylabel="")
    # With two or three seeds intervals are so wide that the means would lie on one line: the axis then ends before they do. And
    # the oracle, which no strategy is near where the test images are imbalanced, may lie outside.
    means = np.concatenate([line.get_ydata() for line in ax.get_lines() if line.get_label() != LABELS["class-balanced"]])
    low, high, (bottom, top) = means.min(), means.max(), ax.get_ylim()
    if high > low:
        ax.set_ylim(max(bottom, 2 * low - high), min(top, 2 * high - low))


def forest(comparisons: pd.DataFrame, title: str) -> Figure:
    """A dot and a 95 % interval for each comparison, an axes for each claim, FSL's panels in one of their own beside it.

    comparisons: as claims.as_table gives them; extra ones are left out. Colour: verdict; shape: data set; hollow: the small budget.
    A row holds all panels of one comparison; where a claim has more than six, of all of them.
    """
    shown = comparisons[(comparisons["role"] != "extra") & comparisons["verdict"].isin(list(VERDICTS))]
    shown = shown.assign(fsl=shown["framework"] == "fsl").sort_values("subject", ascending=False, kind="stable")
    shapes = dict(zip(shown["dataset"].unique(), itertools.cycle("osD^"), strict=False))
    by_claim, names = shown.groupby("claim"), shown["what"]
    names = names.mask(by_claim["what"].transform("nunique") > 6, names.str.split(",").str[0])
    names = names.mask(by_claim["expected"].transform("nunique") > 1, names + ", claimed " + shown["expected"])
    claims = dict(iter(shown.assign(row=names).groupby("claim")))
    heights = [0.4 + np.clip(0.034 * rows["row"].value_counts(), 0.25, 0.8).sum() for rows in claims.values()]  # inches
    figure = plt.figure(figsize=(8, 1 + sum(heights)), layout="constrained")
    cells = [[claim, f"{claim}|FSL" if rows["fsl"].any() else claim] for claim, rows in claims.items()]
    places = figure.subplot_mosaic(cells, height_ratios=heights, width_ratios=(5, 2)) if cells else {}
    looks = {TITLES.get(name, name): {"marker": shape} for name, shape in shapes.items()}
    looks |= {"tiny budget": {}, "small budget": {"color": "white", "edgecolor": "0.3"}}
    looks |= {verdict: {"color": color, "marker": "_", "s": 150, "linewidth": 3} for verdict, color in VERDICTS.items()}
    for label, look in looks.items() if places else ():
        figure.axes[0].scatter([], [], label=label, **{"color": "0.3"} | look)
    for cell, ax in places.items():
        claim, _, beside = cell.partition("|")
        rows = claims[claim]
        _draw_claim(ax, rows, rows[rows["fsl"] == bool(beside)], shapes)
        if beside:
            ax.set_title(beside, fontsize=9)
            ax.tick_params(labelleft=False)
            ax.locator_params(axis="x", nbins=4)
        else:
            unit = rows["unit"].iloc[0].replace("rho", "Spearman's ρ")
            left = -0.42 if rows["fsl"].any() else -0.3  # both at the figure's edge
            ax.set_title(f"{claim} ({unit})", loc="left", fontsize=9, x=left)
    with plt.rc_context({"legend.fontsize": 8}):
        return finish(figure, title)


def _draw_claim(ax: Axes, rows: pd.DataFrame, part: pd.DataFrame, shapes: Mapping[str, str]) -> None:
    """Some of a claim's rows, at the places that all of them have."""
    names, groups = list(rows["row"].unique()), part.groupby("row")
    places = part["row"].map(names.index) + 0.8 * ((groups.cumcount() + 0.5) / groups["row"].transform("size") - 0.5)
    for y, one in zip(places, part.itertuples(), strict=True):
        color = VERDICTS[one.verdict]
        ax.hlines(y, *np.nan_to_num([one.low, one.high], posinf=one.mean, neginf=one.mean), color=color, linewidth=1)
        face = "white" if one.budget == "small" else color
        ax.scatter(one.mean, y, s=18, marker=shapes[one.dataset], facecolor=face, edgecolor=color, linewidth=1, zorder=3)
    for i, expected in enumerate(rows.drop_duplicates("row")["expected"]):
        where = np.clip(BOUNDS[expected], -1e9, 1e9)
        ax.fill_between(where, i - 0.46, i + 0.46, color="#56B4E9", alpha=0.15, linewidth=0, zorder=0, label="as claimed")
    ax.axvline(0, color="0.3", linewidth=1)
    ends = rows[["mean", "low", "high"]].replace([np.inf, -np.inf], np.nan)
    ends = min(0, ends.min(axis=None)), max(0, ends.max(axis=None))
    ax.set(xlim=(ends[0] - 0.04 * np.ptp(ends), ends[1] + 0.04 * np.ptp(ends)), ylim=(len(names) - 0.5, -0.5))
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(labelsize=8, left=False, pad=2)
