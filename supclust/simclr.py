"""SimCLR (Chen et al. 2020): trains the encoder on images without their labels, and survives being stopped at any moment."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from torch import Generator, Tensor, nn
from tqdm import tqdm

from supclust import files, networks
from supclust.augment import augment
from supclust.profiles import SimCLR

CHECKPOINT = "checkpoint.pt"
HELD_OUT = 0.1  # share of the labelled images that the kNN accuracy is measured on


@dataclass(frozen=True, eq=False)
class Encoder:
    """A trained network without its projection head, and where it comes from."""

    network: nn.Module  # in evaluation mode, (n, 3, side, side) normalised -> (n, 8 * width)
    config: SimCLR
    history: tuple[dict[str, Any], ...]  # one {"epoch", "loss", "knn", "seconds"} per epoch; empty where it was not kept
    checksum: str  # SHA-256 of the weights


def train(
    images: np.ndarray,
    config: SimCLR,
    folder: Path,
    *,
    labels: np.ndarray | None = None,
    on_epoch: Callable[[list[dict[str, Any]]], None] | None = None,
    device: torch.device | str | None = None,
) -> Encoder:
    """Train an encoder on images, or go on where a stopped training of the same images and config left its checkpoint.

    images: uint8 (n, 3, height, width), at least 2.
    folder: keeps the checkpoint, rewritten after every epoch. A finished one returns at once.
    labels: int (n,), never trained on; with them the history holds the weighted 20-NN accuracy of a held-out tenth,
        every `config.knn_every` epochs and after the last.
    on_epoch: called after each epoch with the history so far, a list of {"epoch", "loss", "knn" or None, "seconds"}.
    device: by default the GPU where there is one.

    A stopped training continues bit for bit on the same machine with the same number of threads: all randomness of an epoch
    comes from a generator seeded with (config.seed, epoch). Raises ValueError for a checkpoint of other images or another
    config, naming the difference, and for one that cannot be read; nothing is silently started again.
    """
    _check(images, config, labels)
    training = _set_up(images, config, torch.device(device or default_device()))
    checkpoint = Path(folder) / CHECKPOINT
    if checkpoint.exists():
        _resume(training, checkpoint)
    steady = torch.backends.cudnn.flags(benchmark=False, deterministic=True)
    with _bar(training) as bar, networks.few_threads(config.width, config.side), steady:
        while len(training.history) < config.epochs:
            training.history.append(_run_epoch(training, images, labels, bar))
            _save(training, checkpoint)
            if on_epoch is not None:
                on_epoch([dict(record) for record in training.history])
    return _encoder(training.network, config, training.history)


def contrastive_loss(projections: Tensor, temperature: float) -> Tensor:
    """NT-Xent (Chen et al. 2020, Eq. 1) of projections (2n, d): rows i and n + i are the two views of image i."""
    return NTXentLoss(temperature)(*projections.chunk(2))


def learning_rate(step: int, steps_per_epoch: int, config: SimCLR) -> float:
    """Cosine from the full rate to zero at the end of training, after a linear warm-up over the first epoch.

    The warm-up is a deviation from the reference code: without it, large batches can diverge in their first steps.
    """
    warm_up = min(1.0, (step + 1) / steps_per_epoch)
    return config.learning_rate * warm_up * 0.5 * (1 + math.cos(math.pi * step / (steps_per_epoch * config.epochs)))


def default_device() -> torch.device:
    """The GPU where there is one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def save_weights(encoder: Encoder, path: Path) -> None:
    """Write the weights (keys b.*), config and history of an encoder as one safetensors file."""
    weights = {f"b.{key}": tensor.cpu().contiguous() for key, tensor in encoder.network.state_dict().items()}
    about = {"config": json.dumps(dataclasses.asdict(encoder.config)), "history": json.dumps(encoder.history)}
    files.write_bytes(Path(path), safetensors.torch.save(weights, about))


