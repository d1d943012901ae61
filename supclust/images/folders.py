"""Folders of images as data sets: with labels where there is train/<class>/, else without."""

import logging
from itertools import chain
from pathlib import Path

import numpy as np

from supclust.datasets import Dataset
from supclust.images import files
from supclust.kept import sha256

log = logging.getLogger(__name__)


def load(root: Path, split: str, side: int) -> Dataset:
    """One split of the images in and below a folder, see datasets.load."""
    if (root / "train").is_dir():
        return _load_labelled(root, split, side)
    if split == "test":
        raise ValueError(f"{root} has no test split: it holds images without labels (a labelled folder has train/ and test/)")
    found, _ = files.find(root)
    if not found:
        raise ValueError(f"no image in {root} (looked for {', '.join(files.SUFFIXES)})")
    if any(file.parent != root for file in found):
        log.warning("the images of %s are read without labels; folders are classes only below train/ and test/", root)
    return Dataset(str(root), files.load(root, found, side), None, ())


def identity(root: Path) -> str:
    """The folder's last name and a digest of its images' names, sizes and times."""
    root = root.resolve()
    stats = [(file.relative_to(root).as_posix(), file.stat()) for file in files.find(root)[0]]
    listing = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return f"{root.name}-{sha256(repr(listing))[:12]}"


def _load_labelled(root: Path, split: str, side: int) -> Dataset:
    """The classes are those of train/, each with an image there; a split may lack some of them but knows no others."""
    if not (root / split).is_dir():
        raise ValueError(f"{root} has no {split} split: there is no folder {root / split}")
    classes = _class_names(root / "train")
    if strangers := set(_class_names(root / split)) - set(classes):
        raise ValueError(f"classes of {root / split} that are not in {root / 'train'}: {', '.join(sorted(strangers))}")
    found = [files.find(root / split / name)[0] for name in classes]
    empty = [name for name, images in zip(classes, found, strict=True) if not images]
    if len(empty) == len(classes) or (empty and split == "train"):
        raise ValueError(f"no image in {root / split} of the classes {', '.join(empty) or '(there is no class folder)'}")
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), list(map(len, found)))
    return Dataset(str(root), files.load(root, list(chain.from_iterable(found)), side), labels, classes)


def _class_names(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(f.name for f in folder.iterdir() if f.is_dir() and not f.name.startswith(".")))
