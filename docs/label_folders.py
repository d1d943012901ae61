"""Which encoder and which strategy suit a folder of images: makes label_folders.csv, the table behind docs/label.md.

python docs/label_folders.py WORK photos@photos digits@simclr digits@simclr-epochs-6, with images in WORK/photos and WORK/digits, in
sub-folders by class. WORK/bursts is made from WORK/photos. Stopped, the same command continues.
"""

import random
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from supclust import active, analysis, kept, learners, method, strategies
from supclust.label import embeddings, labeling
from supclust.report import compare
from supclust.strategies import later

ONCE = ["random", "typiclust", "supclust", "supclust-no-sup", "maxherding", "coreset", "kmeans-centroid", "probcover"]
PLAN = {10: (10, list(strategies.STRATEGIES)), 20: (1, ONCE), 50: (1, ONCE), 100: (1, ONCE)}  # picks a round: rounds, strategies
SEEDS = 10
LABELED, PICKS = 50, 20  # of `errors`


def auto(pool, budget, rng):
    """What `supclust label` does where no strategy is named."""
    return (method.typiclust if pool.model is None else later.uherding)(pool, budget, rng)


def bursts(photos: Path, folder: Path) -> None:
    """Frames of 20 photographs, as a moving hand would film them: 400 of one, 20 of each other one."""
    rng = random.Random(0)
    for i, photo in enumerate(rng.sample(sorted(photos.rglob("*.jpg")), 20)):
        image, scene = Image.open(photo).convert("RGB"), folder / f"scene-{i:02d}"
        scene.mkdir(parents=True)
        width, height = image.size
        x, y = 0.05 * width, 0.05 * height
        for k in range(20 if i else 400):
            x, y = (min(max(at + rng.gauss(0, 2), 0), 0.1 * side) for at, side in ((x, width), (y, height)))
            box = (x, y, x + 0.9 * width, y + 0.9 * height)
            frame = image.resize((int(0.9 * width), int(0.9 * height)), Image.Resampling.BICUBIC, box)
            frame.save(scene / f"{k:03d}.jpg", quality=rng.randint(70, 95))


def run(work: Path, name: str) -> pd.DataFrame:
    """All runs on a folder and encoder. The label of an image is the name of its folder; a fifth of each class is the test set."""
    folder, _, encoder = name.partition("@")
    encoder, _, epochs = encoder.partition("-epochs-")
    options = labeling.EncoderOptions(encoder, minutes=0, epochs=int(epochs) if epochs else None)
    if folder == "bursts" and not (work / folder).exists():
        bursts(work / "photos", work / folder)
    if not (work / name / "embeddings.npz").exists():
        labeling.run(labeling.Request(work / folder, work / name, encoder=options))
    found, tables = embeddings.read(work / name / "embeddings.npz"), []
    labels = [image.partition("/")[0] for image in found.ids]
    for budget, (rounds, names) in PLAN.items():
        sizes, own = {"budget": budget, "rounds": rounds, "seeds": SEEDS}, [f"{__file__}:auto"] * (rounds > 1)
        tables.append(compare.run(found.features, labels, names, own, work / name / "records", title=name, **sizes)[0])
    return pd.concat([*tables, errors(found.features, labels, name)])


def errors(features: np.ndarray, labels: list[str], name: str) -> pd.DataFrame:
    """Of 20 picks after 50 random labels, the share that a linear layer on the 50 gets right: the fewer, the better."""
    classes, numbers = np.unique(labels, return_inverse=True)
    rows = []
    for seed in range(SEEDS):
        labeled = np.random.default_rng(seed).choice(len(numbers), LABELED, replace=False)
        pool = strategies.Pool(features, labeled, seed=seed)
        head = learners.fit_linear_head(pool.points[labeled], numbers[labeled], len(classes))
        pool = pool.with_labeled(labeled, active.Outputs(head, lambda pool=pool: pool.points, learned=False))
        right = head.predict(pool.points) == numbers
        for strategy in strategies.STRATEGIES:
            picks = strategies.query(strategy, pool, PICKS, np.random.default_rng(seed))
            rows.append((name, "ssl", strategy, "errors", seed, 1, 0, right[picks].mean()))
    return pd.DataFrame(rows, columns=["dataset", "framework", "strategy", "budget", "seed", "round", "labels", "accuracy"])


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """A row for each strategy: accuracy over rounds of ten, errors found, their leads, and what 10 to 100 labels bring."""
    rounds, picked, rows = runs[runs["budget"] == "10"], runs[runs["budget"] == "errors"], []
    measured = [(rounds, measure, measure) for measure in compare.MEASURES] + [(picked, "accuracy", "right_on_picks")]
    for name, own in runs.groupby("strategy", sort=False):
        row = {"folder": own["dataset"].iloc[0], "strategy": name, "seeds": own["seed"].nunique()}
        for table, measure, column in measured:
            row[column] = 100 * table.loc[table["strategy"] == name, measure].mean()
            for other in ("random", "supclust") if name in set(table["strategy"]) else ():
                lead = analysis.compare(table, name, other, measure).iloc[0][["mean", "low", "high"]]
                row |= lead.add_prefix(f"{column}_over_{other}_").to_dict()
        for (labels, budget), part in own[own["labels"].isin(PLAN)].groupby(["labels", "budget"]):
            how = f"{labels}" if budget == "10" else f"{labels}_at_once"
            row |= {f"accuracy_{how}": 100 * part["accuracy"].mean(), f"classes_{how}": part["classes"].mean()}
        rows.append(row)
    return pd.DataFrame(rows).round(2)


if __name__ == "__main__":
    tables = [summary(run(Path(sys.argv[1]), name)) for name in sys.argv[2:]]
    kept.write_text(Path(sys.argv[1]) / "label_folders.csv", pd.concat(tables).to_csv(index=False))
