"""From tables of runs, and from scores, to the numbers that a claim rests on: means, paired differences, correlations, maps."""

import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.manifold import TSNE
from sklearn.metrics import pairwise_distances_argmin

from supclust import active, kept, profiles, strategies
from supclust.engine import geometry
from supclust.features import Features

PANEL = ["dataset", "framework", "budget"]  # names a panel of a figure; with strategy and seed it names a run
SCALE = {"accuracy": 100, "balanced_accuracy": 100, "tail_accuracy": 100, "classes": 1}  # times this for a reader


class Interval(NamedTuple):
    """A mean and its confidence interval."""

    mean: float
    low: float
    high: float


def mean_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """The mean of the values (n,) and its Student-t interval at 95 %, infinite for a single value. ValueError for no values."""
    if len(values) == 0:
        raise ValueError("a mean needs at least one value")
    mean = float(np.mean(values))
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)) if len(values) > 1 else np.inf
    return Interval(mean, mean - half, mean + half)


def panel_title(dataset: str, framework: str, budget: str) -> str:
    """The name of a panel for readers; an empty framework is left out."""
    return ", ".join(filter(None, [profiles.TITLES.get(dataset, dataset), framework.upper(), budget]))


def final_accuracy(table: pd.DataFrame, measure: str = "accuracy") -> pd.DataFrame:
    """A measure after the last round as "mean ± standard deviation over seeds", strategies by panel; NaN panels are left out."""
    table = table.dropna(subset=[measure])
    last = table[table["round"] == table.groupby(PANEL)["round"].transform("max")]
    groups = (SCALE[measure] * last.set_index([*PANEL, "strategy"])[measure]).groupby([*PANEL, "strategy"], sort=False)
    cells = groups.agg(lambda values: f"{values.mean():.1f}" + f" ± {values.std():.1f}" * (len(values) > 1))
    return cells.unstack(PANEL).rename_axis(index=None)


def by_round(runs: pd.DataFrame, measure: str = "accuracy") -> pd.Series:
    """A measure of one panel in points (or classes), by (seed, round): the strategies' mean, where all of them have it."""
    wide = runs.dropna(subset=[measure]).set_index(["seed", "round", "strategy"])[measure].unstack("strategy")
    return SCALE[measure] * wide.dropna().mean(axis=1)


def seed_differences(first: pd.Series, second: pd.Series) -> pd.Series:
    """The first less the second, both as `by_round` gives them, averaged over the rounds: a Series by seed."""
    paired = (first - second).dropna().groupby("seed")
    return paired.mean()[paired.size() == paired.size().max()]  # a mean over fewer rounds is another quantity


def compare(table: pd.DataFrame, first: str, second: str, measure: str = "accuracy") -> pd.DataFrame:
    """Lead of the first strategy over the second, in points (or classes) averaged over the rounds, paired by seed.

    A row for each panel with a common seed: mean, low, high (95 %), seeds, verdict; none of an empty table. Raises ValueError for
    an unknown strategy.
    """
    known, rows = sorted(table["strategy"].unique()), []
    if known and (unknown := [name for name in (first, second) if name not in known]):
        raise ValueError(f"the table has no strategy {unknown[0]!r}; it has: {', '.join(known)}")
    for panel, part in table.groupby(PANEL, sort=False):
        values = seed_differences(*(by_round(part[part["strategy"] == name], measure) for name in (first, second)))
        if len(values):
            mean, low, high = mean_interval(values)
            verdict = "higher" if low > 0 else "lower" if high < 0 else "no clear difference"
            rows.append((*panel, mean, low, high, len(values), verdict))
    return pd.DataFrame(rows, columns=[*PANEL, "mean", "low", "high", "seeds", "verdict"])


def leads(table: pd.DataFrame, first: str, others: Sequence[str]) -> pd.DataFrame:
    """The leads of the first strategy over each of the others for readers, as `compare` takes them: "+1.2 [+0.4, +2.0] ahead".

    A row for each panel; "ahead" and "behind" where the interval is clear of zero; seeds: those that the panel has.
    """
    words, columns = {"higher": " ahead", "lower": " behind", "no clear difference": ""}, {}
    panels = table.groupby(PANEL, sort=False)["seed"].nunique()
    for name in others:
        pair = table[table["strategy"].isin([first, name])]
        rows = compare(pair if pair["strategy"].nunique() == 2 else pair[:0], first, name).replace({"verdict": words})
        texts = map("{mean:+.1f} [{low:+.1f}, {high:+.1f}]{verdict}".format_map, rows.to_dict("records"))
        columns[f"over {strategies.LABELS[name]}"] = pd.Series(list(texts), rows.set_index(PANEL).index, dtype=object)
    found = pd.DataFrame({"seeds": panels} | columns, index=panels.index).fillna("not run")
    return found.set_axis([panel_title(dataset, "", budget) for dataset, _, budget in found.index])


