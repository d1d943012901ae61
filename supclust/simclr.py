"""SimCLR (Chen et al. 2020): trains the encoder on images without their labels, fast, and survives being stopped at any moment."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from lightly.loss import NTXentLoss
from lightly.models.modules.heads import ProjectionHead
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from supclust import augment, checkpoints, kept, networks
from supclust.images import ImageFiles
from supclust.profiles import SimCLR
from supclust.train import parallel

CHECKPOINT = "checkpoint.pt"
WEIGHTS, ORDER, VIEWS = 1, 2, 3  # what randomness is for
HELD_OUT = 0.1  # share of the labelled images that the kNN accuracy is measured on


@dataclass(frozen=True, eq=False)
class Encoder:
    """A trained network, with the projection head it was trained with, and where it comes from."""

    network: nn.Module  # in evaluation mode, (n, 3, side, side) normalised -> (n, 8 * width)
    config: SimCLR
    history: tuple[dict[str, Any], ...]  # one {"epoch", "loss", "knn", "seconds"} per epoch; empty where it was not kept
    checksum: str  # SHA-256 of the network's weights
    head: nn.Module | None = None  # (n, 8 * width) -> (n, projection); None where it was not kept

    @property
    def finished(self) -> bool:
        """Whether all epochs of its config are done."""
        return len(self.history) >= self.config.epochs


def train(
    images: np.ndarray | ImageFiles,
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
    folder: keeps the checkpoint and the one before it. A finished training returns at once.
    labels: int (n,), never trained on; with them the history holds the weighted 20-NN accuracy of a held-out tenth,
        every `config.knn_every` epochs and after the last.
    on_epoch: called after each epoch with the history so far, a list of {"epoch", "loss", "knn" or None, "seconds"}.
    start: an encoder to go on from, its projection head included where it has one, instead of random weights.
    minutes: stop after so many; every step until then is in the checkpoint. The encoder returned is then not `finished`;
        call again to go on.
    save_every: seconds between two checkpoints. A last one is written at the end.
    compiled: whether torch.compile prepares the network; by default where that pays: networks that are not tiny, where there
        is a C++ compiler or a GPU.
    device: by default the GPU where there is one.

    A stopped or killed training continues bit for bit on the same machine with the same number of threads: all randomness of
    a step comes from a generator seeded with (config.seed, epoch, step). Under torchrun, all processes train together: each
    renders and embeds its part of every batch, all see the same negatives and batch statistics, and the first one writes.

    Raises ValueError for a checkpoint of other images, start or config, naming the difference, and for one that cannot be
    read where the one before it cannot either; nothing is silently started again.
    """
    _check(images, config, labels)
    device = torch.device(device or networks.default_device())
    training = _set_up(images, config, device, start, _pays(config, device) if compiled is None else compiled)
    clock = _Clock(minutes, save_every, Path(folder) / CHECKPOINT)
    if (saved := parallel.of_first(lambda: checkpoints.load(clock.checkpoint))) is not None:
        _resume(training, saved, clock.checkpoint)
    with _bar(training) as bar, networks.conditions(config.width, config.side):
        while len(training.history) < config.epochs and _fit_epoch(training, clock, bar):
            training.history.append(_record(training, images, labels, bar))
            if on_epoch is not None and parallel.rank() == 0:
                on_epoch([dict(record) for record in training.history])
    if training.unsaved:
        _save(training, clock)
    parallel.barrier()
    return _encoder(training)


def contrastive_loss(projections: Tensor, temperature: float) -> Tensor:
    """NT-Xent (Chen et al. 2020, Eq. 1) of projections (2n, d): rows i and n + i are the two views of image i.

    Of several processes, each has n images of its own and all as negatives; their mean is the loss of the whole batch.
    """
    return NTXentLoss(temperature, gather_distributed=parallel.size() > 1)(*projections.chunk(2))


