"""What is to be labelled: a folder of images, a file of embeddings, or what an earlier round left to label."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from supclust.images import files as images
from supclust.images.files import MARKER, Skipped
from supclust.label import embeddings
from supclust.label.embeddings import Embeddings

log = logging.getLogger(__name__)

EMBEDDINGS = "embeddings.npz"  # what a round on a folder keeps, for the next one
TRAINING = "encoder"  # folder of the encoder that a round trains


@dataclass(frozen=True, eq=False)
class Source:
    """The pool: n images or embeddings, by id."""

    ids: tuple[str, ...]  # of images, their names relative to the folder, with slashes
    files: tuple[Path | None, ...]  # the images themselves; None where there is none
    features: Callable[[], np.ndarray]  # (n, d); takes minutes where an encoder has to be trained
    about: dict[str, Any]  # what it is, and once there are features, what made them
    skipped: tuple[Skipped, ...] = ()
    copies: Mapping[str, str] = field(default_factory=dict)  # id of an image that is left out -> id of the one it is a copy of
    earlier: tuple[str, ...] = ()  # ids that earlier rounds picked
    kept: Path | None = None  # where the embeddings are; None where they have to be written
    folder: Path | None = None  # that holds all the images; None where there are none


def of(path: Path, out: Path, embedder: Callable[[], Any], pictures: Path | None = None) -> Source:
    """The pool that path names: a folder of images, an earlier round's folder, or a file .npy, .npz or .parquet of embeddings.

    out: the folder that is written; of what lies in it, nothing is taken for an image of the pool. embedder: makes an
    `embedders.Embedder`, asked for only where there are images without embeddings. pictures: the folder of the images that the
    ids of embeddings name.
    Raises FileNotFoundError for a path that does not exist, and ValueError for one that holds nothing to label.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}: name a folder of images, or a file of embeddings (.npy, .npz, .parquet)")
    if path.suffix.lower() in images.SUFFIXES and not path.is_dir():
        raise ValueError(f"{path} is one image: name the folder that holds the images")
    if (path / MARKER).is_file():
        return _of_round(path, pictures)
    if path.is_dir():
        return _of_folder(path, out, embedder())
    return _of_embeddings(path, pictures)


def _of_folder(folder: Path, out: Path, embedder: Any) -> Source:
    folder = folder.absolute()
    if images.printable(str(folder)) != str(folder):
        raise ValueError(f"the name of {images.printable(str(folder))} is not valid Unicode: rename the folder")
    files, skipped = images.find(folder, leave_out=[out])
    if not files:
        raise ValueError(f"no image in {folder}{_so_many(skipped)}. Looked for files named {', '.join(images.SUFFIXES)}")
    pixels, readable, unreadable = images.load_readable(folder, files, embedder.side)
    if not readable:
        raise ValueError(f"none of the {len(files)} images in {folder} can be read; of the first: {unreadable[0].reason}")
    files = [files[position] for position in readable]
    pixels, kept, copies = _without_copies(folder, files, pixels)
    skipped += unreadable + [Skipped(copy, f"the same image as {original}") for copy, original in copies.items()]
    about = {"kind": "images", "name": folder.name}

    def features() -> np.ndarray:
        found, made_by = embedder.embed(pixels, out / TRAINING)
        about.update(made_by)
        return found

    return Source(images.relative(folder, kept), tuple(kept), features, about, tuple(skipped), copies, folder=folder)


def _without_copies(folder: Path, files: Sequence[Path], pixels: Any) -> tuple[Any, list[Path], dict[str, str]]:
    """Pixels and files of the images that are no copies of an earlier one, and the copies: {name: name of that one}."""
    same, names = images.copies(files), images.relative(folder, files)
    if not same:
        return pixels, list(files), {}
    kept = [position for position in range(len(files)) if position not in same]
    pixels = pixels[kept] if isinstance(pixels, np.ndarray) else pixels.take(kept)
    return pixels, [files[position] for position in kept], {names[copy]: names[original] for copy, original in same.items()}


