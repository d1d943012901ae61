"""From tables of runs, and from scores, to the numbers that a claim rests on: means, paired differences, correlations, verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
import pandas as pd
from scipy import integrate, stats

from supclust import profiles
from supclust.engine import geometry

PANEL = ["dataset", "framework", "budget"]  # names a panel of a figure; with strategy and seed it names a run
MEASURES = ("accuracy", "balanced_accuracy", "tail_accuracy", "classes")


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval."""

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Whether the mean is surely above zero, surely below, or neither."""
        return "higher" if self.low > 0 else "lower" if self.high < 0 else "no clear difference"


def mean_interval(values: Sequence[float] | np.ndarray, confidence: float = 0.95) -> Interval:
    """The mean of the values (n,) and its Student-t interval, infinite for a single value. Raises ValueError for no values."""
    values = np.asarray(values, dtype=float)
    if len(values) == 0:
        raise ValueError("a mean needs at least one value")
    half = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * stats.sem(values) if len(values) > 1 else np.inf
    return Interval(float(values.mean()), float(values.mean() - half), float(values.mean() + half))


def units(measure: str) -> int:
    """What a measure is multiplied by for a reader: 100 for accuracies, 1 for classes. Raises ValueError for an unknown measure."""
    if measure not in MEASURES:
        raise ValueError(f"unknown measure {measure!r}; known: {', '.join(MEASURES)}")
    return 1 if measure == "classes" else 100


def panel_title(dataset: str, framework: str, budget: str) -> str:
    """How a reader names a panel; an empty framework is left out."""
    return ", ".join(filter(None, [profiles.TITLES.get(dataset, dataset), framework.upper(), budget]))


def panel_of(table: pd.DataFrame, panel: Sequence[str]) -> pd.DataFrame:
    """The rows of one panel: (dataset, framework, budget)."""
    return table[(table[PANEL] == list(panel)).all(axis=1)]


def final_accuracy(table: pd.DataFrame, measure: str = "accuracy") -> pd.DataFrame:
    """A measure after the last round as "mean ± standard deviation over seeds", strategies by panel; accuracies in per cent.

    A panel in which the measure is NaN has no column; a single seed has no deviation. Raises ValueError for an unknown measure.
    """
    table = table.dropna(subset=[measure])
    last = table[table["round"] == table.groupby(PANEL)["round"].transform("max")]
    groups = (units(measure) * last.set_index([*PANEL, "strategy"])[measure]).groupby([*PANEL, "strategy"], sort=False)
    cells = groups.agg(lambda values: f"{values.mean():.1f}" + f" ± {values.std():.1f}" * (len(values) > 1))
    return cells.unstack(PANEL).rename_axis(index=None)


def areas(table: pd.DataFrame, measure: str = "accuracy") -> pd.DataFrame:
    """Area under each run's curve of a measure against labels, by the trapezoid rule, divided by the range of labels.

    Returns a row for each run: its columns, and area, the mean height of the curve in the units of the table. A run of one round
    has that round's value.
    """
    runs = table.dropna(subset=[measure]).sort_values("labels").groupby([*PANEL, "strategy", "seed"], sort=False)
    rows = [(*key, _mean_height(run["labels"].to_numpy(), run[measure].to_numpy())) for key, run in runs]
    return pd.DataFrame(rows, columns=[*PANEL, "strategy", "seed", "area"])


def _mean_height(labels: np.ndarray, values: np.ndarray) -> float:
    return float(integrate.trapezoid(values, labels) / np.ptp(labels)) if len(labels) > 1 else float(values[0])


def area_under_curve(table: pd.DataFrame, measure: str = "accuracy") -> pd.DataFrame:
    """AUBC, the area under the budget curve (see `areas`): mean, low and high of the 95 % interval over seeds, and seeds.

    A row for each panel and strategy. Rounds in the middle weigh twice as much as the first and the last.
    """
    keys = [*PANEL, "strategy"]
    groups = areas(table, measure).groupby(keys, sort=False)["area"]
    rows = [(*key, *astuple(mean_interval(values)), len(values)) for key, values in groups]
    return pd.DataFrame(rows, columns=[*keys, "mean", "low", "high", "seeds"])


# -- paired by seed ------------------------------------------------------------------------------------------------------------


def by_round(runs: pd.DataFrame, measure: str = "accuracy") -> pd.Series:
    """A measure of the runs of one panel, in points (or classes), indexed by (seed, round).

    Of several strategies it is their mean, at the (seed, round) that all of them have. Raises ValueError for an unknown measure.
    """
    wide = runs.dropna(subset=[measure]).set_index(["seed", "round", "strategy"])[measure].unstack("strategy")
    return units(measure) * wide.dropna().mean(axis=1)


def seed_differences(first: pd.Series, second: pd.Series) -> pd.Series:
    """The first less the second, both as `by_round` gives them, averaged over the rounds: a Series by seed.

    Only seeds that both have count, and of these only those with as many rounds as any: a mean over fewer rounds is another
    quantity.
    """
    paired = (first - second).dropna().groupby("seed")
    return paired.mean()[paired.size() == paired.size().max()]


def compare(table: pd.DataFrame, first: str, second: str, measure: str = "accuracy") -> pd.DataFrame:
    """How much better the first strategy is than the second, in points (or classes) averaged over the rounds, paired by seed.

    A row for each panel in which the two have a seed in common: mean, low and high of the 95 % interval over these seeds, seeds,
    verdict. Raises ValueError for a strategy that the table does not have at all, and for an unknown measure.
    """
    known = sorted(table["strategy"].unique())
    if unknown := [name for name in (first, second) if name not in known]:
        raise ValueError(f"the table has no strategy {unknown[0]!r}; it has: {', '.join(known)}")
    rows = []
    for panel, part in table.groupby(PANEL, sort=False):
        one, other = (by_round(part[part["strategy"] == name], measure) for name in (first, second))
        if len(values := seed_differences(one, other)):
            interval = mean_interval(values)
            rows.append((*panel, *astuple(interval), len(values), interval.verdict))
    return pd.DataFrame(rows, columns=[*PANEL, "mean", "low", "high", "seeds", "verdict"])


def win_matrix(table: pd.DataFrame, strategies: Sequence[str], measure: str = "accuracy") -> pd.DataFrame:
    """How often each strategy (row) is significantly better than each other (column), as in Ash et al., 2020 (BADGE, section 4).

    Entry (a, b) is the share of the cells, one for each (dataset, framework, budget, round), in which the mean of a - b over the
    seeds that both have is above zero by a two-sided paired t-test at 95 %. A cell without two such seeds does not count; with no
    cell left the entry is NaN. Where nothing differs, 0.025 is what chance brings.
    """
    cells = table.dropna(subset=[measure]).pivot_table(index=[*PANEL, "round", "seed"], columns="strategy", values=measure)
    cells = cells.reindex(columns=list(strategies))
    return pd.DataFrame([[_share_of_wins(cells[a] - cells[b]) for b in strategies] for a in strategies], strategies, strategies)


def _share_of_wins(differences: pd.Series) -> float:
    groups = [values for _, values in differences.dropna().groupby([*PANEL, "round"]) if len(values) > 1]
    return float(np.mean([mean_interval(values).low > 0 for values in groups])) if groups else np.nan


@dataclass(frozen=True)
class Correlation:
    """Spearman's rho of two scores: over all points, and within each cluster (K,), NaN in clusters of fewer than three points."""

    overall: float
    per_cluster: np.ndarray


