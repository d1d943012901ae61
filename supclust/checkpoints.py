"""Checkpoints: written whole or not at all, checked when read, and the one before kept in case the newest is damaged."""

from __future__ import annotations

import hashlib
import io
import logging
import os
from pathlib import Path
from typing import Any

import torch

from supclust import kept

log = logging.getLogger(__name__)

DIGEST = hashlib.sha256().digest_size  # bytes at the end of a file: the checksum of those before


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; the one that was there becomes `previous(path)`.

    state: what torch.load reads with weights_only: tensors, numbers, texts, and lists and dictionaries of them.
    Whenever the process dies in here, one of the two files is whole: a damaged one never takes the place of the one before it.
    """
    for left_over in path.parent.glob(f".{path.name}.*.tmp"):  # of a process that was killed in here
        left_over.unlink()
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    if path.exists() and _is_whole(path.read_bytes()):
        os.replace(path, previous(path))
    kept.write_bytes(path, content + hashlib.sha256(content).digest())


def load(path: Path) -> dict[str, Any] | None:
    """The newest undamaged checkpoint, on the CPU; None if there is none at all.

    Logs a warning when it goes back to the previous one. Raises ValueError, naming the file, if none is left undamaged.
    """
    candidates = [file for file in (path, previous(path)) if file.exists()]
    problem: Exception | None = None
    for file in candidates:
        try:
            return _read(file)
        except Exception as error:  # a torn archive fails in whatever part of it is read first
            problem = problem or error
            log.warning("the checkpoint %s is damaged (%s)", file, error)
    if problem is not None:
        raise ValueError(f"the checkpoint {candidates[0]} cannot be read ({problem}); remove it to train anew") from problem
    return None


def previous(path: Path) -> Path:
    """Where the checkpoint before the newest is kept."""
    return path.with_name(f"previous-{path.name}")


def _is_whole(content: bytes) -> bool:
    return hashlib.sha256(content[:-DIGEST]).digest() == content[-DIGEST:]


def _read(file: Path) -> dict[str, Any]:
    content = file.read_bytes()
    if not _is_whole(content):
        raise ValueError("its checksum differs")
    return torch.load(io.BytesIO(content[:-DIGEST]), map_location="cpu", weights_only=True)
