"""What the choices do that the paper leaves open: settings of SUPClust one at a time, and encoders of different age."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from supclust import analysis, features, kept, plots, strategies, sweep
from supclust.profiles import Profile

# Which strategy, and which values. The default is among them; None, of ProbCover's radius, is its rule of purity.
STUDY: dict[str, tuple[str, tuple[Any, ...]]] = {
    "relative_temperature": ("supclust", (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)),
    "top_fraction": ("supclust", (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)),
    "n_neighbors": ("supclust", (5, 10, 20, 50)),
    "max_clusters": ("supclust", (10, 20, 30, 500)),
    "squared": ("supclust", (False, True)),
    "radius": ("probcover", (None, 0.4, 0.6)),
}
DEFAULTS = {setting: getattr(strategies.Settings(), setting) for setting in STUDY}
COMPARED = ("random", "typiclust", "supclust", "supclust-no-sup")  # on features of encoders of different age
SEEDS = 5
QUALITY = ["encoder", "knn", "purity"]


def name(setting: str, value: Any) -> str:
    """The strategy with that setting, as strategies.parse reads it; without a setting where the value is the default."""
    strategy, _ = STUDY[setting]
    return strategy if value == DEFAULTS[setting] else f"{strategy}:{setting}={value!r}"


def settings_table(profile: Profile, *, recompute: bool = False) -> pd.DataFrame:
    """The runs of the study, tiny budget, on the profile's data sets: kept in sensitivity.csv, see sweep.table."""
    names = dict.fromkeys(["typiclust", *(name(setting, value) for setting, (_, values) in STUDY.items() for value in values)])
    part = {"frameworks": ["ssl"], "strategies": list(names), "budgets": ["tiny"], "seeds": min(SEEDS, profile.seeds)}
    return sweep.table(profile, name="sensitivity", recompute=recompute, **part)


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Points of accuracy, averaged over the rounds, that each value gains on the default, paired by seed.

    A row for each setting, its strategy, value, dataset and budget, with mean, low and high of the 95 % interval over the seeds, as
    plots.sensitivity takes it.
    """
    rows = []
    for setting, (strategy, values) in STUDY.items():
        for value in values:
            compared = analysis.compare(table, name(setting, value), strategy)
            gain = compared[f"{name(setting, value)} - {strategy}"]
            parts = compared[["dataset", "budget", "low", "high"]]
            rows.append(parts.assign(setting=setting, strategy=strategy, value=value, mean=gain))
    return pd.concat(rows, ignore_index=True).astype({"value": object})


def lead_of_typiclust(table: pd.DataFrame) -> pd.DataFrame:
    """By how many points TypiClust is ahead of SUPClust's default, averaged over the rounds: what a setting would have to gain."""
    compared = analysis.compare(table, "typiclust", "supclust").rename(columns={"typiclust - supclust": "mean"})
    return compared.assign(strategy="supclust", rival="typiclust")


def first_queries(pools: Sequence[strategies.Pool], setting: str) -> pd.DataFrame:
    """What each value of a setting changes in a first query of five for each class: a row for each value, means over the pools.

    Columns: "in common", per cent of the default's picks that it picks too, and "speak for their cluster", per cent whose class is
    the most frequent one of their cluster. The pools' labels are used to look behind the result, not to choose anything.
    """
    strategy, values = STUDY[setting]
    with threadpool_limits(1):  # as in the sweep: k-means depends on the number of threads
        shares = _first_queries(pools, strategy, setting, values)
    return (100 * pd.DataFrame(shares, index=["in common", "speak for their cluster"]).T).round().astype(int)


def _first_queries(
    pools: Sequence[strategies.Pool], strategy: str, setting: str, values: Sequence[Any]
) -> dict[str, tuple[float, float]]:
    return {
        name(setting, value): np.mean([_first_query(pool, strategy, setting, value) for pool in pools], axis=0) for value in values
    }


def _first_query(pool: strategies.Pool, strategy: str, setting: str, value: Any) -> tuple[float, float]:
    budget = _budget(pool)
    usual, other = (
        strategies.query(strategy, pool.with_settings(**{setting: one}), budget, np.random.default_rng(pool.seed))
        for one in (DEFAULTS[setting], value)
    )
    return len(np.intersect1d(usual, other)) / budget, share_of_majority(pool, other)


