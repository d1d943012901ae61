"""The network that the fully supervised framework (FSL) trains from scratch on the labelled images of each round."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from supclust import simclr
from supclust.learners import DROPOUT, LinearHead
from supclust.profiles import FSL
from supclust.train import hardware

WEIGHTS_STREAM, STEPS_STREAM = 1, 2  # ids of random streams


def fit_network(
    images: simclr.Images, labels: np.ndarray, n_classes: int, config: FSL, seed: Sequence[int]
) -> tuple[simclr.ResNet, LinearHead]:
    """Train a ResNet with dropout before its last layer on labelled images from scratch; the last epoch counts (paper, section 4).

    images: uint8 (l, 3, height, width), on the device at once, since there are few; labels int (l,) in 0..n_classes-1. Any number
    of them trains, of any classes: batches are filled by repetition, and a class without an image ends up improbable.
    The same seed, a few whole numbers, gives the same network on one machine, whatever ran before.
    Returns its body, in evaluation mode, which makes features (n, 8 * width), and its last layer. Raises FloatingPointError if the
    loss is no longer finite.
    """
    device, layout = simclr.default_device(), hardware.memory_format(config.width)
    model = nn.Sequential(simclr.ResNet(config.network, config.width, config.stem), nn.Linear(8 * config.width, n_classes))
    simclr.initialise(model, simclr.generator(simclr.CPU, (*seed, WEIGHTS_STREAM)))
    model.to(device, memory_format=layout).train()
    resident = simclr.resize(torch.from_numpy(images[:]).to(device), config.side)
    targets, generator = torch.from_numpy(labels.astype(np.int64)).to(device), simclr.generator(device, (*seed, STEPS_STREAM))
    numbers = {"lr": config.learning_rate, "momentum": config.momentum, "weight_decay": config.weight_decay}
    optimizer = torch.optim.SGD(model.parameters(), **numbers, nesterov=True, fused=True)
    schedule = CosineAnnealingLR(optimizer, config.epochs)  # the rate falls epoch by epoch
    with hardware.conditions(config.width, config.side), hardware.kept_memory():
        for _ in range(config.epochs):
            for rows in _filled_batches(len(images), config.batch_size, generator):
                views = simclr.normalise(shift(resident[rows], config.side // 8, config.flip, generator))
                with hardware.autocast(device, config, config.side):
                    features = model[0](views.contiguous(memory_format=layout)).float()
                    kept = torch.rand(features.shape, device=device, generator=generator) >= DROPOUT
                    loss = F.cross_entropy(model[1](features * kept / (1 - DROPOUT)).float(), targets[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
    if not torch.isfinite(loss):
        raise FloatingPointError(f"the loss is no longer finite; a smaller learning rate than {config.learning_rate} may help")
    weights, biases = (parameter.detach().double().cpu().numpy() for parameter in model[1].parameters())
    return model[0].eval().requires_grad_(False), LinearHead(weights, biases)


def embed(body: simclr.ResNet, images: simclr.Images, config: FSL) -> np.ndarray:
    """Penultimate features float32 (n, 8 * width) of images uint8 (n, 3, height, width), in training's precision."""
    with hardware.autocast(simclr.default_device(), config, config.side):
        return simclr.embed(body, images, config.side, config.evaluation_batch)


def _filled_batches(n: int, size: int, generator: Generator) -> Iterator[Tensor]:
    """Rows of an epoch in random order, the last batch filled from the order's beginning, again and again if need be."""
    order = torch.randperm(n, device=generator.device, generator=generator)
    return iter(order.repeat(-(-size // n) + 1)[: -(-n // size) * size].split(size))


def shift(images: Tensor, padding: int, flip: float, generator: Generator) -> Tensor:
    """Each image moved by up to `padding` pixels in x and y, black where it came from, and mirrored with probability `flip`.

    The augmentation of supervised training on CIFAR (He et al. 2016, section 4.2): a crop of the padded image.
    images: (n, 3, height, width) of any type, on the generator's device; returns the same shape and type.
    """
    n, _, height, width = images.shape
    crops = F.pad(images, [padding] * 4).unfold(2, height, 1).unfold(3, width, 1)  # (n, 3, y, x, height, width), no copy
    y, x = torch.randint(2 * padding + 1, (2, n), device=images.device, generator=generator)
    mirrored = torch.rand(n, device=images.device, generator=generator) < flip
    moved = crops[torch.arange(n, device=images.device), :, y, x]
    return torch.where(mirrored[:, None, None, None], moved.flip(3), moved)
