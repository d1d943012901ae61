"""Picks on their way to the people who label: CSV files that are safe in spreadsheets, and Label Studio's tasks."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import pandas as pd

from supclust import kept
from supclust.label.annotations import CONTROL, listing, safe
from supclust.label.matching import LOCAL_FILES

FACTS = ("order", "cluster", "cluster_size", "typicality", "sup")  # what a task says about its pick, to sort by
NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows, cells by column, as a CSV file that is safe to open in a spreadsheet; whole or not at all.

    Text is made `safe` and put in quotes, numbers stand as they are, None and NaN are empty; UTF-8, lines end in a line feed.
    """
    cells = [{name: safe(cell) if isinstance(cell, str) else cell for name, cell in row.items()} for row in rows]
    kept.write_text(path, pd.DataFrame(cells).to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n"))


def label_studio_tasks(picks: Sequence[Mapping[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Tasks that Label Studio imports, one a pick, in their order, without predictions.

    picks: id, path of the image below the folder, and FACTS; numbers that are not finite become null, as JSON has no others.
    The addresses hold where LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT is the folder around this one: Label Studio does not take the
    root itself for a storage, only folders in it.
    """
    prefix = f"{LOCAL_FILES}{quote(folder.resolve().name)}/"
    facts = [{name: pick[name] if math.isfinite(pick[name]) else None for name in FACTS} for pick in picks]
    images = [{"image": prefix + quote(pick["path"]), "supclust_id": pick["id"]} for pick in picks]
    return [{"data": image | fact} for image, fact in zip(images, facts, strict=True)]


def check_classes(classes: Sequence[str]) -> None:
    """ValueError for names of classes that come twice or are blank around the edges, or that XML cannot hold."""
    if bad := [name for name in classes if name != name.strip() or not name or NOT_XML.search(name)]:
        raise ValueError(f"these cannot be names of classes: {listing(bad)}. Give names without blanks around and control signs")
    if len(set(classes)) < len(classes):
        raise ValueError("the names of the classes must be distinct")


def label_studio_config(classes: Sequence[str]) -> str:
    """The labelling interface of a project in Label Studio, as XML: an image, and a choice of one of the classes."""
    choices = "".join(f"    <Choice value={quoteattr(name)}/>\n" for name in classes)
    control = f'  <Choices name="{CONTROL}" toName="image" choice="single" showInline="true">\n{choices}  </Choices>\n'
    return f'<View>\n  <Image name="image" value="$image"/>\n{control}</View>\n'
