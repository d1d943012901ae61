"""Embeddings that people bring along, in .npy, .npz and Parquet files, with the ids and the paths of their images."""

from __future__ import annotations

import json
import logging
import lzma
import math
import re
import struct
import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from supclust import kept
from supclust.engine import geometry

log = logging.getLogger(__name__)

FEATURES = ("features", "embeddings", "X", "x", "arr_0")
LISTS = ("embedding", "embeddings", "features", "vector", "emb")  # columns of a Parquet file that hold a list in each row
IDS = ("ids", "id", "names", "filenames")
PATHS = ("paths", "path", "files")
ANSWERS = ("label", "labels", "class", "target", "category")  # numeric columns that must not slip in among the features
SHOWN = 5  # examples in a message

# What zipfile, numpy and Python's own parsers raise for files that are damaged, or are something else.
BROKEN = (
    *(OSError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, MemoryError, RuntimeError),
    *(SyntaxError, tokenize.TokenError, struct.error, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)
LARGEST_RATIO = 1100  # deflate makes data 1032 times smaller at best: a file that claims more is damaged, or a bomb


class _Refused(ValueError):
    """What is wrong with a file that is whole."""


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Points of images, one a row, and what the images are called."""

    features: np.ndarray  # (n, d) real; a memory map if the file is .npy
    ids: tuple[str, ...]  # n, distinct, not empty; the numbers of the rows if the file does not say
    paths: tuple[str | None, ...] | None = None  # n, of the images' files; None if the file does not know any


def read(path: Path) -> Embeddings:
    """Embeddings from a .npy file (memory-mapped), a .npz archive or a Parquet file. No file can make this run code.

    .npz: the only 2-d array of numbers, or the first of FEATURES among several; ids and paths from one of IDS and of PATHS.
    Parquet: a column of lists of one length, or all columns of numbers; ids and paths as above; it needs pyarrow.
    Raises ValueError with the file's name for whatever cannot be read. Whether the features are finite is not looked at.
    """
    read_suffix = {".npy": _read_npy, ".npz": _read_npz, ".parquet": _read_parquet}.get(path.suffix.lower())
    if read_suffix is None:
        raise ValueError(f"{path} must end in .npy, .npz or .parquet, so that it is clear how to read it; not in {path.suffix!r}")
    _check_file(path)
    features, ids, paths = read_suffix(path)
    with _naming(path):
        return _checked(features, ids, paths)


def write(path: Path, embeddings: Embeddings, **about: Any) -> None:
    """Write an .npz archive, whole or not at all: features as float32, ids and paths as text, and about as a JSON text.

    Raises ValueError for embeddings that do not fit together, or a path of another suffix.
    """
    if path.suffix.lower() != ".npz":
        raise ValueError(f"{path} must end in .npz, not in {path.suffix!r}")
    with _naming(path):
        _checked(embeddings.features, embeddings.ids, embeddings.paths)
        arrays = _arrays(embeddings, about)
    with kept.replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def _arrays(embeddings: Embeddings, about: Mapping[str, Any]) -> dict[str, np.ndarray]:
    paths = {} if embeddings.paths is None else {"paths": np.array([path or "" for path in embeddings.paths], dtype=str)}
    notes = {"about": np.array(json.dumps(about))} if about else {}
    with np.errstate(over="ignore"):  # whether features are finite is not looked at here
        features = np.ascontiguousarray(embeddings.features, dtype=np.float32)
    return {"features": features, "ids": np.array(embeddings.ids, dtype=str), **paths, **notes}


# -- checks --------------------------------------------------------------------------------------------------------------------


def _check_file(path: Path) -> None:
    try:
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} is not a file; give the .npy, .npz or .parquet file that holds the embeddings")
        if path.stat().st_size == 0:
            raise ValueError(f"{path} is empty: it has no bytes at all. Was it written to the end?")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """ValueErrors of the block get the file's name."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


@contextmanager
def _damage(path: Path, what: str, *others: type[Exception]) -> Iterator[None]:
    """Whatever the block raises about a file becomes one sentence."""
    try:
        yield
    except _Refused as error:
        raise ValueError(f"{path}: {error}") from error
    except (*BROKEN, *others) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is damaged, or is not {what}: {reason[:200]}") from error


def _checked(features: np.ndarray, ids: Sequence[str] | None, paths: Sequence[str | None] | None) -> Embeddings:
    features = geometry.check_shape(features)
    ids = tuple(map(str, range(len(features)))) if ids is None else tuple(ids)
    _check_length(len(features), len(ids), "ids")
    _check_ids(ids)
    if paths is not None:
        _check_length(len(features), len(paths), "paths")
        paths = tuple(path or None for path in paths)
    return Embeddings(features, ids, paths)


def _check_length(wanted: int, found: int, what: str) -> None:
    if found != wanted:
        raise ValueError(f"there are {found} {what} and {wanted} features; each row of the features needs one of the {what}")


def _check_ids(ids: Sequence[str]) -> None:
    empty = [row for row, name in enumerate(ids) if not name or "\0" in name]
    if empty:
        raise ValueError(f"ids must not be empty or hold NUL, and these rows' are or do: {_listing(empty)}")
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        repeated = [name for name in ids if name in seen or seen.add(name)]
        raise ValueError(f"ids must be distinct, and these come up again: {_listing(list(dict.fromkeys(repeated)))}")


def _listing(examples: Sequence[Any]) -> str:
    """The first few, and how many more."""
    more = f" and {len(examples) - SHOWN} more" if len(examples) > SHOWN else ""
    return ", ".join(repr(example)[:100] for example in examples[:SHOWN]) + more


# -- .npy ----------------------------------------------------------------------------------------------------------------------


def _read_npy(path: Path) -> tuple[np.ndarray, None, None]:
    _check_magic(path, np.lib.format.MAGIC_PREFIX, ".npy")
    with _damage(path, "a .npy file"), open(path, "rb") as file:
        shape, dtype = _array_header(file)
        _check_dtype(dtype)
        _check_bytes(shape, dtype, path.stat().st_size - file.tell())
        return np.load(path, mmap_mode="r", allow_pickle=False), None, None


def _check_magic(path: Path, magic: bytes, suffix: str) -> None:
    """A file is what its first bytes say, whatever its name."""
    with _damage(path, f"a {suffix} file"), open(path, "rb") as file:
        found = file.read(8)
    if found.startswith(magic):
        return
    known = {b"PK": "a zip archive, as .npz files are", np.lib.format.MAGIC_PREFIX: "a .npy file", b"PAR1": "a Parquet file"}
    known |= {b"\x80": "a pickle, which could run code when read: save it anew with numpy.save"}
    kind = next((kind for start, kind in known.items() if found.startswith(start)), "something else, or damaged")
    raise ValueError(f"{path} is not a {suffix} file: it is {kind}")


def _array_header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the array that begins here, without reading it."""
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read_header is None:
        raise ValueError(f"version {version} of the format holds nothing that embeddings are made of")
    shape, _, dtype = read_header(file)
    return shape, dtype


def _check_dtype(dtype: np.dtype) -> None:
    if dtype.hasobject:
        raise _Refused(
            "it holds Python objects, which could run code when read. Save features as numpy.asarray(features, dtype='float32'), "
            "ids and paths as numpy.asarray(ids, dtype=str)"
        )


def _check_bytes(shape: tuple[int, ...], dtype: np.dtype, there: int) -> None:
    """Before anything is allocated: a header can claim what it likes."""
    needed = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or needed > there:
        raise ValueError(f"an array of shape {shape} and type {dtype} has {needed} bytes, and there are {there}")


# -- .npz ----------------------------------------------------------------------------------------------------------------------


def _read_npz(path: Path) -> tuple[np.ndarray, Sequence[str] | None, Sequence[str] | None]:
    _check_magic(path, b"PK", ".npz")
    with _damage(path, "a .npz archive"), zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist() if info.filename.endswith(".npy")}
        headers = {name: _member_header(archive, info) for name, info in members.items()}
        features = _member(archive, members[_choose(headers)])
        ids, paths = (_member_texts(archive, members, names) for names in (IDS, PATHS))
    return features, ids, paths


def _member_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype]:
    with archive.open(info) as file:
        return _array_header(file)


def _choose(headers: Mapping[str, tuple[tuple[int, ...], np.dtype]]) -> str:
    """The name of the array that holds the features."""
    tables = [name for name, (shape, dtype) in headers.items() if len(shape) == 2 and dtype.kind in "fiubc"]
    if len(tables) == 1:
        return tables[0]
    named = [name for name in FEATURES if name in (tables or headers)]
    if named:
        return named[0]
    arrays = [f"{name} {shape} {dtype}" for name, (shape, dtype) in headers.items()]
    raise _Refused(
        f"{len(tables)} of its arrays are 2-d and of numbers, and it is not clear which to take: {_listing(arrays)}. "
        f"Name one of them {', '.join(FEATURES[:-1])}"
    )


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    if info.file_size > LARGEST_RATIO * (info.compress_size + 1) or info.compress_size > Path(archive.filename).stat().st_size:
        raise ValueError(f"{info.filename} claims {info.file_size} bytes, packed in {info.compress_size}")
    with archive.open(info) as file:
        shape, dtype = _array_header(file)
        _check_dtype(dtype)
        _check_bytes(shape, dtype, info.file_size)
    with archive.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _member_texts(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], names: Sequence[str]) -> list[str] | None:
    name = next((name for name in names if name in members), None)
    return None if name is None else _texts(name, _member(archive, members[name]))


def _texts(name: str, values: np.ndarray) -> list[str]:
    """An array (n,) of text, bytes or numbers as texts."""
    if values.ndim != 1:
        raise _Refused(f"{name} must be 1-d, one a row of the features, not of shape {values.shape}")
    if values.dtype.kind not in "USiuf":
        raise _Refused(f"{name} must be text or numbers, not {values.dtype}")
    return [_as_text(value) for value in values.tolist()]


def _as_text(value: Any) -> str:
    """A text; nothing for a missing one; whole numbers without a fraction, which they get when one of a column is missing."""
    if value is None or value != value:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


# -- Parquet -------------------------------------------------------------------------------------------------------------------


def _read_parquet(path: Path) -> tuple[np.ndarray, Sequence[str] | None, Sequence[str] | None]:
    try:
        from pyarrow import ArrowException, parquet  # optional: only who brings Parquet files needs it
    except ImportError as error:
        raise ValueError(f"{path}: reading Parquet needs pyarrow. Do `pip install pyarrow`, or save it as .npz") from error
    _check_magic(path, b"PAR1", ".parquet")
    with _damage(path, "a Parquet file", ArrowException), parquet.ParquetFile(path) as file:
        read_column = _column_reader(file)
        ids, paths = (_column_texts(file.schema_arrow, read_column, names) for names in (IDS, PATHS))
        return _table_features(path, file.schema_arrow, read_column), ids, paths


def _column_reader(file: Any) -> Callable[[str], Any]:
    """A function that reads one column: the others stay where they are."""
    double = [name for name, count in Counter(file.schema_arrow.names).items() if count > 1]
    if double:
        raise _Refused(f"names of columns must be distinct, and these come up again: {_listing(double)}")

    def read_column(name: str) -> Any:
        column = file.read([name]).column(name)
        if column.null_count and name not in (*IDS, *PATHS):
            raise _Refused(f"{column.null_count} rows of column {name} are empty (null). Leave those rows out")
        return column

    return read_column


def _column_texts(schema: Any, read_column: Callable[[str], Any], names: Sequence[str]) -> list[str] | None:
    name = next((name for name in names if name in schema.names and not _is_list(schema.field(name).type)), None)
    return None if name is None else [_as_text(value) for value in read_column(name).to_pylist()]


def _table_features(path: Path, schema: Any, read_column: Callable[[str], Any]) -> np.ndarray:
    lists = [field.name for field in schema if _is_list(field.type)]
    named = [name for name in LISTS if name in lists] or lists
    if named:
        if len(named) > 1 and named[0] not in LISTS:
            raise _Refused(f"several columns hold lists: {_listing(lists)}. Name one of them {LISTS[0]}")
        return _from_lists(named[0], read_column(named[0]))
    columns = _numeric_columns(path, schema)
    log.info("%s: the features are its %d columns of numbers, %s", path, len(columns), _listing(columns))
    return np.stack([read_column(name).to_numpy() for name in columns], axis=1)


def _is_list(kind: Any) -> bool:
    """Whether a column of this kind holds lists of numbers."""
    from pyarrow import types

    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return is_list and _is_number(kind.value_type)


def _is_number(kind: Any) -> bool:
    from pyarrow import types

    return types.is_integer(kind) or types.is_floating(kind)


def _from_lists(name: str, column: Any) -> np.ndarray:
    """A column of n lists of d numbers each, as an array (n, d)."""
    from pyarrow import compute

    lengths = compute.list_value_length(column).unique().to_pylist()
    if len(lengths) > 1:
        raise _Refused(f"the lists of column {name} are of different lengths: {_listing(sorted(lengths))}")
    values = compute.list_flatten(column)
    if values.null_count:
        raise _Refused(f"{values.null_count} values in the lists of column {name} are empty (null)")
    return values.to_numpy().reshape(len(column), *lengths)


def _numeric_columns(path: Path, schema: Any) -> list[str]:
    index = {name for name in (schema.pandas_metadata or {}).get("index_columns", []) if isinstance(name, str)}
    numeric = [field.name for field in schema if _is_number(field.type)]
    left_out = [name for name in numeric if name.lower() in ANSWERS]
    if left_out:
        log.warning("%s: columns %s look like answers, not like features; they are left out", path, _listing(left_out))
    others = {*IDS, *PATHS, *left_out, *index}
    columns = [name for name in numeric if name not in others and not re.fullmatch(r"__index_level_\d+__", name)]
    if not columns:
        raise _Refused(f"no column holds lists or numbers: {_listing(schema.names)}. Name the one of lists {LISTS[0]}")
    return columns
