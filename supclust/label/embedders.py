"""What turns one's own images into points: SimCLR trained on them for some minutes, a pretrained backbone, an encoder of before."""

from __future__ import annotations

import difflib
import hashlib
import io
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

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


def load(options: EncoderOptions, seed: int = 0, *, replace: bool = False) -> Embedder:
    """The embedder that the options name: its `embed` makes features float32 (n, d) of images uint8 (n, 3, side, side).

    "simclr": trained on the images themselves; a model of torchvision, such as "resnet50", pretrained on ImageNet; or a file that
    `supclust train` or an earlier round wrote (.safetensors). seed: of a training. replace: whether a training may take the place
    of another one in its folder, of other images or settings.
    Raises ValueError for a name that is none of these and FileNotFoundError, with what to do, for weights that are not there.
    """
    if options.name == "simclr":
        return OwnSimCLR(options, seed, replace)
    if options.name.endswith(".safetensors"):
        return Kept(simclr.load_weights(Path(options.name).expanduser()), Path(options.name).name)
    return Pretrained.load(options.name, options.download)


# -- SimCLR on the images themselves -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OwnSimCLR:
    """SimCLR (Chen et al. 2020) on the images that are to be labelled; ResNet-18 on 32 pixels."""

    options: EncoderOptions
    seed: int = 0
    replace: bool = False  # another training that is in the folder

    @property
    def side(self) -> int:
        return self._base.side

    @property
    def _base(self) -> SimCLR:
        return profiles.LAPTOP if self.options.scratch else profiles.LAPTOP_MORE

    def embed(self, images: np.ndarray | ImageFiles, folder: Path) -> tuple[np.ndarray, dict[str, Any]]:
        """Features (n, d), and what they were made by; folder keeps what is trained, and the way there."""
        start = None if self.options.scratch else simclr.load_weights(kept.shipped_weights("cifar10"))
        untrained, few = self.options.epochs is None and self.options.minutes == 0, len(images) < FEWEST
        if start is None and few:
            raise ValueError(f"{len(images)} images are too few to train an encoder from scratch: {FEWEST} are needed")
        if untrained or few:
            about = "CIFAR-10 encoder of the package, not trained further"
            if not untrained:
                log.info("%d images are too few to train on: the encoder of the package is used as it is", len(images))
                about += ": too few images"
            return features.embed(start, images), {"encoder": about}
        encoder = self._train(images, folder, start)
        origin = "from scratch" if start is None else "from the CIFAR-10 encoder of the package"
        done, seconds = len(encoder.history), sum(epoch["seconds"] for epoch in encoder.history)
        return features.embed(encoder, images), {
            "encoder": f"SimCLR, {done} epochs on these images in {seconds / 60:.1f} minutes, {origin}",
            "finished": encoder.finished,
            "config": asdict(encoder.config),
            "weights": encoder.checksum,
        }

    def _train(self, images: np.ndarray | ImageFiles, folder: Path, start: Encoder | None) -> Encoder:
        """A finished training of the same images and settings is read, a stopped one goes on."""
        config, done = self._recipe(images, folder, start), folder / WEIGHTS
        if done.exists():
            return simclr.load_weights(done)
        limit = None if self.options.epochs else 1.2 * self.options.minutes  # the plan is for less, but other work may slow it down
        encoder = simclr.train(images, config, folder, start=start, minutes=limit, compiled=False)
        if not encoder.finished:
            log.warning("the time was over after %d of %d planned epochs", len(encoder.history), config.epochs)
        simclr.save_weights(encoder, done, torch.float16)
        for checkpoint in folder.glob(f"*{simclr.CHECKPOINT}"):
            checkpoint.unlink()
        return simclr.load_weights(done)

    def _recipe(self, images: np.ndarray | ImageFiles, folder: Path, start: Encoder | None) -> SimCLR:
        """What an earlier training in this folder was to be, if it was of the same images and settings; otherwise planned now."""
        settings = {name: getattr(self.options, name) for name in ("minutes", "epochs", "scratch")}
        asked = {"images": simclr.images_checksum(images), **settings, "seed": self.seed}
        try:
            stored = json.loads((folder / RECIPE).read_text(encoding="utf-8"))
            if stored["asked"] == asked:
                return SimCLR(**stored["config"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # there is none, or half of one
        there = [file for file in (folder / WEIGHTS, folder / RECIPE, *folder.glob(f"*{simclr.CHECKPOINT}")) if file.exists()]
        if there and not self.replace:
            raise ValueError(
                f"{folder} holds {there[0].name} of a training on other images or with other settings: give those again to go on "
                "with it, name another folder, or begin anew with --force"
            )
        for file in there:
            file.unlink()
        config = self._plan(images, start)
        kept.write_text(folder / RECIPE, json.dumps({"asked": asked, "config": asdict(config)}, indent=1))
        return config

    def _plan(self, images: np.ndarray | ImageFiles, start: Encoder | None) -> SimCLR:
        """As many epochs as fit into the minutes, so that the learning rate comes down in time."""
        batch = min(LARGEST_BATCH, 2 ** int(math.log2(len(images) / 2)))  # two steps an epoch at least
        rate = self._base.learning_rate * batch / self._base.batch_size
        config = replace(self._base, batch_size=batch, learning_rate=rate, seed=self.seed)
        small = self._base.small_epochs / self._base.epochs  # share of the epochs on small views
        epochs = self.options.epochs
        if epochs is None:
            sides = {config.small_side: small, config.side: 1 - small}
            image = sum(part * hardware.seconds_per_image(images, config, side, start) for side, part in sides.items() if part > 0)
            epoch = image * (len(images) // batch * batch)
            epochs = max(1, int(60 * self.options.minutes / epoch))
            log.info("an epoch takes about %.1f s: %d of them fit into %g minutes", epoch, epochs, self.options.minutes)
        return replace(config, epochs=epochs, small_epochs=round(small * epochs))


@dataclass(frozen=True, eq=False)
class Kept:
    """An encoder that was trained before."""

    encoder: Encoder
    name: str

    @property
    def side(self) -> int:
        return self.encoder.config.side

    def embed(self, images: np.ndarray | ImageFiles, folder: Path) -> tuple[np.ndarray, dict[str, Any]]:
        """Features (n, d), and what they were made by; nothing is kept in folder."""
        return features.embed(self.encoder, images), {"encoder": self.name, "weights": self.encoder.checksum}


# -- pretrained backbones ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A classifier of torchvision without its last layer, with the weights that torchvision recommends."""

    name: str
    network: nn.Module
    transforms: Any  # side, mean and deviation of the images that it takes, as torchvision has them
    source: str  # name of the weights' file

    @classmethod
    def load(cls, name: str, download: bool = False) -> Pretrained:
        """Raises ValueError for an unknown model or damaged weights, FileNotFoundError for weights that are not on this machine."""
        url, transforms = _official(name)
        file = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
        network = torchvision.models.get_model(name, weights=None)
        network.load_state_dict(_weights(name, url, file, download))
        return cls(name, _without_classifier(network).to(simclr.default_device()).eval(), transforms, file.name)

    @property
    def side(self) -> int:
        return self.transforms.crop_size[0]

    @torch.inference_mode()
    def embed(self, images: np.ndarray | ImageFiles, folder: Path) -> tuple[np.ndarray, dict[str, Any]]:
        """Features (n, d), and what they were made by; nothing is kept in folder."""
        device, found = simclr.default_device(), []
        for start in tqdm(range(0, len(images), BATCH), desc="features", unit="batch", leave=False):
            batch = simclr.resize(torch.from_numpy(images[start : start + BATCH]).to(device), self.side)
            batch = functional.normalize(batch, self.transforms.mean, self.transforms.std)
            found.append(self.network(batch).flatten(1).float().cpu())
        return torch.cat(found).numpy(), {"encoder": f"{self.name} of torchvision, pretrained on ImageNet", "weights": self.source}


Embedder = OwnSimCLR | Kept | Pretrained


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
