"""What is to be labelled: a folder of images, a file of embeddings, or what an earlier round left to label."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from supclust.images import files as images
from supclust.label import embeddings
from supclust.label.annotations import counted, listing
from supclust.label.request import EncoderOptions, Request

if TYPE_CHECKING:
    from supclust.label.embedders import Embedder

log = logging.getLogger(__name__)

TRAINING = "encoder"  # folder of the encoder that a round trains
KEPT = ("copies", "skipped", "labels", "known", "classes")  # what a record keeps of its source, as it is


@dataclass(frozen=True, eq=False)
class Source:
    """The pool: n images or embeddings, by id."""

    ids: tuple[str, ...]  # of images, their names relative to the folder, with slashes
    files: tuple[Path | None, ...]  # the images themselves; None where there is none
    about: Mapping[str, Any]  # what it is, and once there are features, what made them
    folder: Path | None  # that holds all the images; None where there are none
    features: np.ndarray | None = None  # (m, d) of the first m; `embedded` makes the others
    pixels: images.ImageFiles | None = None  # of these others, for the embedder; None where all features are given
    embedder: Embedder | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)  # files and folders that are left out, and why
    copies: Mapping[str, str] = field(default_factory=dict)  # id of an image that is left out -> id of the one it is a copy of
    earlier: tuple[str, ...] = ()  # ids that earlier rounds picked
    labels: Mapping[str, str] = field(default_factory=dict)  # by id, as the earlier round knew them
    known: Sequence[Sequence[float]] = ()  # progress.Known of the rounds up to this one
    classes: Sequence[str] = ()  # named in the earlier round
    first: Path | None = None  # folder of the first round of the chain; None where this will be it
    kept: Path | None = None  # where the embeddings are; None where they have to be written

    def embedded(self, out: Path) -> Source:
        """The same with features, without the images that cannot be read. Raises ValueError if none can be.

        It takes minutes where an encoder has to be trained, which is kept in a folder in out.
        """
        if self.embedder is None:
            return self
        pixels, bad = self.pixels, self.pixels.unreadable
        if not self.embedder.streams:  # a training needs each image often
            files = [pixels.folder / name for name in pixels.names]
            pixels = images.read_all(files, pixels.side, bad, progress=True)
        made, made_by = self.embedder.embed(pixels, out / TRAINING) if len(pixels) else ((), {})
        if not len(made):
            some, first = counted(len(self.pixels), "image"), bad[self.folder / self.pixels.names[0]]
            raise ValueError(f"of {some} in {self.folder}, none can be read; of the first: {first}")
        pool = list(zip(self.ids, self.files, strict=True))
        skipped = {**self.skipped, **{images.printable(id_): bad[file] for id_, file in pool if file in bad}}
        ids, files = zip(*((id_, file) for id_, file in pool if file not in bad), strict=True)
        features = made if self.features is None else np.concatenate([self.features, made])
        about = {**made_by, **self.about}
        return replace(self, ids=ids, files=files, features=features, about=about, kept=None, skipped=dict(sorted(skipped.items())))


def read(request: Request) -> Source:
    """The pool that request.source names: a folder of images, an earlier round's folder, or a file of embeddings.

    Of what lies in request.out, nothing is taken for an image of the pool.
    Raises FileNotFoundError for a path that does not exist, and ValueError for one that holds nothing to label.
    """
    path, pictures = request.source, request.pictures
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}: name a folder of images, or a file of embeddings (.npy, .npz, .parquet)")
    if path.suffix.lower() in images.SUFFIXES and path.is_file():
        raise ValueError(f"{path} is one image: name the folder that holds the images")
    if pictures is not None and not pictures.is_dir():
        raise FileNotFoundError(f"there is no folder of images {pictures}")
    if (path.is_file() or images.is_round(path)) and replace(request.encoder, download=False) != EncoderOptions():
        raise ValueError(f"{path} has features already: leave out the options of encoder and training, or name the images")
    if images.is_round(path):
        return _with_added(_of_round(request), request)
    if request.added:
        raise ValueError(f"--added goes on from the folder of a round, and {path} is none")
    return _of_folder(request) if path.is_dir() else _of_embeddings(path, pictures, request.id_column)


def _of_folder(request: Request) -> Source:
    folder = request.source.absolute()
    there = images.find(request.out)[0] if folder.resolve() in request.out.resolve().parents else ()
    if mine := [file for file in there if file.name != "contact_sheet.png"]:  # results would hide them from every later round
        yours = f"{counted(len(mine), 'image')} of yours, the first {images.printable(mine[0].name)}"
        raise ValueError(f"{request.out} holds {yours}: name another folder for the results, as in --out {request.out}-2")
    files, skipped = images.find(folder, leave_out=[request.out])
    if not files:
        first = next((f", the first {images.printable(file.name)}: {reason}" for file, reason in sorted(skipped.items())), "")
        others = f" ({counted(len(skipped), 'file is', 'files are')} none{first})" if skipped else ""
        raise ValueError(f"no image in {folder}{others}. Looked for files named {', '.join(images.SUFFIXES)}")
    log.info("%s found", counted(len(files), "image"))
    from supclust.label import embedders  # PyTorch takes seconds to import, and those who bring embeddings do not need it

    embedder = embedders.load(request.encoder, request.seed, force=request.force)
    source = _of_files(folder, files, skipped, embedder)
    return replace(source, about={"kind": "images", "name": folder.name, "pixels": images.SEEN, "load": embedder.name})


def _of_files(
    folder: Path, files: Sequence[Path], skipped: Mapping[Path, str], embedder: Embedder, known: Sequence[Path] = ()
) -> Source:
    """The images of a folder, without copies of each other and of the known ones, which do not come again."""
    same = images.copies([*known, *files])
    same = {file: same[file] for file in files if file in same}
    originals = tuple(file for file in files if file not in same)
    names = {file: file.relative_to(folder).as_posix() for file in (*known, *files, *skipped)}
    skipped = {**skipped, **{copy: f"the same image as {names[original]}" for copy, original in same.items()}}
    reasons = {images.printable(names[file]): reason for file, reason in sorted(skipped.items())}
    copies = {names[copy]: names[original] for copy, original in same.items()}
    ids = tuple(names[file] for file in originals)
    pixels = images.ImageFiles(folder, ids, embedder.side, unreadable={})
    return Source(ids, originals, {}, folder, pixels=pixels, embedder=embedder, skipped=reasons, copies=copies)


def _of_embeddings(path: Path, pictures: Path | None, id_column: str | None) -> Source:
    found = embeddings.read(path, id_column=id_column)
    files = _files(found, path.absolute().parent, pictures)
    parents = [file.parent for file in files if file is not None]
    folder = pictures.absolute() if pictures is not None else Path(os.path.commonpath(parents)) if parents else None
    about = {"kind": "embeddings", "name": path.name, "encoder": "given embeddings", "id_column": id_column}
    return Source(found.ids, files, about, folder, found.features, kept=path.absolute())


def _files(found: embeddings.Embeddings, folder: Path, pictures: Path | None) -> tuple[Path | None, ...]:
    """The images of embeddings: by the paths in their file, which start from its folder, or by ids in the folder of pictures."""
    base, names = (Path(os.path.abspath(pictures)), found.ids) if pictures else (folder, found.paths or ())
    files = [Path(os.path.normpath(base / name)) if name and "://" not in name else None for name in names]
    if pictures:  # whatever else an id may lead to
        files = [file if file and file.is_relative_to(base) else None for file in files]
    there = [file if file and os.path.isfile(file) else None for file in files]
    if not any(there):
        for first in [*filter(None, files)][:1]:
            log.warning("no image is where it should be, the first one at %s. Ids are shown; --images names another folder", first)
        return (None,) * len(found.ids)
    return tuple(there if pictures else files)


def _of_round(request: Request) -> Source:
    """What the rounds of a folder's chain have not picked yet, on the embeddings that the first one made or was given."""
    folder, pictures = request.source, request.pictures
    record = read_record(folder / images.MARKER)
    path = folder / record["embeddings"]
    if not path.is_file():
        raise FileNotFoundError(f"the embeddings of the round in {folder} are no longer at {path}: put them back, or start anew")
    source = _of_embeddings(path, pictures, record["source"].get("id_column"))
    if pictures is None and source.folder is not None and record["folder"] is not None:
        source = replace(source, folder=Path(os.path.normpath(folder.absolute() / record["folder"])))
    earlier = (*record["earlier"], *record["picks"])
    if gone := set(earlier).difference(source.ids):
        raise ValueError(f"{path} is not what the round in {folder} was made from: it has no {listing(gone)}")
    first = folder / record["first"]
    first = first if images.is_round(first) else folder
    return replace(source, about=record["source"], earlier=earlier, first=first, **{name: record[name] for name in KEPT})


