"""What the choices do that the paper leaves open: settings of SUPClust one at a time, and encoders of different age."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from supclust import analysis, features, kept, strategies, sweep
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

    A row for each setting, its strategy, value and panel, with mean, low and high of the 95 % interval over the seeds, as
    plots.sensitivity takes it.
    """
    rows = [
        analysis.compare(table, name(setting, value), strategy).assign(setting=setting, strategy=strategy, value=value)
        for setting, (strategy, values) in STUDY.items()
        for value in values
    ]
    return pd.concat(rows, ignore_index=True).astype({"value": object})


def lead_of_typiclust(table: pd.DataFrame) -> pd.DataFrame:
    """By how many points TypiClust is ahead of SUPClust's default, averaged over the rounds: what a setting would have to gain."""
    return analysis.compare(table, "typiclust", "supclust").assign(strategy="supclust", rival="typiclust")


def first_queries(pools: Sequence[strategies.Pool], setting: str) -> pd.DataFrame:
    """What each value of a setting changes in a first query of five for each class: a row for each value, means over the pools.

    Columns: "in common", per cent of the default's picks that it picks too, and "speak for their cluster", per cent whose class is
    the most frequent one of their cluster. The pools' labels are used to look behind the result, not to choose anything.
    """
    strategy, values = STUDY[setting]
    usual = [_first_query(pool, strategy) for pool in pools]
    rows = {}
    for value in values:
        picks = [_first_query(pool.with_settings(**{setting: value}), strategy) for pool in pools]
        common = np.mean([np.isin(*pair).mean() for pair in zip(picks, usual, strict=True)])
        rows[name(setting, value)] = {"in common": common, "speak for their cluster": _mean_share(pools, picks)}
    return (100 * pd.DataFrame(rows).T).round().astype(int)


def majority_shares(pools: Sequence[strategies.Pool], names: Sequence[str]) -> pd.Series:
    """Per cent of the picks of a first query, five for each class, that speak for their cluster: means over the pools."""
    shares = {one: 100 * _mean_share(pools, [_first_query(pool, one) for pool in pools]) for one in names}
    return pd.Series(shares, name="per cent").round().astype(int)


def _first_query(pool: strategies.Pool, strategy: str) -> np.ndarray:
    return strategies.query(strategy, pool, 5 * len(np.unique(pool.labels)), np.random.default_rng(pool.seed))


def _mean_share(pools: Sequence[strategies.Pool], picks: Sequence[np.ndarray]) -> float:
    return float(np.mean([share_of_majority(*pair) for pair in zip(pools, picks, strict=True)]))


def share_of_majority(pool: strategies.Pool, picks: np.ndarray) -> float:
    """Share of the picks (B,) of a first query that have the most frequent class of their cluster."""
    return float(analysis.in_majority(pool.labels, pool.clusters(len(picks)).assignments)[picks].mean())


def encoders_table(profile: Profile, *, recompute: bool = False) -> pd.DataFrame:
    """The runs on features of encoders of different age, tiny budget: kept in encoders.csv, see sweep.table."""
    part = {"frameworks": ["ssl"], "datasets": profile.encoders, "strategies": COMPARED, "budgets": ["tiny"]}
    return sweep.table(profile, name="encoders", recompute=recompute, **part, seeds=min(SEEDS, profile.seeds))


def encoder_quality(profile: Profile) -> pd.DataFrame:
    """How well the features of each encoder tell classes apart: a row for each, in the order of the profile.

    Columns: encoder; knn, the 20-NN accuracy on the test set; purity of as many clusters as classes (see analysis.purity). Kept in
    quality.csv: a row of the same features in the same experiment, or of features that cannot be obtained, is taken from there.
    """
    made_from = {"experiment": sweep.EXPERIMENT["ssl"]}
    files = [kept.read(folder / "quality.csv") for folder in reversed(kept.reports_to_read(profile.name))]
    tables = [table for table, source in filter(None, files) if source == made_from]
    known = {row["encoder"]: row for table in tables for row in table.to_dict("records")}
    for encoder in filter(partial(features.obtainable, profile), profile.encoders):
        data = features.obtain(profile, encoder)
        if encoder not in known or known[encoder]["features"] != data.checksum:
            known[encoder] = _quality(encoder, data)
    table = pd.DataFrame([known[one] for one in profile.encoders if one in known], columns=[*QUALITY, "features"])
    kept.write(kept.reports(profile.name) / "quality.csv", table, made_from)
    return table[QUALITY]


def _quality(encoder: str, data: features.Features) -> dict[str, Any]:
    knn = features.knn_accuracy(data.train, data.train_labels, data.test, data.test_labels)
    assignments = strategies.Pool(data.train, seed=0).clusters(len(data.classes)).assignments
    purity = analysis.purity(data.train_labels, assignments)
    return {"encoder": encoder, "knn": knn, "purity": purity, "features": data.checksum}


def by_encoder(table: pd.DataFrame, quality: pd.DataFrame) -> pd.DataFrame:
    """What SUPClust gains on the others with each encoder, in points averaged over the rounds, as plots.encoders takes it."""
    rows = [
        analysis.compare(table, "supclust", other).assign(comparison=f"SUPClust − {strategies.LABELS[other]}")
        for other in COMPARED
        if other != "supclust"
    ]
    return pd.concat(rows, ignore_index=True).merge(quality, left_on="dataset", right_on="encoder")
