"""SimCLR (Chen et al. 2020) from top to bottom: network, random views, loss, learning rate, one training loop, weights on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
import torchvision
from lightly.loss import NTXentLoss
from lightly.models.modules.heads import ProjectionHead
from lightly.utils.dist import rank, world_size
from torch import Generator, Tensor, nn
from torchvision.transforms.v2.functional import normalize

from supclust import kept
from supclust.engine import threads
from supclust.engine.colours import adjust, luma, turn_hue
from supclust.engine.knn import held_out_accuracy
from supclust.profiles import SimCLR

Images = Any  # uint8 (n, 3, height, width): a numpy array, or files that stand in for one (supclust.images.ImageFiles)

DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}  # blocks of each stage
STEMS = {"small": (3, 1, 1), "imagenet": (7, 2, 3)}  # kernel, stride and padding of the first convolution
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # CIFAR-10's, for every data set: encoders are interchangeable
JITTER = (0.4, 0.4, 0.4, 0.1)  # strengths of brightness, contrast, saturation, and hue in turns of the colour circle, at most 1/6
LARGEST_RATIO, CROP_ATTEMPTS = 4 / 3, 10  # of a crop's sides; tries for one that fits, before it is the whole image
CPU = torch.device("cpu")
normalise = partial(normalize, mean=MEAN, std=STD)  # images, float in [0, 1], (n, 3, height, width), as the networks take them
CHECKPOINT = "checkpoint.pt"
WEIGHTS_STREAM, ORDER_STREAM, VIEWS_STREAM = 1, 2, 3  # ids of random streams


# -- the network ---------------------------------------------------------------------------------------------------------------
class ResNet(torchvision.models.ResNet):
    """Torchvision's ResNet (He et al. 2016) without a classifier: normalised images (n, 3, height, width) -> (n, 8 * width).

    name: "resnet18" or "resnet34". width: channels of the first stage. stem: "small" (3 x 3, stride 1) for images of up to about
    64 pixels, or "imagenet" (7 x 7, stride 2, then max-pooling). Raises ValueError for another name or stem, listing the known.
    """

    def __init__(self, name: str, width: int = 64, stem: str = "small") -> None:
        for kind, value, known in (("network", name, DEPTHS), ("stem", stem, STEMS)):
            if value not in known:
                raise ValueError(f"unknown {kind} {value!r}; known: {', '.join(known)}")
        self.width = width
        super().__init__(torchvision.models.resnet.BasicBlock, DEPTHS[name])
        self.conv1, self.bn1, self.fc = nn.Conv2d(3, width, *STEMS[stem], bias=False), nn.BatchNorm2d(width), nn.Identity()
        self.maxpool = self.maxpool if stem == "imagenet" else nn.Identity()

    def _make_layer(self, block: type, planes: int, blocks: int, stride: int = 1, dilate: bool = False) -> nn.Sequential:
        self.inplanes = self.width if planes == 64 else self.inplanes  # torchvision's width is 64
        return super()._make_layer(block, planes * self.width // 64, blocks, stride, dilate)


def untrained(config: SimCLR) -> nn.Sequential:
    """The network and its projection head (linear, batch norm, ReLU, linear): (n, 8 * width) -> (n, projection)."""
    d = 8 * config.width
    head = ProjectionHead([(d, d, nn.BatchNorm1d(d), nn.ReLU()), (d, config.projection, None, None)])
    return nn.Sequential(ResNet(config.network, config.width, config.stem), head)


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


def check_images(images: Images) -> None:
    """Raises ValueError for anything but uint8 (n, 3, height, width), n > 0."""
    if images.dtype != np.uint8 or len(images.shape) != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(f"images must be uint8 (n, 3, height, width), not {images.dtype} {images.shape}")


def images_checksum(images: Images) -> str:
    """SHA-256 that tells the images of one training from those of another."""
    array = isinstance(images, np.ndarray)
    return hashlib.sha256(f"{images.shape}".encode() + images.tobytes()).hexdigest() if array else images.checksum()


def embed(network: ResNet, images: Images, side: int, batch_size: int = 256) -> np.ndarray:
    """Features of images uint8 (n, 3, height, width), resized to side: float32 (n, 8 * width); the network in evaluation mode."""
    from supclust.train.hardware import conditions

    check_images(images)
    training = network.training
    network.eval()
    with conditions(network.width, side):
        features = in_batches(network, images, side, batch_size, normalise)
    network.train(training)
    return features


@torch.inference_mode()
def in_batches(network: nn.Module, images: Images, side: int, batch_size: int, prepare: Callable[[Tensor], Tensor]) -> np.ndarray:
    """The network's outputs, float32 (n, d), for images uint8 resized to side, in [0, 1], and prepared; a batch after the other."""
    device, starts = next(network.parameters()).device, threads.progress(range(0, len(images), batch_size), "features")
    read = threads.ahead(lambda start: images[start : start + batch_size], starts)
    resized = (resize(torch.from_numpy(batch).to(device), side) for batch in read)
    batches = (prepare(batch).contiguous(memory_format=torch.channels_last) for batch in resized)
    return torch.cat([network(batch).float().cpu() for batch in batches]).numpy()


