"""How many epochs end in a given time on this machine, so that the learning rate comes down to zero within it."""

import logging
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from supclust import kept, simclr
from supclust.profiles import SimCLR
from supclust.train import hardware

log = logging.getLogger(__name__)

PLAN = "plan.json"  # in the folder of a training
TIMED_BATCH = 64  # images of the steps that are timed, at most
SLACK = 0.9  # of the time is planned for: other work, checkpoints and accuracies take some


def within(minutes: float, images: simclr.Images, config: SimCLR, folder: Path, start: simclr.Encoder | None = None) -> SimCLR:
    """The config with as many epochs as end in so many minutes; planned once for a folder, so that the same call resumes.

    Raises ValueError if that is not one epoch, if the folder holds the plan of another training, and under torchrun.
    """
    if simclr.world_size() > 1:
        raise ValueError("a plan is for one process: under torchrun, give the epochs as -p epochs N")
    asked = {"minutes": minutes, "config": asdict(config)}
    asked |= {"images": simclr.images_checksum(images), "start": start and start.checksum}
    if found := kept.read(folder / PLAN):
        if found[1] != asked:
            raise ValueError(f"{folder / PLAN} is the plan of another training: remove it, or name another --folder")
        return SimCLR(**found[0])
    epochs, epoch = epochs_within(60 * SLACK * minutes, images, config, start)
    if epochs < 1:
        raise ValueError(f"one epoch takes about {epoch / 60:.1f} minutes here: {minutes:g} are too few")
    planned = replace(of_length(config, epochs), warm_up=min(config.warm_up, epochs / 10))
    kept.write(folder / PLAN, asdict(planned), asked)
    return planned


def of_length(config: SimCLR, epochs: int) -> SimCLR:
    """The config with so many epochs, the same share of them on small views."""
    return replace(config, epochs=epochs, small_epochs=round(config.small_epochs / config.epochs * epochs))


def epochs_within(seconds: float, images: simclr.Images, config: SimCLR, start: simclr.Encoder | None = None) -> tuple[int, float]:
    """How many epochs of the config's mix of small and full views take that long here, and the seconds of one; logged."""
    small, batch = config.small_epochs / config.epochs, min(config.batch_size, len(images))
    sides = {config.small_side: small, config.side: 1 - small}
    image = sum(share * seconds_per_image(images, config, side, start) for side, share in sides.items() if share > 0)
    epoch = image * (len(images) // batch * batch)
    epochs = int(seconds / epoch)
    log.info("an epoch takes about %.1f s: %d of them fit into %.3g minutes", epoch, epochs, seconds / 60)
    return epochs, epoch


def seconds_per_image(images: simclr.Images, config: SimCLR, side: int, start: simclr.Encoder | None = None) -> float:
    """Seconds that `simclr.train` takes here for an image of a step on views of side pixels, without torch.compile."""
    n, device, ends = min(TIMED_BATCH, config.batch_size, len(images)), simclr.default_device(), []
    still = replace(config, side=side, small_epochs=0, learning_rate=0.0)
    _, _, fit = simclr.make_step(still, device, start, compiled=False)
    with hardware.conditions(config.width, config.side), hardware.kept_memory():
        for step in range(4):  # the first one prepares
            fit(torch.from_numpy(images[:n]).to(device), step, 4).item()
            ends.append(time.monotonic())
    return float(np.median(np.diff(ends))) / n
