"""The encoder's features of a data set: extracted once, kept in one file that knows what made it, verified when read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
import torchvision
from filelock import FileLock

from supclust import datasets, kept, profiles, simclr
from supclust.datasets import Dataset
from supclust.images import ImageFiles
from supclust.profiles import Profile, SimCLR
from supclust.simclr import Encoder, knn_accuracy

__all__ = ["Features", "embed", "extract", "knn_accuracy", "load", "of", "save"]

ARRAYS = ("train", "test", "train_labels", "test_labels")
SEEDED = ("cifar10-lt50", "isic2019")  # data sets whose pool is drawn from the seed
STEPS = ("step", "offset")  # (d,) float32, of uint8 features only: value = code * step + offset


@dataclass(frozen=True, eq=False)
class Features:
    """Raw penultimate features of the pool and of the test set; normalise them for anything geometric."""

    train: np.ndarray  # float32 (n, d)
    test: np.ndarray  # float32 (m, d); m = 0 for images without a test split
    train_labels: np.ndarray | None  # int64 (n,)
    test_labels: np.ndarray | None  # int64 (m,)
    classes: tuple[str, ...]
    made_by: dict[str, Any]  # data set, encoder, config, versions
    checksum: str = ""  # SHA-256 of the four arrays, as stored where they come from a file

    def __post_init__(self) -> None:
        _check(self)
        if not self.checksum:
            object.__setattr__(self, "checksum", _checksum(_stored(self, "float32")))

    def subset(self, train_indices: Sequence[int] | np.ndarray) -> Features:
        """The same test set with these rows of the pool."""
        labels = None if self.train_labels is None else self.train_labels[train_indices]
        made_by = self.made_by | {"pool": f"{len(train_indices)} rows of the features {self.checksum}"}
        return dataclasses.replace(self, train=self.train[train_indices], train_labels=labels, made_by=made_by, checksum="")

    def long_tail(self, seed: int) -> Features:
        """CIFAR-10-LT50 of CIFAR-10's features: the pool is datasets.long_tail_indices of this seed."""
        return self.subset(datasets.long_tail_indices(self.train_labels, seed))


def embed(encoder: Encoder, images: np.ndarray | ImageFiles, batch_size: int = 256) -> np.ndarray:
    """Raw penultimate features, float32 (n, 8 * width), of images uint8 (n, 3, height, width) of any size."""
    return simclr.embed(encoder.network, images, encoder.config.side, batch_size)


def extract(encoder: Encoder, train: Dataset, test: Dataset | None = None) -> Features:
    """The encoder's features of a data set's splits."""
    pool = embed(encoder, train.images)
    queries = np.empty((0, pool.shape[1]), np.float32) if test is None else embed(encoder, test.images)
    return Features(
        train=pool,
        test=queries,
        train_labels=train.labels,
        test_labels=None if test is None else test.labels,
        classes=train.classes,
        made_by=_made_by(train.name, encoder),
    )


def save(path: Path, features: Features, dtype: str = "float32") -> Features:
    """Write one safetensors file; returns the features as they will be read from it.

    dtype: "float32", "float16" for half the size, or "uint8" for a quarter: each dimension in 256 even steps from its smallest
    to its largest value. Labels take the smallest unsigned type that holds them. The checksum is of what is stored.
    Raises ValueError for features too large for float16.
    """
    if dtype not in ("float32", "float16", "uint8"):
        raise ValueError(f"features are stored as float32, float16 or uint8, not {dtype}")
    arrays = _stored(features, dtype)
    about = {"made_by": features.made_by, "classes": features.classes, "checksum": _checksum(arrays)}
    text = json.dumps(about)
    kept.write_bytes(Path(path), safetensors.numpy.save(arrays, {"about": text, "about_sha256": kept.sha256(text)}))
    return load(path)


