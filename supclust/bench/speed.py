"""How fast training is: images per second of the engine and of the ecosystem's stock way, side by side in one run."""

import dataclasses
import os
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice

import numpy as np
import pandas as pd
import torch
from lightly.loss import NTXentLoss
from lightly.transforms import SimCLRTransform
from PIL import Image
from torch.utils.data import DataLoader

from supclust import simclr
from supclust.profiles import SimCLR
from supclust.train import hardware

STOCK = "lightly transform, DataLoader, fp32"
SHARES = "augmentation, share of a step"


def training(config: SimCLR, repeats: int = 3) -> pd.DataFrame:
    """Images per second of training steps, on noise: the stock way at the config's side, then the engine on views of three sides.

    Columns: way, pixels, images per second (median of repeats), times stock, and the engine's SHARES. All ways take turns, so that
    what else the machine does meets all of them; each gets a step of warm-up before every step that counts.
    """
    images = np.random.default_rng(0).integers(0, 256, (3 * config.batch_size, 3, config.side, config.side), dtype=np.uint8)
    smaller = [dataclasses.replace(config, side=config.side * part // 4, small_epochs=0) for part in (4, 3, 2)]
    ways = [(_stock, config), *((_engine, own) for own in smaller), *((_augmentations, own) for own in smaller)]
    seconds = np.median([[_seconds_of_second(steps(images, own)) for steps, own in ways] for _ in range(repeats)], axis=0)
    steps, augmentations = np.split(seconds, [1 + len(smaller)])
    names = [STOCK, *(f"engine, views of {own.side} pixels" for own in smaller)]
    found = pd.DataFrame({"way": names, "pixels": [config.side, *(own.side for own in smaller)]})
    found["images per second"] = config.batch_size / steps
    found["times stock"] = steps[0] / steps
    found[SHARES] = [np.nan, *augmentations] / steps
    return found


def _stock(images: np.ndarray, config: SimCLR) -> Iterator[None]:
    """Steps as lightly's own CIFAR-10 benchmark does them.

    Views made one by one by worker processes, a forward pass for each of the two, float32, default memory format. The network is
    ours.
    """
    device, pictures = simclr.default_device(), [Image.fromarray(image) for image in images.transpose(0, 2, 3, 1)]
    transform = SimCLRTransform(input_size=config.side, cj_strength=0.5, min_scale=config.smallest_crop, gaussian_blur=0.0)
    options = {"collate_fn": partial(_views, transform), "num_workers": os.cpu_count() or 1}
    model = simclr.untrained(config).to(device)
    optimizer, loss = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), NTXentLoss(config.temperature)
    for first, second in DataLoader(pictures, config.batch_size, shuffle=True, drop_last=True, **options):
        optimizer.zero_grad()
        loss(model(first.to(device)), model(second.to(device))).backward()
        optimizer.step()
        yield


def _views(transform: SimCLRTransform, pictures: list[Image.Image]) -> list[torch.Tensor]:
    return [torch.stack(views) for views in zip(*map(transform, pictures), strict=True)]


def _engine(images: np.ndarray, config: SimCLR) -> Iterator[None]:
    """Steps as simclr.train does them."""
    device = simclr.default_device()
    resident = torch.from_numpy(images).to(device)
    _, _, fit = simclr.make_step(dataclasses.replace(config, learning_rate=0.01), device)
    with hardware.conditions(config.width, config.side), hardware.kept_memory():
        for step, rows in enumerate(torch.randperm(len(images), device=device).split(config.batch_size)):
            fit(resident[rows], step, 2)
            yield


def _augmentations(images: np.ndarray, config: SimCLR) -> Iterator[None]:
    """The two views of batches as simclr.train makes them."""
    generator = torch.Generator(device := simclr.default_device()).manual_seed(0)
    with hardware.conditions(config.width, config.side), hardware.kept_memory():
        for batch in torch.from_numpy(images).to(device).split(config.batch_size):
            for _ in range(2):
                simclr.render(batch, simclr.draw(len(batch), config, generator), config.side)
            yield


def _seconds_of_second(steps: Iterator[None]) -> float:
    """How long the second step takes, until the GPU has done what it was told."""
    ends = []
    for _ in islice(steps, 2):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        ends.append(time.perf_counter())
    return ends[1] - ends[0]
