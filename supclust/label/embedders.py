"""What turns one's own images into points: SimCLR trained on them for some minutes, a pretrained backbone, an encoder of before."""

from __future__ import annotations

import difflib
import hashlib
import io
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision
from torch import nn
from torchvision.transforms import functional
from tqdm import tqdm

from supclust import features, kept, profiles, simclr
from supclust.images.files import ImageFiles
from supclust.label.request import EncoderOptions
from supclust.profiles import SimCLR
from supclust.simclr import Encoder
from supclust.train import hardware

log = logging.getLogger(__name__)

BATCH = 64  # images that a pretrained backbone takes at once
FEWEST = 32  # images, below which training on them would not pay
LARGEST_BATCH = 256  # images: of few minutes, one makes more of many steps
RECIPE, WEIGHTS = "recipe.json", "encoder.safetensors"  # in the folder of a training

Images = np.ndarray | ImageFiles
Made = tuple[np.ndarray, dict[str, Any]]  # features float32 (n, d), and what they were made by


class Embedder(NamedTuple):
    """What makes points of images."""

    side: int  # of the images that it takes, in pixels
    embed: Callable[[Images, Path], Made]  # of images uint8 (n, 3, side, side); a training is kept in the folder


def load(options: EncoderOptions, seed: int = 0, *, force: bool = False) -> Embedder:
    """The embedder that the options name.

    "simclr": trained on the images themselves; a model of torchvision, such as "resnet50", pretrained on ImageNet; or a file that
    `supclust train` or an earlier round wrote (.safetensors). seed: of a training. force: whether a training may take the place
    of another one in its folder, of other images or settings.
    Raises ValueError for a name that is none of these or damaged weights, and FileNotFoundError, with what to do, for weights that
    are not there.
    """
    if options.name == "simclr":
        return Embedder(_base(options).side, lambda images, folder: _embed_by_own(images, folder, options, seed, force))
    if options.name.endswith(".safetensors"):
        file = Path(options.name).expanduser()
        encoder = simclr.load_weights(file)
        about = {"encoder": file.name, "weights": encoder.checksum}
        return Embedder(encoder.config.side, lambda images, folder: (features.embed(encoder, images), about))
    return _pretrained(options.name, options.download)


# -- SimCLR on the images themselves -------------------------------------------------------------------------------------------


def _base(options: EncoderOptions) -> SimCLR:
    return profiles.LAPTOP if options.scratch else profiles.LAPTOP_MORE


def _embed_by_own(images: Images, folder: Path, options: EncoderOptions, seed: int, force: bool) -> Made:
    """Features by SimCLR (Chen et al. 2020), ResNet-18 on 32 pixels, where there are enough images and time to train it."""
    start = None if options.scratch else simclr.load_weights(kept.shipped_weights("cifar10"))
    few, untrained = len(images) < FEWEST, options.epochs is None and options.minutes == 0
    if start is None and few:
        raise ValueError(f"{len(images)} images are too few to train an encoder from scratch: {FEWEST} are needed")
    if few or untrained:
        why = "" if untrained else ": too few images"
        return features.embed(start, images), {"encoder": f"CIFAR-10 encoder of the package, not trained further{why}"}
    config = _recipe(images, folder, options, seed, start, force)
    encoder = _trained(images, folder, options, config, start)
    origin = "from scratch" if start is None else "from the CIFAR-10 encoder of the package"
    done, seconds = len(encoder.history), sum(epoch["seconds"] for epoch in encoder.history)
    return features.embed(encoder, images), {
        "encoder": f"SimCLR, {done} epochs on these images in {seconds / 60:.1f} minutes, {origin}",
        "finished": encoder.finished,
        "config": asdict(encoder.config),
        "weights": encoder.checksum,
    }


def _trained(images: Images, folder: Path, options: EncoderOptions, config: SimCLR, start: Encoder | None) -> Encoder:
    """A training that is over is read, a stopped one goes on."""
    done = folder / WEIGHTS
    if not done.exists():
        limit = None if options.epochs else 1.2 * options.minutes  # the plan is for less, but other work may slow it down
        encoder = simclr.train(images, config, folder, start=start, minutes=limit, compiled=False)
        if not encoder.finished:
            log.warning("the time was over after %d of %d planned epochs", len(encoder.history), config.epochs)
        simclr.save_weights(encoder, done, torch.float16)
        for checkpoint in folder.glob(f"*{simclr.CHECKPOINT}"):
            checkpoint.unlink()
    return simclr.load_weights(done)


