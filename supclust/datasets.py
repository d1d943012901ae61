"""The image data sets, all as one type: digits, CIFAR-10, its long-tailed draw, CIFAR-100, ISIC-2019, any folder of images."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity

from supclust import images, kept
from supclust.images import ImageFiles
from supclust.kept import sha256

log = logging.getLogger(__name__)

NAMES = ("digits", "cifar10", "cifar10-lt50", "cifar100", "isic2019")
SPLITS = ("train", "test")
MISSING = ("error", "leave out")  # what to do about images of ISIC-2019 that are not there
CIFAR = {"cifar10": CIFAR10, "cifar10-lt50": CIFAR10, "cifar100": CIFAR100}

# int(5000 * 0.02 ** (i / 9)), truncated as in the reference code: 13,996 images, the largest class 50 times the smallest.
LONG_TAIL_50 = (5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100)

# The classes of ISIC-2019 and the number of their images, 25,331 in all; its column UNK belongs to the challenge's test set.
ISIC_COUNTS = {"MEL": 4522, "NV": 12875, "BCC": 3323, "AK": 867, "BKL": 2624, "DF": 239, "VASC": 253, "SCC": 628}
ISIC_LABELS = "ISIC_2019_Training_GroundTruth.csv"
ISIC_IMAGES = "ISIC_2019_Training_Input"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images of one split, and what is known about them."""

    name: str
    images: np.ndarray | ImageFiles  # uint8 (n, 3, height, width)
    labels: np.ndarray | None  # int64 (n,), positions in `classes`; None where nobody has labelled them
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, indices: Sequence[int] | np.ndarray) -> Dataset:
        """The images at these indices, in that order; images in files stay there."""
        labels = None if self.labels is None else self.labels[indices]
        images = self.images.take(indices) if isinstance(self.images, ImageFiles) else self.images[indices]
        return dataclasses.replace(self, images=images, labels=labels)


def load(
    name: str,
    split: str = "train",
    *,
    seed: int = 0,
    side: int | None = None,
    download: bool = False,
    missing: str = "error",
) -> Dataset:
    """One split of a data set.

    name: one of NAMES, or the path of a folder of images: root/{train,test}/<class>/* with labels, or any other
        arrangement of image files below root, without labels.
    split: "train" (the pool to query from) or "test".
    seed: of the long-tailed draw and of ISIC-2019's split (80 : 20 in each class); nothing else here depends on it.
    side: pixels; images of ISIC-2019 (default 224) and of a folder (default 32) become side x side. The others keep their
        own size (digits 8, CIFAR 32).
    download: fetch CIFAR-10 or CIFAR-100 into the data folder if it is not there.
    missing: "error", or "leave out" to do without those images of ISIC-2019 that are not there. Its split does not depend on it.

    The images of ISIC-2019, and of a folder that would take more than images.LARGEST_ARRAY bytes, are ImageFiles.

    Raises ValueError for an unknown name or split, a damaged file or an image that cannot be read, and
    FileNotFoundError, with what to do about it, for a data set that is not on this machine.
    """
    _check_options(split, side, missing)
    if name == "digits":
        return _load_digits(split)
    if name in CIFAR:
        return _load_cifar(name, split, seed, download)
    if name == "isic2019":
        return _load_isic2019(split, seed, side or 224, download, missing)
    if not name or not Path(name).is_dir():
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(NAMES)}, or the path of a folder of images")
    return _load_folder(Path(name), split, side or 32)


def identity(name: str) -> str:
    """What a data set is known by: its name, or of a folder its last name and a digest of its files' names, sizes and times."""
    if not Path(name).is_dir() or name in NAMES:
        return name
    root = Path(name).resolve()
    return f"{root.name}-{sha256(repr(images.listing(root, images.relative(root, _image_files(root)))))[:12]}"


def long_tail_indices(labels: np.ndarray, seed: int) -> np.ndarray:
    """Sorted indices (13996,) of the long-tailed pool: LONG_TAIL_50[c] images of class c, drawn without replacement.

    labels: int (n,), with at least LONG_TAIL_50[c] images of every class c, else ValueError.
    """
    labels, rng = np.asarray(labels), np.random.default_rng(seed)
    members = [np.flatnonzero(labels == c) for c in range(len(LONG_TAIL_50))]
    for c, (found, wanted) in enumerate(zip(members, LONG_TAIL_50, strict=True)):
        if len(found) < wanted:
            raise ValueError(f"the long-tailed draw takes {wanted} images of class {c}, and there are {len(found)}")
    drawn = [rng.choice(found, wanted, replace=False) for found, wanted in zip(members, LONG_TAIL_50, strict=True)]
    return np.sort(np.concatenate(drawn))


