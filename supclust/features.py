"""The encoder's features of a data set: extracted once, kept in one file that knows what made it, verified when read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from filelock import FileLock

from supclust import datasets, kept, profiles, simclr
from supclust.datasets import Dataset
from supclust.profiles import Profile, SimCLR
from supclust.simclr import Encoder, knn_accuracy

__all__ = ["Features", "embed", "extract", "find", "knn_accuracy", "load", "obtain", "save"]

ARRAYS = ("train", "test", "train_labels", "test_labels")
SEEDED = ("cifar10-lt50", "isic2019")  # data sets whose pool is drawn from the seed


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
        _check("train", self.train, self.train_labels, self.train.shape[-1])
        _check("test", self.test, self.test_labels, self.train.shape[-1])
        if not self.checksum:
            object.__setattr__(self, "checksum", kept.checksum(_stored(self, "float32")))

    def subset(self, train_indices: Sequence[int] | np.ndarray) -> Features:
        """The same test set with these rows (k,) of the pool."""
        labels = None if self.train_labels is None else self.train_labels[train_indices]
        made_by = self.made_by | {"pool": f"{len(train_indices)} rows of the features {self.checksum}"}
        return dataclasses.replace(self, train=self.train[train_indices], train_labels=labels, made_by=made_by, checksum="")

    def long_tail(self, seed: int) -> Features:
        """CIFAR-10-LT50 of CIFAR-10's features: the pool is datasets.long_tail_indices of this seed."""
        return self.subset(datasets.long_tail_indices(self.train_labels, seed))


def embed(encoder: Encoder, images: Any, batch_size: int = 256) -> np.ndarray:
    """Raw penultimate features, float32 (n, 8 * width), of images uint8 (n, 3, height, width) of any size, or of ImageFiles."""
    return simclr.embed(encoder.network, images, encoder.config.side, batch_size)


def extract(encoder: Encoder, train: Dataset, test: Dataset | None = None) -> Features:
    """The encoder's features of a data set's splits."""
    config = dataclasses.asdict(encoder.config)
    if not encoder.history:  # weights of unknown training: only what their shapes tell is true
        config = {key: config[key] for key in ("network", "width", "side")}
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "numpy": np.__version__}
    made_by = {"dataset": train.name, "encoder": encoder.checksum, "config": config, "versions": versions}
    pool = embed(encoder, train.images)
    queries, labels = (pool[:0], None) if test is None else (embed(encoder, test.images), test.labels)
    return Features(pool, queries, train.labels, labels, train.classes, made_by)


# -- the file ------------------------------------------------------------------------------------------------------------------


def save(path: Path, features: Features, dtype: str = "float32") -> Features:
    """Write one safetensors file; returns the features as they will be read from it.

    dtype: "float32", "float16" for half the size, or "uint8" for a quarter: each dimension in 256 even steps from its smallest
    to its largest value. Labels take the smallest unsigned type that holds them. The checksum is of what is stored.
    Raises ValueError for features too large for float16.
    """
    kept.write(Path(path), _stored(features, dtype), {"made_by": features.made_by, "classes": features.classes})
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
            "any other is made by features.obtain or notebook 01"
        )
    try:
        arrays, about = kept.load(path)
    except ValueError as error:
        raise ValueError(
            f"the feature file {path} is damaged ({error.__cause__}). Remove it, and make or fetch it again"
        ) from error
    checksum = kept.checksum(arrays)
    if arrays["train"].dtype == np.uint8:
        arrays |= {name: arrays[name] * arrays["step"] + arrays["offset"] for name in ARRAYS[:2]}
    types = dict.fromkeys(ARRAYS[:2], np.float32) | dict.fromkeys(ARRAYS[2:], np.int64)
    values = {name: arrays[name].astype(kind) if name in arrays else None for name, kind in types.items()}
    return Features(**values, classes=tuple(about["classes"]), made_by=about["made_by"], checksum=checksum)


def _stored(features: Features, dtype: str) -> dict[str, np.ndarray]:
    """The arrays as a file holds them; labels that nobody knows are left out."""
    if dtype not in ("float32", "float16", "uint8"):
        raise ValueError(f"features are stored as float32, float16 or uint8, not {dtype}")
    labels = {name: values for name in ARRAYS[2:] if (values := getattr(features, name)) is not None}
    labels = {name: values.astype(np.min_scalar_type(values.max(initial=0))) for name, values in labels.items()}
    if dtype == "uint8":
        return _in_steps(features.train, features.test) | labels
    with np.errstate(over="ignore"):
        arrays = {"train": features.train.astype(dtype), "test": features.test.astype(dtype)}
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ValueError(f"features are too large for {dtype}")
    return arrays | labels


