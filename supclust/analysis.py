"""From tables of runs, and from scores, to the numbers that a claim rests on: means, paired differences, correlations, verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

RUN = ["dataset", "framework", "budget"]


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
    """The mean of the values (n,) and its Student-t interval; of a single value the interval is infinite."""
    values = np.asarray(values, dtype=float)
    if len(values) == 0:
        raise ValueError("a mean needs at least one value")
    if len(values) == 1:
        return Interval(float(values[0]), -np.inf, np.inf)
    half = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * stats.sem(values)
    return Interval(float(values.mean()), float(values.mean() - half), float(values.mean() + half))


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy over the seeds and its 95 % interval, a row for each strategy and number of labels.

    table has the columns of sweep.run. Returns its group columns, labels, mean, low, high, std and seeds.
    """
    groups = table.groupby([*RUN, "strategy", "labels"], sort=False)["accuracy"]
    rows = [
        {
            **dict(zip([*RUN, "strategy", "labels"], key, strict=True)),
            **vars(mean_interval(values)),
            "std": values.std(),
            "seeds": len(values),
        }
        for key, values in groups
    ]
    return pd.DataFrame(rows)


def final_accuracy(table: pd.DataFrame) -> pd.DataFrame:
    """Accuracy in per cent after the last round, "mean ± standard deviation over seeds", strategies by data set and budget."""
    last = table[table["round"] == table.groupby(RUN)["round"].transform("max")]
    cells = last.groupby([*RUN, "strategy"], sort=False)["accuracy"].agg(lambda a: f"{100 * a.mean():.1f} ± {100 * a.std():.1f}")
    return cells.unstack(RUN).rename_axis(index=None)


def paired_differences(table: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Accuracy of the first strategy less that of the second, in points, seed by seed, one row per (run, seed, labels)."""
    wide = table.pivot_table(index=[*RUN, "seed", "labels"], columns="strategy", values="accuracy", sort=False)
    missing = [name for name in (first, second) if name not in wide]
    if missing:
        raise ValueError(f"the table has no strategy {missing[0]!r}; it has: {', '.join(wide.columns)}")
    return (100 * (wide[first] - wide[second])).dropna().rename("difference").reset_index()


def compare(table: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """How much better the first strategy is than the second, in points of accuracy averaged over the rounds.

    The difference is taken seed by seed; its 95 % interval is over the seeds. A row per data set, framework and budget, with
    mean, low, high and the verdict.
    """
    by_seed = paired_differences(table, first, second).groupby([*RUN, "seed"], sort=False)["difference"].mean()
    rows = []
    for key, values in by_seed.groupby(RUN, sort=False):
        interval = mean_interval(values)
        rows.append({**dict(zip(RUN, key, strict=True)), **vars(interval), "verdict": interval.verdict})
    return pd.DataFrame(rows).rename(columns={"mean": f"{first} - {second}"})


@dataclass(frozen=True)
class Correlation:
    """Spearman's rho of two scores: over all points, and within each cluster (K,), NaN in clusters of fewer than three points."""

    overall: float
    per_cluster: np.ndarray


def rank_correlation(first: np.ndarray, second: np.ndarray, assignments: np.ndarray) -> Correlation:
    """Spearman's rho of two scores (n,) of points in clusters (n,)."""
    if not len(first) == len(second) == len(assignments):
        raise ValueError(f"scores and assignments differ in length: {len(first)}, {len(second)}, {len(assignments)}")
    groups = [assignments == cluster for cluster in range(assignments.max() + 1)]
    within = [stats.spearmanr(first[g], second[g]).statistic if g.sum() > 2 else np.nan for g in groups]
    return Correlation(float(stats.spearmanr(first, second).statistic), np.array(within))