def load(path: Path) -> Features:
    """Read what `save` wrote; train and test are float32 again, labels int64.

    Raises FileNotFoundError, with what to do, when there is no such file, and ValueError naming the file when it is
    truncated, unreadable or when one bit of it has changed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no feature file {path}. CIFAR-10's comes with the package (install it again); "
            "any other is made by features.of or notebook 01"
        )
    try:
        return _read(path)
    except Exception as error:  # damage shows wherever the parser first meets it
        raise ValueError(f"the feature file {path} is damaged: {error}. Remove it, and make or fetch it again") from error


def of(
    profile: Profile,
    dataset: str,
    seed: int = 0,
    on_epoch: Callable[[list[dict[str, Any]]], None] | None = None,
) -> Features:
    """The features a profile works on: shipped with the package, or extracted by an encoder trained here, once.

    dataset: one of datasets.NAMES, or a folder of images; when its files change, its features are made anew. After an @, another
        encoder: where features are trained, a number of epochs (digits@4: 4 of them), else the name of a file, see `folder`.
    seed: of the pool's draw (cifar10-lt50, isic2019). Where features are trained, each draw gets an encoder that has seen its
        images only; the shipped ones are of one encoder, which has seen all of CIFAR-10, a deviation from the paper.
    on_epoch: handed to simclr.train.

    Raises ValueError for an unknown data set, a broken file, or a checkpoint made by another config.
    """
    if (found := at_hand(profile, dataset, seed)) is not None:
        return found
    if _ships(profile, dataset):
        return load(_file(profile, _whole(dataset), seed))  # says what to do about a file that is not there
    path, (name, _) = _file(profile, dataset, seed), split_encoder(dataset)
    config, missing = _config(profile, dataset, seed), _missing(profile, name)
    train = datasets.load(name, seed=seed, side=config.side, missing=missing)
    test = None if train.labels is None else datasets.load(name, "test", seed=seed, side=config.side, missing=missing)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name("training.lock")):  # another process may be at it
        if (found := at_hand(profile, dataset, seed)) is not None:
            return found
        encoder = simclr.train(train.images, config, path.parent, labels=train.labels, on_epoch=on_epoch)
        made = extract(encoder, train, test)
        save(path, dataclasses.replace(made, made_by=made.made_by | {"missing": missing}))
        return _load_cached(path)


def at_hand(profile: Profile, dataset: str, seed: int = 0) -> Features | None:
    """What `of` returns where it need not train; None where it would have to."""
    if _ships(profile, dataset):
        path = _file(profile, _whole(dataset), seed)
        whole = _load_cached(path) if path.exists() else None
        return whole.long_tail(seed) if whole and split_encoder(dataset)[0] == "cifar10-lt50" else whole
    path, (name, _) = _file(profile, dataset, seed), split_encoder(dataset)
    if path.exists() and _is_of(_load_cached(path), _config(profile, dataset, seed), name, _missing(profile, name)):
        return _load_cached(path)
    return None


def obtainable(profile: Profile, dataset: str) -> bool:
    """Whether `of` has its features or can train for them; features of other encoders than the shipped one it can only read."""
    return not _ships(profile, dataset) or _file(profile, _whole(dataset), 0).exists()


def seeded(profile: Profile, dataset: str) -> bool:
    """Whether each seed has an encoder of its own."""
    return not _ships(profile, dataset) and split_encoder(dataset)[0] in SEEDED


def _config(profile: Profile, dataset: str, seed: int) -> SimCLR:
    name, epochs = split_encoder(dataset)
    config = profiles.adapted(profile.simclr, name)
    config = dataclasses.replace(config, seed=seed) if name in SEEDED else config
    return profiles.parsed(config, {"epochs": epochs}) if epochs else config


def _missing(profile: Profile, name: str) -> str:
    return profile.missing if name == "isic2019" else "error"  # the others are whole, or not there


def _whole(dataset: str) -> str:
    """The data set from whose shipped features a long-tailed pool is drawn."""
    return dataset.replace("-lt50", "")


def _ships(profile: Profile, dataset: str) -> bool:
    return profile.features == "shipped" and split_encoder(dataset)[0] in ("cifar10", "cifar10-lt50")


def _file(profile: Profile, dataset: str, seed: int) -> Path:
    if profile.features == "shipped" and dataset == "cifar10":
        return kept.shipped_features("cifar10")
    return folder(profile.name, dataset, seed) / "features.safetensors"


def folder(name: str, dataset: str, seed: int = 0) -> Path:
    """Where the encoder and the features of a data set's pool are kept; name: of the profile or recipe."""
    dataset, encoder = split_encoder(dataset)
    draw = f"-seed{seed}" if dataset in SEEDED else ""
    return kept.artefacts(name) / f"{datasets.identity(dataset)}{'@' * bool(encoder)}{encoder}{draw}"


