"""Reads what a stopped training left, and says why it cannot go on with it."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch

PHRASES = {"images": "it was trained on other images", "start": "it went on from other weights"}


def load(file: Path, made_from: dict[str, Any]) -> dict[str, Any]:
    """The state of a stopped training. Raises ValueError for a damaged file and for one made from other things, naming these."""
    try:
        if damaged := zipfile.ZipFile(file).testzip():
            raise ValueError(f"the checksum of {damaged} differs")
        saved = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive fails in whatever part of it is read first
        raise ValueError(f"the checkpoint {file} cannot be read ({error}); remove it to train anew") from error
    theirs = saved["made_from"]
    changed = [key for key in {**made_from, **theirs} if theirs.get(key) != made_from.get(key)]
    said = [PHRASES.get(key, f"{key} is {theirs.get(key)!r} there and {made_from.get(key)!r} here") for key in changed]
    if said:
        raise ValueError(f"the checkpoint {file} is of another training: {'; '.join(said)}. Remove it or train in another folder")
    return saved
