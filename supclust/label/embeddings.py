"""Embeddings that people bring along, in .npy, .npz and Parquet files, with the ids and the paths of their images."""

from __future__ import annotations

import logging
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from supclust import kept
from supclust.engine import geometry
from supclust.label.annotations import listing

log = logging.getLogger(__name__)

FEATURES = ("features", "embeddings", "X", "x", "arr_0")
LISTS = ("embedding", "embeddings", "features", "vector", "emb")  # columns of a Parquet file that hold a list in each row
IDS = ("ids", "id", "names", "filenames")
PATHS = ("paths", "path", "files")
ANSWERS = ("label", "labels", "class", "target", "category")  # numeric columns that must not slip in among the features

Found = tuple[np.ndarray, Sequence[str] | None, Sequence[str] | None]  # features, ids, paths


class _Refused(ValueError):
    """What is wrong with a file that is whole."""


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Points of images, one a row, and what the images are called. Raises ValueError where these do not fit together."""

    features: np.ndarray  # (n, d) real; a memory map if the file is .npy
    ids: tuple[str, ...]  # n, distinct, not empty; the numbers of the rows if the file does not say
    paths: tuple[str | None, ...] | None = None  # n, of the images' files; None if the file does not know any

    def __post_init__(self) -> None:
        n = len(geometry.check_shape(self.features))
        for what, values in (("ids", self.ids), ("paths", self.paths)):
            if values is not None and len(values) != n:
                raise ValueError(
                    f"there are {len(values)} {what} and {n} features; each row of the features needs one of the {what}"
                )
        empty = [str(row) for row, name in enumerate(self.ids) if not name or "\0" in name]
        if empty:
            raise ValueError(f"ids must not be empty or hold NUL, and these rows' are or do: {listing(empty)}")
        if repeated := [name for name, count in Counter(self.ids).items() if count > 1]:
            raise ValueError(f"ids must be distinct, and these come up again: {_quoted(repeated)}")


def read(path: Path) -> Embeddings:
    """Embeddings from a .npy file (memory-mapped), a .npz archive or a Parquet file. No file can make this run code.

    .npz: the only 2-d array of numbers, or the first of FEATURES among several; ids and paths from one of IDS and of PATHS.
    Parquet: a column of lists of one length, or all columns of numbers; ids and paths as above; it needs pyarrow.
    Raises ValueError with the file's name for whatever cannot be read. Whether the features are finite is not looked at.
    """
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".npz", ".parquet"):
        raise ValueError(f"{path} must end in .npy, .npz or .parquet, so that it is clear how to read it; not in {path.suffix!r}")
    try:
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} is not a file; give the .npy, .npz or .parquet file that holds the embeddings")
        if path.stat().st_size == 0:
            raise ValueError(f"{path} is empty: it has no bytes at all. Was it written to the end?")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        features, ids, paths = {".npy": _read_npy, ".npz": _read_npz, ".parquet": _read_parquet}[suffix](path)
    except ImportError as error:
        raise ValueError(f"{path}: reading Parquet needs pyarrow. Do `pip install pyarrow`, or save it as .npz") from error
    except _Refused as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # numpy, zipfile and pyarrow raise whatever damaged bytes lead them to
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is damaged, or is not a {suffix} file: {reason[:200]}") from error
    try:
        ids = map(str, range(features.shape[0] if features.ndim else 0)) if ids is None else ids
        return Embeddings(features, tuple(ids), None if paths is None else tuple(name or None for name in paths))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write(path: Path, embeddings: Embeddings) -> None:
    """Write an .npz archive, whole or not at all: features as float32, ids and paths as text.

    Raises ValueError for a path of another suffix.
    """
    if path.suffix.lower() != ".npz":
        raise ValueError(f"{path} must end in .npz, not in {path.suffix!r}")
    paths = {} if embeddings.paths is None else {"paths": np.array([name or "" for name in embeddings.paths], dtype=str)}
    with np.errstate(over="ignore"):  # whether features are finite is not looked at here
        features = np.ascontiguousarray(embeddings.features, dtype=np.float32)
    with kept.replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, features=features, ids=np.array(embeddings.ids, dtype=str), **paths)


def _quoted(names: Sequence[Any]) -> str:
    return listing([repr(name)[:100] for name in names])


def _texts(name: str, values: np.ndarray) -> list[str]:
    """An array (n,) of text, bytes or numbers as texts; nothing for a missing one."""
    if values.ndim != 1:
        raise _Refused(f"{name} must be 1-d, one a row of the features, not of shape {values.shape}")
    if values.dtype.kind not in "USiufO":
        raise _Refused(f"{name} must be text or numbers, not {values.dtype}")
    texts = [value.decode("utf-8") if isinstance(value, bytes) else value for value in values.tolist()]
    whole = [int(value) if isinstance(value, float) and value.is_integer() else value for value in texts]
    return ["" if pd.isna(value) else str(value) for value in whole]


# -- numpy's files -------------------------------------------------------------------------------------------------------------


def _read_npy(path: Path) -> Found:
    with open(path, "rb") as file:
        _check_dtype(_header(file)[1])
    return np.load(path, mmap_mode="r", allow_pickle=False), None, None


def _read_npz(path: Path) -> Found:
    with zipfile.ZipFile(path) as members, np.load(path, allow_pickle=False) as archive:
        headers = {}
        for name in archive.files:
            with members.open(f"{name}.npy") as file:
                headers[name] = _header(file)
        features = _features_name(headers)
        ids, paths = (next((name for name in names if name in headers), None) for names in (IDS, PATHS))
        for name in filter(None, (features, ids, paths)):
            _check_dtype(headers[name][1])
        return archive[features], ids and _texts(ids, archive[ids]), paths and _texts(paths, archive[paths])


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the array that begins here, without reading it."""
    first = np.lib.format.read_magic(file) == (1, 0)
    read_header = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    return shape, dtype