def _recipe(images: Images, folder: Path, options: EncoderOptions, seed: int, start: Encoder | None, force: bool) -> SimCLR:
    """What an earlier training in this folder was to be, if it was of the same images and settings; otherwise planned now."""
    settings = {name: getattr(options, name) for name in ("minutes", "epochs", "scratch")}
    asked = {"images": simclr.images_checksum(images), **settings, "seed": seed}
    found = kept.read(folder / RECIPE)
    if found and found[1] == asked:
        return SimCLR(**found[0])
    there = [file for file in (folder / WEIGHTS, folder / RECIPE, *folder.glob(f"*{simclr.CHECKPOINT}")) if file.exists()]
    if there and not force:
        raise ValueError(
            f"{folder} holds {there[0].name} of a training on other images or with other settings: give those again to go on "
            "with it, name another folder, or begin anew with --force"
        )
    for file in there:
        file.unlink()
    config = _plan(images, options, seed, start)
    kept.write(folder / RECIPE, asdict(config), asked)
    return config


def _plan(images: Images, options: EncoderOptions, seed: int, start: Encoder | None) -> SimCLR:
    """As many epochs as fit into the minutes, so that the learning rate comes down in time."""
    base, batch = _base(options), min(LARGEST_BATCH, 2 ** int(math.log2(len(images) / 2)))  # two steps an epoch at least
    config = replace(base, batch_size=batch, learning_rate=base.learning_rate * batch / base.batch_size, seed=seed)
    small = base.small_epochs / base.epochs  # share of the epochs on small views
    epochs = options.epochs
    if epochs is None:
        sides = {config.small_side: small, config.side: 1 - small}
        image = sum(part * hardware.seconds_per_image(images, config, side, start) for side, part in sides.items() if part > 0)
        epoch = image * (len(images) // batch * batch)
        epochs = max(1, int(60 * options.minutes / epoch))
        log.info("an epoch takes about %.1f s: %d of them fit into %g minutes", epoch, epochs, options.minutes)
    return replace(config, epochs=epochs, small_epochs=round(small * epochs))


# -- pretrained backbones ------------------------------------------------------------------------------------------------------


def _pretrained(name: str, download: bool) -> Embedder:
    """A classifier of torchvision without its last layer, with the weights that torchvision recommends."""
    url, transforms = _official(name)
    file, device = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1], simclr.default_device()
    network = torchvision.models.get_model(name, weights=None)
    network.load_state_dict(_weights(name, url, file, download))
    body, side = _without_classifier(network).to(device).eval(), transforms.crop_size[0]

    @torch.inference_mode()
    def embed(images: Images, folder: Path) -> Made:
        found = []
        for start in tqdm(range(0, len(images), BATCH), desc="features", unit="batch", leave=False):
            batch = simclr.resize(torch.from_numpy(images[start : start + BATCH]).to(device), side)
            found.append(body(functional.normalize(batch, transforms.mean, transforms.std)).flatten(1).float().cpu())
        return torch.cat(found).numpy(), {"encoder": f"{name} of torchvision, pretrained on ImageNet", "weights": file.name}

    return Embedder(side, embed)


def _official(name: str) -> tuple[str, Any]:
    """Address and transforms of the weights that torchvision recommends for one of its classifiers."""
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        near = difflib.get_close_matches(name, ["simclr", *known])
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(
            f"unknown encoder {name!r}: it is simclr, a .safetensors file, or a model of torchvision such as resnet50{hint}"
        )
    weights = torchvision.models.get_model_weights(name).DEFAULT
    return weights.url, weights.transforms()


def _weights(name: str, url: str, file: Path, download: bool) -> Mapping[str, torch.Tensor]:
    """The official weights, fetched if they are not here and may be. Their name ends in the first digits of their SHA-256."""
    digits = file.stem.rsplit("-", 1)[-1]
    if not file.exists():
        if not download:
            raise FileNotFoundError(
                f"the weights of {name} are not on this machine. Allow fetching them with --download, or put {file.name} "
                f"from {url} into {file.parent}. Without them, `--encoder simclr` trains on your images"
            )
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), hash_prefix=digits)
        except (OSError, RuntimeError) as error:  # no network, or something else in its place
            raise ValueError(f"cannot fetch {url}: {error}. Without it, `--encoder simclr` trains on your images") from error
    content = file.read_bytes()
    if not hashlib.sha256(content).hexdigest().startswith(digits):
        raise ValueError(f"{file} is not the official file: its SHA-256 sum differs. Remove it and fetch it again (--download)")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _without_classifier(network: nn.Module) -> nn.Module:
    """The same, ending before its last linear layer; one without such (SqueezeNet) ends with what it classifies by."""
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if linear:
        parent, _, last = linear[-1].rpartition(".")
        setattr(network.get_submodule(parent), last, nn.Identity())
    return network