def majority_shares(pools: Sequence[strategies.Pool], names: Sequence[str]) -> pd.Series:
    """Per cent of the picks of a first query, five for each class, that speak for their cluster: means over the pools."""
    shares = {}
    with threadpool_limits(1):
        for one in names:
            picks = [strategies.query(one, pool, _budget(pool), np.random.default_rng(pool.seed)) for pool in pools]
            shares[one] = 100 * np.mean([share_of_majority(*pair) for pair in zip(pools, picks, strict=True)])
    return pd.Series(shares, name="per cent").round().astype(int)


def _budget(pool: strategies.Pool) -> int:
    return 5 * len(np.unique(pool.labels))


def share_of_majority(pool: strategies.Pool, picks: np.ndarray) -> float:
    """Share of the picks (B,) of a first query that have the most frequent class of their cluster."""
    clusters = pool.clusters(len(picks))
    majority = np.array([np.bincount(pool.labels[members]).argmax() for members in clusters.members])
    return float((pool.labels[picks] == majority[clusters.assignments[picks]]).mean())


def encoders_table(profile: Profile, *, recompute: bool = False) -> pd.DataFrame:
    """The runs on features of encoders of different age, tiny budget: kept in encoders.csv, see sweep.table."""
    part = {"frameworks": ["ssl"], "datasets": profile.encoders, "strategies": COMPARED, "budgets": ["tiny"]}
    return sweep.table(profile, name="encoders", recompute=recompute, **part, seeds=min(SEEDS, profile.seeds))


def encoder_quality(profile: Profile) -> pd.DataFrame:
    """How well the features of each encoder tell classes apart: a row for each, in the order of the profile.

    Columns: encoder; knn, the 20-NN accuracy on the test set; purity, the share of points that have the most frequent class of
    their cluster, of as many clusters as classes. Kept in quality.csv: what it has of the same features in the same
    experiment, or of features that are no longer at hand, is not measured again.
    """
    path = kept.reports(profile.name) / "quality.csv"
    at_hand = {name: features.obtain(profile, name).checksum for name in profile.encoders if features.obtainable(profile, name)}
    stored = {row["encoder"]: row for found in map(_kept_quality, kept.reports_to_read(profile.name)) for row in found}
    same = {name: row for name, row in stored.items() if at_hand.get(name, row["features"]) == row["features"]}
    rows = [same[name] if name in same else _quality(profile, name) for name in profile.encoders if name in at_hand or name in same]
    table = pd.DataFrame(rows, columns=[*QUALITY, "features"])
    kept.write(path, table, {"experiment": sweep.EXPERIMENT["ssl"]})
    return table[QUALITY]


def _kept_quality(folder: Path) -> list[dict[str, Any]]:
    found = kept.read(folder / "quality.csv")
    return found[0].to_dict("records") if found and found[1] == {"experiment": sweep.EXPERIMENT["ssl"]} else []


def _quality(profile: Profile, encoder: str) -> dict[str, Any]:
    data = features.obtain(profile, encoder)
    knn = features.knn_accuracy(data.train, data.train_labels, data.test, data.test_labels)
    clusters = strategies.Pool(data.train, seed=0).clusters(len(data.classes))
    right = sum(np.bincount(data.train_labels[members]).max() for members in clusters.members)
    return {"encoder": encoder, "knn": knn, "purity": right / len(data.train), "features": data.checksum}


def by_encoder(table: pd.DataFrame, quality: pd.DataFrame) -> pd.DataFrame:
    """What SUPClust gains on the others with each encoder, in points averaged over the rounds, as plots.encoders takes it."""
    rows = []
    for other in COMPARED:
        if other != "supclust":
            compared = analysis.compare(table, "supclust", other).rename(
                columns={f"supclust - {other}": "mean", "dataset": "encoder"}
            )
            rows.append(compared[["encoder", "mean", "low", "high"]].assign(comparison=f"SUPClust − {plots.STRATEGIES[other][0]}"))
    return pd.concat(rows, ignore_index=True).merge(quality, on="encoder")
