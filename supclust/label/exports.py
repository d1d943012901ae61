"""Picks on their way to the people who label: CSV files that are safe in spreadsheets, and Label Studio's tasks."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import pandas as pd

from supclust import kept
from supclust.label.annotations import CONTROL, LOCAL_FILES, listing, safe, shown

FACTS = ("order", "cluster", "cluster_size", "typicality", "sup")  # what a task says about its pick, to sort by
NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def write_csv(path: Path, columns: Mapping[str, Sequence]) -> None:
    """Write a table, columns of equal length by name, as a CSV file that is safe to open in a spreadsheet; whole or not at all.

    Text is made `safe` and put in quotes, numbers stand as they are, None and NaN are empty; UTF-8, lines end in a line feed.
    Raises ValueError for text that a CSV file cannot hold.
    """
    table = pd.DataFrame({safe(name): [_cell(path, value) for value in column] for name, column in columns.items()})
    kept.write_text(path, table.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n"))


def _cell(path: Path, value: Any) -> Any:
    return safe(_checked(str(path), value)) if isinstance(value, str) else value


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
    Raises ValueError for an id or a path that is no text.
    """
    tasks = []
    for number, pick in enumerate(picks, start=1):
        name, path = (_checked(f"pick {number}", text) for text in (pick["id"], pick.get("path") or pick["id"]))
        facts = {key: _json_value(pick[key]) for key in FACTS if key in pick}
        tasks.append({"data": {"image": prefix + quote(path), "supclust_id": name, **facts}})
    return tasks


def _json_value(value: float | None) -> float | None:
    """null for what is no number: a bare NaN, which Python would write, is not JSON."""
    return value if value is not None and math.isfinite(value) else None


def local_files(folder: Path) -> str:
    """The prefix for images in a folder, when Label Studio's LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT is the folder around it.

    Label Studio does not take the root itself for a storage, only folders in it.
    """
    return f"{LOCAL_FILES}{quote(_checked(str(folder), folder.resolve().name))}/"


def label_studio_config(classes: Sequence[str]) -> str:
    """The labelling interface of a project in Label Studio, as XML: an image, and a choice of one of the classes.

    Raises ValueError for no classes, classes that come twice or are blank around the edges, or that XML cannot hold.
    """
    if not classes:
        raise ValueError("the labelling interface needs the names of the classes, and there are none")
    bad = [shown(name) for name in classes if name != name.strip() or not name or NOT_XML.search(name)]
    if bad:
        raise ValueError(f"these cannot be names of classes: {listing(bad)}. Give names without blanks around and control signs")
    if len(set(classes)) < len(classes):
        raise ValueError("the names of the classes must be distinct")
    choices = "".join(f"    <Choice value={quoteattr(name)}/>\n" for name in classes)
    control = f'  <Choices name="{CONTROL}" toName="image" choice="single" showInline="true">\n{choices}  </Choices>\n'
    return f'<View>\n  <Image name="image" value="$image"/>\n{control}</View>\n'


def write_tasks(path: Path, tasks: Sequence[Mapping[str, Any]]) -> None:
    """Write tasks as the JSON file that Label Studio imports, whole or not at all."""
    kept.write_text(path, json.dumps(tasks, indent=1, allow_nan=False) + "\n")
