"""Copies of images: numbered, and where they have labels, in a folder for each, as torchvision's ImageFolder and YOLO read them."""

import logging
import re
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from supclust.images.files import open_image
from supclust.label.annotations import counted, listing
from supclust.label.results import PART, write_csv

log = logging.getLogger(__name__)

MANIFEST = "labels.csv"  # of the copies: file, id, label, suggestion
NOT_IN_NAMES = re.compile(r'[\x00-\x1f\x7f\ud800-\udfff<>:"/\\|?*]|^[.]|[. ]+$')  # on one system or another


def check(folder: Path | None, images: Path | None, out: Path) -> None:
    """ValueError unless copies, where they are wanted, can go into the folder: new or empty, not out, and not among the images.

    It may hold what a run into out left there when it was killed.
    """
    if folder and images is None:
        raise ValueError("there are no images to copy: --images DIR names their folder")
    if folder and images.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise ValueError(f"copies in {folder} would count as images of {images}: name a folder outside of it")
    if folder and folder.resolve() == out.resolve():
        raise ValueError(f"{folder} is for the results: name another folder for the copies")
    if not folder or not folder.exists():
        return
    there = {one.name for one in folder.iterdir()} if folder.is_dir() else {folder.name}
    if there - {PART} and not ((out / PART).exists() and there & {PART, MANIFEST}):
        raise ValueError(f"{folder} is not an empty folder: name a new one for the copies")


def copy_by_label(images: Sequence[tuple[str, Path | None, str, str]], folder: Path) -> None:
    """Copy images (id, file, label, suggestion) as LABEL/001_name.jpg, without any label as 001_name.jpg, and write labels.csv.

    A label that cannot be the name of a folder gets one like it; labels stay apart even where case does not count. Images that
    cannot be read any more are left out with a warning, as is whatever is no image.
    """
    folders, digits = _folders({label or suggestion for _, _, label, suggestion in images} - {""}), max(3, len(str(len(images))))
    rows, gone = [], []
    part = folder / PART  # until all are there, so that the same command goes on after whatever happens
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    part.mkdir(parents=True)
    try:
        for number, (id_, file, label, suggestion) in enumerate(images, start=1):
            try:
                open_image(file).close()  # a table of paths may lead to any file
            except Exception:  # whatever the bytes of something else lead to
                gone.append(id_)
                continue
            copy = part / folders.get(label or suggestion, "") / f"{number:0{digits}}_{_name(file.stem)}{file.suffix}"
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, copy)
            rows.append({"file": copy.relative_to(part).as_posix(), "id": id_, "label": label, "suggestion": suggestion})
        if gone:
            log.warning("%s not copied, as no longer there or no images: %s", counted(len(gone), "image"), listing(gone))
        write_csv(part / MANIFEST, rows)
        for name in (*(row["file"] for row in rows), MANIFEST):
            (folder / name).parent.mkdir(exist_ok=True)
            (part / name).replace(folder / name)
    except BaseException:
        for row in rows:
            (folder / row["file"]).unlink(missing_ok=True)
            with suppress(OSError):  # there is something in it
                (folder / row["file"]).parent.rmdir()
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
        with suppress(OSError):  # there is something in it
            folder.rmdir()
    log.info("%s copied into %s", counted(len(rows), "image"), folder)


def _folders(labels: Iterable[str]) -> dict[str, str]:
    """Names of folders by label; labels that can be names as they are come first, and keep them."""
    names, taken = {}, {MANIFEST}
    for label in sorted(labels, key=lambda label: (_name(label) != label, label)):
        names[label] = _name(label)
        while names[label].casefold() in taken:
            names[label] += "_"
        taken.add(names[label].casefold())
    return names


def _name(text: str) -> str:
    return NOT_IN_NAMES.sub("_", text[:60])  # at most 240 bytes, of the 255 that file systems allow
