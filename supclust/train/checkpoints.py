"""Reads what a stopped training left, and says why it cannot go on with it."""

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

PHRASES = {"images": "it was trained on other images", "start": "it went on from other weights"}


def resume(
    file: Path, made_from: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> tuple[int, float, Tensor, list[dict[str, Any]]]:
    """Give model and optimizer the state of a stopped training; returns step, seconds and losses of its epoch, and the history.

    Raises ValueError for a damaged file and for one of other images, start or config, naming the difference.
    """
    try:
        if damaged := zipfile.ZipFile(file).testzip():
            raise ValueError(f"the checksum of {damaged} differs")
        saved = torch.load(file, map_location="cpu", weights_only=True)
        theirs, step, history = saved["made_from"], saved["step"], saved["history"]
    except Exception as error:  # a damaged archive fails in whatever part of it is read first
        raise ValueError(f"the checkpoint {file} cannot be read ({error}); remove it to train anew") from error
    changed = [key for key in made_from | theirs if theirs.get(key) != made_from.get(key)]
    if changed:
        said = [PHRASES.get(key, f"{key} is {theirs.get(key)!r} there and {made_from.get(key)!r} here") for key in changed]
        raise ValueError(f"the checkpoint {file} is of another training: {'; '.join(said)}. Remove it or train in another folder")
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    return step, saved["seconds"], saved["losses"].to(device), history
