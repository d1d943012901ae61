"""The figures of notebook 09: how fast training and selection are, and how a query grows."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from supclust.profiles import TITLES

OURS = "#0072B2"


def speeds(table: pd.DataFrame, title: str) -> Figure:
    """Images per second of each way to train, the stock way first, with how many times the stock way's that is."""
    figure, ax = plt.subplots(figsize=(9, 0.6 * len(table) + 1.2), layout="constrained")
    rates, times = table["images per second"], table["times stock"]
    bars = ax.barh(table.index, rates, color=["0.7", *[OURS] * (len(table) - 1)])
    ax.bar_label(bars, [f"{rate:.0f}  ({ratio:.1f} x)" for rate, ratio in zip(rates, times, strict=True)], padding=4)
    ax.invert_yaxis()
    ax.margins(x=0.15)
    ax.set(xlabel="images per second", title=title)
    return figure


def ratios(table: pd.DataFrame, title: str) -> Figure:
    """How many times as fast as another library each job is, a group of bars for each pool of features; slower ones in grey."""
    pools = list(table.groupby("features", sort=False))
    figure, axes = plt.subplots(1, len(pools), figsize=(10, 3.4), sharey=True, sharex=True, layout="constrained", squeeze=False)
    for ax, (pool, part) in zip(axes.flat, pools, strict=True):
        ax.barh(part["job"], part["times"] - 1, left=1, color=np.where(part["times"] < 1, "0.7", OURS), height=0.6)
        for row in part.itertuples():
            text = f"{row.times:.1f}× ({_duration(row.ours)} against {_duration(row.theirs)})"
            ax.annotate(text, (max(1, row.times), row.job), (5, 0), textcoords="offset points", va="center", fontsize=8)
        ax.axvline(1, color="0.3", lw=0.8)
        ax.set(xscale="log", xlabel="times as fast", title=TITLES.get(pool, pool))
        ax.xaxis.set_major_formatter("{x:g}×")
        ax.set_xlim(0.5, 20 * table["times"].max())
    axes[0, 0].invert_yaxis()
    figure.suptitle(title)
    return figure


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def growth(by_points: pd.DataFrame, by_budget: pd.DataFrame, title: str) -> Figure:
    """Seconds of a query against the points of the pool and against the budget."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
    for ax, table, column in zip(axes, (by_points, by_budget), ("points", "budget"), strict=True):
        ax.plot(table[column], table["seconds"], "o-", color=OURS)
        for place in table[[column, "seconds"]].to_numpy():
            ax.annotate(_duration(place[1]), place, (0, 7), textcoords="offset points", ha="center", fontsize=8, bbox=box)
        ax.set(xscale="log", ylabel="seconds")
        ax.margins(0.15)
    axes[0].set_yscale("log")
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[1].set_ylim(bottom=0)
    axes[0].set_xlabel(f"points (budget {by_points['budget'].iloc[0]})")
    axes[1].set_xlabel(f"budget ({by_budget['points'].iloc[0]:,} points)")
    figure.suptitle(title)
    return figure