def learning_rate(step: int, steps_per_epoch: int, config: SimCLR) -> float:
    """Cosine from the full rate to zero at the end of training, after a linear warm-up over `config.warm_up` epochs.

    The warm-up is a deviation from the reference code: without it, large batches can diverge in their first steps.
    """
    warm_up = min(1.0, (step + 1) / max(1.0, config.warm_up * steps_per_epoch))
    return config.learning_rate * warm_up * 0.5 * (1 + math.cos(math.pi * step / (steps_per_epoch * config.epochs)))


def view_side(epoch: int, config: SimCLR) -> int:
    """Pixels of the views in an epoch, counted from 1."""
    return config.small_side if epoch <= config.small_epochs else config.side


def seconds_per_image(
    images: np.ndarray | ImageFiles, config: SimCLR, side: int, start: Encoder | None = None, batch_size: int = 64
) -> float:
    """What `train` takes here for an image of a step on views of side pixels, without torch.compile: to plan a training by."""
    config = dataclasses.replace(config, batch_size=min(batch_size, config.batch_size))
    _check(images, config, None)
    training, seconds = _set_up(images, config, networks.default_device(), start), []
    generator = networks.generator(training.device, (config.seed, VIEWS))
    training.model.train()
    with networks.conditions(config.width, config.side):
        while len(seconds) < 4:
            began = time.perf_counter()
            _fit_batch(training, next(_batches(training, 1, 0)), 0.0, generator, side).item()
            seconds.append(time.perf_counter() - began)
    return float(np.median(seconds[1:])) / config.batch_size  # the first one prepares


def images_checksum(images: np.ndarray | ImageFiles) -> str:
    """SHA-256 that tells the images of one training from those of another."""
    if isinstance(images, ImageFiles):
        return images.checksum()
    return hashlib.sha256(f"{images.shape}".encode() + images.tobytes()).hexdigest()


