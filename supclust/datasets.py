"""The image data sets, all as one type: digits, CIFAR-10, its long tail, CIFAR-100, ISIC-2019 or its HAM10000 part, any folder."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from supclust import kept

NAMES = ("digits", "cifar10", "cifar10-lt50", "cifar100", "isic2019", "ham10000")
SPLITS = ("train", "test")
MISSING = ("error", "leave out")  # what to do about images of ISIC-2019 that are not there
CIFAR = {"cifar10": "CIFAR10", "cifar10-lt50": "CIFAR10", "cifar100": "CIFAR100"}  # torchvision's names
# int(5000 * 0.02 ** (i / 9)), truncated as in the reference code: 13,996 images, the largest class 50 times the smallest.
LONG_TAIL_50 = (5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images of one split, and what is known about them."""

    name: str
    images: Any  # uint8 (n, 3, height, width), an array or images.ImageFiles
    labels: np.ndarray | None  # int64 (n,), positions in `classes`; None where nobody has labelled them
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, indices: Sequence[int] | np.ndarray) -> Self:
        """The images at these indices (m,), in that order; images in files stay there."""
        labels = None if self.labels is None else self.labels[indices]
        images = self.images[indices] if isinstance(self.images, np.ndarray) else self.images.take(indices)
        return replace(self, images=images, labels=labels)


def load(
    name: str, split: str = "train", *, seed: int = 0, side: int | None = None, download: bool = False, missing: str = "error"
) -> Dataset:
    """One split ("train", the pool to query from, or "test") of one of NAMES, or of a folder of images.

    name: a folder's path: root/{train,test}/<class>/* with labels, or any other arrangement of image files, without labels.
    seed: of the long-tailed draw and of ISIC-2019's split (80 : 20 in each class); nothing else depends on it.
    side: pixels; images of ISIC-2019 (default 224), its part, and a folder (default 32) become side x side. Others keep their own.
    download: fetch CIFAR-10 or CIFAR-100 if it is not there. missing: one of MISSING; ISIC-2019's split does not depend on it.
    The images of ISIC-2019, and of a folder that would take more than images.files.LARGEST_ARRAY bytes, are ImageFiles.
    Raises ValueError for an unknown name or split, a damaged file or an image that cannot be read, and
    FileNotFoundError, with what to do about it, for a data set that is not on this machine.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    if missing not in MISSING:
        raise ValueError(f"missing must be one of {', '.join(map(repr, MISSING))}, not {missing!r}")
    if side is not None and side < 1:
        raise ValueError(f"side must be at least 1 pixel, not {side}")
    if name == "digits":
        return _load_digits(split)
    if name in CIFAR:
        from supclust.images import cifar

        whole = Dataset(name, *cifar.load(CIFAR[name], kept.data(), split, download))
        drawn = (name, split) == ("cifar10-lt50", "train")  # the test set stays balanced
        return whole.subset(long_tail_indices(whole.labels, seed)) if drawn else whole
    if name in ("isic2019", "ham10000"):
        from supclust.images import isic2019

        return isic2019.load(name, split, seed, side or 224, download, missing)
    if not name or not Path(name).is_dir():
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(NAMES)}, or the path of a folder of images")
    from supclust.images import folders

    return folders.load(Path(name), split, side or 32)


def identity(name: str) -> str:
    """The name of a data set, or for a folder its last name and a digest of its files' names, sizes and times."""
    if name in NAMES or not Path(name).is_dir():
        return name
    from supclust.images import folders

    return folders.identity(Path(name))


def long_tail_indices(labels: np.ndarray, seed: int) -> np.ndarray:
    """Sorted indices (13996,) of LONG_TAIL_50[c] images of each class c in labels, int (n,), drawn by the seed; else ValueError."""
    rng, drawn = np.random.default_rng(seed), []
    for c, wanted in enumerate(LONG_TAIL_50):
        found = np.flatnonzero(np.asarray(labels) == c)
        if len(found) < wanted:
            raise ValueError(f"the long-tailed draw takes {wanted} images of class {c}, and there are {len(found)}")
        drawn.append(rng.choice(found, wanted, replace=False))
    return np.sort(np.concatenate(drawn))


def _load_digits(split: str) -> Dataset:
    """Scikit-learn's 1,797 digits, 8 x 8, split 1,437 + 360; always the same split, so that their features are one thing."""
    digits = load_digits()
    parts = train_test_split(np.arange(len(digits.target)), test_size=0.2, stratify=digits.target, random_state=0)
    rows = np.sort(parts[SPLITS.index(split)])
    images = np.repeat(np.rint(digits.images[rows] * (255 / 16)).astype(np.uint8)[:, None], 3, axis=1)
    return Dataset("digits", images, digits.target[rows].astype(np.int64), tuple(map(str, digits.target_names)))
