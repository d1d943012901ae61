"""The official files of CIFAR, through torchvision; where it cannot load them, what is wrong."""

from __future__ import annotations

from pathlib import Path

from torchvision import datasets
from torchvision.datasets.utils import check_integrity


def load(name: str, root: Path, split: str, download: bool) -> datasets.CIFAR10:
    """torchvision's CIFAR10 or CIFAR100.

    Raises ValueError for a damaged file, and FileNotFoundError for files that are not there, with how to get them.
    """
    source = getattr(datasets, name)
    try:
        return source(root, train=split == "train", download=download)
    except RuntimeError as error:  # torchvision's one message for files that are absent and files that are damaged
        folder, title, command = root / source.base_folder, name.replace("CIFAR", "CIFAR-"), f"`supclust data {name.lower()}`"
        files = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
        for file, md5 in files:
            if (folder / file).exists() and not check_integrity(folder / file, md5):
                raise ValueError(
                    f"{folder / file} is not the official {title} file: its MD5 sum differs. Remove it and get it again with "
                    f"{command}"
                ) from error
        raise FileNotFoundError(
            f"{title} is not, or not completely, in {folder}. Get it with {command}, "
            f"or set SUPCLUST_DATA to the folder that holds {source.base_folder}/"
        ) from error