# -- views ---------------------------------------------------------------------------------------------------------------------
def draw(n: int, config: SimCLR, generator: Generator) -> Tensor:
    """All that is random about one view of each of n images, float32 (n, 9) on the generator's device.

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

    images: uint8, or float in [0, 1], (n, 3, height, width), on the draws' device. Like torchvision's transforms, except
    that colours change in a fixed order and are clipped less often. No step depends on values, so torch.compile needs no break.
    """
    images = images if images.is_floating_point() else images / 255
    size, center, changes, turns, gray = draws.to(images.dtype).split([2, 2, 3, 1, 1], dim=1)
    columns, rows = (_resampling(size[:, i], center[:, i], images.shape[3 - i], side) for i in range(2))
    views = turn_hue(adjust(torch.einsum("nyh,nchw,nxw->ncyx", rows, images, columns), changes), turns)
    return normalise(views.lerp_(luma(views), gray[:, :, None, None]))


def _resampling(size: Tensor, center: Tensor, extent: int, side: int) -> Tensor:
    """Weights (n, side, extent) of an image's pixels in the view's, along one axis: bilinear, antialiased as torchvision's."""
    steps = (torch.arange(side, device=size.device) + 0.5) / side - 0.5
    places = (center[:, None] + size[:, None] * steps) * extent
    reach = (size.abs() * extent / side).clamp(min=1)[:, None, None]  # a pixel of the image or the view, whichever is larger
    pixels = torch.arange(extent, device=size.device) + 0.5
    weights = (reach - (places[:, :, None] - pixels).abs_()).clamp_(min=0)
    return weights.div_(weights.sum(dim=2, keepdim=True))


def resize(images: Tensor, side: int) -> Tensor:
    """Images uint8 (n, 3, height, width) as floats in [0, 1], (n, 3, side, side)."""
    same = images.shape[-2:] == (side, side)
    return images / 255 if same else F.interpolate(images / 255, size=(side, side), mode="bilinear", antialias=True)


# -- training ------------------------------------------------------------------------------------------------------------------
def contrastive_loss(projections: Tensor, temperature: float) -> Tensor:
    """NT-Xent (Chen et al. 2020, Eq. 1) of projections (2n, d): rows i and n + i are the two views of image i."""
    return NTXentLoss(temperature, gather_distributed=world_size() > 1)(*projections.chunk(2))


def learning_rate(step: int, steps_per_epoch: int, config: SimCLR) -> float:
    """Cosine from the full rate to zero, after a linear warm-up over `config.warm_up` epochs: without it, large batches diverge."""
    warm_up = min(1.0, (step + 1) / max(1.0, config.warm_up * steps_per_epoch))
    return config.learning_rate * warm_up * 0.5 * (1 + math.cos(math.pi * step / (steps_per_epoch * config.epochs)))


