"""Which encoder and which strategy suit a folder of images: makes label_folders.csv, the table behind docs/label.md.

python docs/label_folders.py WORK photos@photos digits@simclr digits@simclr-epochs-6, with images in WORK/photos and WORK/digits, in
sub-folders by class. Stopped, the same command continues.
"""

import sys
from pathlib import Path

import pandas as pd

from supclust import analysis, kept, method, strategies
from supclust.label import embeddings, labeling
from supclust.report import compare
from supclust.strategies import later

ONCE = ["random", "typiclust", "supclust", "supclust-no-sup", "maxherding", "coreset", "kmeans-centroid", "probcover"]
PLAN = {10: (10, list(strategies.STRATEGIES)), 20: (1, ONCE), 50: (1, ONCE), 100: (1, ONCE)}  # picks a round: rounds, strategies
SEEDS = 10


def auto(pool, budget, rng):
    """What `supclust label` does where no strategy is named."""
    return (method.typiclust if pool.model is None else later.uherding)(pool, budget, rng)


def run(work: Path, name: str) -> pd.DataFrame:
    """All runs on a folder and encoder. The label of an image is the name of its folder; a fifth of each class is the test set."""
    folder, _, encoder = name.partition("@")
    encoder, _, epochs = encoder.partition("-epochs-")
    options = labeling.EncoderOptions(encoder, minutes=0, epochs=int(epochs) if epochs else None)
    if not (work / name / "embeddings.npz").exists():
        labeling.run(labeling.Request(work / folder, work / name, encoder=options))
    found, tables = embeddings.read(work / name / "embeddings.npz"), []
    labels = [image.partition("/")[0] for image in found.ids]
    for budget, (rounds, names) in PLAN.items():
        sizes, own = {"budget": budget, "rounds": rounds, "seeds": SEEDS}, [f"{__file__}:auto"] * (rounds > 1)
        tables.append(compare.run(found.features, labels, names, own, work / name / "records", title=name, **sizes)[0])
    return pd.concat(tables)


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """A row for each strategy: accuracy over rounds of ten, its leads, and what 10 to 100 labels bring, in rounds or at once."""
    rounds, rows = runs[runs["budget"] == "10"], []
    for name, own in runs.groupby("strategy", sort=False):
        row = {"folder": own["dataset"].iloc[0], "strategy": name, "seeds": own["seed"].nunique()}
        for measure in compare.MEASURES:
            row[measure] = 100 * own.loc[own["budget"] == "10", measure].mean()
            for other in ("random", "supclust"):
                lead = analysis.compare(rounds, name, other, measure).iloc[0][["mean", "low", "high"]]
                row |= lead.add_prefix(f"{measure}_over_{other}_").to_dict()
        for (labels, budget), part in own[own["labels"].isin(PLAN)].groupby(["labels", "budget"]):
            how = f"{labels}" if budget == "10" else f"{labels}_at_once"
            row |= {f"accuracy_{how}": 100 * part["accuracy"].mean(), f"classes_{how}": part["classes"].mean()}
        rows.append(row)
    return pd.DataFrame(rows).round(2)


if __name__ == "__main__":
    tables = [summary(run(Path(sys.argv[1]), name)) for name in sys.argv[2:]]
    kept.write_text(Path(sys.argv[1]) / "label_folders.csv", pd.concat(tables).to_csv(index=False))
