"""What the choices do that the paper leaves open: settings of SUPClust one at a time, and other encoders."""

from collections.abc import Collection, Sequence
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
NAMES = {  # of the strategy with each value, as strategies.parse reads them
    setting: {value: strategy if value == DEFAULTS[setting] else f"{strategy}:{setting}={value!r}" for value in values}
    for setting, (strategy, values) in STUDY.items()
}
DATASETS = ("digits", "cifar10", "cifar10-lt50")  # of the profile's, those that the study runs on
PART = {"frameworks": ["ssl"], "budgets": ["tiny"]}  # of a profile's runs


def settings_table(profile: Profile, *, recompute: bool = False) -> pd.DataFrame:
    """The runs of the study, tiny budget, on DATASETS: kept in sensitivity.csv, see sweep.table."""
    names = ["typiclust", *(name for of in NAMES.values() for name in of.values())]
    datasets = [name for name in profile.datasets if name in DATASETS]
    return sweep.table(profile, name="sensitivity", recompute=recompute, strategies=names, datasets=datasets, **PART)


def encoders_table(profile: Profile, *, recompute: bool = False) -> pd.DataFrame:
    """The runs on features of other encoders, tiny budget: kept in encoders.csv, see sweep.table."""
    names = ["supclust", "random", "typiclust", "supclust-no-sup"]
    return sweep.table(profile, name="encoders", recompute=recompute, strategies=names, datasets=profile.encoders, **PART)


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Gains of each value of a setting on the default, in points, for figures.sensitivity."""
    rows = [
        analysis.compare(table, name, STUDY[setting][0]).assign(setting=setting, strategy=STUDY[setting][0], value=value)
        for setting, names in NAMES.items()
        for value, name in names.items()
    ]
    return pd.concat(rows, ignore_index=True).astype({"value": object})


def encoder_quality(profile: Profile) -> pd.DataFrame:
    """20-NN accuracy and purity of each encoder's features; quality.csv keeps them, also where features cannot be obtained."""
    made_from = {"experiment": sweep.EXPERIMENT["ssl"]}
    files = [table for table, source in kept.read_all(profile.name, "quality.csv") if source == made_from]
    known = {row["encoder"]: row for table in reversed(files) for row in table.to_dict("records")}
    for encoder in (one for one in profile.encoders if features.obtainable(profile, one)):
        data = features.obtain(profile, encoder)
        if encoder not in known or known[encoder]["features"] != data.checksum:
            knn = features.knn_accuracy(data.train, data.train_labels, data.test, data.test_labels)
            clusters = strategies.Pool(data.train, seed=0).clusters(len(data.classes))
            purity = analysis.purity(data.train_labels, clusters.assignments)
            known[encoder] = {"encoder": encoder, "knn": knn, "purity": purity, "features": data.checksum}
    table = pd.DataFrame([known[one] for one in profile.encoders if one in known], columns=["encoder", "knn", "purity", "features"])
    kept.write(kept.reports(profile.name) / "quality.csv", table, made_from)
    return table.drop(columns="features")


def first_queries(pools: Sequence[strategies.Pool], names: Collection[str]) -> pd.DataFrame:
    """A first query of five for each class: per cent of a strategy's picks, means over the pools.

    "in common": with its default settings, which must be among the names. "speak for their cluster": have its most frequent class.
    """
    budget = 5 * len(np.unique(pools[0].labels))
    majority = [analysis.in_majority(pool.labels, pool.clusters(budget).assignments) for pool in pools]
    base = {name: strategies.parse(name) for name in names}
    picks = {
        name: [strategies.query(one, pool.with_settings(**of), budget, np.random.default_rng(pool.seed)) for pool in pools]
        for name, (one, of) in base.items()
    }
    common = {name: np.mean([np.isin(*pair) for pair in zip(picks[name], picks[base[name][0]], strict=True)]) for name in names}
    shares = {name: np.mean([mine[some] for mine, some in zip(majority, picks[name], strict=True)]) for name in names}
    return (100 * pd.DataFrame({"in common": common, "speak for their cluster": shares})).round().astype(int)
