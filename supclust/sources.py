"""What is to be labelled: a folder of images, a file of embeddings, or what an earlier round left to label."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from supclust import embeddings, images
from supclust.embeddings import Embeddings
from supclust.images import MARKER, Skipped

EMBEDDINGS = "embeddings.npz"  # what a round on a folder keeps, for the next one
TRAINING = "encoder"  # folder of the encoder that a round trains

Embed = Callable[[Any, Path], tuple[np.ndarray, dict[str, Any]]]


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

    @property
    def folder(self) -> Path:
        """The folder that holds all the images."""
        return Path(os.path.commonpath([file.parent for file in self.files if file is not None]))


def of(path: Path, out: Path, embedder: Callable[[], Any], pictures: Path | None = None) -> Source:
    """The pool that path names: a folder of images, an earlier round's folder, or a file .npy, .npz or .parquet of embeddings.

    out: the folder that is written; of what lies in it, nothing is taken for an image of the pool. embedder: makes an
    `embedders.Embedder`, asked for only where there are images without embeddings. pictures: the folder of the images that the
    ids of embeddings name.
    Raises FileNotFoundError for a path that does not exist, and ValueError for one that holds nothing to label.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}: name a folder of images, or a file of embeddings (.npy, .npz, .parquet)")
    if (path / MARKER).is_file():
        return _of_round(path, pictures)
    if path.is_dir():
        return _of_folder(path, out, embedder())
    found = embeddings.read(path)
    return _of_embeddings(path, found, pictures)


def _of_folder(folder: Path, out: Path, embedder: Any) -> Source:
    folder = folder.absolute()
    files, skipped = images.find(folder, leave_out=[out])
    if not files:
        raise ValueError(f"no image in {folder}{_so_many(skipped)}. Looked for files named {', '.join(images.SUFFIXES)}")
    files, same = _without_copies(folder, files)
    pixels, kept, unreadable = images.load_readable(folder, files, embedder.side)
    if not kept:
        raise ValueError(f"none of the {len(files)} images in {folder} can be read; of the first: {unreadable[0].reason}")
    ids = images.relative(folder, [files[position] for position in kept])
    copies = {copy: original for copy, original in same.items() if original in set(ids)}
    skipped += unreadable + [Skipped(copy, f"the same image as {original}") for copy, original in same.items()]
    about = {"kind": "images", "name": folder.name}

    def features() -> np.ndarray:
        found, made_by = embedder.embed(pixels, out / TRAINING)
        about.update(made_by)
        return found

    return Source(ids, tuple(files[position] for position in kept), features, about, tuple(skipped), copies)


def _so_many(skipped: Sequence[Skipped]) -> str:
    return f" ({len(skipped)} files are none, the first {skipped[0].name}: {skipped[0].reason})" if skipped else ""


def _without_copies(folder: Path, files: Sequence[Path]) -> tuple[list[Path], dict[str, str]]:
    """The files without those that are byte for byte an earlier one, and these: {name: name of the earlier one}."""
    same, names = images.copies(files), images.relative(folder, files)
    return [file for position, file in enumerate(files) if position not in same], {names[i]: names[j] for i, j in same.items()}


def _of_embeddings(path: Path, found: Embeddings, pictures: Path | None) -> Source:
    about = {"kind": "embeddings", "name": path.name, "encoder": "given embeddings"}
    files = _files(found, path.absolute().parent, pictures)
    return Source(found.ids, files, lambda: found.features, about, kept=path.absolute())


def _files(found: Embeddings, folder: Path, pictures: Path | None) -> tuple[Path | None, ...]:
    """The images of embeddings: by the paths in their file, which start from its folder, or by ids in the folder of pictures."""
    if pictures is not None:
        if not pictures.is_dir():
            raise FileNotFoundError(f"there is no folder of images {pictures}")
        return tuple(file if (file := pictures / id_).is_file() else None for id_ in found.ids)
    return tuple(Path(os.path.normpath(folder / name)) if name else None for name in found.paths or [None] * len(found.ids))


def _of_round(folder: Path, pictures: Path | None) -> Source:
    """What the earlier rounds of a folder's chain have not picked yet, on the embeddings that the first one made or was given."""
    record = read_record(folder)
    path = folder / record["embeddings"]
    if not path.is_file():
        raise FileNotFoundError(f"the embeddings of the round in {folder} are no longer at {path}: put them back, or start anew")
    source = _of_embeddings(path, embeddings.read(path), pictures)
    about = record["source"] | ({"encoder": record["encoder"]} if "encoder" in record else {})
    return replace(source, about=about, copies=record["copies"], earlier=(*record["earlier"], *record["picks"]))


def read_record(folder: Path) -> dict[str, Any]:
    """What a round wrote about itself; ValueError naming the file if it is damaged."""
    try:
        record = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        lacking = {"embeddings", "source", "copies", "earlier", "picks"} - set(record)
    except (OSError, ValueError, TypeError) as error:
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
