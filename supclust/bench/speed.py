"""How fast training is: images per second of the engine and of the ecosystem's stock way, side by side in one run."""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import pandas as pd
import torch
from lightly.loss import NTXentLoss
from lightly.transforms import SimCLRTransform
from PIL import Image
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from supclust import kept, profiles, simclr
from supclust.profiles import Profile, SimCLR
from supclust.train import cpu

STOCK = "lightly transform, DataLoader, fp32"
SHARES = "augmentation, share of a step"


def load_or_measure(profile: Profile, measure: bool = False) -> tuple[pd.DataFrame, str]:
    """The `training` table of a profile and the machine it is of: a kept one, or measured now, on noise (contents do not matter).

    The laptop profile measures the paper's network, of which its encoder is one; minutes on CPUs.
    """
    for table, measured_on in () if measure else kept.read_all(profile.name, "speed.csv"):
        return table.set_index("way"), measured_on
    config = profile.simclr if profile.name == "quick" else profiles.recipe("paper", "cifar10")
    images = np.random.default_rng(0).integers(0, 256, (3 * config.batch_size, 3, config.side, config.side), dtype=np.uint8)
    table = training(images, config, (config.side, config.side * 3 // 4, config.side // 2)).round(4)
    kept.write(kept.reports(profile.name) / "speed.csv", table.reset_index(), machine())
    return table, machine()


def operations(config: SimCLR, side: int) -> int:
    """Floating-point operations, two for a multiplication and addition, of one image's share of a training step.

    Two views, each forward once and backward for twice that. Of convolutions and matrix products; the rest does not count.
    """
    network = simclr.ResNet(config.network, config.width, config.stem).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, side, side))
    return 2 * 3 * counter.get_total_flops()


def training(images: np.ndarray, config: SimCLR, sides: tuple[int, ...], repeats: int = 3) -> pd.DataFrame:
    """Images per second of training steps: the stock way at the config's side, then the engine at each of the sides.

    images: uint8 (n, 3, height, width), at least 2 batches. config: network, width and batch size of all ways.
    Index "way"; columns "pixels", "images per second" (median of repeats), "times stock", and the engine's SHARES. All ways take
    turns, so that what else the machine does meets all of them; each gets a step of warm-up before every step that counts.
    """
    ways = {STOCK: (config.side, _stock_steps(images, config))}
    for side in sides:
        ways[f"engine, views of {side} pixels"] = side, _engine_steps(images, dataclasses.replace(config, side=side))
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, (_, run_steps) in ways.items():
            seconds[way].append(run_steps())
    table = pd.DataFrame({"pixels": {way: side for way, (side, _) in ways.items()}}).rename_axis("way")
    table["images per second"] = [config.batch_size / np.median(seconds[way]) for way in ways]
    table["times stock"] = table["images per second"] / table["images per second"][STOCK]
    shares = [_augmentation_seconds(images, config, side) / np.median(seconds[way]) for way, (side, _) in list(ways.items())[1:]]
    return table.assign(**{SHARES: [np.nan, *shares]})


def machine() -> str:
    """What the speeds were measured on: processor, threads, GPU, PyTorch."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    known = getattr(torch.cpu, "get_capabilities", dict)()
    cpu = known.get("cpu_name", platform.machine())
    features = ", ".join(name for name in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16") if known.get(name))
    return f"{cpu} ({features}), {torch.get_num_threads()} threads, {gpu}, PyTorch {torch.__version__.split('+')[0]}"


def _stock_steps(images: np.ndarray, config: SimCLR) -> Callable[[], float]:
    """Runs two steps as lightly's own CIFAR-10 benchmark does them; returns the seconds of the second, its views included.

    Views made one by one by worker processes, a forward pass for each of the two, float32, default memory format. The network is
    ours.
    """
    model = simclr.untrained(config).to(simclr.default_device())
    optimizer, loss = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), NTXentLoss(config.temperature)

    def run_steps() -> float:
        ends = []
        for first, second in islice(_stock_batches(images, config), 2):
            optimizer.zero_grad()
            loss(model(first), model(second)).backward()
            optimizer.step()
            ends.append(_now())
        return ends[1] - ends[0]

    return run_steps


def _stock_batches(images: np.ndarray, config: SimCLR) -> Iterator[list[torch.Tensor]]:
    transform = SimCLRTransform(input_size=config.side, cj_strength=0.5, min_scale=config.smallest_crop, gaussian_blur=0.0)
    loader = DataLoader(_Views(images, transform), config.batch_size, shuffle=True, drop_last=True, num_workers=os.cpu_count() or 1)
    for views in loader:
        yield [view.to(simclr.default_device()) for view in views]


@dataclasses.dataclass
class _Views(torch.utils.data.Dataset):
    images: np.ndarray
    transform: SimCLRTransform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> list[torch.Tensor]:
        return self.transform(Image.fromarray(self.images[i].transpose(1, 2, 0)))


def _engine_steps(images: np.ndarray, config: SimCLR) -> Callable[[], float]:
    """Runs two steps of the engine, as simclr.train does them; returns the seconds of the second."""
    device = simclr.default_device()
    resident = torch.from_numpy(images).to(device)
    _, _, fit = simclr.make_step(dataclasses.replace(config, small_epochs=0, learning_rate=0.01), device)

    def run_steps() -> float:
        ends = []
        with cpu.conditions(config.width, config.side), cpu.kept_memory():
            for step, rows in enumerate(torch.randperm(len(images), device=device).split(config.batch_size)[:2]):
                fit(resident[rows], step, 2)
                ends.append(_now())
        return ends[1] - ends[0]

    return run_steps


def _augmentation_seconds(images: np.ndarray, config: SimCLR, side: int, repeats: int = 3) -> float:
    """Median time to make the two views of a batch."""
    device = simclr.default_device()
    batch, seconds = torch.from_numpy(images[: config.batch_size]).to(device), []
    for seed in range(repeats + 1):
        begin, generator = _now(), torch.Generator(device).manual_seed(seed)
        with cpu.conditions(config.width, config.side), cpu.kept_memory():
            for _ in range(2):
                simclr.render(batch, simclr.draw(len(batch), config, generator), side)
        seconds.append(_now() - begin)
    return float(np.median(seconds[1:]))


def _now() -> float:
    """Seconds, once the GPU has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