def make_step(
    config: SimCLR, device: torch.device, start: Encoder | None = None, compiled: bool | None = None
) -> tuple[nn.Sequential, torch.optim.SGD, Callable[[Tensor, int, int], Tensor]]:
    """The model to train (encoder, then projection head), its optimizer, and a function that does a step and returns the loss.

    The function takes this process's images uint8 (n, 3, height, width) on the device, the number of the step from 0, and the
    steps of an epoch; all that is random follows from (config.seed, step). start, compiled: see `train`.
    """
    from supclust.train import hardware

    model = untrained(config)
    initialise(model, generator(CPU, (config.seed, WEIGHTS_STREAM)))
    if start is not None:
        try:
            model.load_state_dict(nn.Sequential(start.network, start.head or model[1]).state_dict())
        except RuntimeError as error:
            raise ValueError(f"the encoder to start from is another network: {error}") from error
    layout = hardware.memory_format(config.width)
    model.to(device, memory_format=layout).train()
    optimizer = torch.optim.SGD(model.parameters(), momentum=config.momentum, weight_decay=config.weight_decay, fused=True)
    fast_model, fast_render = hardware.accelerated(model, device, config, compiled)

    def fit(images: Tensor, step: int, steps: int) -> Tensor:
        side = config.small_side if step < steps * config.small_epochs else config.side
        stream = generator(device, (config.seed, VIEWS_STREAM, step))
        draws = (draw(len(images) * world_size(), config, stream).chunk(world_size())[rank()] for _ in range(2))
        views = torch.cat([fast_render(images, drawn, side) for drawn in draws])  # together, they share batch statistics
        with hardware.autocast(device, config, side):
            projections = fast_model(views.contiguous(memory_format=layout))
        loss = contrastive_loss(projections.float(), config.temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = learning_rate(step, steps, config)
        optimizer.step()
        return hardware.mean(loss)

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
) -> Encoder:
    """Train an encoder on images, or go on where a stopped training of the same images and config left its checkpoint.

    images: uint8 (n, 3, height, width), at least 2; or files, which worker processes decode as they are needed.
    folder: holds the checkpoint. A finished training returns at once.
    labels: int (n,), never trained on; every `config.knn_every` epochs and after the last, the history has a 20-NN accuracy.
    on_epoch: called after each epoch with the history so far, a list of {"epoch", "loss", "knn" or None, "seconds"}.
    start: an encoder to go on from, its projection head included where it has one, instead of random weights.
    minutes: stop after so many. The encoder returned is then not `finished`; call again to go on, bit for bit with as many threads.
    save_every: seconds between two checkpoints. compiled: by default where torch.compile pays.
    Under torchrun, all processes train together, and the first one writes. Raises ValueError for a checkpoint that cannot be read
    or is of other images, start or config, naming the difference; FloatingPointError if training diverges.
    """
    from supclust.train import checkpoints, hardware

    check_images(images)
    if min(len(images), config.batch_size) < 2 * world_size():
        raise ValueError(f"{len(images)} images in batches of {config.batch_size} are too few to contrast: each process needs 2")
    if config.epochs < 1:
        raise ValueError(f"epochs must be at least 1, not {config.epochs}")
    if labels is not None and len(labels) != len(images):
        raise ValueError(f"{len(labels)} labels for {len(images)} images")
    device, checkpoint = default_device(), Path(folder) / CHECKPOINT
    batch_size = min(config.batch_size, len(images)) // world_size() * world_size()
    steps = len(images) // batch_size  # of an epoch; a last, partial batch is dropped
    started_from = start and [start.checksum, start.head and _checksum(start.head)]
    made_from = {**dataclasses.asdict(config), "images": images_checksum(images), "start": started_from}
    model, optimizer, fit = make_step(config, device, start, compiled)
    parts, nothing = {"model": model, "optimizer": optimizer}, (0, 0.0, torch.zeros(steps, device=device), [])
    step, seconds, losses, history = checkpoints.resume(checkpoint, made_from, parts, device) or nothing

    def save() -> None:
        checkpoints.check_finite(model, losses)
        if rank() == 0:
            checkpoints.save(checkpoint, made_from, parts, (step, seconds, losses, history))

    began = last_save = time.monotonic()
    first_step, epoch_began = step, began - seconds
    batches = hardware.loaded(images, islice(_rows(len(images), batch_size, config), step, None), device)
    with hardware.conditions(config.width, config.side), hardware.kept_memory():
        for batch in threads.progress(batches, "SimCLR" if rank() == 0 else None, config.epochs * steps - step):
            if minutes is not None and hardware.of_first(time.monotonic() - began) >= 60 * minutes:
                break
            losses[step % steps] = fit(batch, step, steps)
            step, seconds = step + 1, time.monotonic() - epoch_began
            if step % steps == 0:
                checkpoints.check_finite(model, losses)
                epoch, loss = step // steps, losses.mean().item()
                due = labels is not None and config.knn_every > 0 and (epoch % config.knn_every == 0 or epoch == config.epochs)
                here = due and rank() == 0
                knn = held_out_accuracy(embed(model[0], images, config.side), labels, config.seed) if here else None
                history.append({"epoch": epoch, "loss": loss, "knn": knn, "seconds": round(seconds, 3)})
                seconds, epoch_began = 0.0, time.monotonic()
            if time.monotonic() - last_save >= save_every:
                save()
                last_save = time.monotonic()
            if step % steps == 0 and on_epoch and rank() == 0:
                on_epoch(list(history))
    if step > first_step:
        save()
    network, head = hardware.of_first([part.cpu().state_dict() for part in model])  # on CPUs, running statistics differ
    return _encoder(config, network, head, history)


