"""CIFAR from its official files, through torchvision, or from folders of its images; where neither can be read, what is wrong."""

from pathlib import Path

import numpy as np
from torchvision import datasets
from torchvision.datasets.utils import check_integrity

from supclust.images import folders

SIZES = {"train": 50_000, "test": 10_000}  # images


def load(name: str, root: Path, split: str, download: bool) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Images uint8 (n, 3, 32, 32), labels int64 (n,) and classes of torchvision's CIFAR10 or CIFAR100, in the official order.

    CIFAR-100, and CIFAR-10 from the folders root/cifar10/{train,test}/<class>/ if the official files are not there, are in order of
    class, then of pixels: so folders and files are one data set, whatever the images are called.
    Raises ValueError for a damaged file or folders that lack images, and FileNotFoundError, with how to get them, for files that
    are not there.
    """
    source, folder = getattr(datasets, name), root / name.lower()
    if (folder / split).is_dir() and not (download or (root / source.base_folder).exists()):
        found = folders.load(folder, split, 32)
        if len(found) != SIZES[split]:
            raise ValueError(f"{folder / split} holds {len(found)} of the {SIZES[split]} images")
        images, labels, classes = found.images, found.labels, found.classes
    else:
        official = _official(source, root, split, download)
        images, labels = np.ascontiguousarray(official.data.transpose(0, 3, 1, 2)), np.array(official.targets, dtype=np.int64)
        classes = tuple(official.classes)
        if name == "CIFAR10":
            return images, labels, classes
    pixels = images.reshape(len(images), -1)
    order = np.lexsort((pixels.view(f"S{pixels.shape[1]}").ravel(), labels))
    return images[order], labels[order], classes


def _official(source: type[datasets.CIFAR10], root: Path, split: str, download: bool) -> datasets.CIFAR10:
    try:
        return source(root, train=split == "train", download=download)
    except RuntimeError as error:  # torchvision's one message for files that are absent and files that are damaged
        folder, name = root / source.base_folder, source.__name__
        title, command = name.replace("CIFAR", "CIFAR-"), f"`supclust data {name.lower()}`"
        for file, md5 in [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]:
            if (folder / file).exists() and not check_integrity(folder / file, md5):
                problem = f"{folder / file} is not the official {title} file: its MD5 sum differs"
                raise ValueError(f"{problem}. Remove it and get it again with {command}") from error
        holds = f"{source.base_folder}/, or {name.lower()}/ with train/ and test/<class>/"
        advice = f"Get it with {command}, or set SUPCLUST_DATA to the folder that holds {holds}"
        raise FileNotFoundError(f"{title} is not, or not completely, in {folder}. {advice}") from error
