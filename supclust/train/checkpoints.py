"""What a stopped training leaves, and why another one cannot go on with it."""

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from lightly.utils.dist import rank

from supclust import kept

PROGRESS = ("step", "seconds", "losses", "history")  # steps done; seconds and losses of the epoch; records of the others
PHRASES = {"images": "it was trained on other images", "start": "it went on from other weights"}


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One training at a time in the folder, of all of torchrun's processes. Raises ValueError if there is one already."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "training.lock", timeout=0) if rank() == 0 else nullcontext():  # features.obtain has the same
            yield
    except Timeout:
        raise ValueError(f"another process trains in {folder}: wait until it has ended, or name another --folder") from None


def check_finite(model: torch.nn.Module, losses: torch.Tensor) -> None:
    """Raise FloatingPointError for weights or losses that are not."""
    if not all(torch.isfinite(values).all() for values in (losses, *model.parameters())):
        raise FloatingPointError("loss or weights are not finite: training diverged, try a smaller learning_rate")


def save(file: Path, made_from: dict[str, Any], parts: Mapping[str, Any], progress: tuple[Any, ...]) -> None:
    """Write the states of the parts, model and optimizer, and PROGRESS, then their checksum."""
    states = {name: part.state_dict() for name, part in parts.items()}
    torch.save({"made_from": made_from, **states, **dict(zip(PROGRESS, progress, strict=True))}, buffer := io.BytesIO())
    content = buffer.getvalue()
    kept.write_bytes(file, content + hashlib.sha256(content).digest())  # a full disk is then an OSError


def resume(file: Path, made_from: dict[str, Any], parts: Mapping[str, Any], device: torch.device) -> list[Any] | None:
    """Give the parts their states in a file of `save`, and return its PROGRESS; None if there is no file.

    Raises ValueError for a damaged file and for one of other images, start or config, naming the difference.
    """
    if not file.exists():
        return None
    try:
        whole = file.read_bytes()  # of some damage, PyTorch says nothing and makes weights of what is in memory
        if hashlib.sha256(content := whole[:-32]).digest() != whole[-32:]:
            raise ValueError("its checksum differs")
        saved = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
        theirs, *progress = (saved[key] for key in ("made_from", *PROGRESS))
    except Exception as error:  # what is no checkpoint fails in whatever part of it is read first
        raise ValueError(f"the checkpoint {file} cannot be read ({error}); remove it to train anew") from error
    if changed := [key for key in made_from | theirs if theirs.get(key) != made_from.get(key)]:
        said = [PHRASES.get(key, f"{key} is {theirs.get(key)!r} there and {made_from.get(key)!r} here") for key in changed]
        raise ValueError(f"the checkpoint {file} is of another training: {'; '.join(said)}. Remove it or train in another folder")
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    return progress