def load_weights(path: Path) -> Encoder:
    """The encoder of a safetensors file: keys b.* or bare, any float type; other keys (a projection head) are left out.

    A file that does not say how it was trained gets a config of which only network and width are known; the rest, side
    included, are the defaults.
    Raises FileNotFoundError, and ValueError naming the file when it is unreadable or holds another network.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there are no encoder weights at {path}")
    try:
        with safetensors.safe_open(path, "pt") as file:
            about, stored = file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        weights = _encoder_weights(stored)
        config = SimCLR(**json.loads(about["config"])) if "config" in about else _config_from(weights)
        network = networks.resnet(config.network, config.width)
        network.load_state_dict(weights)
        return _encoder(network.to(default_device()), config, json.loads(about.get("history", "[]")))
    except (safetensors.SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not hold the weights of an encoder: {error}") from error


@dataclass
class _Training:
    """A training at the end of an epoch: what its checkpoint holds, and the images on the device."""

    config: SimCLR
    images: Tensor  # uint8 (n, 3, height, width)
    images_checksum: str
    model: nn.Sequential  # the encoder, then the projection head
    optimizer: torch.optim.SGD
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def network(self) -> nn.Module:
        return self.model[0]

    @property
    def batch_size(self) -> int:
        return min(self.config.batch_size, len(self.images))

    @property
    def steps(self) -> int:
        """Batches of an epoch; a last, partial one is dropped."""
        return len(self.images) // self.batch_size


def _check(images: np.ndarray, config: SimCLR, labels: np.ndarray | None) -> None:
    networks.check_images(images)
    if min(len(images), config.batch_size) < 2:
        raise ValueError(f"SimCLR contrasts images: {len(images)} images in batches of {config.batch_size} are too few")
    if labels is not None and len(labels) != len(images):
        raise ValueError(f"{len(labels)} labels for {len(images)} images")


def _set_up(images: np.ndarray, config: SimCLR, device: torch.device) -> _Training:
    network, features = networks.resnet(config.network, config.width), 8 * config.width
    model = nn.Sequential(network, SimCLRProjectionHead(features, features, config.projection))
    networks.initialise(model, _generator(config.seed, 0, torch.device("cpu")))
    model.to(device, memory_format=networks.memory_format(config.width))
    optimizer = torch.optim.SGD(
        model.parameters(), lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
    )
    checksum = hashlib.sha256(f"{images.shape}".encode() + images.tobytes()).hexdigest()
    return _Training(config, torch.from_numpy(images).to(device), checksum, model, optimizer)


def _generator(seed: int, epoch: int, device: torch.device) -> Generator:
    """The randomness of one epoch (0: the initial weights), the same however often training stopped before it."""
    mixed = np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)
    return Generator(device).manual_seed(int(mixed[0]))


def _bar(training: _Training) -> tqdm:
    total, done = training.config.epochs * training.steps, len(training.history) * training.steps
    return tqdm(total=total, initial=done, desc="SimCLR", unit="step", leave=False)


def _run_epoch(training: _Training, images: np.ndarray, labels: np.ndarray | None, bar: tqdm) -> dict[str, Any]:
    """One pass over the images: its record for the history."""
    start, epoch, config = time.perf_counter(), len(training.history) + 1, training.config
    loss = _fit_epoch(training, epoch, bar)
    due = labels is not None and (epoch % config.knn_every == 0 or epoch == config.epochs)
    knn = _held_out_knn(training.network, images, labels, config) if due else None
    bar.set_postfix(loss=f"{loss:.3f}", kNN=_last_knn([*training.history, {"knn": knn}]))
    return {"epoch": epoch, "loss": loss, "knn": knn, "seconds": round(time.perf_counter() - start, 3)}


def _fit_epoch(training: _Training, epoch: int, bar: tqdm) -> float:
    """The mean loss over the epoch's batches."""
    training.model.train()
    device, steps = training.images.device, training.steps
    generator, losses = _generator(training.config.seed, epoch, device), []
    order = torch.randperm(len(training.images), generator=generator, device=device)
    for i, batch in enumerate(order[: steps * training.batch_size].split(training.batch_size)):
        rate = learning_rate((epoch - 1) * steps + i, steps, training.config)
        losses.append(_fit_batch(training, training.images[batch], rate, generator))
        bar.update()
    mean = float(torch.stack(losses).mean())
    if not math.isfinite(mean):
        raise FloatingPointError(f"the loss of epoch {epoch} is {mean}: training diverged, try a smaller learning_rate")
    return mean


