"""What --per-class-min brings, and how far the hint on when to stop can be trusted: makes rare_study.csv, behind docs/label.md.

python docs/rare_study.py WORK photos@photos isic-1000@photos isic-10015@photos cifar10-lt50, with rounds of `supclust label` in
WORK/photos@photos ... (see label_folders.py), whose ids begin with the class.
"""

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import recall_score
from sklearn.model_selection import train_test_split

from supclust import features, kept, learners
from supclust.analysis import mean_interval
from supclust.engine import geometry
from supclust.label import embeddings, labeling, progress
from supclust.pool import Pool

SEEDS, LARGEST, WANTED = 10, 3000, 10
PLANS = {10: 10, 50: 3}  # picks a round: rounds
ENDS = ["enough", "smallest"]  # measures after the last round
MEANS = ["accuracy", "balanced", "bias", "held", "gain", "came", "error", "change", "gain_held", "above"]  # over the rounds


def read(work: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, d) and labels (n,), numbers from 0."""
    if (work / name).is_dir():
        found = embeddings.read(work / name / "embeddings.npz")
        return found.features, np.unique([image.partition("/")[0] for image in found.ids], return_inverse=True)[1]
    found = features.load(kept.shipped_features(name))
    return found.train, found.train_labels


def run(points: np.ndarray, labels: np.ndarray, seed: int, budget: int, wanted: int) -> Iterator[dict[str, float]]:
    """A row for each round; the pool are four fifths of each class, but at most LARGEST points in all, the others the test set."""
    size = min(LARGEST, len(labels) * 4 // 5)
    train, test, own, others = train_test_split(points, labels, train_size=size, random_state=seed, stratify=labels)
    pool, test, known, rounds = Pool(train, seed=seed), geometry.normalise(test), {}, ()
    for number in range(PLANS[budget]):
        strategy = "uherding" if len(set(known.values())) > 1 else "typiclust"
        picks = labeling.query(pool, known, strategy, budget, wanted)[0].tolist()
        known |= {pick: str(own[pick]) for pick in picks}
        pool = pool.with_labeled(np.array([*known]))
        counts = np.bincount(own[pool.labeled], minlength=labels.max() + 1)
        predicted = learners.fit_linear_head(pool.points[pool.labeled], own[pool.labeled], len(counts)).predict(test)
        row = {"budget": budget, "wanted": wanted, "round": number + 1, "enough": sum(counts >= WANTED), "smallest": min(counts)}
        row |= {"accuracy": 100 * np.mean(predicted == others), "balanced": 100 * recall_score(others, predicted, average="macro")}
        if not wanted:  # the hint is looked at in these runs only
            rounds, _ = progress.report(pool.points, known, rounds, budget)
            low, high = rounds[-1].possible.interval(0.95)
            row |= {"cv": 100 * rounds[-1].accuracy, "cv_low": 100 * low, "cv_high": 100 * high, "weight": rounds[-1].weight}
            if len(rounds) >= progress.LEAST:
                gain = 100 * np.array(progress.expected_gain(rounds, budget))
                row |= dict(zip(("gain", "gain_low", "gain_high"), gain, strict=True))
        yield row


def runs(points: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """All runs on a folder."""
    plan = itertools.product(range(SEEDS), PLANS, (0, WANTED))
    return pd.DataFrame([row | {"seed": seed} for seed, *how in plan for row in run(points, labels, seed, *how)])


def summary(table: pd.DataFrame) -> Iterator[dict[str, float | str]]:
    """Means over seeds, with 95 % intervals; with per_class_min, of what it changes.

    Of the hint: its bias, share of intervals that held the accuracy on the test set; the gain expected of the next round, that
    which came, the error, that of expecting none (change), share of intervals that held it, and of those that it was above.
    """
    came = table.groupby(["seed", "budget", "wanted"])["accuracy"].transform(lambda values: values.shift(-1) - values)
    came = came.where(table["gain"].notna())
    table = table.assign(bias=table["cv"] - table["accuracy"], came=came, change=came.abs(), error=(table["gain"] - came).abs())
    table["held"] = table["accuracy"].between(table["cv_low"], table["cv_high"]).where(table["cv"].notna())
    table["above"] = (came > table["gain_high"]).where(came.notna())
    table["gain_held"] = came.between(table["gain_low"], table["gain_high"]).where(came.notna())
    for budget, own in table.groupby("budget"):
        for measure in [*ENDS, *MEANS]:
            rows = own[own["round"] == own["round"].max()] if measure in ENDS else own
            wide = rows.dropna(subset=[measure]).groupby(["seed", "wanted"])[measure].mean().unstack("wanted")
            for wanted in wide:
                change = mean_interval(wide[wanted] - (wide[0] if wanted else 0))
                yield {"budget": budget, "per_class_min": wanted, "measure": measure} | change._asdict()


if __name__ == "__main__":
    found = [{"folder": name} | row for name in sys.argv[2:] for row in summary(runs(*read(Path(sys.argv[1]), name)))]
    kept.write_text(Path(sys.argv[1]) / "rare_study.csv", pd.DataFrame(found).round(2).to_csv(index=False))
