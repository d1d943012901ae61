"""From tables of runs, and from scores, to the numbers that a claim rests on: means, paired differences, correlations, verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import integrate, stats

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
    """The mean of the values (n,) and its Student-t interval; of a single value the interval is infinite."""
    values = np.asarray(values, dtype=float)
    if len(values) == 0:
        raise ValueError("a mean needs at least one value")
    if len(values) == 1:
        return Interval(float(values[0]), -np.inf, np.inf)
    half = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * stats.sem(values)
    return Interval(float(values.mean()), float(values.mean() - half), float(values.mean() + half))


def units(measure: str) -> int:
    """What a measure is multiplied by for a reader: accuracies are shown in points of a hundred, classes as they are."""
    if measure not in MEASURES:
        raise ValueError(f"unknown measure {measure!r}; known: {', '.join(MEASURES)}")
    return 1 if measure == "classes" else 100


def panel_of(table: pd.DataFrame, panel: Sequence[str]) -> pd.DataFrame:
    """The rows of one panel: (dataset, framework, budget)."""
    return table[(table[PANEL] == list(panel)).all(axis=1)]


def summarise(table: pd.DataFrame, measure: str = "accuracy") -> pd.DataFrame:
    """Mean of a measure over the seeds and its 95 % interval, a row for each strategy and number of labels.

    table has the columns of sweep.run; rows where the measure is NaN do not count. Returns its group columns, labels, mean, low,
    high (as in the table, in 0..1 for accuracies), std and seeds.
    """
    return _describe(table, [*PANEL, "strategy", "labels"], measure)


def _describe(table: pd.DataFrame, keys: list[str], measure: str) -> pd.DataFrame:
    groups = table.dropna(subset=[measure]).groupby(keys, sort=False)[measure]
    rows = [
        {**dict(zip(keys, key, strict=True)), **vars(mean_interval(values)), "std": values.std(), "seeds": len(values)}
        for key, values in groups
    ]
    return pd.DataFrame(rows, columns=[*keys, "mean", "low", "high", "std", "seeds"])


def final_accuracy(table: pd.DataFrame, measure: str = "accuracy") -> pd.DataFrame:
    """A measure after the last round, accuracies in per cent, "mean ± standard deviation over seeds", strategies by panel.

    A panel in which the measure is NaN has no column, and a single seed no deviation.
    """
    table, scale = table.dropna(subset=[measure]), units(measure)
    last = table[table["round"] == table.groupby(PANEL)["round"].transform("max")]
    cells = last.groupby([*PANEL, "strategy"], sort=False)[measure].agg(lambda values: _mean_and_spread(scale * values))
    return cells.unstack(PANEL).rename_axis(index=None)


def _mean_and_spread(values: pd.Series) -> str:
    return f"{values.mean():.1f}" + (f" ± {values.std():.1f}" if len(values) > 1 else "")


# -- paired by seed ------------------------------------------------------------------------------------------------------------


def paired_differences(table: pd.DataFrame, first: str, second: str, measure: str = "accuracy") -> pd.DataFrame:
    """The first strategy less the second, in points (or classes), seed by seed, one row per (run, seed, labels) that both have.

    Raises ValueError for a strategy that the table does not have at all.
    """
    _check_strategies(table, [first, second])
    both = table[table["strategy"].isin([first, second])].dropna(subset=[measure])
    wide = both.pivot_table(index=[*PANEL, "seed", "labels"], columns="strategy", values=measure, sort=False)
    wide = wide.reindex(columns=list(dict.fromkeys([first, second])))
    return (units(measure) * (wide[first] - wide[second])).dropna().rename("difference").reset_index()


def _check_strategies(table: pd.DataFrame, names: Sequence[str]) -> None:
    known = sorted(table["strategy"].unique())
    for name in names:
        if name not in known:
            raise ValueError(f"the table has no strategy {name!r}; it has: {', '.join(known)}")


def by_round(runs: pd.DataFrame, measure: str = "accuracy") -> pd.Series:
    """A measure, in points (or classes), indexed by (seed, round), of the runs of one panel; where they are of several strategies
    the mean over these, at the (seed, round) that all of them have."""
    kept = runs.dropna(subset=[measure])
    wide = kept.set_index(["seed", "round", "strategy"])[measure].unstack("strategy")
    return units(measure) * wide.dropna().mean(axis=1)


def seed_differences(first: pd.Series, second: pd.Series) -> pd.Series:
    """The first less the second, both as `by_round` gives them, averaged over the rounds, by seed.

    Only seeds that both have count, and of these only those that lack none of the rounds that others have: a mean over other
    rounds is another quantity.
    """
    paired = (first - second).dropna().groupby("seed")
    return paired.mean()[paired.size() == paired.size().max()]


def compare(table: pd.DataFrame, first: str, second: str, measure: str = "accuracy") -> pd.DataFrame:
    """How much better the first strategy is than the second, in points of accuracy (or another measure) averaged over the rounds.

    The difference is taken seed by seed; its 95 % interval is over the seeds. A row per data set, framework and budget in which
    the two have a seed in common, with mean, low, high, the number of these seeds and the verdict.
    """
    _check_strategies(table, [first, second])
    rows = []
    for key, part in table.groupby(PANEL, sort=False):
        one, other = (by_round(part[part["strategy"] == name], measure) for name in (first, second))
        if len(values := seed_differences(one, other)):
            interval = mean_interval(values)
            panel = dict(zip(PANEL, key, strict=True))
            rows.append({**panel, **vars(interval), "seeds": len(values), "verdict": interval.verdict})
    table = pd.DataFrame(rows, columns=[*PANEL, "mean", "low", "high", "seeds", "verdict"])
    return table.rename(columns={"mean": f"{first} - {second}"})


# -- over all panels -----------------------------------------------------------------------------------------------------------


def win_matrix(table: pd.DataFrame, strategies: Sequence[str], measure: str = "accuracy") -> pd.DataFrame:
    """How often each strategy (row) is significantly better than each other (column), as in Ash et al., 2020 (BADGE, section 4).

    Entry (a, b) is the share of the cells, one for each (dataset, framework, budget, round), in which the mean of a - b over the
    seeds that both have is above zero by a two-sided paired t-test at 95 %. A cell without two such seeds does not count; with no
    cell left the entry is NaN. Where nothing differs, 0.025 is what chance brings.
    """
    cells = table.dropna(subset=[measure]).pivot_table(index=[*PANEL, "round", "seed"], columns="strategy", values=measure)
    cells = cells.reindex(columns=list(strategies))
    wins = {a: {b: _share_of_wins(cells[a] - cells[b]) for b in strategies} for a in strategies}
    return pd.DataFrame(wins).T.loc[list(strategies), list(strategies)]


def _share_of_wins(differences: pd.Series) -> float:
    groups = [values for _, values in differences.dropna().groupby([*PANEL, "round"]) if len(values) > 1]
    return float(np.mean([mean_interval(values).low > 0 for values in groups])) if groups else np.nan


def areas(table: pd.DataFrame, measure: str = "accuracy") -> pd.DataFrame:
    """Area under each run's curve of a measure against labels, by the trapezoid rule, divided by the range of labels.

    Returns a row per run: its columns and area, in the units of the table: the mean height of the curve. Of a run of one round
    the area is that round's value.
    """
    runs = table.dropna(subset=[measure]).sort_values("labels").groupby([*PANEL, "strategy", "seed"], sort=False)
    rows = [(*key, _mean_height(run["labels"].to_numpy(), run[measure].to_numpy())) for key, run in runs]
    return pd.DataFrame(rows, columns=[*PANEL, "strategy", "seed", "area"])


def _mean_height(labels: np.ndarray, values: np.ndarray) -> float:
    span = labels[-1] - labels[0]
    return float(integrate.trapezoid(values, labels) / span) if span else float(values.mean())


def area_under_curve(table: pd.DataFrame, measure: str = "accuracy") -> pd.DataFrame:
    """AUBC, the area under the budget curve (see `areas`): mean and 95 % interval over the seeds, a row per panel and strategy.

    One number for all the rounds of a run; rounds in the middle weigh twice as much as the first and the last.
    """
    return _describe(areas(table, measure), [*PANEL, "strategy"], "area")


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
