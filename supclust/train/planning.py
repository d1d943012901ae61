"""How long a training will take."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import torch

from supclust import simclr
from supclust.profiles import SimCLR
from supclust.train import cpu


def seconds_per_image(
    images: simclr.Images, config: SimCLR, side: int, start: simclr.Encoder | None = None, batch_size: int = 64
) -> float:
    """Seconds that `simclr.train` takes here for an image of a step on views of side pixels, without torch.compile."""
    n, device, seconds = min(batch_size, config.batch_size, len(images)), simclr.default_device(), []
    still = dataclasses.replace(config, side=side, small_epochs=0, learning_rate=0.0)
    _, _, fit = simclr.make_step(still, device, start, compiled=False)
    with cpu.conditions(config.width, config.side), cpu.kept_memory():
        for step in range(4):
            began = time.monotonic()
            fit(torch.from_numpy(images[:n]).to(device), step, 4).item()
            seconds.append(time.monotonic() - began)
    return float(np.median(seconds[1:])) / n  # the first one prepares
