"""Tables that are kept as CSV files: under a line that says what they were made from, with a checksum."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd

from supclust import files

log = logging.getLogger(__name__)


def write(path: Path, table: pd.DataFrame, sources: Any) -> None:
    """Write a table, and in its first line what it was made from (anything JSON can hold) and its SHA-256."""
    body = table.to_csv(index=False)
    files.write_text(path, f"# {json.dumps({'sources': sources, 'sha256': files.sha256(body)})}\n{body}")


def read(path: Path) -> tuple[pd.DataFrame, Any] | None:
    """A table that `write` wrote, and what it was made from; None if there is none, or if it is broken (logged with its name)."""
    try:
        head, _, body = path.read_text(encoding="utf-8").partition("\n")
        about = json.loads(head.removeprefix("#"))
        if files.sha256(body) != about["sha256"]:
            raise ValueError("its checksum differs")
        return pd.read_csv(io.StringIO(body)), about["sources"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, OSError) as error:
        log.warning("table %s is broken (%s); it is not used", path, error)
        return None
