"""Picks on their way to the people who label: CSV files that are safe in spreadsheets, and Label Studio's tasks."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
import pandas as pd

from supclust import kept
from supclust.label.annotations import CONTROL, LOCAL_FILES, listing, safe, shown

FACTS = ("order", "cluster", "cluster_size", "typicality", "sup")  # what a task says about its pick, to sort by
NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def write_csv(path: Path, columns: Mapping[str, Sequence]) -> None:
    """Write a table, columns of equal length by name, as a CSV file that is safe to open in a spreadsheet; whole or not at all.

    Text is made `safe` and put in quotes, numbers stand as they are, None and NaN are empty; UTF-8, lines end in a line feed.
    Raises ValueError for cells that a CSV file cannot hold.
    """
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"{path}: a table needs columns of one length, not {lengths or 'none at all'}")
    header = [_cell(f"{path}, header", name) for name in columns]
    rows = ([_cell(f"{path}, row {row}", value) for value in values] for row, values in enumerate(_zip(columns), start=1))
    kept.write_text(path, "".join(f"{','.join(cells)}\n" for cells in chain([header], rows)))


def _zip(columns: Mapping[str, Sequence]) -> Iterator[tuple[Any, ...]]:
    return zip(*columns.values(), strict=True)


def _cell(where: str, value: Any) -> str:
    if isinstance(value, str):
        return '"' + safe(_checked(where, value)).replace('"', '""') + '"'
    if value is None or value is pd.NA or value is pd.NaT:
        return ""
    if not isinstance(value, (int, float, np.integer, np.floating, np.bool_)):
        raise ValueError(f"{where}: a cell holds text or a number, not {type(value).__name__}")
    return "" if math.isnan(value) else str(value)  # of numpy's numbers, str gives as many digits as tell them apart


def _checked(where: str, text: str) -> str:
    """Text that can be written as UTF-8 and read again."""
    if "\0" in text or any("\ud800" <= sign <= "\udfff" for sign in text):
        raise ValueError(f"{where}: {shown(text)} holds signs that are not text. Is it a file name in another encoding? Rename it")
    return text


# -- Label Studio's tasks ------------------------------------------------------------------------------------------------------


def label_studio_tasks(picks: Sequence[Mapping[str, Any]], prefix: str = LOCAL_FILES) -> list[dict[str, Any]]:
    """Tasks that Label Studio imports, one a pick, in their order, without predictions.

    picks: id; if it is not the path of the image below what prefix stands for, path; and what there is of FACTS. Numbers that are
    not finite become null. prefix: what is put before the path, see `local_files`.
    Raises ValueError for a pick without an id, and for values that JSON cannot hold.
    """
    return [{"data": _task_data(f"pick {number}", pick, prefix)} for number, pick in enumerate(picks, start=1)]


def local_files(folder: Path) -> str:
    """The prefix for images in a folder, when Label Studio's LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT is the folder around it.

    Label Studio does not take the root itself for a storage, only folders in it.
    """
    return f"{LOCAL_FILES}{quote(_checked(str(folder), folder.resolve().name))}/"


def _task_data(where: str, pick: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    if not isinstance(pick.get("id"), str) or not pick["id"]:
        raise ValueError(f"{where} has no id; each pick needs one, as text")
    name = _checked(where, pick["id"])
    path = _checked(where, pick.get("path") or name)
    facts = {key: _json_value(f"{where}, {key}", pick[key]) for key in FACTS if key in pick}
    return {"image": prefix + quote(path), "supclust_id": name, **facts}


def _json_value(where: str, value: Any) -> Any:
    """null for what is no number: a bare NaN, which Python would write, is not JSON."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, (np.bool_, np.integer)):
        return value.item()
    if not isinstance(value, (float, np.floating)):
        raise ValueError(f"{where}: a task holds text or a number, not {type(value).__name__}")
    return float(str(value)) if math.isfinite(value) else None  # as short as the number was


def label_studio_config(classes: Sequence[str]) -> str:
    """The labelling interface of a project in Label Studio, as XML: an image, and a choice of one of the classes.

    Raises ValueError for no classes, classes that come twice or are blank around the edges, or that XML cannot hold.
    """
    _check_classes(classes)
    choices = "".join(f"    <Choice value={quoteattr(name)}/>\n" for name in classes)
    control = f'  <Choices name="{CONTROL}" toName="image" choice="single" showInline="true">\n{choices}  </Choices>\n'
    return f'<View>\n  <Image name="image" value="$image"/>\n{control}</View>\n'


def _check_classes(classes: Sequence[str]) -> None:
    if not classes:
        raise ValueError("the labelling interface needs the names of the classes, and there are none")
    bad = [shown(name) for name in classes if name != name.strip() or not name or NOT_XML.search(name)]
    if bad:
        raise ValueError(f"these cannot be names of classes: {listing(bad)}. Give names without blanks around and control signs")
    if len(set(classes)) < len(classes):
        raise ValueError("the names of the classes must be distinct")


def write_tasks(path: Path, tasks: Sequence[Mapping[str, Any]]) -> None:
    """Write tasks as the JSON file that Label Studio imports, whole or not at all."""
    kept.write_text(path, json.dumps(tasks, indent=1, allow_nan=False) + "\n")
