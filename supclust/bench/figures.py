"""The figures of notebook 10: which strategy leads where."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from supclust.bench.benchmark import LABELS
from supclust.plots import NARROW, STYLES, titled
from supclust.profiles import TITLES

VARIANT_COLORS = {"probcover:ball_share=0.02": "#1B6C8C", "supclust:top_fraction=0.03": "#8C3A00"}


@NARROW
def leads(found: pd.DataFrame, order: Sequence[str], title: str) -> Figure:
    """Points above Random in each panel (columns) of each strategy (rows, in this order); what is clear is bold.

    found: as benchmark.panels gives it.
    """
    wide = found.pivot(index="strategy", columns=["encoder", "dataset", "budget"], values=["lead", "verdict"])
    shown, clear = wide["lead"].loc[list(order)].astype(float), wide["verdict"].loc[list(order)].isin(["higher", "lower"])
    titles = TITLES | {"ham10000": "HAM10000"}
    names = [f"{titles.get(dataset, dataset)}, {budget}" for _, dataset, budget in shown]
    figure, ax = plt.subplots(figsize=(8, 2.1 + 0.2 * len(order)), layout="constrained")
    style = {"cmap": "RdBu", "center": 0, "vmin": -20, "vmax": 20, "annot": shown.round() + 0.0}  # and no minus zero
    _heat_map(ax, shown.set_axis(names, axis=1).rename(index=LABELS), 8, **style)
    cells = clear.to_numpy()[shown.notna().to_numpy()]
    for text, sure in zip(ax.texts, cells, strict=True):
        text.set(text=text.get_text().replace("-", "−"), **{"fontweight": "bold"} if sure else {"alpha": 0.6})
    encoder = shown.columns.get_level_values("encoder")
    for name in encoder.unique():
        places = np.flatnonzero(encoder == name)
        ax.text(places.mean() + 0.5, -0.25, f"encoder: {name}", ha="center", va="bottom", fontsize=9)
        ax.axvline(places.min(), color="white", linewidth=8)
    ax.set(xlabel="", ylabel="")
    return titled(figure, title)


@NARROW
def win_matrix(matrix: pd.DataFrame, title: str) -> Figure:
    """analysis.win_matrix as a heat map, in per cent, the strategy that wins most on top, with the mean of each row."""
    order = matrix.mean(axis=1).sort_values(ascending=False, kind="stable").index
    shares = 100 * matrix.loc[order, order].mask(np.eye(len(order), dtype=bool)).rename(index=LABELS, columns=LABELS)
    figure, ax = plt.subplots(figsize=(8, 2 + 0.23 * len(order)), layout="constrained")
    _heat_map(ax, shares.assign(mean=shares.mean(axis=1)), 7, vmin=0, vmax=100, cmap="Blues", annot=True)
    ax.axvline(len(order), color="white", linewidth=8)  # sets the means apart
    ax.set(ylabel="this strategy ...", xlabel="... is clearly better than this one (% of panels and rounds)")
    return titled(figure, title)


def _heat_map(ax: Axes, values: pd.DataFrame, size: float, **style: Any) -> None:
    """A table as colours and whole numbers of this font size, the names of its columns at a slant; style: seaborn's."""
    sns.heatmap(values, ax=ax, cbar=False, fmt=".0f", linewidths=1, annot_kws={"fontsize": size}, **style)
    ax.tick_params(length=0, rotation=0)
    plt.setp(ax.get_xticklabels(), rotation=40, ha="right", rotation_mode="anchor")


@NARROW
def critical_difference(accuracies: pd.DataFrame, title: str) -> Figure:
    """Mean ranks of strategies (columns) over panels (rows); a bar joins those that Nemenyi's test cannot tell apart.

    See Demšar (2006). Test and diagram are scikit-posthocs'.
    """
    import scikit_posthocs  # takes a second, and one figure needs it

    ranks, unlike = accuracies.rank(axis=1, ascending=False).mean(), scikit_posthocs.posthoc_nemenyi_friedman(accuracies)
    figure, ax = plt.subplots(figsize=(8, 0.6 + 0.2 * len(ranks)), layout="constrained")
    styles = {"label_fmt_left": "{label} ({rank:.1f})", "label_fmt_right": "({rank:.1f}) {label}", "text_h_margin": 0.2}
    colors = {name: look[0] for name, look in STYLES.items()} | VARIANT_COLORS
    styles["color_palette"] = {label: colors[name] for name, label in LABELS.items() if label in accuracies}
    drawn = scikit_posthocs.critical_difference_diagram(ranks, unlike, ax=ax, **styles)
    for (bar,) in drawn["crossbars"]:
        bar.set_xdata(np.sort(bar.get_xdata()))  # they come from sets, whose order changes from run to run
    ax.set_title("mean rank, 1 is best; bars join what the test cannot tell apart", fontsize=9, fontweight="normal")
    return titled(figure, title)
