"""How good suggested labels are: makes suggest_study.csv, the table behind docs/label.md, and figures/suggestions.png.

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

ROUNDS, BUDGET, SEEDS, BINS, SURE = 3, "50", 10, 10, 0.9
KNOWN = {**strategies.STRATEGIES, "auto": auto}


def run(work: Path, name: str) -> pd.DataFrame:
    """A row for each strategy and seed: what `measures` finds after the rounds. Pool and test set are the same images."""
    found, rows = embeddings.read(work / name / "embeddings.npz"), []
    classes, answers = np.unique([image.partition("/")[0] for image in found.ids], return_inverse=True)
    features = Features(found.features, found.features, answers, answers, tuple(classes), {})
    for strategy in ("auto", "random"):
        for seed in range(SEEDS):
            pool = strategies.Pool(found.features, seed=seed)
            rounds = active.run(features, pool, strategy, BUDGET, ROUNDS, known=KNOWN)
            labeled = np.concatenate([one.picks for one in rounds])
            rows.append({"folder": name, "strategy": strategy, "seed": seed} | measures(pool, labeled, answers, classes))
        print(name, strategy)
    return pd.DataFrame(rows)


def measures(pool: strategies.Pool, labeled: np.ndarray, answers: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    """Shares and accuracies in percent, of the suggestions for all images without a label."""
    suggested = suggesting.suggest(pool, {point: classes[answers[point]] for point in labeled.tolist()})
    table, head = suggested.table, learners.fit_linear_head(pool.points[labeled], answers[labeled], len(classes))
    right = (table["label"] == classes[answers[table.index]]).to_numpy()
    confidence, agrees = table["confidence"].to_numpy(), table["agrees"].to_numpy()
    before = np.exp(head.log_probabilities(pool.points[table.index])).max(axis=1)
    found = {"accuracy": right.mean(), "confidence": confidence.mean(), "classes": len(suggested.classes) / 100}
    found |= {"confidence_before": before.mean(), "error": error(confidence, right), "error_before": error(before, right)}
    parts = {"sure": confidence >= SURE, "agreeing": agrees, "disagreeing": ~agrees, "sure_agreeing": agrees & (confidence >= SURE)}
    for bar, (after, first) in enumerate(zip(in_bins(confidence), in_bins(before), strict=True)):
        parts |= {f"bin_{bar}": after, f"bin_{bar}_before": first}
    for part, those in parts.items():
        found |= {f"{part}_share": those.mean(), f"{part}_accuracy": right[those].mean() if those.any() else np.nan}
    return {measure: 100 * value for measure, value in found.items()} | {"temperature": suggested.temperature}


def in_bins(confidence: np.ndarray) -> list[np.ndarray]:
    """Which confidences lie in each of ten equal parts of 0 to 1."""
    bars = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [bars == bar for bar in range(BINS)]


def error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error: the mean gap between confidence and accuracy over the bins, by their sizes (Guo et al. 2017)."""
    return sum(abs(confidence[those].sum() - right[those].sum()) for those in in_bins(confidence)) / len(right)


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean and 95 % interval over the seeds of each measure."""
    long = runs.melt(["folder", "strategy", "seed"], var_name="measure").dropna()
    groups = long.groupby(["folder", "strategy", "measure"], sort=False)["value"]
    rows = [(*key, *analysis.mean_interval(values.to_numpy()), len(values)) for key, values in groups]
    return pd.DataFrame(rows, columns=["folder", "strategy", "measure", "mean", "low", "high", "seeds"]).round(2)


def draw(table: pd.DataFrame, file: Path) -> None:
    """Accuracy by confidence, of labels that auto picked: a line for each folder, before and after the temperature."""
    means = table[table["strategy"] == "auto"].pivot(index="folder", columns="measure", values="mean")
    figure, axes = plt.subplots(1, 2, figsize=(8, 4), sharex=True, sharey=True, layout="constrained")
    for axis, suffix, title in zip(axes, ("_before", ""), ("before calibration", "after calibration"), strict=True):
        axis.plot([0, 100], [0, 100], color="0.6", linestyle=":")
        for folder, row in means.iterrows():
            bars = [bar for bar in range(BINS) if row.get(f"bin_{bar}{suffix}_share", 0) >= 1]
            accuracies = [row[f"bin_{bar}{suffix}_accuracy"] for bar in bars]
            axis.plot([100 * (bar + 0.5) / BINS for bar in bars], accuracies, marker="o", markersize=4, label=folder)
        axis.set(title=title, xlabel="confidence (%)", xlim=(0, 100), ylim=(0, 102))
    axes[0].set_ylabel("accuracy of the suggestions (%)")
    axes[1].legend(fontsize=8, frameon=False)
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    work = Path(sys.argv[1])
    table = summary(pd.concat([run(work, name) for name in sys.argv[2:]]))
    kept.write_text(work / "suggest_study.csv", table.to_csv(index=False))
    draw(table, work / "suggestions.png")
