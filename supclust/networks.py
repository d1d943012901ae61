"""The encoders: ResNets with a stem for small images, what they make of images, and how well that tells classes apart."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torchvision.models.resnet import BasicBlock
from tqdm import tqdm

from supclust.augment import normalise
from supclust.images import ImageFiles
from supclust.profiles import FSL, SimCLR

DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}  # blocks of each stage


class ResNet(nn.Module):
    """ResNet (He et al. 2016) without a classifier; by default its stem is 3 x 3, of stride 1, without max-pooling.

    Its state dict has the names of torchvision's. (n, 3, height, width) -> (n, 8 * width), the average pool's outputs.
    """

    def __init__(self, depths: tuple[int, ...], width: int, stem: str = "small") -> None:
        super().__init__()
        self.width = width
        if stem == "small":
            self.conv1, self.maxpool = nn.Conv2d(3, width, kernel_size=3, padding=1, bias=False), nn.Identity()
        elif stem == "imagenet":
            self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
            self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        else:
            raise ValueError(f"unknown stem {stem!r}; known: small, imagenet")
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, depths[0], stride=1)
        self.layer2 = _stage(width, 2 * width, depths[1], stride=2)
        self.layer3 = _stage(2 * width, 4 * width, depths[2], stride=2)
        self.layer4 = _stage(4 * width, 8 * width, depths[3], stride=2)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.maxpool(F.relu(self.bn1(self.conv1(images))))
        maps = self.layer4(self.layer3(self.layer2(self.layer1(maps))))
        return maps.mean(dim=(2, 3))


class TinyMapConv2d(nn.Conv2d):
    """3 x 3 convolution of stride 1; on a CPU, of maps of 1 x 1 and 2 x 2 pixels as one matrix product.

    Each pixel of such a map sees all the others, so the convolution is a linear map of (side^2 channels) to themselves: 1 and 16
    blocks of channels x channels instead of the 9 and 36 that a convolution multiplies, most of them with padding.
    """

    def forward(self, maps: Tensor) -> Tensor:
        n, channels, height, side = maps.shape
        if maps.device.type != "cpu" or side > 2 or height != side:
            return super().forward(maps)
        kernel = self.weight[:, :, 2 - side : 1 + side, 2 - side : 1 + side]  # what a pixel of the map can see
        blocks = kernel.unfold(2, side, 1).unfold(3, side, 1).flip(4, 5)  # (out, in, y, x, y', x'): of pixel y, x to y', x'
        matrix = blocks.permute(2, 3, 1, 4, 5, 0).reshape(side * side * channels, -1)
        products = maps.permute(0, 2, 3, 1).reshape(n, -1) @ matrix
        return products.view(n, side, side, -1).permute(0, 3, 1, 2)


def resnet(name: str, width: int = 64, stem: str = "small") -> ResNet:
    """The network of that name ("resnet18" or "resnet34"); `width` channels in its first stage, 8 * width features.

    stem: "small" for images of up to about 64 pixels, "imagenet" (7 x 7, stride 2, then max-pooling) for larger ones.
    """
    if name not in DEPTHS:
        raise ValueError(f"unknown network {name!r}; known: {', '.join(DEPTHS)}")
    return ResNet(DEPTHS[name], width, stem)


def default_device() -> torch.device:
    """The GPU where there is one, otherwise the CPU; under torchrun the process's own."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def generator(device: torch.device, of: Sequence[int]) -> Generator:
    """A stream of random numbers of its own for each tuple of whole numbers, such as (seed, purpose, epoch)."""
    mixed = np.random.SeedSequence(of).generate_state(1, np.uint64)
    return Generator(device).manual_seed(int(mixed[0]))


@contextmanager
def conditions(width: int, side: int) -> Iterator[None]:
    """What a network trains under: threads that have enough to do, memory that is kept, convolutions that repeat."""
    steady = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    with few_threads(width, side), kept_memory(), steady:
        yield


def autocast(device: torch.device, config: SimCLR | FSL, side: int) -> AbstractContextManager:
    """The precision of a step on views of side pixels: config.precision, or where that is "auto" the faster one.

    bfloat16 gains on GPUs and on CPUs with AMX, for wide networks and large views. Small views stay in float32: on maps of 1 x 1
    pixel, oneDNN's bfloat16 gradient of a strided 3 x 3 convolution is garbage.
    """
    stem_side = side // 4 if config.stem == "imagenet" else side
    gains = (device.type == "cuda" or _has_amx()) and config.width >= 32 and stem_side >= 16
    enabled = gains if config.precision == "auto" else config.precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def _has_amx() -> bool:
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # since PyTorch 2.10
    return bool(capabilities.get("amx_bf16", False))


@contextmanager
def kept_memory() -> Iterator[None]:
    """glibc keeps freed memory instead of returning it to the system after every step, which costs a quarter of a training's time.

    Returned at the end of the block. Without glibc (macOS, Windows) nothing happens, and with a preloaded allocator it is idle.
    """
    m_trim_threshold, m_mmap_threshold, m_mmap_max = -1, -3, -4  # <malloc.h>
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(m_mmap_max, 0)
    libc.mallopt(m_trim_threshold, 2**31 - 1)
    try:
        yield
    finally:
        libc.mallopt(m_mmap_max, 65_536)  # the default; thresholds as high as glibc itself raises them
        libc.mallopt(m_mmap_threshold, 32 * 2**20)
        libc.mallopt(m_trim_threshold, 64 * 2**20)
        libc.malloc_trim(0)


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
def embed(network: ResNet, images: np.ndarray | ImageFiles, side: int, batch_size: int = 256, progress: bool = True) -> np.ndarray:
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


def check_images(images: np.ndarray | ImageFiles) -> None:
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
    blocks = [first, *(BasicBlock(channels, channels) for _ in range(depth - 1))]
    for block in blocks:
        block.conv2 = TinyMapConv2d(channels, channels, kernel_size=3, padding=1, bias=False)
    for block in blocks[1:]:
        block.conv1 = TinyMapConv2d(channels, channels, kernel_size=3, padding=1, bias=False)
    return nn.Sequential(*blocks)