def _so_many(skipped: Sequence[Skipped]) -> str:
    return f" ({len(skipped)} files are none, the first {skipped[0].name}: {skipped[0].reason})" if skipped else ""


def _of_embeddings(path: Path, pictures: Path | None) -> Source:
    found = embeddings.read(path)
    about = {"kind": "embeddings", "name": path.name, "encoder": "given embeddings"}
    files = _those_there(_files(found, path.absolute().parent, pictures))
    there = [file.parent for file in files if file is not None]
    folder = pictures.absolute() if pictures is not None else Path(os.path.commonpath(there)) if there else None
    return Source(found.ids, files, lambda: found.features, about, kept=path.absolute(), folder=folder)


def _those_there(files: tuple[Path | None, ...]) -> tuple[Path | None, ...]:
    """The images as they are named, or none if not one of them is there: embeddings do without."""
    named = [file for file in files if file is not None]
    if not named or any(map(os.path.isfile, named)):
        return files
    log.warning("no image is where it should be, the first one at %s: --images names their folder, else ids are shown", named[0])
    return (None,) * len(files)


def _files(found: Embeddings, folder: Path, pictures: Path | None) -> tuple[Path | None, ...]:
    """The images of embeddings: by the paths in their file, which start from its folder, or by ids in the folder of pictures."""
    if pictures is not None:
        if not pictures.is_dir():
            raise FileNotFoundError(f"there is no folder of images {pictures}")
        return tuple(file if os.path.isfile(file := pictures.absolute() / id_) else None for id_ in found.ids)
    paths = [name if name and "://" not in name else None for name in found.paths or [None] * len(found.ids)]
    return tuple(Path(os.path.normpath(folder / name)) if name else None for name in paths)


def _of_round(folder: Path, pictures: Path | None) -> Source:
    """What the earlier rounds of a folder's chain have not picked yet, on the embeddings that the first one made or was given."""
    record = read_record(folder)
    path = folder / record["embeddings"]
    if not path.is_file():
        raise FileNotFoundError(f"the embeddings of the round in {folder} are no longer at {path}: put them back, or start anew")
    source = _of_embeddings(path, pictures)
    if pictures is None and source.folder is not None and record.get("folder") is not None:
        source = replace(source, folder=Path(os.path.normpath(folder.absolute() / record["folder"])))
    return replace(source, about=record["source"], copies=record["copies"], earlier=(*record["earlier"], *record["picks"]))


def read_record(folder: Path) -> dict[str, Any]:
    """What a round wrote about itself; ValueError naming the file if it is damaged."""
    try:
        record = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        lacking = {"embeddings", "source", "copies", "earlier", "picks"} - set(record)
    except OSError as error:
        raise ValueError(f"{folder / MARKER} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder / MARKER} is damaged: {error}. Remove it to take {folder} for a folder of images") from error
    if lacking:
        raise ValueError(f"{folder / MARKER} is damaged: it lacks {', '.join(sorted(lacking))}")
    return record


def keep(source: Source, features: np.ndarray, folder: Path, final: Path) -> Path:
    """Where the embeddings are, or are written now: folder / EMBEDDINGS, which will lie in final; relative to final."""
    if source.kept is not None:
        return relative_to(source.kept, final)
    paths = tuple(None if file is None else relative_to(file, final).as_posix() for file in source.files)
    embeddings.write(folder / EMBEDDINGS, Embeddings(features, source.ids, paths))
    return Path(EMBEDDINGS)


def relative_to(file: Path, folder: Path) -> Path:
    """The way from a folder to a file, so that both may be moved together; absolute where there is none (another drive)."""
    try:
        return Path(os.path.relpath(file, folder))
    except ValueError:
        return file


def positions(ids: Sequence[str], wanted: Collection[str]) -> list[int]:
    """Where the wanted ids stand, ascending; those that are not there are left out."""
    wanted = set(wanted)
    return [position for position, id_ in enumerate(ids) if id_ in wanted]
