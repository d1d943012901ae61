"""SimCLR (Chen et al. 2020) from top to bottom: network, random views, loss, learning rate, one training loop, weights on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss
from lightly.models.modules.heads import ProjectionHead
from lightly.utils.dist import rank, world_size
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader
from torchvision.models.resnet import BasicBlock
from tqdm import tqdm

from supclust import kept
from supclust.profiles import FSL, SimCLR

Images = Any  # uint8 (n, 3, height, width): a numpy array, or files that stand in for one (supclust.images.ImageFiles)

DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}  # blocks of each stage
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # CIFAR-10's, for every data set: encoders are interchangeable
JITTER = (0.4, 0.4, 0.4, 0.1)  # strengths of brightness, contrast, saturation, and hue in turns of the colour circle, at most 1/6
LARGEST_RATIO, CROP_ATTEMPTS = 4 / 3, 10  # of a crop's sides; tries for one that fits, before it is the whole image
LUMA = (0.299, 0.587, 0.114)
HELD_OUT = 0.1  # share of the labelled images that the kNN accuracy is measured on
CHECKPOINT = "checkpoint.pt"
WEIGHTS_STREAM, ORDER_STREAM, VIEWS_STREAM = 1, 2, 3  # ids of random streams


# -- the network ---------------------------------------------------------------------------------------------------------------


class TinyMapConv2d(nn.Conv2d):
    """3 x 3 convolution of stride 1; on a CPU, it convolves maps of 1 x 1 and 2 x 2 pixels as one matrix product.

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