def save_weights(encoder: Encoder, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write weights (keys b.* of the network, h.* of the projection head), config and history as one safetensors file."""
    modules = {"b": encoder.network, "h": encoder.head}
    weights = {
        f"{letter}.{key.removeprefix('layers.')}": _as_stored(tensor, dtype)
        for letter, module in modules.items()
        if module is not None
        for key, tensor in module.state_dict().items()
    }
    about = {"config": json.dumps(dataclasses.asdict(encoder.config)), "history": json.dumps(encoder.history)}
    kept.write_bytes(Path(path), safetensors.torch.save(weights, about))


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
        return _from_stored(stored, about)
    except (safetensors.SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not hold the weights of an encoder: {error}") from error


@dataclass
class _Training:
    """A training after any of its steps: what its checkpoint holds, and the images."""

    config: SimCLR
    images: Tensor | ImageFiles  # uint8 (n, 3, height, width), on the device; or files
    origin: dict[str, str]  # checksums of images and start
    device: torch.device
    model: nn.Sequential  # the encoder, then the projection head
    fast_model: nn.Module  # the same, compiled and wrapped for several processes
    render: Callable  # augment.render, compiled
    optimizer: torch.optim.SGD
    history: list[dict[str, Any]] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)  # of the epoch's steps so far
    seconds: float = 0.0  # of the epoch so far
    unsaved: bool = False

    @property
    def batch_size(self) -> int:
        """Images of all processes together: a multiple of their number."""
        batch = min(self.config.batch_size, len(self.images))
        return batch - batch % parallel.size()

    @property
    def steps(self) -> int:
        """Batches of an epoch; a last, partial one is dropped."""
        return len(self.images) // self.batch_size


@dataclass
class _Clock:
    """When to write a checkpoint, and when to stop."""

    minutes: float | None
    save_every: float
    checkpoint: Path
    started: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)

    def is_over(self, device: torch.device) -> bool:
        if self.minutes is None:
            return False
        return parallel.first_decides(time.monotonic() - self.started >= 60 * self.minutes, device)

    def is_due(self) -> bool:
        return time.monotonic() - self.saved >= self.save_every


def _check(images: np.ndarray | ImageFiles, config: SimCLR, labels: np.ndarray | None) -> None:
    networks.check_images(images)
    if min(len(images), config.batch_size) < 2 * parallel.size():
        raise ValueError(
            f"SimCLR contrasts images: {len(images)} images in batches of {config.batch_size} are too few"
            + (f" for {parallel.size()} processes" if parallel.size() > 1 else "")
        )
    if config.epochs < 1:
        raise ValueError(f"epochs must be at least 1, not {config.epochs}")
    if labels is not None and len(labels) != len(images):
        raise ValueError(f"{len(labels)} labels for {len(images)} images")


def _pays(config: SimCLR, device: torch.device) -> bool:
    """Whether to compile: digits train faster than they compile, and inductor needs a compiler on CPUs."""
    large = config.width * config.side > 256
    return large and (device.type == "cuda" or shutil.which(os.environ.get("CXX", "g++")) is not None)


def _set_up(
    images: np.ndarray | ImageFiles, config: SimCLR, device: torch.device, start: Encoder | None = None, compiled: bool = False
) -> _Training:
    model = nn.Sequential(networks.resnet(config.network, config.width, config.stem), projection_head(config))
    networks.initialise(model, networks.generator(torch.device("cpu"), (config.seed, WEIGHTS)))
    if start is not None:
        _start_from(start, model)
    model.to(device, memory_format=networks.memory_format(config.width))
    model = parallel.synchronise(model, device)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay, fused=True
    )
    # Not dynamic: after a change of resolution, an unbroken training would go on with other kernels than a resumed one.
    prepare = partial(torch.compile, dynamic=False) if compiled else lambda function: function
    origin = {"images": images_checksum(images), "start": _start_checksum(start)}
    resident = images if isinstance(images, ImageFiles) else torch.from_numpy(images).to(device)
    fast_model = prepare(parallel.wrap(model))
    render = prepare(augment.render) if device.type == "cuda" else augment.render
    return _Training(config, resident, origin, device, model, fast_model, render, optimizer)


def projection_head(config: SimCLR) -> ProjectionHead:
    """Linear, batch norm, ReLU, linear: 8 * width -> 8 * width -> projection."""
    d = 8 * config.width
    return ProjectionHead([(d, d, nn.BatchNorm1d(d), nn.ReLU()), (d, config.projection, None, None)])


def _start_from(start: Encoder, model: nn.Sequential) -> None:
    try:
        model[0].load_state_dict(start.network.state_dict())
        if start.head is not None:
            model[1].load_state_dict(start.head.state_dict())
    except RuntimeError as error:
        raise ValueError(f"the encoder to start from is another network: {error}") from error


def _start_checksum(start: Encoder | None) -> str:
    if start is None:
        return ""
    return start.checksum + (_checksum(start.head.state_dict()) if start.head is not None else "")


def _bar(training: _Training) -> tqdm:
    total, done = training.config.epochs * training.steps, len(training.history) * training.steps + len(training.losses)
    silent = {"disable": True} if parallel.rank() > 0 else {}
    return tqdm(total=total, initial=done, desc="SimCLR", unit="step", leave=False, **silent)


def _fit_epoch(training: _Training, clock: _Clock, bar: tqdm) -> bool:
    """The steps of the epoch that are left to do; False if the time is over before its end."""
    training.model.train()
    begin, before, epoch = time.perf_counter(), training.seconds, len(training.history) + 1
    done, steps = len(training.losses), training.steps
    for step, images in enumerate(_batches(training, epoch, done), start=done):
        if clock.is_over(training.device):
            return False
        rate = learning_rate((epoch - 1) * steps + step, steps, training.config)
        generator = networks.generator(training.device, (training.config.seed, VIEWS, epoch, step))
        training.losses.append(_fit_batch(training, images, rate, generator, view_side(epoch, training.config)))
        training.seconds, training.unsaved = before + time.perf_counter() - begin, True
        if clock.is_due():
            _save(training, clock)
        bar.update()
    return True


def _batches(training: _Training, epoch: int, first: int) -> Iterator[Tensor]:
    """This process's part of the epoch's batches from the first-th on: uint8, on the device."""
    shuffled = networks.generator(torch.device("cpu"), (training.config.seed, ORDER, epoch))
    order = torch.randperm(len(training.images), generator=shuffled)
    rows = [batch[_own_rows(len(batch))] for batch in order.split(training.batch_size)[first : training.steps]]
    if isinstance(training.images, Tensor):
        for batch in rows:
            yield training.images[batch.to(training.device)]
    else:
        pinned = training.device.type == "cuda"
        loader = DataLoader(
            training.images, batch_sampler=rows, num_workers=parallel.workers(), collate_fn=_stack, pin_memory=pinned
        )
        for batch in loader:
            yield batch.to(training.device, non_blocking=pinned)


def _own_rows(n: int) -> slice:
    """The part of n rows that this process takes."""
    part = n // parallel.size()
    return slice(parallel.rank() * part, (parallel.rank() + 1) * part)


def _stack(images: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(images))


def _fit_batch(training: _Training, images: Tensor, rate: float, generator: Generator, side: int) -> Tensor:
    """One step on two views of each image; both go through the network at once and share its batch statistics.

    images: this process's part of the batch. Views are drawn for all of it, so that they do not depend on the number of processes.
    """
    n = len(images) * parallel.size()
    draws = [augment.draw(n, training.config, generator)[_own_rows(n)] for _ in range(2)]
    views = torch.cat([training.render(images, drawn, side) for drawn in draws])
    with networks.autocast(training.device, training.config, side):
        projections = training.fast_model(views.contiguous(memory_format=networks.memory_format(training.config.width)))
    loss = contrastive_loss(projections.float(), training.config.temperature)
    training.optimizer.zero_grad()
    loss.backward()
    for group in training.optimizer.param_groups:
        group["lr"] = rate
    training.optimizer.step()
    return parallel.mean(loss.detach())


def _record(training: _Training, images: np.ndarray | ImageFiles, labels: np.ndarray | None, bar: tqdm) -> dict[str, Any]:
    """The history's record of the epoch that has just ended."""
    epoch, config, loss = len(training.history) + 1, training.config, float(np.mean(_finite_losses(training)))
    due = labels is not None and config.knn_every > 0 and (epoch % config.knn_every == 0 or epoch == config.epochs)
    knn = _held_out_knn(training.model[0], images, labels, config) if due and parallel.rank() == 0 else None
    parallel.barrier()
    record = {"epoch": epoch, "loss": loss, "knn": knn, "seconds": round(training.seconds, 3)}
    training.losses, training.seconds = [], 0.0
    bar.set_postfix(loss=f"{loss:.3f}", kNN=_last_knn([*training.history, record]))
    return record


def _finite_losses(training: _Training) -> list[float]:
    losses = torch.stack(training.losses).tolist() if training.losses else []
    if not all(map(math.isfinite, losses)):
        epoch = len(training.history) + 1
        raise FloatingPointError(f"the loss is not finite in epoch {epoch}: training diverged, try a smaller learning_rate")
    return losses


def _held_out_knn(network: nn.Module, images: np.ndarray | ImageFiles, labels: np.ndarray, config: SimCLR) -> float:
    """Weighted 20-NN accuracy of a tenth of the labelled images, the same at every epoch, against the others."""
    features = networks.embed(network, images, config.side, progress=False)
    order = np.random.default_rng(config.seed).permutation(len(images))
    held_out, rest = np.split(order, [max(1, round(HELD_OUT * len(order)))])
    return networks.knn_accuracy(features[rest], labels[rest], features[held_out], labels[held_out])


def _last_knn(history: list[dict[str, Any]]) -> str:
    known = [record["knn"] for record in history if record["knn"] is not None]
    return f"{known[-1]:.1%}" if known else "-"


def _save(training: _Training, clock: _Clock) -> None:
    """The first process writes for all; weights, momentum and history are the same in each."""
    if not all(torch.isfinite(parameter).all() for parameter in training.model.parameters()):
        raise FloatingPointError("the weights are not finite: training diverged, try a smaller learning_rate")
    epoch = {"losses": _finite_losses(training), "seconds": training.seconds, "history": training.history}
    clock.saved, training.unsaved = time.monotonic(), False
    if parallel.rank() > 0:
        return
    state = {"model": training.model.state_dict(), "optimizer": training.optimizer.state_dict()}
    checkpoints.save(clock.checkpoint, {"config": dataclasses.asdict(training.config), **training.origin, **state, **epoch})


def _resume(training: _Training, saved: dict[str, Any], checkpoint: Path) -> None:
    _check_same_training(checkpoint, saved, training)
    training.model.load_state_dict(saved["model"])
    training.optimizer.load_state_dict(saved["optimizer"])
    training.history, training.seconds = saved["history"], saved["seconds"]
    training.losses = [torch.tensor(loss, device=training.device) for loss in saved["losses"]]


def _check_same_training(checkpoint: Path, saved: Mapping[str, Any], training: _Training) -> None:
    ours, theirs = dataclasses.asdict(training.config), saved["config"]
    changed = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    differences = [f"{key} is {theirs.get(key)!r} there and {ours.get(key)!r} here" for key in changed]
    if saved["images"] != training.origin["images"]:
        differences.append("it was trained on other images")
    if saved["start"] != training.origin["start"]:
        differences.append("it went on from other weights")
    if differences:
        raise ValueError(
            f"the checkpoint {checkpoint} is of another training: {'; '.join(differences)}. Remove it or train in another folder"
        )


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names and values, in their order."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _encoder(training: _Training) -> Encoder:
    """A copy of the trained weights in modules of their own, free of what several processes need."""
    network, head = (module.state_dict() for module in training.model)
    return _assemble(training.config, network, head, training.history)


def _assemble(
    config: SimCLR, network_weights: Mapping[str, Tensor], head_weights: Mapping[str, Tensor], history: list[dict[str, Any]]
) -> Encoder:
    network = networks.resnet(config.network, config.width, config.stem)
    network.load_state_dict(network_weights)
    network = network.to(networks.default_device(), memory_format=torch.channels_last).eval().requires_grad_(False)
    head = _head_of(config, head_weights)
    return Encoder(network, config, tuple(history), _checksum(network.state_dict()), head)


def _head_of(config: SimCLR, weights: Mapping[str, Tensor]) -> ProjectionHead | None:
    """The projection head; None where the weights are of one that is built differently."""
    head = projection_head(config)
    if {key: tensor.shape for key, tensor in weights.items()} != {key: tensor.shape for key, tensor in head.state_dict().items()}:
        return None
    head.load_state_dict(weights)
    return head.to(networks.default_device()).eval().requires_grad_(False)


def _as_stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    stored = tensor.cpu().contiguous()
    stored = stored.to(dtype) if stored.is_floating_point() else stored
    if not torch.isfinite(stored).all():
        raise ValueError(f"weights are not finite as {dtype}")
    return stored


def _from_stored(stored: Mapping[str, Tensor], about: Mapping[str, str]) -> Encoder:
    """The encoder of a file's tensors and metadata; floats become float32."""
    weights = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in stored.items()}
    if not any(key.startswith("b.") for key in weights):
        weights = {f"b.{key}": tensor for key, tensor in weights.items()}
    network = {key.removeprefix("b."): tensor for key, tensor in weights.items() if key.startswith("b.")}
    head = {f"layers.{key.removeprefix('h.')}": tensor for key, tensor in weights.items() if key.startswith("h.")}
    config = SimCLR(**json.loads(about["config"])) if "config" in about else _config_from(network)
    return _assemble(config, network, head, json.loads(about.get("history", "[]")))


def _config_from(weights: Mapping[str, Tensor]) -> SimCLR:
    """What the shapes tell."""
    network = "resnet34" if "layer1.2.conv1.weight" in weights else "resnet18"
    stem = "imagenet" if weights["conv1.weight"].shape[-1] == 7 else "small"
    return SimCLR(network=network, width=len(weights["conv1.weight"]), stem=stem)
