"""Embeddings that people bring along, in .npy, .npz and Parquet files, with ids, paths and labels of their images."""

import logging
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from supclust import kept
from supclust.engine import geometry
from supclust.label import columns
from supclust.label.annotations import counted, listing

log = logging.getLogger(__name__)

FEATURES = ("features", "embeddings", "embedding", "vector", "emb", "X", "x", "arr_0")
NOT_TEXT = re.compile("[\0\ud800-\udfff]")  # what UTF-8 cannot hold, as in the name of a file in another encoding, and NUL
HOW_TO_SAVE = (
    "This makes a file that can be read: numpy.savez('mine.npz', features=numpy.asarray(features, dtype='float32'), "
    "ids=numpy.asarray(ids, dtype=str))"
)

Found = tuple[np.ndarray, dict[str, np.ndarray]]  # features, and columns that have a known name


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Points of images, one a row, and what the images are called. Raises ValueError where these do not fit together."""

    features: np.ndarray  # (n, d) real; a memory map if the file is .npy
    ids: tuple[str, ...]  # n, distinct, not empty; the numbers of the rows if the file does not say
    paths: tuple[str | None, ...] | None = None  # n, of the images' files; None if the file does not know any
    labels: tuple[str, ...] | None = None  # n, not empty; None if they were not asked for

    def __post_init__(self) -> None:
        n = len(geometry.check_shape(self.features))
        for what, values in (("paths", self.paths), ("ids", self.ids), ("labels", self.labels)):
            if values is not None and len(values) != n:
                rows = counted(n, "row of features needs", "rows of features need")
                raise ValueError(f"{rows} as many {what}, and there are {len(values)}")
        if bad := [row for row, name in enumerate(self.ids) if not name or NOT_TEXT.search(name)]:
            raise ValueError(f"ids must be text that is not empty, and these rows' are not: {listing(bad)}")
        if repeated := [name for name, count in Counter(self.ids).items() if count > 1]:
            raise ValueError(f"ids must be distinct, and these come up again: {listing(repeated)}")
        if missing := [row for row, label in enumerate(self.labels or ()) if not label]:
            raise ValueError(f"each point needs a label, and these rows have none: {listing(missing)}")


def read(path: Path, labels: bool = False, id_column: str | None = None) -> Embeddings:
    """Embeddings from a .npy file (memory-mapped), a .npz archive or a Parquet file. No file can make this run code.

    .npz: the first of FEATURES, or the only 2-d array of numbers. Parquet (needs pyarrow): a column of lists of one length, or all
    columns of numbers. Ids and paths from one of columns.IDS and columns.PATHS, or ids from id_column, or a Parquet file's index.
    labels: whether there must be labels, too, as one of columns.LABELS.
    Raises ValueError with the file's name for whatever cannot be read. Whether the features are finite is not looked at.
    """
    if path.suffix.lower() not in READERS:
        raise ValueError(f"{path} must end in .npy, .npz or .parquet, so that it is clear how to read it; not in {path.suffix!r}")
    try:
        known = (*columns.IDS, columns.plain(id_column or "id"), *(columns.LABELS if labels else ()))
        with np.errstate(over="ignore", invalid="ignore"):  # of sizes in damaged headers, and of numbers that are none
            features, table = READERS[path.suffix.lower()](path, known)
        named = {name: tuple(_texts(table[name])) for name in columns.find(table, known)}
        files = next((named[name] for name in columns.find(named, columns.PATHS)), None)
        answers = next((named[name] for name in columns.find(named, columns.LABELS) if labels), None)
        if labels and answers is None:
            raise ValueError("it holds no labels: name them 'labels'")
        names = _ids(path, named, id_column) or tuple(map(str, range(len(np.atleast_1d(features)))))
        return Embeddings(features, names, files and tuple(name or None for name in files), answers)
    except Exception as error:  # numpy, zipfile and pyarrow raise whatever damaged bytes lead them to
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"{path} cannot be read: {reason}. {HOW_TO_SAVE}") from error


def write(path: Path, embeddings: Embeddings) -> None:
    """Write an .npz archive, whole or not at all: features as float32, ids and paths as text. ValueError for another suffix."""
    if path.suffix.lower() != ".npz":
        raise ValueError(f"embeddings are written as .npz, not {path.suffix!r}")
    paths = {} if embeddings.paths is None else {"paths": np.array([name or "" for name in embeddings.paths], dtype=str)}
    with np.errstate(over="ignore", invalid="ignore"):  # whether features are finite is not looked at here
        features = np.ascontiguousarray(embeddings.features, dtype=np.float32)
    with kept.replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, features=features, ids=np.array(embeddings.ids, dtype=str), **paths)


def _ids(path: Path, named: Mapping[str, tuple[str, ...]], asked: str | None) -> tuple[str, ...]:
    """The likeliest column of distinct ids, numbers of rows last; else one to be refused, but no paths that repeat; else none."""
    found = {name: named[name] for name in columns.find(named, columns.IDS, asked)}
    if asked and not found:
        raise ValueError(f"it has no column {asked!r} of ids")
    if not asked:
        found = {name: ids for name, ids in found.items() if columns.plain(name) not in columns.PATHS or _are_distinct(ids)}
    if not found and path.suffix != ".npy":
        log.info("%s has no column of ids: the images are called by the numbers of their rows", path)
    return max(found.values(), key=lambda ids: (_are_distinct(ids), ids[:1] not in (("0",), ("1",))), default=())


def _are_distinct(ids: Sequence[str]) -> bool:
    return all(ids) and len(set(ids)) == len(ids)


def _texts(values: np.ndarray) -> Iterator[str]:
    """Text, bytes or numbers as texts; nothing for a missing one."""
    for value in values.ravel().tolist():
        value = value.get("path") if isinstance(value, dict) else value  # an image in a data set of Hugging Face
        value = int(value) if isinstance(value, float) and value.is_integer() else value
        yield value.decode("utf-8") if isinstance(value, bytes) else "" if pd.isna(value) else str(value)


def _read_npy(path: Path, known: Sequence[str]) -> Found:
    return np.lib.format.open_memmap(path, mode="r"), {}


def _read_npz(path: Path, known: Sequence[str]) -> Found:
    with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as archive:  # the first says what is no archive
        name = _features([name for name in archive.files if _is_table(archive, name)], archive.files)
        return archive[name], {one: archive[one] for one in columns.find(archive.files, known) if one != name}


def _features(candidates: Sequence[str], all_names: Sequence[str]) -> str:
    """The likeliest of the arrays, or of the columns of lists, that may be the features."""
    named = [name for name in FEATURES if name in candidates] or candidates or [name for name in FEATURES if name in all_names]
    if named and (len(named) == 1 or named[0] in FEATURES):
        return named[0]
    raise ValueError(f"it holds {listing(all_names)}: it is not clear which are the features; name them 'features'")


def _is_table(archive: np.lib.npyio.NpzFile, name: str) -> bool:
    """Whether it is a 2-d array of numbers; NumPy refuses arrays of Python objects."""
    with suppress(ValueError):
        return archive[name].ndim == 2 and archive[name].dtype.kind in "fiubc"
    return False


def _read_parquet(path: Path, known: Sequence[str]) -> Found:
    table = pd.read_parquet(path, engine="pyarrow")
    if columns.find([table.index.name], known):
        table = table.reset_index()
    elif table.index.dtype.kind not in "iuf" and not columns.find(table, columns.IDS):
        table = table.reset_index(names="id")
    answers = [name for name in columns.find(table, columns.LABELS) if columns.plain(name) in known][:1]
    names = [name for name in columns.find(table, known) if columns.plain(name) not in columns.LABELS]
    found = {name: table[name].to_numpy() for name in (*names, *answers)}
    table = table.drop(columns=list(found))  # they are no features, whatever they are
    firsts = {name: next(iter(table[name].dropna()), None) for name in table}
    if lists := [name for name, one in firsts.items() if isinstance(one, np.ndarray) and one.dtype.kind in "fiu"]:  # pandas' lists
        return np.stack(table[_features(lists, lists)].to_list()), found
    return _numbers(path, table), found


def _numbers(path: Path, table: pd.DataFrame) -> np.ndarray:
    """The columns of numbers side by side, without answers."""
    numeric = list(table.select_dtypes("number", exclude="timedelta"))
    answers = [name for name in columns.find(numeric, columns.LABELS) if columns.plain(name) not in columns.MEASURED]
    features = [name for name in numeric if name not in answers]
    if not features:
        raise ValueError(f"no column holds lists or numbers: {listing(table.columns)}. Name the one of lists 'features'")
    if answers:
        log.warning("%s: columns %s look like answers, not like features; they are left out", path, listing(answers))
    log.info("%s: the features are its %s of numbers, %s", path, counted(len(features), "column"), listing(features))
    return table[features].to_numpy(dtype=float, na_value=np.nan)


READERS = {".npy": _read_npy, ".npz": _read_npz, ".parquet": _read_parquet}
