"""Labels that were typed in the page of a round: labels.csv in its folder, which counts for all rounds of the chain."""

import os
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock

from supclust import kept
from supclust.images.files import MARKER, is_round
from supclust.label import annotations, columns, sources
from supclust.label.results import HANDED_OUT, write_csv

LABELS = "labels.csv"


def of_chain(folder: Path) -> list[annotations.Label]:
    """What was typed in a round and in those of its chain, if it is one; of two files, the one that changed last counts."""
    if not is_round(folder):
        return []
    typed = {}
    for file in _files(folder):
        for name, label in read(file.parent).items():
            typed[name] = annotations.Label(name, unicodedata.normalize("NFC", label).strip() or None, str(file))
    return list(typed.values())


def _files(folder: Path) -> list[Path]:
    """The labels.csv of a round's chain, the one that changed last at the end."""
    first = folder / sources.read_record(folder / MARKER)["first"]
    handed_out = kept.read(first / HANDED_OUT)
    rounds = {(first / name).resolve() for name in (".", *(handed_out[0].values() if handed_out else ()))}
    files = [one / LABELS for one in {folder.resolve(), *rounds} if os.path.isfile(one / LABELS)]
    return sorted(files, key=lambda file: file.stat().st_mtime_ns)


def read(folder: Path) -> dict[str, str]:
    """The labels in a round's labels.csv, by id. Raises ValueError, naming the file, if it is damaged."""
    rows, id_, label = _table(folder / LABELS)
    return {row[id_]: row[label] for row in rows}


def save(folder: Path, labels: Mapping[str, str]) -> None:
    """Change these labels, by id, in a round's labels.csv; whatever else the file holds by now stays.

    Raises ValueError and OSError, and leaves the file alone, if it is damaged or may not be changed.
    """
    path = folder / LABELS
    with FileLock(folder / f".{LABELS}.lock"):
        rows, id_, label = _table(path)
        if path.exists():
            open(path, "r+b").close()  # else a read-only file would be replaced
        there = {row[id_] for row in rows}
        rows += [{id_: name, label: ""} for name in labels if name not in there]
        write_csv(path, [row | {label: labels.get(row[id_], row[label])} for row in rows])
        if (last := _files(folder)[-1]) != path.resolve():  # the clock was set back
            os.utime(path, ns=(last.stat().st_mtime_ns + 1,) * 2)


def _table(path: Path) -> tuple[list[dict[str, str]], str, str]:
    """The rows of a file of labels, and the names of its columns of ids and labels."""
    names, rows = annotations.table(path) if path.exists() else (["id", "label"], [])
    ids, labels = columns.find(names, columns.IDS), columns.find(names, columns.LABELS)
    if not (ids and labels):
        raise ValueError(f"{path} is no table of labels: its columns are {annotations.listing(names)}")
    return rows, ids[0], labels[0]