class Block(BasicBlock):
    """torchvision's residual block; one of stride 2 takes half as many channels as it returns."""

    def __init__(self, channels: int, stride: int) -> None:
        shortcut = None
        if stride == 2:
            shortcut = nn.Sequential(nn.Conv2d(channels // 2, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
        super().__init__(channels // stride, channels, stride, shortcut)
        self.conv2 = TinyMapConv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        if stride == 1:
            self.conv1 = TinyMapConv2d(channels, channels, kernel_size=3, padding=1, bias=False)


class ResNet(nn.Module):
    """ResNet (He et al. 2016) without a classifier. Its state dict has the names of torchvision's."""

    def __init__(self, depths: tuple[int, ...], width: int, stem: str) -> None:
        super().__init__()
        large, self.width = stem == "imagenet", width
        self.conv1 = nn.Conv2d(3, width, 7 if large else 3, stride=2 if large else 1, padding=3 if large else 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1) if large else nn.Identity()
        for i, depth in enumerate(depths):
            blocks = (Block(width * 2**i, stride=2 if i > 0 and j == 0 else 1) for j in range(depth))
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (n, 3, height, width) -> (n, 8 * width), the average pool's outputs."""
        maps = self.maxpool(F.relu(self.bn1(self.conv1(images))))
        return self.layer4(self.layer3(self.layer2(self.layer1(maps)))).mean(dim=(2, 3))


def resnet(name: str, width: int = 64, stem: str = "small") -> ResNet:
    """A ResNet with `width` channels in its first stage and 8 * width features.

    name: "resnet18" or "resnet34". stem: "small" (3 x 3, stride 1) for images of up to about 64 pixels, "imagenet" (7 x 7,
    stride 2, then max-pooling) for larger ones. Raises ValueError for other names and stems.
    """
    if name not in DEPTHS:
        raise ValueError(f"unknown network {name!r}; known: {', '.join(DEPTHS)}")
    if stem not in ("small", "imagenet"):
        raise ValueError(f"unknown stem {stem!r}; known: small, imagenet")
    return ResNet(DEPTHS[name], width, stem)


def projection_head(config: SimCLR) -> ProjectionHead:
    """Linear, batch norm, ReLU, linear: (n, 8 * width) -> (n, projection)."""
    d = 8 * config.width
    return ProjectionHead([(d, d, nn.BatchNorm1d(d), nn.ReLU()), (d, config.projection, None, None)])


@torch.no_grad()
def initialise(network: nn.Module, generator: Generator) -> None:
    """Draw the weights from this generator only: convolutions as torchvision's ResNets, linear layers as PyTorch's."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.Linear):
            for parameter in module.parameters(recurse=False):
                parameter.uniform_(-(module.in_features**-0.5), module.in_features**-0.5, generator=generator)


def generator(device: torch.device, ids: Sequence[int]) -> Generator:
    """A random stream of its own for each tuple of whole numbers, such as (seed, VIEWS_STREAM, step)."""
    return Generator(device).manual_seed(int(np.random.SeedSequence(ids).generate_state(1, np.uint64)[0]))


def default_device() -> torch.device:
    """The GPU where there is one, otherwise the CPU; under torchrun the process's own."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def memory_format(width: int) -> torch.memory_format:
    """Layout of the maps in training: channels last, the faster one, for networks of at least 16 channels."""
    # With fewer, oneDNN's weight gradient of a strided 1 x 1 convolution is wrong: github.com/uxlfoundation/oneDNN/issues/6035.
    return torch.channels_last if width >= 16 else torch.contiguous_format


def autocast(device: torch.device, config: SimCLR | FSL, side: int) -> AbstractContextManager:
    """The precision of a step on views of side pixels: config.precision, or where that is "auto" the faster one.

    bfloat16 gains on GPUs and on CPUs with AMX, for wide networks and large views. Small views stay in float32: on maps of 1 x 1
    pixel, oneDNN's bfloat16 gradient of a strided 3 x 3 convolution is garbage.
    """
    amx = getattr(torch.cpu, "get_capabilities", dict)().get("amx_bf16", False)  # since PyTorch 2.10
    stem_side = side // 4 if config.stem == "imagenet" else side
    gains = (device.type == "cuda" or amx) and config.width >= 32 and stem_side >= 16
    enabled = gains if config.precision == "auto" else config.precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


@contextmanager
def conditions(width: int, side: int, training: bool = True) -> Iterator[None]:
    """Convolutions repeat exactly on GPUs, training keeps its memory, and networks as small as the digits' run in one thread.

    There a second thread saves a third of the time on idle cores, but steps take five times as long where its core is busy.
    """
    from supclust.train.cpu import kept_memory

    threads, steady = torch.get_num_threads(), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    torch.set_num_threads(1 if width * side <= 256 else threads)
    try:
        with kept_memory() if training else nullcontext(), steady:
            yield
    finally:
        torch.set_num_threads(threads)


def check_images(images: Images) -> None:
    """Raises ValueError for anything but uint8 (n, 3, height, width), n > 0."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != 3 or images.size == 0:
        raise ValueError(f"images must be uint8 (n, 3, height, width), not {images.dtype} {images.shape}")


def images_checksum(images: Images) -> str:
    """SHA-256 that tells the images of one training from those of another."""
    array = isinstance(images, np.ndarray)
    return hashlib.sha256(f"{images.shape}".encode() + images.tobytes()).hexdigest() if array else images.checksum()


@torch.inference_mode()
def embed(network: ResNet, images: Images, side: int, batch_size: int = 256, progress: bool = True) -> np.ndarray:
    """The network's features of images, float32 (n, 8 * width), in evaluation mode, on the device of its weights.

    images: uint8 (n, 3, height, width); resized to side x side pixels where they differ from it.
    """
    check_images(images)
    training, device, features = network.training, network.conv1.weight.device, []
    starts = range(0, len(images), batch_size)
    network.eval()
    with conditions(network.width, side, training=False):
        for start in tqdm(starts, desc="features", unit="batch", leave=False) if progress else starts:
            batch = normalise(resize(torch.from_numpy(images[start : start + batch_size]).to(device), side))
            features.append(network(batch.contiguous(memory_format=torch.channels_last)).float().cpu())
    network.train(training)
    return torch.cat(features).numpy()


def knn_accuracy(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray, k: int = 20, temperature: float = 0.1
) -> float:
    """Share of test points whose class the k nearest training points tell, weighted by exp(cosine / temperature).

    train (n, d), test (m, d): features, L2-normalised here. labels: int (n,) and (m,). k: at most n are used.
    The usual measure of self-supervised features (Wu et al. 2018, section 3.4).
    Raises ValueError for features and labels of different lengths and for features that are not finite.
    """
    for name, features, labels in (("train", train, train_labels), ("test", test, test_labels)):
        if features.ndim != 2 or len(features) == 0 or len(features) != len(labels):
            raise ValueError(f"{name}: features {features.shape} do not go with labels {np.shape(labels)}")
        if len(bad := np.flatnonzero(~np.isfinite(features).all(axis=1))):
            raise ValueError(f"{name}: features are NaN or infinite in {len(bad)} rows, the first {bad[:5].tolist()}")
    voters = KNeighborsClassifier(
        min(k, len(train)),
        weights=lambda d: np.exp((d[:, :1] ** 2 - d**2) / (2 * temperature)),  # relative to the nearest's: never all 0
        algorithm="brute",
    ).fit(normalize(train), train_labels)
    return float(np.mean(voters.predict(normalize(test)) == test_labels))


# -- views ---------------------------------------------------------------------------------------------------------------------


def draw(n: int, config: SimCLR, generator: Generator) -> Tensor:
    """All that is random about one view of each of n images, float32 (n, 9) on the generator's device: see `render`.

    Columns: width and height of the crop as shares of the image's, where a negative width mirrors; x and y of its centre, from 0
    to 1; changes of brightness, contrast and saturation; turns of the hue; 1 without colours, 0 with them.
    """

    def uniform(low: float, high: float, columns: int = 1) -> Tensor:
        return low + (high - low) * torch.rand((n, columns), device=generator.device, generator=generator)

    area, log_ratio = uniform(config.smallest_crop, 1, CROP_ATTEMPTS), math.log(LARGEST_RATIO)
    ratio = uniform(-log_ratio, log_ratio, CROP_ATTEMPTS).exp()
    sizes = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], dim=2)
    fits = (sizes <= 1).all(dim=2)
    first = sizes[torch.arange(n, device=area.device), fits.float().argmax(dim=1)]  # that fits
    size = torch.where(fits.any(dim=1, keepdim=True), first, 1.0)
    center = 0.5 + (1 - size) * uniform(-0.5, 0.5, 2)
    size[:, :1] *= torch.where(uniform(0, 1) < config.flip, -1.0, 1.0)
    changes = uniform(-1, 1, 4) * torch.tensor(JITTER).to(area.device, non_blocking=True) * (uniform(0, 1) < config.jitter)
    return torch.cat([size, center, changes, (uniform(0, 1) < config.grayscale).float()], dim=1)


def render(images: Tensor, draws: Tensor, side: int) -> Tensor:
    """The views that were drawn: float32 (n, 3, side, side), normalised; float64 if the images are.

    images: uint8, or float in [0, 1], (n, 3, height, width), on the draws' device. draws: (n, 9), see `draw`.

    Torchvision's RandomResizedCrop, RandomHorizontalFlip, ColorJitter and RandomGrayscale, but that crops may end between pixels,
    and that colours change in one order: brightness, contrast, saturation, hue. ColorJitter changes them in random order, and
    clips after each; mean, spread over draws and contrast of views are within 1 % of those in random order (on smooth noise).
    No step depends on values, so torch.compile takes the function whole.
    """
    images = images if images.is_floating_point() else images / 255
    size, center, changes, turns, gray = draws.to(images.dtype).split([2, 2, 3, 1, 1], dim=1)
    columns, rows = (_resampling(size[:, i], center[:, i], images.shape[3 - i], side) for i in range(2))
    views = turn_hue(adjust(torch.einsum("nyh,nchw,nxw->ncyx", rows, images, columns), changes), turns)
    return normalise(views.lerp_(_luma(views), gray[:, :, None, None]))


def _resampling(size: Tensor, center: Tensor, extent: int, side: int) -> Tensor:
    """Weights (n, side, extent) of an image's pixels in the view's, along one axis; rows sum to 1.

    Bilinear, with torchvision's antialiasing where a crop shrinks: a triangle about each place of the view, one pixel of the image
    wide to each side, or one of the view where that is more. At the border, the weights of missing pixels go to the others.
    """
    steps = (torch.arange(side, device=size.device) + 0.5) / side - 0.5
    places = (center[:, None] + size[:, None] * steps) * extent
    reach = (size.abs() * extent / side).clamp(min=1)[:, None, None]
    pixels = torch.arange(extent, device=size.device) + 0.5
    weights = (reach - (places[:, :, None] - pixels).abs_()).clamp_(min=0)
    return weights.div_(weights.sum(dim=2, keepdim=True))


def adjust(images: Tensor, changes: Tensor) -> Tensor:
    """Brightness x -> b x, contrast x -> c x + (1 - c) mean luma and saturation x -> s x + (1 - s) luma, as one map, in [0, 1].

    changes (n, 3): b - 1, c - 1, s - 1. Up to clipping, the three commute: the mean luma scales with b, and s leaves luma alone.
    """
    brightness, contrast, saturation = (1 + changes)[:, :, None, None, None].unbind(dim=1)
    gray = _luma(images)
    base = contrast * (1 - saturation) * gray + (1 - contrast) * gray.mean(dim=(2, 3), keepdim=True)
    return torch.addcmul(brightness * base, brightness * contrast * saturation, images).clamp_(0, 1)


def turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Images with their hue in HSV moved by -1/6 to 1/6 turns (n, 1), without the way to HSV and back.

    Let d, from 0 to 3 sixths of a turn, be the distance of a pixel's hue from a channel's pure colour. By HSV, that channel
    is low + chroma * clamp(2 - d, 0, 1), and low + chroma * (2 - d) is 2 * channel - middle. A turn makes d longer or
    shorter, as the greater of the other two channels tells.
    """
    red, green, blue = images.split(1, dim=1)
    less, more = torch.minimum(red, green), torch.maximum(red, green)
    low, middle, high = torch.minimum(less, blue), torch.maximum(less, torch.minimum(more, blue)), torch.maximum(more, blue)
    way = torch.cat([green - blue, blue - red, red - green], dim=1).sign_()
    shorter = way.mul_(-6 * turns[:, :, None, None] * (high - low))
    return shorter.add_(images, alpha=2).sub_(middle).clamp_(low, high)


def _luma(images: Tensor) -> Tensor:
    red, green, blue = images.split(1, dim=1)
    return (LUMA[0] * red).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def normalise(images: Tensor) -> Tensor:
    """Images, float in [0, 1], (n, 3, height, width), as the networks take them."""
    mean, std = (torch.tensor(v, dtype=images.dtype).to(images.device, non_blocking=True).view(3, 1, 1) for v in (MEAN, STD))
    return (images - mean).div_(std)


def resize(images: Tensor, side: int) -> Tensor:
    """Images uint8 (n, 3, height, width) as floats in [0, 1], (n, 3, side, side)."""
    same = images.shape[-2:] == (side, side)
    return images / 255 if same else F.interpolate(images / 255, size=(side, side), mode="bilinear", antialias=True)


def shift(images: Tensor, padding: int, flip: float, generator: Generator) -> Tensor:
    """Each image moved by up to `padding` pixels in x and y, black where it came from, and mirrored with probability `flip`.

    The augmentation of supervised training on CIFAR (He et al. 2016, section 4.2): a crop of the padded image.
    images: (n, 3, height, width) of any type, on the generator's device; returns the same shape and type.
    """
    n, _, height, width = images.shape
    padded, each = F.pad(images, [padding] * 4), torch.arange(n, device=images.device)[:, None, None]
    offsets = torch.randint(2 * padding + 1, (2, n, 1), device=images.device, generator=generator)
    mirrored = torch.rand(n, device=images.device, generator=generator) < flip
    rows, columns = (torch.arange(extent, device=images.device).expand(n, extent) for extent in (height, width))
    rows, columns = offsets[0] + rows, offsets[1] + torch.where(mirrored[:, None], columns.flip(1), columns)
    return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


# -- training ------------------------------------------------------------------------------------------------------------------


def contrastive_loss(projections: Tensor, temperature: float) -> Tensor:
    """NT-Xent (Chen et al. 2020, Eq. 1) of projections (2n, d): rows i and n + i are the two views of image i.

    Of several processes, each has n images of its own and all as negatives; their mean is the loss of the whole batch.
    """
    return NTXentLoss(temperature, gather_distributed=world_size() > 1)(*projections.chunk(2))


def learning_rate(step: int, steps_per_epoch: int, config: SimCLR) -> float:
    """Cosine from the full rate to zero at the end of training, after a linear warm-up over `config.warm_up` epochs.

    The warm-up is a deviation from the reference code: without it, large batches can diverge in their first steps.
    """
    warm_up = min(1.0, (step + 1) / max(1.0, config.warm_up * steps_per_epoch))
    return config.learning_rate * warm_up * 0.5 * (1 + math.cos(math.pi * step / (steps_per_epoch * config.epochs)))


def make_step(
    config: SimCLR, device: torch.device, start: Encoder | None = None, compiled: bool | None = None
) -> tuple[nn.Sequential, torch.optim.SGD, Callable[[Tensor, int, int], Tensor]]:
    """The model to train (encoder, then projection head), its optimizer, and a function that does a step and returns the loss.

    The function takes this process's images uint8 (n, 3, height, width) on the device, the number of the step from 0, and of
    steps per epoch; all that is random follows from (config.seed, step). start, compiled: see `train`.
    """
    model = nn.Sequential(resnet(config.network, config.width, config.stem), projection_head(config))
    initialise(model, generator(torch.device("cpu"), (config.seed, WEIGHTS_STREAM)))
    if start is not None:
        try:
            model[0].load_state_dict(start.network.state_dict())
            model[1].load_state_dict((start.head or model[1]).state_dict())
        except RuntimeError as error:
            raise ValueError(f"the encoder to start from is another network: {error}") from error
    model.to(device, memory_format=memory_format(config.width)).train()
    numbers = {"lr": config.learning_rate, "momentum": config.momentum, "weight_decay": config.weight_decay}
    optimizer, fast_model, fast_render = torch.optim.SGD(model.parameters(), **numbers, fused=True), model, render
    if world_size() > 1:
        from supclust.train import distributed

        fast_model = distributed.wrap(model, device)
    if compiled is None:  # digits train faster than they compile, and on CPUs it takes a C++ compiler
        compiled = config.width * config.side > 256 and (device.type == "cuda" or shutil.which(os.environ.get("CXX", "g++")))
    if compiled:  # not dynamic: after a change of resolution, an unbroken training would have other kernels than a resumed one
        fast_model = torch.compile(fast_model, dynamic=False)
        fast_render = torch.compile(render, dynamic=False) if device.type == "cuda" else render

    def fit(images: Tensor, step: int, steps: int) -> Tensor:
        side = config.small_side if step < steps * config.small_epochs else config.side
        stream = generator(device, (config.seed, VIEWS_STREAM, step))
        draws = (draw(len(images) * world_size(), config, stream).chunk(world_size())[rank()] for _ in range(2))
        views = torch.cat([fast_render(images, drawn, side) for drawn in draws])  # together, they share batch statistics
        with autocast(device, config, side):
            projections = fast_model(views.contiguous(memory_format=memory_format(config.width)))
        loss = contrastive_loss(projections.float(), config.temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = learning_rate(step, steps, config)
        optimizer.step()
        if world_size() > 1:
            torch.distributed.all_reduce(loss.detach())
        return loss.detach() / world_size()

    return model, optimizer, fit


def train(
    images: Images,
    config: SimCLR,
    folder: Path,
    *,
    labels: np.ndarray | None = None,
    on_epoch: Callable[[list[dict[str, Any]]], None] | None = None,
    start: Encoder | None = None,
    minutes: float | None = None,
    save_every: float = 60.0,
    compiled: bool | None = None,
    device: torch.device | str | None = None,
) -> Encoder:
    """Train an encoder on images, or go on where a stopped training of the same images and config left its checkpoint.

    images: uint8 (n, 3, height, width), at least 2; or files, which worker processes decode as they are needed.
    folder: keeps the checkpoint, where all processes find it. A finished training returns at once.
    labels: int (n,), never trained on; every `config.knn_every` epochs and after the last, the history has a 20-NN accuracy.
    on_epoch: called after each epoch with the history so far, a list of {"epoch", "loss", "knn" or None, "seconds"}.
    start: an encoder to go on from, its projection head included where it has one, instead of random weights.
    minutes: stop after so many. The encoder returned is then not `finished`; call again to go on.
    save_every: seconds between two checkpoints; one is written at the end, too. compiled: by default where torch.compile pays.

    A stopped or killed training continues bit for bit on the same machine with the same number of threads: order, learning rate
    and views of a step follow from (config.seed, step). Under torchrun, all processes train together, and the first one writes.
    Raises ValueError for a checkpoint that cannot be read, and for one of other images, start or config, naming the difference;
    FloatingPointError if training diverges.
    """
    check_images(images)
    if min(len(images), config.batch_size) < 2 * world_size():
        few = f"{len(images)} images in batches of {config.batch_size} are too few"
        raise ValueError(f"SimCLR contrasts images: {few}, each process needs 2")
    if config.epochs < 1:
        raise ValueError(f"epochs must be at least 1, not {config.epochs}")
    if labels is not None and len(labels) != len(images):
        raise ValueError(f"{len(labels)} labels for {len(images)} images")
    device, checkpoint = torch.device(device or default_device()), Path(folder) / CHECKPOINT
    batch_size = min(config.batch_size, len(images)) // world_size() * world_size()
    steps = len(images) // batch_size  # of an epoch; a last, partial batch is dropped
    started_from = start and [start.checksum, start.head and _checksum(start.head)]
    made_from = {**dataclasses.asdict(config), "images": images_checksum(images), "start": started_from}
    model, optimizer, fit = make_step(config, device, start, compiled)
    step, seconds, losses, history = 0, 0.0, torch.zeros(steps, device=device), []
    if (saved := _load_checkpoint(checkpoint, made_from)) is not None:
        step, seconds, losses, history = saved["step"], saved["seconds"], saved["losses"].to(device), saved["history"]
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])

    def save() -> None:
        _check_finite(model, losses)
        if rank() == 0:
            state = {"made_from": made_from, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**state, "step": step, "seconds": seconds, "losses": losses, "history": history}, buffer := io.BytesIO())
            kept.write_bytes(checkpoint, buffer.getvalue())

    began = last_save = time.monotonic()
    first_step, epoch_began, hidden = step, began - seconds, {"disable": True} if rank() > 0 else {}
    bar = tqdm(total=config.epochs * steps, initial=step, desc="SimCLR", unit="step", leave=False, **hidden)
    with bar, conditions(config.width, config.side):
        for batch in _batches(images, config, batch_size, step, device):
            if minutes is not None and _first_decides(time.monotonic() - began >= 60 * minutes, device):
                break
            losses[step % steps] = fit(batch, step, steps)
            step, seconds = step + 1, time.monotonic() - epoch_began
            if step % steps == 0:
                _check_finite(model, losses)
                knn = _held_out_knn(model[0], images, labels, config, step // steps)
                history.append({"epoch": step // steps, "loss": losses.mean().item(), "knn": knn, "seconds": round(seconds, 3)})
                seconds, epoch_began = 0.0, time.monotonic()
            if time.monotonic() - last_save >= save_every:
                save()
                last_save = time.monotonic()
            if step % steps == 0 and on_epoch is not None and rank() == 0:
                on_epoch(list(history))
            bar.update()
    if step > first_step:
        save()
    for buffer in model.buffers() if world_size() > 1 else ():  # running statistics, where each process has its own
        torch.distributed.broadcast(buffer, src=0)
    return _encoder(config, *(module.state_dict() for module in model), history)


def _first_decides(decision: bool, device: torch.device) -> bool:
    """What the first process decided, in all of them."""
    flag = torch.tensor(float(decision), device=device)
    if world_size() > 1:
        torch.distributed.broadcast(flag, src=0)
    return bool(flag)


def _batches(images: Images, config: SimCLR, batch_size: int, step: int, device: torch.device) -> Iterator[Tensor]:
    """This process's part of each batch from that step on: uint8, on the device."""

    def rows() -> Iterator[Tensor]:
        for epoch in range(config.epochs):
            order = torch.randperm(len(images), generator=generator(torch.device("cpu"), (config.seed, ORDER_STREAM, epoch)))
            for batch in order[: len(images) // batch_size * batch_size].split(batch_size):
                yield batch.chunk(world_size())[rank()]

    left = islice(rows(), step, None)
    if isinstance(images, np.ndarray):
        resident = torch.from_numpy(images).to(device)
        yield from (resident[batch.to(device)] for batch in left)
    else:  # worker processes decode the files
        workers, on_gpu = joblib.cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) or 1, device.type == "cuda"
        loader = DataLoader(images, batch_sampler=left, num_workers=workers, pin_memory=on_gpu)
        yield from (batch.to(device, non_blocking=on_gpu) for batch in loader)


def _held_out_knn(network: ResNet, images: Images, labels: np.ndarray | None, config: SimCLR, epoch: int) -> float | None:
    """Weighted 20-NN accuracy of a tenth of the images, the same at every epoch, against the others; None where it is not due."""
    due = config.knn_every > 0 and (epoch % config.knn_every == 0 or epoch == config.epochs)
    if labels is None or not due or rank() > 0:
        return None
    features = embed(network, images, config.side, progress=False)
    order = np.random.default_rng(config.seed).permutation(len(images))
    held_out, rest = np.split(order, [max(1, round(HELD_OUT * len(order)))])
    return knn_accuracy(features[rest], labels[rest], features[held_out], labels[held_out])


def _check_finite(model: nn.Module, losses: Tensor) -> None:
    if not all(torch.isfinite(values).all() for values in (losses, *model.parameters())):
        raise FloatingPointError("loss or weights are not finite: training diverged, try a smaller learning_rate")


def _load_checkpoint(file: Path, made_from: dict[str, Any]) -> dict[str, Any] | None:
    """The state of a stopped training of the same images and config; None where there is none."""
    for left_over in file.parent.glob(f".{file.name}.*.tmp"):  # of a process that was killed while it wrote
        left_over.unlink(missing_ok=True)
    if not file.exists():
        return None
    try:
        if (damaged := zipfile.ZipFile(file).testzip()) is not None:
            raise ValueError(f"the checksum of {damaged} differs")
        saved = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive fails in whatever part of it is read first
        raise ValueError(f"the checkpoint {file} cannot be read ({error}); remove it to train anew") from error
    phrases = {"images": "it was trained on other images", "start": "it went on from other weights"}
    theirs = saved["made_from"]
    changed = [key for key in {**made_from, **theirs} if theirs.get(key) != made_from.get(key)]
    said = [phrases.get(key, f"{key} is {theirs.get(key)!r} there and {made_from.get(key)!r} here") for key in changed]
    if said:
        raise ValueError(f"the checkpoint {file} is of another training: {'; '.join(said)}. Remove it or train in another folder")
    return saved


def seconds_per_image(images: Images, config: SimCLR, side: int, start: Encoder | None = None, batch_size: int = 64) -> float:
    """What `train` takes here for an image of a step on views of side pixels, without torch.compile: to plan a training by."""
    n, device, seconds = min(batch_size, config.batch_size, len(images)), default_device(), []
    _, _, fit = make_step(dataclasses.replace(config, side=side, small_epochs=0, learning_rate=0.0), device, start, compiled=False)
    with conditions(config.width, config.side):
        for step in range(4):
            began = time.monotonic()
            fit(torch.from_numpy(images[:n]).to(device), step, 4).item()
            seconds.append(time.monotonic() - began)
    return float(np.median(seconds[1:])) / n  # the first one prepares


# -- weights -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Encoder:
    """A trained network, with the projection head it was trained with, and where it comes from."""

    network: ResNet  # in evaluation mode, (n, 3, side, side) normalised -> (n, 8 * width)
    config: SimCLR
    history: tuple[dict[str, Any], ...]  # one {"epoch", "loss", "knn", "seconds"} per epoch; empty where it was not kept
    checksum: str  # SHA-256 of the network's weights
    head: nn.Module | None = None  # (n, 8 * width) -> (n, projection); None where it was not kept

    @property
    def finished(self) -> bool:
        """Whether all epochs of its config are done."""
        return len(self.history) >= self.config.epochs


def _encoder(
    config: SimCLR, weights: Mapping[str, Tensor], head_weights: Mapping[str, Tensor], history: list[dict[str, Any]]
) -> Encoder:
    """An encoder with a copy of these weights; without a head if theirs are of one that is built differently."""
    network, head = resnet(config.network, config.width, config.stem), projection_head(config)
    network.load_state_dict(weights)
    network = network.to(default_device(), memory_format=torch.channels_last).eval().requires_grad_(False)
    try:
        head.load_state_dict(head_weights)
        head = head.to(default_device()).eval().requires_grad_(False)
    except RuntimeError:
        head = None
    return Encoder(network, config, tuple(history), _checksum(network), head)


def _checksum(module: nn.Module) -> str:
    """SHA-256 of names and values of the weights, in their order."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_weights(encoder: Encoder, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write weights (keys b.* of the network, h.* of the projection head), config and history as one safetensors file.

    Raises ValueError for weights too large for the type.
    """
    weights = {f"b.{key}": tensor for key, tensor in encoder.network.state_dict().items()}
    if encoder.head is not None:
        weights |= {f"h.{key.removeprefix('layers.')}": tensor for key, tensor in encoder.head.state_dict().items()}
    stored = {key: t.cpu().contiguous().to(dtype if t.is_floating_point() else t.dtype) for key, t in weights.items()}
    if not all(torch.isfinite(tensor).all() for tensor in stored.values()):
        raise ValueError(f"weights are not finite as {dtype}")
    about = {"config": json.dumps(dataclasses.asdict(encoder.config)), "history": json.dumps(encoder.history)}
    kept.write_bytes(Path(path), safetensors.torch.save(stored, about))


def load_weights(path: Path) -> Encoder:
    """The encoder of a safetensors file: keys b.* and h.* (the projection head, if it is there), or bare; any float type.

    A file that does not say how it was trained gets a config of which only network and width are known; the rest, side
    included, are the defaults.
    Raises FileNotFoundError, and ValueError naming the file when it is unreadable or holds another network.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there are no encoder weights at {path}")
    try:
        with safetensors.safe_open(path, "pt") as file:
            about, stored = file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        stored = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in stored.items()}
        head = {f"layers.{key[2:]}": tensor for key, tensor in stored.items() if key.startswith("h.")}
        network = {key.removeprefix("b."): tensor for key, tensor in stored.items() if not key.startswith("h.")}
        width, _, _, kernel = network["conv1.weight"].shape
        name = "resnet34" if "layer1.2.conv1.weight" in network else "resnet18"
        shown = {"network": name, "width": width, "stem": "imagenet" if kernel == 7 else "small"}
        config = SimCLR(**json.loads(about["config"]) if "config" in about else shown)
        return _encoder(config, network, head, json.loads(about.get("history", "[]")))
    except (safetensors.SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not hold the weights of an encoder: {error}") from error