def _check_dtype(dtype: np.dtype) -> None:
    if dtype.hasobject:
        raise _Refused(
            "it holds Python objects, which could run code when read. Save features as numpy.asarray(features, dtype='float32'), "
            "ids and paths as numpy.asarray(ids, dtype=str)"
        )


def _features_name(headers: Mapping[str, tuple[tuple[int, ...], np.dtype]]) -> str:
    """The name of the array that holds the features."""
    tables = [name for name, (shape, dtype) in headers.items() if len(shape) == 2 and dtype.kind in "fiubc"]
    if found := tables if len(tables) == 1 else [name for name in FEATURES if name in (tables or headers)]:
        return found[0]
    arrays = [f"{name} {shape} {dtype}" for name, (shape, dtype) in headers.items()]
    raise _Refused(
        f"{len(tables)} of its arrays are 2-d and of numbers, and it is not clear which to take: {_quoted(arrays)}. "
        f"Name one of them {', '.join(FEATURES[:-1])}"
    )


# -- Parquet -------------------------------------------------------------------------------------------------------------------


def _read_parquet(path: Path) -> Found:
    table = pd.read_parquet(path, engine="pyarrow")
    if table.index.name in (*IDS, *PATHS):
        table = table.reset_index()
    if table.empty:
        raise _Refused("it has no rows or no columns: features must be 2-d (points, dimensions) and not empty")
    ids, paths = (next((name for name in names if name in table), None) for names in (IDS, PATHS))
    texts = (name and _texts(name, table[name].to_numpy()) for name in (ids, paths))
    return _table_features(path, table), *texts


def _table_features(path: Path, table: pd.DataFrame) -> np.ndarray:
    lists = [name for name in table if _holds_lists(table[name])]
    named = [name for name in LISTS if name in lists] or lists
    if len(named) > 1 and named[0] not in LISTS:
        raise _Refused(f"several columns hold lists: {_quoted(lists)}. Name one of them {LISTS[0]}")
    columns = named[:1] or _numeric_columns(path, table)
    for name in columns:
        if missing := table[name].isna().sum():
            raise _Refused(f"{missing} rows of column {name} are empty (null, or no number). Leave those rows out")
    if not named:
        log.info("%s: the features are its %d columns of numbers, %s", path, len(columns), _quoted(columns))
        return np.stack([table[name].to_numpy() for name in columns], axis=1)
    lengths = sorted(table[named[0]].map(len).unique().tolist())
    if len(lengths) > 1:
        raise _Refused(f"the lists of column {named[0]} are of different lengths: {_quoted(lengths)}")
    features = np.stack(table[named[0]].to_list())
    if missing := np.count_nonzero(features != features):
        raise _Refused(f"{missing} values in the lists of column {named[0]} are empty (null, or no number)")
    return features


def _holds_lists(column: pd.Series) -> bool:
    """Whether the first value that is there is a list of numbers, which pandas makes an array of."""
    first = next(iter(column.dropna()), None)
    return isinstance(first, np.ndarray) and first.dtype.kind in "fiu"


def _numeric_columns(path: Path, table: pd.DataFrame) -> list[str]:
    numeric = [name for name in table if table[name].dtype.kind in "fiu" and name not in (*IDS, *PATHS)]
    left_out = [name for name in numeric if name.lower() in ANSWERS]
    if left_out:
        log.warning("%s: columns %s look like answers, not like features; they are left out", path, _quoted(left_out))
    if len(left_out) == len(numeric):
        raise _Refused(f"no column holds lists or numbers: {_quoted(table.columns)}. Name the one of lists {LISTS[0]}")
    return [name for name in numeric if name not in left_out]