def _rows(n: int, batch_size: int, config: SimCLR) -> Iterator[Tensor]:
    """This process's part of each batch of rows, epoch by epoch."""
    for epoch in range(config.epochs):
        order = torch.randperm(n, generator=generator(CPU, (config.seed, ORDER_STREAM, epoch)))
        yield from (batch.chunk(world_size())[rank()] for batch in order[: n // batch_size * batch_size].split(batch_size))


# -- weights -------------------------------------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True, eq=False)
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


def _encoder(config: SimCLR, weights: Mapping[str, Tensor], head_weights: Mapping[str, Tensor], history: Sequence[Any]) -> Encoder:
    """An encoder with a copy of these weights; without a head if theirs are of one that is built differently."""
    network, head = untrained(config).to(default_device()).eval().requires_grad_(False)
    network.load_state_dict(weights)
    try:
        head.load_state_dict(head_weights)
    except RuntimeError:
        head = None
    return Encoder(network.to(memory_format=torch.channels_last), config, tuple(history), _checksum(network), head)


def _checksum(module: nn.Module) -> str:
    arrays = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in module.state_dict().items()}
    return hashlib.sha256(b"".join(name.encode() + array.tobytes() for name, array in arrays.items())).hexdigest()


def save_weights(encoder: Encoder, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write weights (keys b.* of the network, h.* of the projection head), config and history as one safetensors file.

    Raises ValueError for weights too large for the type.
    """
    parts = {"b": encoder.network, "h": nn.Identity() if encoder.head is None else encoder.head.layers}
    weights = {f"{part}.{key}": t for part, module in parts.items() for key, t in module.state_dict().items()}
    stored = {key: t.cpu().contiguous().to(dtype if t.is_floating_point() else t.dtype) for key, t in weights.items()}
    if not all(torch.isfinite(tensor).all() for tensor in stored.values()):
        raise ValueError(f"weights are not finite as {dtype}")
    about = {"config": json.dumps(dataclasses.asdict(encoder.config)), "history": json.dumps(encoder.history)}
    kept.write_bytes(Path(path), safetensors.torch.save(stored, about))


def load_weights(path: Path) -> Encoder:
    """The encoder of a safetensors file: keys b.* and h.* (the projection head, if it is there), or bare; any float type.

    Where the file does not say how it was trained, network, width and stem are known, the rest of the config are the defaults.
    Raises FileNotFoundError, and ValueError naming the file when it is unreadable or holds another network.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there are no encoder weights at {path}")
    try:
        with safetensors.safe_open(path, "pt") as file:
            about, stored = file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if bad := [key for key, tensor in stored.items() if tensor.is_complex() or not torch.isfinite(tensor).all()]:
            raise ValueError(f"{bad[0]} is not finite, or not real")
        head = {f"layers.{key[2:]}": tensor for key, tensor in stored.items() if key.startswith("h.")}
        network = {key.removeprefix("b."): tensor for key, tensor in stored.items() if not key.startswith("h.")}
        width, _, _, kernel = network["conv1.weight"].shape
        name = "resnet34" if "layer1.2.conv1.weight" in network else "resnet18"
        shown = {"network": name, "width": width, "stem": "imagenet" if kernel == 7 else "small"}
        config = SimCLR(**json.loads(about["config"]) if "config" in about else shown)
        return _encoder(config, network, head, json.loads(about.get("history", "[]")))
    except (safetensors.SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not hold the weights of an encoder: {' '.join(str(error).split())[:300]}") from error