def rank_correlation(first: np.ndarray, second: np.ndarray, assignments: np.ndarray) -> Correlation:
    """Spearman's rho of two scores (n,) of points in clusters (n,). Raises ValueError if the three differ in length."""
    if not len(first) == len(second) == len(assignments):
        raise ValueError(f"scores and assignments differ in length: {len(first)}, {len(second)}, {len(assignments)}")
    groups = [assignments == cluster for cluster in range(assignments.max() + 1)]
    within = [stats.spearmanr(first[g], second[g]).statistic if g.sum() > 2 else np.nan for g in groups]
    return Correlation(float(stats.spearmanr(first, second).statistic), np.array(within))


def in_majority(labels: np.ndarray, assignments: np.ndarray) -> np.ndarray:
    """Whether each point, of a class (n,) and in a cluster (n,), has the most frequent class of its cluster: bool (n,)."""
    counts = np.zeros((assignments.max() + 1, labels.max() + 1), dtype=int)
    np.add.at(counts, (assignments, labels), 1)
    return labels == counts.argmax(axis=1)[assignments]


def purity(labels: np.ndarray, assignments: np.ndarray) -> float:
    """Share of the points, of classes (n,) and in clusters (n,), that have the most frequent class of their cluster."""
    return float(in_majority(labels, assignments).mean())


def gap(points: np.ndarray, assignments: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Distance (B,) from each of the points (B, d), in clusters (B,), to the nearest of the other clusters' centres (K, d)."""
    between = geometry.distances(points, centers)
    between[np.arange(len(points)), assignments] = np.inf
    return between.min(axis=1)
