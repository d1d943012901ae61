"""Embeddings that people bring along, in .npy, .npz and Parquet files, with ids, paths and labels of their images."""

import logging
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

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
NOT_TEXT = re.compile("[\0\ud800-\udfff]")  # what UTF-8 cannot hold, as in the name of a file in another encoding, and NUL
HOW_TO_SAVE = (
    "This makes a file that can be read: numpy.savez('mine.npz', features=numpy.asarray(features, dtype='float32'), "
    "ids=numpy.asarray(ids, dtype=str))"
)

Found = tuple[np.ndarray | None, ...]  # features, ids, paths, labels
Names = tuple[tuple[str, ...], ...]  # of ids, of paths, of labels


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Points of images, one a row, and what the images are called. Raises ValueError where these do not fit together."""

    features: np.ndarray  # (n, d) real; a memory map if the file is .npy
    ids: tuple[str, ...]  # n, distinct, not empty; the numbers of the rows if the file does not say
    paths: tuple[str | None, ...] | None = None  # n, of the images' files; None if the file does not know any
    labels: tuple[str, ...] | None = None  # n, not empty; None if they were not asked for

    def __post_init__(self) -> None:
        n = len(geometry.check_shape(self.features))
        for what, values in (("ids", self.ids), ("paths", self.paths), ("labels", self.labels)):
            if values is not None and len(values) != n:
                raise ValueError(
                    f"there are {len(values)} {what} and {n} features: each row of the features needs one of the {what}"
                )
        if bad := [row for row, name in enumerate(self.ids) if not name or NOT_TEXT.search(name)]:
            raise ValueError(f"ids must be text that is not empty, and these rows' are not: {listing(bad)}")
        if repeated := [name for name, count in Counter(self.ids).items() if count > 1]:
            raise ValueError(f"ids must be distinct, and these come up again: {listing(repeated)}")
        if missing := [row for row, label in enumerate(self.labels or ()) if not label]:
            raise ValueError(f"each point needs a label, and these rows have none: {listing(missing)}")


def read(path: Path, labels: bool = False) -> Embeddings:
    """Embeddings from a .npy file (memory-mapped), a .npz archive or a Parquet file. No file can make this run code.

    .npz: the first of FEATURES, or the only 2-d array of numbers; ids and paths from one of IDS and of PATHS.
    Parquet: a column of lists of one length, or all columns of numbers; ids and paths as above; it needs pyarrow.
    labels: whether there must be labels, too, as one of ANSWERS or y.
    Raises ValueError with the file's name for whatever cannot be read. Whether the features are finite is not looked at.
    """
    readers = {".npy": _read_npy, ".npz": _read_npz, ".parquet": _read_parquet}
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise ValueError(f"{path} must end in .npy, .npz or .parquet, so that it is clear how to read it; not in {path.suffix!r}")
    try:
        features, ids, paths, answers = readers[suffix](path, (IDS, PATHS, (*ANSWERS, "y") if labels else ()))
        if labels and answers is None:
            raise ValueError("it holds no labels: name them 'labels'")
        names = tuple(map(str, range(features.shape[0] if features.ndim else 0))) if ids is None else tuple(_texts(ids))
        files = None if paths is None else tuple(name or None for name in _texts(paths))
        return Embeddings(features, names, files, tuple(_texts(answers)) if labels else None)
    except Exception as error:  # numpy, zipfile and pyarrow raise whatever damaged bytes lead them to
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"{path} cannot be read: {reason}. {HOW_TO_SAVE}") from error


def write(path: Path, embeddings: Embeddings) -> None:
    """Write an .npz archive, whole or not at all: features as float32, ids and paths as text. ValueError for another suffix."""
    if path.suffix.lower() != ".npz":
        raise ValueError(f"embeddings are written as .npz, not {path.suffix!r}")
    paths = {} if embeddings.paths is None else {"paths": np.array([name or "" for name in embeddings.paths], dtype=str)}
    with np.errstate(over="ignore"):  # whether features are finite is not looked at here
        features = np.ascontiguousarray(embeddings.features, dtype=np.float32)
    with kept.replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, features=features, ids=np.array(embeddings.ids, dtype=str), **paths)


def _texts(values: np.ndarray) -> Iterator[str]:
    """Text, bytes or numbers as texts; nothing for a missing one."""
    for value in values.ravel().tolist():
        value = int(value) if isinstance(value, float) and value.is_integer() else value
        yield value.decode("utf-8") if isinstance(value, bytes) else "" if pd.isna(value) else str(value)


def _read_npy(path: Path, names: Names) -> Found:
    return np.lib.format.open_memmap(path, mode="r"), None, None, None


def _read_npz(path: Path, names: Names) -> Found:
    with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as archive:  # the first says what is no archive
        tables, named = list(_tables(archive)), [name for name in FEATURES if name in archive]
        tables = [name for name in named if name in tables][:1] or tables or named[:1]
        if len(tables) != 1:
            raise ValueError(
                f"it holds {listing(archive.files)}: it is not clear which are the features; name them {FEATURES[0]!r}"
            )
        return archive[tables[0]], *(next((archive[name] for name in some if name in archive), None) for some in names)


def _tables(archive: np.lib.npyio.NpzFile) -> Iterator[str]:
    """The names of the 2-d arrays of numbers."""
    for name in archive.files:
        with suppress(ValueError):  # of an array of Python objects
            if archive[name].ndim == 2 and archive[name].dtype.kind in "fiubc":
                yield name


# -- Parquet -------------------------------------------------------------------------------------------------------------------


def _read_parquet(path: Path, names: Names) -> Found:
    table = pd.read_parquet(path, engine="pyarrow")
    if table.index.name in (*IDS, *PATHS):
        table = table.reset_index()
    columns = [next((name for name in some if name in table), None) for some in names]
    found = [None if name is None else table[name].to_numpy() for name in columns]
    table = table.drop(columns=columns[2:], errors="ignore")  # labels are no features, whatever they are
    lists = [name for name in table if _holds_lists(table[name])]
    named = [name for name in LISTS if name in lists] or lists
    if not named:
        return _numbers(path, table), *found
    if len(named) > 1 and named[0] not in LISTS:
        raise ValueError(f"several columns hold lists: {listing(lists)}. Name one of them {LISTS[0]!r}")
    lengths = table[named[0]].map(len, na_action="ignore").unique().tolist()
    if len(lengths) > 1:
        raise ValueError(f"the lists of column {named[0]} are missing or of different lengths: {listing(lengths)}")
    return np.stack(table[named[0]].to_list()), *found


def _holds_lists(column: pd.Series) -> bool:
    """Whether the first value that is there is a list of numbers, which pandas makes an array of."""
    first = next(iter(column.dropna()), None)
    return isinstance(first, np.ndarray) and first.dtype.kind in "fiu"


def _numbers(path: Path, table: pd.DataFrame) -> np.ndarray:
    """The columns of numbers side by side, without ids and answers."""
    numeric = [name for name in table.select_dtypes("number", exclude="timedelta") if name not in (*IDS, *PATHS)]
    columns = [name for name in numeric if str(name).lower() not in ANSWERS]
    if not columns:
        raise ValueError(f"no column holds lists or numbers: {listing(table.columns)}. Name the one of lists {LISTS[0]!r}")
    if left_out := sorted(set(numeric) - set(columns)):
        log.warning("%s: columns %s look like answers, not like features; they are left out", path, listing(left_out))
    log.info("%s: the features are its %d columns of numbers, %s", path, len(columns), listing(columns))
    return table[columns].to_numpy(dtype=float, na_value=np.nan)