def _in_steps(train: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
    """Both parts as uint8 codes, with the step and offset float32 (d,) of each dimension: value = code * step + offset."""
    both = np.concatenate([train, test])
    offset, span = both.min(axis=0), np.ptp(both, axis=0)
    step = np.where(span > 0, span, 1) / 255
    codes = np.rint((both - offset) / step).astype(np.uint8)
    steps = {"step": step.astype(np.float32), "offset": offset.astype(np.float32)}
    return {"train": codes[: len(train)], "test": codes[len(train) :]} | steps


def _check(part: str, values: np.ndarray, labels: np.ndarray | None, d: int) -> None:
    if values.ndim != 2 or values.shape[1] != d:
        raise ValueError(f"{part} features must be (n, {d}), not {values.shape}")
    if labels is not None and (len(labels) != len(values) or labels.min(initial=0) < 0):
        raise ValueError(f"{part}: {len(labels)} labels for {len(values)} features, or negative ones")
    if len(bad := np.flatnonzero(~np.isfinite(values).all(axis=1))):
        raise ValueError(f"{part} features are NaN or infinite in {len(bad)} rows, the first {bad[:5].tolist()}")


# -- of a profile --------------------------------------------------------------------------------------------------------------


def obtain(
    profile: Profile, dataset: str, seed: int = 0, on_epoch: Callable[[list[dict[str, Any]]], None] | None = None
) -> Features:
    """The features a profile works on: shipped with the package, or extracted by an encoder trained here, once.

    dataset: one of datasets.NAMES, or a folder of images; when its files change, its features are made anew. After an @, another
        encoder: where features are trained, a number of epochs (digits@4: 4 of them), else the name of a file, see `folder`.
    seed: of the pool's draw (cifar10-lt50, isic2019). Where features are trained, each draw gets an encoder that has seen its
        images only; the shipped ones are of one encoder, which has seen all of CIFAR-10, a deviation from the paper.
    on_epoch: handed to simclr.train.

    Raises ValueError for an unknown data set, a broken file, or a checkpoint made by another config, and FileNotFoundError for
    features that do not come with the package or images that are not on this machine.
    """
    if (found := find(profile, dataset, seed)) is not None:
        return found
    path = _file(profile, dataset, seed)
    if _ships(profile, dataset):
        return load(path)  # says what to do about a file that is not there
    made_by = _wanted(profile, dataset, seed)
    config, options = SimCLR(**made_by["config"]), {"seed": seed, "missing": made_by["missing"]}
    train = datasets.load(made_by["dataset"], side=config.side, **options)
    test = None if train.labels is None else datasets.load(made_by["dataset"], "test", side=config.side, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name("training.lock")):  # another process may be at it
        if find(profile, dataset, seed) is None:
            encoder = simclr.train(train.images, config, path.parent, labels=train.labels, on_epoch=on_epoch)
            made = extract(encoder, train, test)
            save(path, dataclasses.replace(made, made_by=made.made_by | made_by))
    return find(profile, dataset, seed)


def find(profile: Profile, dataset: str, seed: int = 0) -> Features | None:
    """What `obtain` returns where it need not train; None where it would have to."""
    path = _file(profile, dataset, seed)
    if not path.exists():
        return None
    found = _load_version(path, path.stat().st_mtime_ns)
    if _ships(profile, dataset):
        return found.long_tail(seed) if split_encoder(dataset)[0] == "cifar10-lt50" else found
    made_by = {"missing": "error"} | found.made_by
    return found if made_by == made_by | _wanted(profile, dataset, seed) else None


def obtainable(profile: Profile, dataset: str) -> bool:
    """Whether `obtain` has its features or can train for them; features of other encoders than the shipped one it can only read."""
    return not _ships(profile, dataset) or _file(profile, dataset, 0).exists()


def seeded(profile: Profile, dataset: str) -> bool:
    """Whether each seed has an encoder of its own."""
    return not _ships(profile, dataset) and split_encoder(dataset)[0] in SEEDED


def folder(name: str, dataset: str, seed: int = 0) -> Path:
    """Where the encoder and the features of a data set's pool are kept; name: of the profile or recipe."""
    dataset, encoder = split_encoder(dataset)
    draw = f"-seed{seed}" if dataset in SEEDED else ""
    return kept.artefacts(name) / f"{datasets.identity(dataset)}{'@' * bool(encoder)}{encoder}{draw}"


def split_encoder(dataset: str) -> tuple[str, str]:
    """A data set's name and what stands after its @, if anything; paths of folders may contain one of their own."""
    name, _, encoder = dataset.partition("@")
    return (name, encoder) if name in datasets.NAMES else (dataset, "")


def _wanted(profile: Profile, dataset: str, seed: int) -> dict[str, Any]:
    """What features of this profile are made by, as far as it says so."""
    name, epochs = split_encoder(dataset)
    config = profiles.parsed(profiles.adapted(profile.simclr, name), {"epochs": epochs} if epochs else {})
    config = dataclasses.replace(config, seed=seed) if name in SEEDED else config
    missing = profile.missing if name == "isic2019" else "error"  # the others are whole, or not there
    return {"dataset": name, "config": dataclasses.asdict(config), "missing": missing}


def _ships(profile: Profile, dataset: str) -> bool:
    return profile.features == "shipped" and split_encoder(dataset)[0] in ("cifar10", "cifar10-lt50")


def _file(profile: Profile, dataset: str, seed: int) -> Path:
    if not _ships(profile, dataset):
        return folder(profile.name, dataset, seed) / "features.safetensors"
    whole = dataset.replace("-lt50", "")  # the long-tailed pool is drawn from its features
    return kept.shipped_features(whole) if whole == "cifar10" else folder(profile.name, whole) / "features.safetensors"


@lru_cache(maxsize=4)
def _load_version(path: Path, modified: int) -> Features:
    return load(path)