def _with_added(source: Source, request: Request) -> Source:
    """The pool of a round with the images that were added to its folder since; without request.added, a message counts them.

    Only they are embedded, by the encoder of the others, and they come after them.
    """
    if source.folder is None or source.about.get("pixels") != images.SEEN or "load" not in source.about:
        if request.added:
            reason = "it was made from embeddings, or by another version, or its images have gone"
            raise ValueError(f"nothing can be added to the round in {request.source}: {reason}. Start anew from the images")
        return source
    files, others = images.find(source.folder, leave_out=[request.out])
    known = {source.folder / name for name in (*source.ids, *source.copies, *source.skipped)}
    files = [file for file in files if file not in known]
    if not request.added:
        if files:
            number = counted(len(files), "image was", "images were")
            log.info("%s added to %s since: --added takes them into a round", number, source.folder)
        return source
    from supclust.label import embedders

    trained = source.about["load"] == "simclr" and "weights" in source.about
    name = str(source.first / TRAINING / embedders.WEIGHTS) if trained else source.about["load"]
    embedder = embedders.load(EncoderOptions(name, minutes=0, download=request.encoder.download))
    new = _of_files(source.folder, files, others, embedder, [file for file in source.files if file is not None])
    if not new.ids:
        raise ValueError(f"no image was added to {source.folder} since: leave out --added")
    return replace(
        source, ids=source.ids + new.ids, files=source.files + new.files, pixels=new.pixels, embedder=embedder,
        skipped={**source.skipped, **new.skipped}, copies={**source.copies, **new.copies},
    )  # fmt: skip


