"""The image data sets, all as one type: digits, CIFAR-10, its long-tailed draw, and any folder of images."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torchvision.datasets import CIFAR10
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.datasets.utils import check_integrity
from tqdm import tqdm

from supclust import paths
from supclust.files import sha256

log = logging.getLogger(__name__)

NAMES = ("digits", "cifar10", "cifar10-lt50")
SPLITS = ("train", "test")

# int(5000 * 0.02 ** (i / 9)), truncated as in the reference code: 13,996 images, the largest class 50 times the smallest.
LONG_TAIL_50 = (5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images of one split, and what is known about them."""

    name: str
    images: np.ndarray  # uint8 (n, 3, height, width)
    labels: np.ndarray | None  # int64 (n,), positions in `classes`; None where nobody has labelled them
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, indices: Sequence[int] | np.ndarray) -> Dataset:
        """The images at these indices, in that order."""
        labels = None if self.labels is None else self.labels[indices]
        return dataclasses.replace(self, images=self.images[indices], labels=labels)


def load(name: str, split: str = "train", *, seed: int = 0, side: int = 32, download: bool = False) -> Dataset:
    """One split of a data set.

    name: one of NAMES, or the path of a folder of images: root/{train,test}/<class>/* with labels, or any other
        arrangement of image files below root, without labels.
    split: "train" (the pool to query from) or "test".
    seed: of the long-tailed draw; nothing else here depends on it.
    side: pixels; images of a folder become side x side. The others keep their own size (digits 8, CIFAR-10 32).
    download: fetch CIFAR-10 into the data folder if it is not there.

    Raises ValueError for an unknown name or split, a damaged file or an image that cannot be read, and
    FileNotFoundError, with what to do about it, for a data set that is not on this machine.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    if name == "digits":
        return _load_digits(split)
    if name in ("cifar10", "cifar10-lt50"):
        return _load_cifar10(name, split, seed, download)
    if not name or not Path(name).is_dir():
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(NAMES)}, or the path of a folder of images")
    return _load_folder(Path(name), split, side)


def identity(name: str) -> str:
    """What a data set is known by: its name, or of a folder its last name and a digest of its files' names, sizes and times."""
    if not Path(name).is_dir() or name in NAMES:
        return name
    root = Path(name).resolve()
    listing = [(str(f.relative_to(root)), f.stat().st_size, f.stat().st_mtime_ns) for f in _image_files(root)]
    return f"{root.name}-{sha256(repr(listing))[:12]}"


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


def _load_digits(split: str) -> Dataset:
    """Scikit-learn's 1,797 digits, 8 x 8, split 1,437 + 360; always the same split, so that their features are one thing."""
    digits = load_digits()
    parts = train_test_split(np.arange(len(digits.target)), test_size=0.2, stratify=digits.target, random_state=0)
    rows = np.sort(parts[SPLITS.index(split)])
    grey = np.rint(digits.images[rows] * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[:, None], 3, axis=1)
    return Dataset("digits", images, digits.target[rows].astype(np.int64), tuple(map(str, digits.target_names)))


def _load_cifar10(name: str, split: str, seed: int, download: bool) -> Dataset:
    """CIFAR-10 in its official order. Of the long-tailed variant only the pool is a draw: its test set stays balanced."""
    try:
        official = CIFAR10(paths.data(), train=split == "train", download=download)
    except RuntimeError as error:  # torchvision's one message for files that are absent and files that are damaged
        raise _cifar10_problem(paths.data()) from error
    images = np.ascontiguousarray(official.data.transpose(0, 3, 1, 2))
    dataset = Dataset(name, images, np.array(official.targets, dtype=np.int64), tuple(official.classes))
    if name == "cifar10-lt50" and split == "train":
        return dataset.subset(long_tail_indices(dataset.labels, seed))
    return dataset


def _cifar10_problem(root: Path) -> Exception:
    """Which of the official files is damaged, or where they were looked for in vain."""
    folder = root / CIFAR10.base_folder
    official = [*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])]
    damaged = [file for file, md5 in official if (folder / file).exists() and not check_integrity(folder / file, md5)]
    if damaged:
        return ValueError(
            f"{folder / damaged[0]} is not the official CIFAR-10 file: its MD5 sum differs. "
            "Remove it and get it again with `supclust data cifar10`"
        )
    return FileNotFoundError(
        f"CIFAR-10 is not, or not completely, in {folder}. Get it with `supclust data cifar10`, "
        f"or set SUPCLUST_DATA to the folder that holds {CIFAR10.base_folder}/"
    )


def _load_folder(root: Path, split: str, side: int) -> Dataset:
    if not (root / "train").is_dir():
        return _load_unlabelled(root, split, side)
    classes = _class_names(root / "train")
    files = {name: _image_files(root / split / name) for name in classes}
    _check_classes(root, split, files)
    labels = np.repeat(np.arange(len(classes)), [len(files[name]) for name in classes]).astype(np.int64)
    return Dataset(str(root), _read_images(list(chain.from_iterable(files.values())), side), labels, classes)


def _load_unlabelled(root: Path, split: str, side: int) -> Dataset:
    if split == "test":
        raise ValueError(f"{root} has no test split: it holds images without labels (a labelled folder has train/ and test/)")
    files = _image_files(root)
    if not files:
        raise ValueError(f"no image in {root} (looked for {', '.join(IMG_EXTENSIONS)})")
    if any(file.parent != root for file in files):
        log.warning("the images of %s are read without labels; folders are classes only below train/ and test/", root)
    return Dataset(str(root), _read_images(files, side), None, ())


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
    """The image files in and below a folder, sorted; hidden files and folders are none."""
    found = (f for f in folder.rglob("*") if f.suffix.lower() in IMG_EXTENSIONS and f.is_file())
    return sorted(f for f in found if not any(part.startswith(".") for part in f.relative_to(folder).parts))


def _read_images(files: list[Path], side: int) -> np.ndarray:
    """uint8 (n, 3, side, side)."""
    images = np.empty((len(files), 3, side, side), dtype=np.uint8)
    for i, file in enumerate(tqdm(files, desc="reading images", unit="image", leave=False)):
        images[i] = _read_image(file, side)
    return images


def _read_image(file: Path, side: int) -> np.ndarray:
    """One image, upright as its camera meant it, its central square scaled to side x side: uint8 (3, side, side)."""
    try:
        with Image.open(file) as opened:
            upright = _eight_bit(ImageOps.exif_transpose(opened)).convert("RGB")
    except Exception as error:  # Pillow's decoders raise whatever the damaged bytes lead them to
        raise ValueError(f"cannot read the image {file}: {error}") from error
    return np.asarray(ImageOps.fit(upright, (side, side), Image.Resampling.BICUBIC)).transpose(2, 0, 1)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Grey values of 16 bits scaled to 8: Pillow would clip them at 255, which turns a radiograph white."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