def win_matrix(table: pd.DataFrame, strategies: Sequence[str]) -> pd.DataFrame:
    """Share of cells in which each strategy (row) significantly beats each other (column) (Ash et al., 2020: BADGE, section 4).

    Entry (a, b) is the share of the cells (dataset, framework, budget, round) in which the mean of a - b over their common seeds is
    above zero by a two-sided paired t-test at 95 %. Cells without two such seeds do not count; NaN where none counts.
    """
    wide = table.pivot(index=[*PANEL, "round", "seed"], columns="strategy", values="accuracy")
    wins = pd.DataFrame(np.nan, list(strategies), list(strategies))
    for a, b in itertools.product(wins.index.intersection(wide.columns), repeat=2):
        cells = [values for _, values in (wide[a] - wide[b]).dropna().groupby([*PANEL, "round"]) if len(values) > 1]
        wins.loc[a, b] = np.mean([mean_interval(values).low > 0 for values in cells]) if cells else np.nan
    return wins


class Correlation(NamedTuple):
    """Spearman's rho of two scores."""

    overall: float
    per_cluster: np.ndarray  # (K,), NaN in clusters of fewer than three points


def rank_correlation(first: np.ndarray, second: np.ndarray, assignments: np.ndarray) -> Correlation:
    """Spearman's rho of two scores (n,) of points in clusters (n,)."""
    groups = [assignments == cluster for cluster in range(assignments.max() + 1)]
    within = [stats.spearmanr(first[g], second[g]).statistic if g.sum() > 2 else np.nan for g in groups]
    return Correlation(float(stats.spearmanr(first, second).statistic), np.array(within))


def majority(labels: np.ndarray, assignments: np.ndarray) -> np.ndarray:
    """The most frequent class (n,) of each point's cluster, of the classes and clusters (n,) of all points."""
    return pd.crosstab(assignments, labels).idxmax(axis=1).loc[assignments].to_numpy()


def in_majority(labels: np.ndarray, assignments: np.ndarray) -> np.ndarray:
    """Whether each point has the most frequent class of its cluster: bool (n,)."""
    return labels == majority(labels, assignments)


def purity(labels: np.ndarray, assignments: np.ndarray) -> float:
    """Share of the points that have the most frequent class of their cluster."""
    return float(in_majority(labels, assignments).mean())


def gap(points: np.ndarray, assignments: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Distance (B,) from each of the points (B, d), in clusters (B,), to the nearest of the other clusters' centres (K, d)."""
    between = geometry.distances(points, centers)
    between[np.arange(len(points)), assignments] = np.inf
    return between.min(axis=1)


@dataclass(frozen=True)
class Maps:
    """Some points of a pool in the plane: indices (m,) of the points, and by method their places (m, 2)."""

    indices: np.ndarray
    places: Mapping[str, np.ndarray]

    def place(self, features: np.ndarray, points: np.ndarray, method: str = "t-SNE") -> np.ndarray:
        """Places (B, 2) on a map of points (B,) of the features (n, d), or of the nearest ones that are drawn."""
        drawn, wanted = (geometry.normalise(features[some]) for some in (self.indices, points))
        return self.places[method][pairwise_distances_argmin(wanted, drawn)]


def embedding_maps(profile: profiles.Profile, features: Features, *, recompute: bool = False, seed: int = 0) -> Maps:
    """Points drawn at random, and all queries of notebook 03, by t-SNE and UMAP; kept, because these differ between machines."""

    def make() -> dict[str, np.ndarray]:
        pool = strategies.Pool(features.train, seed=seed)
        runs = (active.run(features, pool, name, "tiny", profile.rounds) for name in ("typiclust", "supclust"))
        picks = [pick for one in itertools.chain(*runs) for pick in one.picks]
        return make_maps(features.train, profile.embedding_points, seed, picks)

    name, made_from = f"embedding-{seed}.safetensors", {"features": features.checksum}
    arrays = kept.read_or_make(profile.name, name, made_from, make, recompute=recompute)
    return Maps(arrays["indices"], {method: arrays[method] for method in ("t-SNE", "UMAP")})


def make_maps(features: np.ndarray, n_points: int, seed: int = 0, also: Sequence[int] = ()) -> dict[str, np.ndarray]:
    """Indices (m,) of n_points of the features (n, d), drawn at random, and of others; their "t-SNE" and "UMAP" (m, 2) float32."""
    import umap  # takes seconds, and most users never need it

    drawn = np.random.default_rng(seed).choice(len(features), min(n_points, len(features)), replace=False)
    indices = np.union1d(drawn, np.asarray(also, dtype=np.int64))
    points = geometry.normalise(features[indices])
    with warnings.catch_warnings(action="ignore"):  # umap's, about its own seed and threads
        tsne = TSNE(init="pca", perplexity=30, random_state=seed).fit_transform(points)
        return {"indices": indices, "t-SNE": tsne, "UMAP": umap.UMAP(min_dist=0.5, random_state=seed).fit_transform(points)}