def beside(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The rounds in the folder around a round, and what they wrote about themselves; a damaged record counts for nothing."""
    for marker in sorted(folder.absolute().parent.glob(f"*/{images.MARKER}")):
        with suppress(ValueError):
            yield marker.parent, read_record(marker)


def read_record(file: Path) -> dict[str, Any]:
    """What a round wrote about itself; ValueError naming the file if it is damaged."""
    new = {"asked": {}, "labels": {}, "classes": [], "known": [], "first": ".", "skipped": {}}  # earlier versions lack these
    try:
        record = new | json.loads(file.read_text(encoding="utf-8-sig"))
        may_lack = [record["folder"], *map(record["asked"].get, ("source", "pictures", "strategy"))]
        paths = [record["embeddings"], record["first"], *(text for text in may_lack if text is not None)]
        texts = [*paths, *(record["source"][name] for name in ("name", "encoder"))]
        texts += [text for name in ("copies", "labels", "skipped") for text in record[name].values()]
        if not all(isinstance(text, str) for text in (*texts, *record["earlier"], *record["picks"], *record["classes"])):
            raise TypeError("something is no text")
        if any("\0" in path for path in paths):
            raise ValueError("no path has a NUL")
        if not all(len(one) == 3 and min(one) >= 0 for one in record["known"]):
            raise ValueError("what is known of the labels is no numbers")
        return record
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} is damaged. Remove it to take {file.parent} for a folder of images") from error
