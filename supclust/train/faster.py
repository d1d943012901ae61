"""What large trainings add to `simclr.train`: compiled steps, several processes, and images decoded while the network trains."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from supclust import simclr
from supclust.engine import threads
from supclust.images.files import ImageFiles
from supclust.train import distributed


def accelerated(model: nn.Module, device: torch.device, compiled: bool | None) -> tuple[nn.Module, Callable[..., Tensor]]:
    """The model, changed in place, and `simclr.render`: the faster forms of both.

    compiled: by torch.compile; None where there is a GPU or a C++ compiler.
    """
    fast = distributed.wrap(model, device) if simclr.world_size() > 1 else model
    if compiled is None:
        compiled = device.type == "cuda" or shutil.which(os.environ.get("CXX", "g++")) is not None
    if not compiled:
        return fast, simclr.render
    # Not dynamic: after a change of resolution, an unbroken training would have other kernels than a resumed one.
    render = torch.compile(simclr.render, dynamic=False) if device.type == "cuda" else simclr.render
    return torch.compile(fast, dynamic=False), render


def decoded(images: ImageFiles, batches: Iterator[Tensor], device: torch.device) -> Iterator[Tensor]:
    """The images of each batch of rows, uint8 (n, 3, height, width), on the device; worker processes decode them."""
    workers, on_gpu = threads.cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) or 1, device.type == "cuda"
    loader = DataLoader(images, batch_sampler=batches, num_workers=workers, pin_memory=on_gpu)
    return (batch.to(device, non_blocking=on_gpu) for batch in loader)
