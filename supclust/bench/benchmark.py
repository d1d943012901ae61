"""The benchmark: every strategy on every data set of a profile, with two encoders and both budgets; ranks, and labels saved."""

import numpy as np
import pandas as pd

from supclust import analysis, features, kept, strategies, sweep
from supclust.profiles import Profile

# After the paper. Of shares of 0.005 to 0.08, 0.02 did best on digits, and nearly so on photographs. For SUPClust, a sign of SUP by
# how far clusters can be trusted was to be set on these two, but there neither sign is better; of their shares, 0.03 did best.
VARIANTS = {"probcover:ball_share=0.02": "ProbCover, radius by share", "supclust:top_fraction=0.03": "SUPClust, 3 % typical"}
LATER = (*strategies.LATER, *VARIANTS)
STRATEGIES = (*strategies.NAMES, *LATER)
UNRANKED = ["dcom"]  # not run on CIFAR-100, where ten seeds take an hour of two cores
LABELS = strategies.LABELS | VARIANTS
CELL = ["dataset", "encoder", "budget"]  # names a panel


def table(profile: Profile, *, rerun: bool = False) -> pd.DataFrame:
    """The runs, as sweep.run gives them, with the column encoder: "own", or the profile's second one.

    Kept in curves.csv, later.csv (what came after the paper) and pretrained.csv (the second encoder), see sweep.table. Where
    features are shipped, they take hours: on request.
    """
    part = {"frameworks": ["ssl"], "on_request": profile.features == "shipped"}
    others = [f"{name}@{profile.second_encoder}" for name in profile.datasets]
    wanted = {"curves": {"strategies": strategies.NAMES}, "later": {"strategies": LATER}}
    wanted["pretrained"] = {"strategies": STRATEGIES, "datasets": others}
    parts = [sweep.table(profile, name=name, recompute=rerun, **part, **more) for name, more in wanted.items()]
    runs = pd.concat(parts, ignore_index=True)
    runs[["dataset", "encoder"]] = [features.split_encoder(name) for name in runs["dataset"]]
    return runs.assign(encoder=runs["encoder"].replace("", "own"))


def panels(runs: pd.DataFrame) -> pd.DataFrame:
    """A row for each panel that has Random, and each strategy: what a reader may cite.

    accuracy: over rounds and seeds, in per cent; final and final_balanced: after the last round; lead, low, high: points above
    Random over the rounds, paired by seed, and the 95 % interval; verdict on it; rank in the panel by accuracy, 1 the best, but for
    UNRANKED; random: how many labels Random needs for the last accuracy, see `labels_needed`, and over_labels: their ratio.
    """
    rows = []
    for cell, part in runs.groupby(CELL, sort=False):
        if "random" not in set(part["strategy"]):
            continue
        last = part[part["round"] == part["round"].max()].groupby("strategy")[["accuracy", "balanced_accuracy"]].mean()
        mean, seeds = part.groupby("strategy")["accuracy"].mean(), part.groupby("strategy")["seed"].nunique()
        needed = labels_needed(runs[(runs[CELL[:2]] == list(cell[:2])).all(axis=1)], last["accuracy"])
        ranks = mean.drop(UNRANKED, errors="ignore").rank(ascending=False)
        for name in mean.index:
            lead = analysis.compare(part, name, "random").iloc[0] if name != "random" else pd.Series({"mean": 0.0})
            row = dict(zip(CELL, cell, strict=True)) | {"strategy": name, "seeds": seeds[name], "accuracy": 100 * mean[name]}
            row |= {"final": 100 * last.loc[name, "accuracy"], "final_balanced": 100 * last.loc[name, "balanced_accuracy"]}
            row |= {"lead": lead["mean"], "low": lead.get("low"), "high": lead.get("high"), "verdict": lead.get("verdict")}
            rows.append(row | {"rank": ranks.get(name), "random": needed[name], "over_labels": needed[name] / part["labels"].max()})
    return pd.DataFrame(rows)


def labels_needed(runs: pd.DataFrame, accuracies: pd.Series, strategy: str = "random") -> pd.Series:
    """How many of a strategy's labels give these mean accuracies: where its mean curve, both budgets joined, comes to them.

    Infinite above all of the curve. Accuracy is taken as growing with the labels, by its largest value so far.
    """
    curve = runs[runs["strategy"] == strategy].groupby("labels")["accuracy"].mean().cummax()
    return pd.Series(np.interp(accuracies, curve, curve.index, right=np.inf), accuracies.index)


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """By strategy, the best mean rank first: over the panels that have all strategies.

    Columns: mean rank, panels in which it is clearly above and below Random, lead in points, and, of the smaller budget, the median
    of over_labels: above that of the larger one the curve of Random ends.
    """
    whole = complete(found)
    by, small = whole.groupby("strategy"), whole[whole["budget"] == whole["budget"].iloc[0]].groupby("strategy")
    counts = {word: by["verdict"].agg(lambda values, word=word: (values == word).sum()) for word in ("higher", "lower")}
    columns = {"mean rank": by["rank"].mean(), **counts, "lead": by["lead"].mean()}
    columns["random labels, times"] = small["over_labels"].median()
    return pd.DataFrame(columns).sort_values("mean rank").rename(index=LABELS).rename_axis(None)


def complete(found: pd.DataFrame) -> pd.DataFrame:
    """The rows of panels that have all strategies that are ranked, at all seeds."""
    done = found[(found["seeds"] == found["seeds"].max()) & found["rank"].notna()]
    return done[done.groupby(CELL)["strategy"].transform("size") == done["strategy"].nunique()]


def write(profile: Profile, found: pd.DataFrame) -> None:
    """Write benchmark.csv in the profile's reports."""
    kept.write_text(kept.reports(profile.name) / "benchmark.csv", found.round(3).to_csv(index=False))
