"""How good suggested labels are: makes suggest_study.csv, the table behind docs/label.md, and suggestions.png, its figure.

python docs/suggest_study.py WORK photos@photos digits@simclr, where WORK/photos@photos/embeddings.npz holds embeddings of images in
sub-folders by class, as `supclust label` and label_folders.py write them.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from label_folders import auto

from supclust import active, analysis, kept, learners, strategies
from supclust.features import Features
from supclust.label import embeddings, suggesting

ROUNDS, BUDGET, SEEDS, BINS = 3, "50", 10, 10
BEFORE, AFTER = "before calibration", "after calibration"
COLUMNS = ["folder", "strategy", "seed"]


def run(work: Path, name: str, strategy: str, seed: int) -> dict[str, float]:
    """What `measures` finds after the rounds. The label of an image is the name of its folder."""
    found = embeddings.read(work / name / "embeddings.npz")
    classes, answers = np.unique([image.partition("/")[0] for image in found.ids], return_inverse=True)
    features = Features(found.features, found.features, answers, answers, tuple(classes), {})  # the test set is not used
    pool, known = strategies.Pool(found.features, seed=seed), {**strategies.STRATEGIES, "auto": auto}
    labeled = np.concatenate([one.picks for one in active.run(features, pool, strategy, BUDGET, ROUNDS, known=known)])
    return dict(zip(COLUMNS, (name, strategy, seed), strict=True)) | measures(pool, labeled, answers, classes)


def measures(pool: strategies.Pool, labeled: np.ndarray, answers: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    """Of the suggestions for all images without a label, in percent; the error of a confidence is that of Guo et al. (2017)."""
    suggested = suggesting.suggest(pool, {point: classes[answers[point]] for point in labeled.tolist()})
    table, head = suggested.table, learners.fit_linear_head(pool.points[labeled], answers[labeled], len(classes))
    right, agrees = (table["label"] == classes[answers[table.index]]).to_numpy(), table["agrees"].to_numpy()
    confidence = {
        BEFORE: np.exp(head.log_probabilities(pool.points[table.index])).max(axis=1),
        AFTER: table["confidence"].to_numpy(),
    }
    found, parts = {"accuracy": right.mean()}, {"agreeing": agrees, "disagreeing": ~agrees, "sure": confidence[AFTER] >= 0.9}
    for when, values in confidence.items():
        bins = np.minimum((values * BINS).astype(int), BINS - 1)
        gaps = np.bincount(bins, values - right)
        found |= {f"confidence {when}": values.mean(), f"error {when}": np.abs(gaps).sum() / len(right)}
        parts |= {f"bin {number} {when}": bins == number for number in range(BINS)}
    for part, those in parts.items():
        found |= {f"share {part}": those.mean(), f"accuracy {part}": right[those].mean() if those.any() else np.nan}
    return {measure: 100 * value for measure, value in found.items()}


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean and 95 % interval over the seeds of each measure."""
    groups = runs.melt(COLUMNS, var_name="measure").dropna().groupby(["folder", "strategy", "measure"], sort=False)["value"]
    rows = [(*key, *analysis.mean_interval(values.to_numpy()), len(values)) for key, values in groups]
    return pd.DataFrame(rows, columns=["folder", "strategy", "measure", "mean", "low", "high", "seeds"]).round(2)


def draw(table: pd.DataFrame, file: Path) -> None:
    """Accuracy by confidence, of labels that auto picked: a line for each folder, of bins with a hundredth of its images."""
    means = table[table["strategy"] == "auto"].pivot(index="folder", columns="measure", values="mean")
    figure, axes = plt.subplots(1, 2, figsize=(8, 4), sharex=True, sharey=True, layout="constrained")
    for axis, when in zip(axes, (BEFORE, AFTER), strict=True):
        axis.plot([0, 100], [0, 100], color="0.6", linestyle=":")
        for folder, row in means.iterrows():
            bins = [number for number in range(BINS) if row[f"share bin {number} {when}"] >= 1]
            accuracies = [row[f"accuracy bin {number} {when}"] for number in bins]
            axis.plot([100 * (number + 0.5) / BINS for number in bins], accuracies, marker="o", markersize=4, label=folder)
        axis.set(title=when, xlabel="confidence (%)", xlim=(0, 100), ylim=(0, 102))
    axes[0].set_ylabel("accuracy of the suggestions (%)")
    axes[1].legend(fontsize=8, frameon=False)
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    work, names = Path(sys.argv[1]), sys.argv[2:]
    tasks = [(name, strategy, seed) for name in names for strategy in ("auto", "random") for seed in range(SEEDS)]
    table = summary(pd.DataFrame([run(work, *task) for task in tasks]))
    kept.write_text(work / "suggest_study.csv", table.to_csv(index=False))
    draw(table, work / "suggestions.png")
