"""The official files of CIFAR, through torchvision; where it cannot load them, what is wrong."""

from __future__ import annotations

from pathlib import Path

from torchvision import datasets
from torchvision.datasets.utils import check_integrity


def load(name: str, root: Path, split: str, download: bool) -> datasets.CIFAR10:
    """torchvision's CIFAR10 or CIFAR100; ValueError for a damaged file, FileNotFoundError for files that are not there."""
    source = getattr(datasets, name)
    try:
        return source(root, train=split == "train", download=download)
    except RuntimeError as error:  # torchvision's one message for files that are absent and files that are damaged
        raise problem(source, root) from error


def problem(source: type[datasets.CIFAR10], root: Path) -> Exception:
    """A ValueError about the first damaged file, else a FileNotFoundError that says where the files must be and how to get them."""
    folder, name = root / source.base_folder, source.__name__.lower()
    title, command = name.replace("cifar", "CIFAR-"), f"`supclust data {name}`"
    files = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
    for file in [folder / file for file, md5 in files if (folder / file).exists() and not check_integrity(folder / file, md5)]:
        return ValueError(
            f"{file} is not the official {title} file: its MD5 sum differs. Remove it and get it again with {command}"
        )
    return FileNotFoundError(
        f"{title} is not, or not completely, in {folder}. Get it with {command}, "
        f"or set SUPCLUST_DATA to the folder that holds {source.base_folder}/"
    )