def stratified_split(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted indices of the pool (80 %) and of the test set (20 %), drawn within each class of labels, int (n,)."""
    rng, test = np.random.default_rng(seed), np.zeros(len(labels), dtype=bool)
    for c in np.unique(labels):
        members = np.flatnonzero(labels == c)
        test[rng.choice(members, round(0.2 * len(members)), replace=False)] = True
    return np.flatnonzero(~test), np.flatnonzero(test)


def _check_options(split: str, side: int | None, missing: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    if missing not in MISSING:
        raise ValueError(f"missing must be one of {', '.join(map(repr, MISSING))}, not {missing!r}")
    if side is not None and side < 1:
        raise ValueError(f"side must be at least 1 pixel, not {side}")


def _load_digits(split: str) -> Dataset:
    """Scikit-learn's 1,797 digits, 8 x 8, split 1,437 + 360; always the same split, so that their features are one thing."""
    digits = load_digits()
    parts = train_test_split(np.arange(len(digits.target)), test_size=0.2, stratify=digits.target, random_state=0)
    rows = np.sort(parts[SPLITS.index(split)])
    grey = np.rint(digits.images[rows] * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[:, None], 3, axis=1)
    return Dataset("digits", images, digits.target[rows].astype(np.int64), tuple(map(str, digits.target_names)))


def _load_cifar(name: str, split: str, seed: int, download: bool) -> Dataset:
    """CIFAR in its official order. Of the long-tailed variant only the pool is a draw: its test set stays balanced."""
    source = CIFAR[name]
    try:
        official = source(kept.data(), train=split == "train", download=download)
    except RuntimeError as error:  # torchvision's one message for files that are absent and files that are damaged
        raise _cifar_problem(source, kept.data()) from error
    images = np.ascontiguousarray(official.data.transpose(0, 3, 1, 2))
    dataset = Dataset(name, images, np.array(official.targets, dtype=np.int64), tuple(official.classes))
    if name == "cifar10-lt50" and split == "train":
        return dataset.subset(long_tail_indices(dataset.labels, seed))
    return dataset


def _cifar_problem(source: type[CIFAR10], root: Path) -> Exception:
    """Which of the official files is damaged, or where they were looked for in vain."""
    folder, name = root / source.base_folder, source.__name__.lower()
    title = name.replace("cifar", "CIFAR-")
    official = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
    damaged = [file for file, md5 in official if (folder / file).exists() and not check_integrity(folder / file, md5)]
    if damaged:
        return ValueError(
            f"{folder / damaged[0]} is not the official {title} file: its MD5 sum differs. "
            f"Remove it and get it again with `supclust data {name}`"
        )
    return FileNotFoundError(
        f"{title} is not, or not completely, in {folder}. Get it with `supclust data {name}`, "
        f"or set SUPCLUST_DATA to the folder that holds {source.base_folder}/"
    )


def _load_isic2019(split: str, seed: int, side: int, download: bool, missing: str) -> Dataset:
    """ISIC-2019, split over all its labelled images, so that the split does not depend on which of them are here."""
    root = kept.data() / "isic2019"
    if download:
        raise ValueError(f"ISIC-2019 cannot be downloaded from here; it must be fetched by hand. {_isic_advice(root)}")
    names, labels = _read_isic_labels(root / ISIC_LABELS)
    rows = stratified_split(labels, seed)[SPLITS.index(split)]
    images = ImageFiles(root / ISIC_IMAGES, tuple(f"{names[row]}.jpg" for row in rows), side)
    whole = Dataset("isic2019", images, labels[rows], tuple(ISIC_COUNTS))
    here = _present(images)
    if here.all():
        return whole
    _check_missing(here, split, root, missing)
    return _leave_out(whole, here, split)


def _present(images: ImageFiles) -> np.ndarray:
    """bool (n,): which of the files are there, from one look at their folder."""
    found = set(os.listdir(images.folder)) if images.folder.is_dir() else set()
    return np.array([name in found for name in images.names], dtype=bool)


def _check_missing(here: np.ndarray, split: str, root: Path, missing: str) -> None:
    """Without all the images, one may do with some; without any, not."""
    if missing == "leave out" and here.any():
        return
    others = ', or do without them: load("isic2019", ..., missing="leave out")' if here.any() else ""
    raise FileNotFoundError(
        f"{(~here).sum()} of the {len(here)} images of ISIC-2019's {split} split are not in {root / ISIC_IMAGES}. "
        f"{_isic_advice(root)}{others}"
    )


def _leave_out(whole: Dataset, here: np.ndarray, split: str) -> Dataset:
    kept = whole.subset(np.flatnonzero(here))
    gone = [name for c, name in enumerate(whole.classes) if c in whole.labels and c not in kept.labels]
    none = f", among them all of {', '.join(gone)}" if gone else ""
    log.warning("%s of the %s images of ISIC-2019's %s split are missing and left out%s", (~here).sum(), len(here), split, none)
    return kept


def _isic_advice(root: Path) -> str:
    return (
        f"Get {ISIC_IMAGES}.zip and {ISIC_LABELS} from challenge.isic-archive.com/data/#2019 and unpack them into {root}, "
        "or set SUPCLUST_DATA to the folder that holds isic2019/"
    )


def _read_isic_labels(file: Path) -> tuple[list[str], np.ndarray]:
    """Names of the images and their classes int64 (n,), positions in ISIC_COUNTS, in the order of the official CSV file."""
    if not file.is_file():
        raise FileNotFoundError(f"ISIC-2019 is not here: there is no {file}. {_isic_advice(file.parent)}")
    try:
        table = pd.read_csv(file, dtype={"image": str})
    except ValueError as error:  # pandas' parser errors are among these
        raise ValueError(f"cannot read {file}: {error}. Get the official one again") from error
    _check_isic_labels(table, file)
    if len(table) != sum(ISIC_COUNTS.values()):
        log.warning("%s labels %s images, the official one %s: this is another split", file, len(table), sum(ISIC_COUNTS.values()))
    return table["image"].tolist(), table[list(ISIC_COUNTS)].to_numpy(float).argmax(axis=1).astype(np.int64)


def _check_isic_labels(table: pd.DataFrame, file: Path) -> None:
    """Raises ValueError unless each row is an image of its own with a 1.0 in one class and 0.0 elsewhere."""
    columns = ["image", *ISIC_COUNTS, "UNK"]
    if list(table.columns) != columns or table.empty:
        raise ValueError(f"{file} must have the columns {', '.join(columns)} and a row for each image. Get the official one again")
    values = table[columns[1:]].apply(pd.to_numeric, errors="coerce")
    ones, zeros = values.eq(1), values.eq(0)
    single = (ones | zeros).all(axis=1) & (ones.sum(axis=1) == 1) & zeros["UNK"]
    for bad, what in ((~single, "not exactly one class"), (table["image"].duplicated(), "the name of an earlier row")):
        if bad.any():
            raise ValueError(
                f"{file}: {table['image'][bad].iloc[0]} has {what} ({bad.sum()} such rows). Get the official one again"
            )


def _load_folder(root: Path, split: str, side: int) -> Dataset:
    if not (root / "train").is_dir():
        return _load_unlabelled(root, split, side)
    classes = _class_names(root / "train")
    files = {name: _image_files(root / split / name) for name in classes}
    _check_classes(root, split, files)
    labels = np.repeat(np.arange(len(classes)), [len(files[name]) for name in classes]).astype(np.int64)
    return Dataset(str(root), images.load(root, list(chain.from_iterable(files.values())), side), labels, classes)


def _load_unlabelled(root: Path, split: str, side: int) -> Dataset:
    if split == "test":
        raise ValueError(f"{root} has no test split: it holds images without labels (a labelled folder has train/ and test/)")
    files = _image_files(root)
    if not files:
        raise ValueError(f"no image in {root} (looked for {', '.join(images.SUFFIXES)})")
    if any(file.parent != root for file in files):
        log.warning("the images of %s are read without labels; folders are classes only below train/ and test/", root)
    return Dataset(str(root), images.load(root, files, side), None, ())


def _check_classes(root: Path, split: str, files: dict[str, list[Path]]) -> None:
    """The classes are those of train/, each with an image there; a split may lack some of them but knows no others."""
    if not (root / split).is_dir():
        raise ValueError(f"{root} has no {split} split: there is no folder {root / split}")
    if strangers := set(_class_names(root / split)) - set(files):
        raise ValueError(f"classes of {root / split} that are not in {root / 'train'}: {', '.join(sorted(strangers))}")
    empty = [name for name, found in files.items() if not found]
    if len(empty) == len(files) or (empty and split == "train"):
        raise ValueError(f"no image in {root / split} of the classes {', '.join(empty) or '(there is no class folder)'}")


def _class_names(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(f.name for f in folder.iterdir() if f.is_dir() and not f.name.startswith(".")))


def _image_files(folder: Path) -> list[Path]:
    return images.find(folder)[0]
