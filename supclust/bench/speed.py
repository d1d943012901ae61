"""How fast training is: images per second of the engine and of the ecosystem's stock way, side by side in one run."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import numpy as np
import pandas as pd
import torch
from lightly.loss import NTXentLoss
from lightly.transforms import SimCLRTransform
from PIL import Image
from torch.utils.data import DataLoader

from supclust import profiles, simclr
from supclust.bench.tables import table
from supclust.profiles import Profile, SimCLR
from supclust.train import hardware

STOCK = "lightly transform, DataLoader, fp32"
SHARES = "augmentation, share of a step"


def load_or_measure(profile: Profile, measure: bool = False) -> tuple[pd.DataFrame, str]:
    """The `training` table and the machine it is of: the kept one, or measured on noise, since contents do not matter.

    It is of the paper's network, which takes minutes on CPUs; in the profile "quick", of its own small one, measured each time.
    """
    quick = profile.name == "quick"
    config = profile.simclr if quick else profiles.recipe("paper", "cifar10")
    images = np.random.default_rng(0).integers(0, 256, (3 * config.batch_size, 3, config.side, config.side), dtype=np.uint8)
    sides = config.side, config.side * 3 // 4, config.side // 2
    measured, folder = partial(training, images, config, sides), "quick" if quick else "laptop"
    found, machine = table("speed", lambda: measured().reset_index(), measure or quick, folder)
    return found.set_index("way"), machine


def training(images: np.ndarray, config: SimCLR, sides: tuple[int, ...], repeats: int = 3) -> pd.DataFrame:
    """Images per second of training steps: the stock way at the config's side, then the engine at each of the sides.

    images: uint8 (n, 3, height, width), at least 2 batches. config: network, width and batch size of all ways.
    Index "way"; columns "pixels", "images per second" (median of repeats), "times stock", and the engine's SHARES. All ways take
    turns, so that what else the machine does meets all of them; each gets a step of warm-up before every step that counts.
    """
    ways = {STOCK: _stock(images, config)}
    ways |= {f"engine, views of {side} pixels": _engine(images, dataclasses.replace(config, side=side)) for side in sides}
    turns = [[_seconds_of_second(steps()) for steps in ways.values()] for _ in range(repeats)]
    found = pd.DataFrame({"pixels": [config.side, *sides], "seconds": np.median(turns, axis=0)}, pd.Index(ways, name="way"))
    found["images per second"] = config.batch_size / found["seconds"]
    found["times stock"] = found["images per second"] / found["images per second"][STOCK]
    augmentation = [_augmentation_seconds(images, config, side) for side in sides]
    found[SHARES] = [np.nan, *augmentation] / found["seconds"]
    return found.drop(columns="seconds")


def _stock(images: np.ndarray, config: SimCLR) -> Callable[[], Iterator[float]]:
    """Does steps as lightly's own CIFAR-10 benchmark does them, and yields the time at the end of each.

    Views made one by one by worker processes, a forward pass for each of the two, float32, default memory format. The network is
    ours.
    """
    device, pictures = simclr.default_device(), [Image.fromarray(image) for image in images.transpose(0, 2, 3, 1)]
    transform = SimCLRTransform(input_size=config.side, cj_strength=0.5, min_scale=config.smallest_crop, gaussian_blur=0.0)
    options = {"collate_fn": partial(_views, transform), "num_workers": os.cpu_count() or 1}
    loader = DataLoader(pictures, config.batch_size, shuffle=True, drop_last=True, **options)
    model = simclr.untrained(config).to(device)
    optimizer, loss = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), NTXentLoss(config.temperature)

    def steps() -> Iterator[float]:
        for first, second in loader:
            optimizer.zero_grad()
            loss(model(first.to(device)), model(second.to(device))).backward()
            optimizer.step()
            yield _now()

    return steps


def _views(transform: SimCLRTransform, pictures: list[Image.Image]) -> list[torch.Tensor]:
    return [torch.stack(views) for views in zip(*map(transform, pictures), strict=True)]


def _engine(images: np.ndarray, config: SimCLR) -> Callable[[], Iterator[float]]:
    """Does steps as simclr.train does them, and yields the time at the end of each."""
    device = simclr.default_device()
    resident = torch.from_numpy(images).to(device)
    _, _, fit = simclr.make_step(dataclasses.replace(config, small_epochs=0, learning_rate=0.01), device)

    def steps() -> Iterator[float]:
        with hardware.conditions(config.width, config.side), hardware.kept_memory():
            for step, rows in enumerate(torch.randperm(len(images), device=device).split(config.batch_size)):
                fit(resident[rows], step, 2)
                yield _now()

    return steps


def _seconds_of_second(steps: Iterator[float]) -> float:
    first, second = islice(steps, 2)
    return second - first


def _augmentation_seconds(images: np.ndarray, config: SimCLR, side: int, repeats: int = 3) -> float:
    """Median time to make the two views of a batch."""
    device, ends = simclr.default_device(), []
    batch = torch.from_numpy(images[: config.batch_size]).to(device)
    with hardware.conditions(config.width, config.side), hardware.kept_memory():
        for seed in range(repeats + 1):
            generator = torch.Generator(device).manual_seed(seed)
            for _ in range(2):
                simclr.render(batch, simclr.draw(len(batch), config, generator), side)
            ends.append(_now())
    return float(np.median(np.diff(ends)))


def _now() -> float:
    """Seconds, once the GPU has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
