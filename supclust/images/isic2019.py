"""ISIC-2019: images of skin in files, with labels from the official CSV file, and split by the seed."""

import logging
import os
from pathlib import Path

import numpy as np
import pandas as pd

from supclust import kept
from supclust.datasets import SPLITS, Dataset
from supclust.images.files import ImageFiles

log = logging.getLogger(__name__)

# The classes and the number of their images, 25,331 in all; the column UNK belongs to the challenge's test set.
COUNTS = {"MEL": 4522, "NV": 12875, "BCC": 3323, "AK": 867, "BKL": 2624, "DF": 239, "VASC": 253, "SCC": 628}
HAM10000 = range(24306, 34321)  # numbers of the images that ISIC-2019 took from HAM10000 (Tschandl et al., 2018)
LABELS = "ISIC_2019_Training_GroundTruth.csv"
IMAGES = "ISIC_2019_Training_Input"


def load(name: str, split: str, seed: int, side: int, download: bool, missing: str) -> Dataset:
    """One split, drawn from all the labelled images, so that it does not depend on which of them are here; see datasets.load.

    Of "ham10000", those that came from HAM10000: 10,015, of which the draw 0 has 8,037 in the pool.
    """
    root = kept.data() / "isic2019"
    if download:
        raise ValueError(f"ISIC-2019 cannot be downloaded from here; it must be fetched by hand. {_advice(root)}")
    names, labels = read_labels(root / LABELS)
    rows = stratified_split(labels, seed)[SPLITS.index(split)]
    if name == "ham10000":
        rows = rows[[int(names[row][5:12]) in HAM10000 for row in rows]]
    names = tuple(f"{names[row]}.jpg" for row in rows)
    images = ImageFiles(root / IMAGES, names, side, whole=False)  # as the features that come with the package were made
    whole = Dataset(name, images, labels[rows], tuple(COUNTS))
    found = set(os.listdir(root / IMAGES)) if (root / IMAGES).is_dir() else set()
    here = np.array([name in found for name in images.names])
    if here.all():
        return whole
    if missing != "leave out" or not here.any():
        advice = _advice(root) + ', or do without them: load("isic2019", ..., missing="leave out")' * bool(here.any())
        number = f"{(~here).sum()} of the {len(here)} images"
        raise FileNotFoundError(f"{number} of ISIC-2019's {split} split are not in {root / IMAGES}. {advice}")
    log.warning("%s of the %s images of ISIC-2019's %s split are missing and left out", (~here).sum(), len(here), split)
    return whole.subset(np.flatnonzero(here))


def stratified_split(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted indices of the pool (80 %) and of the test set (20 %), drawn within each class of labels, int (n,)."""
    rng, test = np.random.default_rng(seed), np.zeros(len(labels), dtype=bool)
    for c in np.unique(labels):
        members = np.flatnonzero(labels == c)
        test[rng.choice(members, round(0.2 * len(members)), replace=False)] = True
    return np.flatnonzero(~test), np.flatnonzero(test)


def read_labels(file: Path) -> tuple[list[str], np.ndarray]:
    """Names of the images and their classes int64 (n,), positions in COUNTS, in the order of the official CSV file."""
    if not file.is_file():
        raise FileNotFoundError(f"ISIC-2019 is not here: there is no {file}. {_advice(file.parent)}")
    try:
        table = pd.read_csv(file, dtype={"image": str}, keep_default_na=False)
        _check_labels(table)
    except ValueError as error:  # pandas' parser errors are among these
        raise ValueError(f"cannot read {file}: {str(error)[:300]}. Get the official one again") from error
    if len(table) != sum(COUNTS.values()):
        log.warning("%s labels %s images, the official one %s: this is another split", file, len(table), sum(COUNTS.values()))
    return table["image"].tolist(), table[list(COUNTS)].to_numpy(float).argmax(axis=1).astype(np.int64)


def _check_labels(table: pd.DataFrame) -> None:
    """Raise ValueError unless each row is an image of its own with a 1.0 in one class and 0.0 elsewhere."""
    columns = ["image", *COUNTS, "UNK"]
    if list(table.columns) != columns or table.empty:
        raise ValueError(f"it must have the columns {', '.join(columns)} and a row for each image")
    values = table[columns[1:]].apply(pd.to_numeric, errors="coerce")
    single = values.isin([0, 1]).all(axis=1) & (values[list(COUNTS)].sum(axis=1) == 1) & (values["UNK"] == 0)
    for bad, what in ((~single, "not exactly one class"), (table["image"].duplicated(), "the name of an earlier row")):
        if bad.any():
            raise ValueError(f"{table['image'][bad].iloc[0]} has {what} ({bad.sum()} such rows)")


def _advice(root: Path) -> str:
    return (
        f"Get {IMAGES}.zip and {LABELS} from challenge.isic-archive.com/data/#2019 and unpack them into {root}, "
        "or set SUPCLUST_DATA to the folder that holds isic2019/"
    )