def split_encoder(dataset: str) -> tuple[str, str]:
    """A data set's name and what stands after its @, if anything; paths of folders may contain one of their own."""
    name, _, encoder = dataset.partition("@")
    return (name, encoder) if name in datasets.NAMES else (dataset, "")


def _is_of(features: Features, config: SimCLR, dataset: str, missing: str) -> bool:
    made_by = {"missing": "error"} | features.made_by
    return [made_by.get(key) for key in ("dataset", "config", "missing")] == [dataset, dataclasses.asdict(config), missing]


def _load_cached(path: Path) -> Features:
    return _load_version(path, path.stat().st_mtime_ns if path.exists() else 0)


@lru_cache(maxsize=4)
def _load_version(path: Path, modified: int) -> Features:
    return load(path)


def _made_by(dataset: str, encoder: Encoder) -> dict[str, Any]:
    config = dataclasses.asdict(encoder.config)
    if not encoder.history:  # weights of unknown training: only what their shapes tell is true
        config = {key: config[key] for key in ("network", "width", "side")}
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "numpy": np.__version__}
    return {"dataset": dataset, "encoder": encoder.checksum, "config": config, "versions": versions}


def _read(path: Path) -> Features:
    with safetensors.safe_open(path, "np") as file:
        metadata, arrays = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if kept.sha256(metadata["about"]) != metadata["about_sha256"]:
        raise ValueError("the checksum of its description differs")
    about = json.loads(metadata["about"])
    if _checksum(arrays) != about["checksum"]:
        raise ValueError("the checksum of its arrays differs")
    if arrays["train"].dtype == np.uint8:
        for name in ARRAYS[:2]:
            arrays[name] = arrays[name] * arrays["step"] + arrays["offset"]
    kinds = dict.fromkeys(ARRAYS[:2], np.float32) | dict.fromkeys(ARRAYS[2:], np.int64)
    values = {name: arrays[name].astype(kind) if name in arrays else None for name, kind in kinds.items()}
    return Features(**values, classes=tuple(about["classes"]), made_by=about["made_by"], checksum=about["checksum"])


def _stored(features: Features, dtype: str) -> dict[str, np.ndarray]:
    """The arrays as a file holds them; labels that nobody knows are left out."""
    values = {name: getattr(features, name) for name in ARRAYS}
    if dtype == "uint8":
        arrays = _in_steps(values["train"], values["test"])
    else:
        with np.errstate(over="ignore"):
            arrays = {name: values[name].astype(dtype) for name in ARRAYS[:2]}
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ValueError(f"features are too large for {dtype}")
    for name in ARRAYS[2:]:
        if (labels := values[name]) is not None:
            arrays[name] = labels.astype(np.min_scalar_type(labels.max(initial=0)))
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _in_steps(train: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
    """Both parts as uint8 codes, with the step and offset of each dimension."""
    both = np.concatenate([train, test])
    offset, span = both.min(axis=0), np.ptp(both, axis=0)
    step = np.where(span > 0, span, 1) / 255
    codes = np.rint((both - offset) / step).astype(np.uint8)
    arrays = {"train": codes[: len(train)], "test": codes[len(train) :]}
    return arrays | {"step": step.astype(np.float32), "offset": offset.astype(np.float32)}


def _checksum(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in (*ARRAYS, *STEPS):
        if name in arrays:
            digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
            digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def _check(features: Features) -> None:
    for part in ("train", "test"):
        values, labels = getattr(features, part), getattr(features, f"{part}_labels")
        if values.ndim != 2 or values.shape[1] != features.train.shape[1]:
            raise ValueError(f"{part} features must be (n, {features.train.shape[-1]}), not {values.shape}")
        if labels is not None and (len(labels) != len(values) or labels.min(initial=0) < 0):
            raise ValueError(f"{part}: {len(labels)} labels for {len(values)} features, or negative ones")
        if len(bad := np.flatnonzero(~np.isfinite(values).all(axis=1))):
            raise ValueError(f"{part} features are NaN or infinite in {len(bad)} rows, the first {bad[:5].tolist()}")
