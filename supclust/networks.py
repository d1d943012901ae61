"""The encoders: ResNets with a stem for small images, what they make of images, and how well that tells classes apart."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torchvision.models.resnet import BasicBlock
from tqdm import tqdm

from supclust.augment import normalise

DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}  # blocks of each stage


class SmallResNet(nn.Module):
    """ResNet (He et al. 2016) for small images: 3 x 3 stem of stride 1, no max-pooling, no classifier.

    Its state dict has the names of torchvision's. (n, 3, height, width) -> (n, 8 * width), the average pool's outputs.
    """

    def __init__(self, depths: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.width = width
        self.conv1 = nn.Conv2d(3, width, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, depths[0], stride=1)
        self.layer2 = _stage(width, 2 * width, depths[1], stride=2)
        self.layer3 = _stage(2 * width, 4 * width, depths[2], stride=2)
        self.layer4 = _stage(4 * width, 8 * width, depths[3], stride=2)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.bn1(self.conv1(images)))
        maps = self.layer4(self.layer3(self.layer2(self.layer1(maps))))
        return maps.mean(dim=(2, 3))


def resnet(name: str, width: int = 64) -> SmallResNet:
    """The network of that name ("resnet18" or "resnet34"); `width` channels in its first stage, 8 * width features."""
    if name not in DEPTHS:
        raise ValueError(f"unknown network {name!r}; known: {', '.join(DEPTHS)}")
    return SmallResNet(DEPTHS[name], width)


def memory_format(width: int) -> torch.memory_format:
    """How to lay out the maps of a network in training: channels last, the faster one, where it is safe.

    On CPUs, oneDNN's weight gradient of a strided 1 x 1 convolution of fewer channels than its block (8 with AVX2, 16 with
    AVX-512) is wrong with channels last and writes past its memory: github.com/uxlfoundation/oneDNN/issues/6035.
    """
    return torch.channels_last if width >= 16 else torch.contiguous_format


@contextmanager
def few_threads(width: int, side: int) -> Iterator[None]:
    """One thread for a network whose batches are too little work to share, as on digits.

    There a second thread saves a third of the time on idle cores, and where another process wants the core it spins on, it
    has made training fifty times slower.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if width * side <= 256 else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def initialise(network: nn.Module, generator: Generator) -> None:
    """Draw the weights anew, from this generator only: convolutions as torchvision's ResNets, linear layers as PyTorch's."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.Linear):
            for parameter in module.parameters(recurse=False):
                bound = 1 / math.sqrt(module.in_features)
                parameter.uniform_(-bound, bound, generator=generator)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_parameters()


@torch.inference_mode()
def embed(network: SmallResNet, images: np.ndarray, side: int, batch_size: int = 256, progress: bool = True) -> np.ndarray:
    """The network's features of images, float32 (n, 8 * width), in evaluation mode, on the device of its weights.

    images: uint8 (n, 3, height, width); resized to side x side pixels where they differ from it.
    """
    check_images(images)
    training, device = network.training, network.conv1.weight.device
    network.eval()
    features = []
    starts = range(0, len(images), batch_size)
    if progress:
        starts = tqdm(starts, desc="features", unit="batch", leave=False)
    with few_threads(network.width, side):
        for start in starts:
            batch = resize(torch.from_numpy(images[start : start + batch_size]).to(device), side)
            features.append(network(normalise(batch).contiguous(memory_format=torch.channels_last)).float().cpu())
    network.train(training)
    return torch.cat(features).numpy()


def check_images(images: np.ndarray) -> None:
    """Raises ValueError for anything but uint8 (n, 3, height, width), n > 0."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != 3 or images.size == 0:
        raise ValueError(f"images must be uint8 (n, 3, height, width), not {images.dtype} {images.shape}")


def resize(images: Tensor, side: int) -> Tensor:
    """Images uint8 (n, 3, height, width) as side x side; untouched where they are."""
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images.float() / 255, size=(side, side), mode="bilinear", antialias=True, align_corners=False)


@torch.inference_mode()
def knn_accuracy(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    k: int = 20,
    temperature: float = 0.1,
) -> float:
    """Share of test points whose class the k nearest training points tell, weighted by exp(cosine / temperature).

    train (n, d), test (m, d): features, L2-normalised here. labels: int (n,) and (m,). k: at most n are used.
    The usual measure of self-supervised features (Wu et al. 2018, section 3.4).
    Raises ValueError for features and labels of different lengths and for features that are not finite.
    """
    pool, queries = _unit(train, train_labels, "train"), _unit(test, test_labels, "test")
    classes, votes_for = np.unique(train_labels, return_inverse=True)
    votes_for = torch.from_numpy(votes_for)
    predicted = []
    for block in queries.split(1000):  # 1000 x 50,000 similarities are 200 MB
        cosine, nearest = (block @ pool.T).topk(min(k, len(pool)), dim=1)
        votes = torch.zeros(len(block), len(classes))
        # Relative to the nearest (topk sorts): the vote is the same, and no temperature overflows.
        votes.scatter_add_(1, votes_for[nearest], ((cosine - cosine[:, :1]) / temperature).exp())
        predicted.append(votes.argmax(dim=1))
    return float(np.mean(classes[torch.cat(predicted).numpy()] == test_labels))


def _unit(features: np.ndarray, labels: np.ndarray, name: str) -> Tensor:
    if features.ndim != 2 or len(features) == 0 or len(features) != len(labels):
        raise ValueError(f"{name}: features {features.shape} do not go with labels {np.shape(labels)}")
    if len(bad := np.flatnonzero(~np.isfinite(features).all(axis=1))):
        raise ValueError(f"{name}: features are NaN or infinite in {len(bad)} rows, the first {bad[:5].tolist()}")
    return F.normalize(torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32)), dim=1)


def _stage(channels_in: int, channels: int, depth: int, stride: int) -> nn.Sequential:
    """Blocks of one resolution; the first changes resolution and channels, on its shortcut too."""
    shortcut = None
    if stride != 1 or channels_in != channels:
        convolution = nn.Conv2d(channels_in, channels, kernel_size=1, stride=stride, bias=False)
        shortcut = nn.Sequential(convolution, nn.BatchNorm2d(channels))
    first = BasicBlock(channels_in, channels, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(channels, channels) for _ in range(depth - 1)))
