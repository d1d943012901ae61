"""What is wrong with the official files of CIFAR, where torchvision cannot load them."""

from __future__ import annotations

from pathlib import Path

from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import check_integrity


def problem(source: type[CIFAR10], root: Path) -> Exception:
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