def _fit_batch(training: _Training, images: Tensor, rate: float, generator: Generator) -> Tensor:
    """One step on two views of each image; both go through the network at once and share its batch statistics."""
    views = torch.cat([augment(images, training.config, generator) for _ in range(2)])
    with torch.autocast("cuda", torch.bfloat16, enabled=images.device.type == "cuda"):
        projections = training.model(views.contiguous(memory_format=networks.memory_format(training.config.width)))
    loss = contrastive_loss(projections.float(), training.config.temperature)
    training.optimizer.zero_grad()
    loss.backward()
    for group in training.optimizer.param_groups:
        group["lr"] = rate
    training.optimizer.step()
    return loss.detach()


def _held_out_knn(network: nn.Module, images: np.ndarray, labels: np.ndarray, config: SimCLR) -> float:
    """Weighted 20-NN accuracy of a tenth of the labelled images, the same at every epoch, against the others."""
    features = networks.embed(network, images, config.side, progress=False)
    order = np.random.default_rng(config.seed).permutation(len(images))
    held_out, rest = np.split(order, [max(1, round(HELD_OUT * len(order)))])
    return networks.knn_accuracy(features[rest], labels[rest], features[held_out], labels[held_out])


def _last_knn(history: list[dict[str, Any]]) -> str:
    known = [record["knn"] for record in history if record["knn"] is not None]
    return f"{known[-1]:.1%}" if known else "-"


def _save(training: _Training, checkpoint: Path) -> None:
    state = {"model": training.model.state_dict(), "optimizer": training.optimizer.state_dict()}
    about = {"config": dataclasses.asdict(training.config), "images": training.images_checksum}
    buffer = io.BytesIO()
    torch.save({**about, **state, "history": training.history, "checksum": _state_checksum(state)}, buffer)
    files.write_bytes(checkpoint, buffer.getvalue())


def _resume(training: _Training, checkpoint: Path) -> None:
    saved = _read_checkpoint(checkpoint)
    _check_same_training(checkpoint, saved, training)
    training.model.load_state_dict(saved["model"])
    training.optimizer.load_state_dict(saved["optimizer"])
    training.history = saved["history"]


def _read_checkpoint(checkpoint: Path) -> dict[str, Any]:
    try:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        intact = saved["checksum"] == _state_checksum(saved)  # PyTorch reads past flipped bits
    except Exception as error:  # a torn archive fails in whatever part of it is read first
        raise ValueError(f"the checkpoint {checkpoint} cannot be read ({error}); remove it to train anew") from error
    if not intact:
        raise ValueError(f"the checkpoint {checkpoint} is damaged: its checksum differs; remove it to train anew")
    return saved


def _check_same_training(checkpoint: Path, saved: Mapping[str, Any], training: _Training) -> None:
    ours, theirs = dataclasses.asdict(training.config), saved["config"]
    changed = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    differences = [f"{key} is {theirs.get(key)!r} there and {ours.get(key)!r} here" for key in changed]
    if saved["images"] != training.images_checksum:
        differences.append("it was trained on other images")
    if differences:
        raise ValueError(
            f"the checkpoint {checkpoint} is of another training: {'; '.join(differences)}. Remove it or train in another folder"
        )


def _state_checksum(state: Mapping[str, Any]) -> str:
    """Of weights and momentum."""
    momentum = {str(key): value["momentum_buffer"] for key, value in state["optimizer"]["state"].items()}
    return _checksum({**state["model"], **momentum})


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names and values, in their order."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _encoder(network: nn.Module, config: SimCLR, history: list[dict[str, Any]]) -> Encoder:
    network = network.to(memory_format=torch.channels_last).eval().requires_grad_(False)
    return Encoder(network, config, tuple(history), _checksum(network.state_dict()))


def _encoder_weights(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's part of a file's tensors, floats as float32."""
    if any(key.startswith("b.") for key in stored):
        stored = {key.removeprefix("b."): tensor for key, tensor in stored.items() if key.startswith("b.")}
    return {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in stored.items()}


def _config_from(weights: Mapping[str, Tensor]) -> SimCLR:
    """What the shapes tell."""
    network = "resnet34" if "layer1.2.conv1.weight" in weights else "resnet18"
    return SimCLR(network=network, width=len(weights["conv1.weight"]))
