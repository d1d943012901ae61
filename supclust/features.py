"""The encoder's features of a data set: extracted once, kept in one file that knows what made it, verified when read."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from supclust import datasets, kept, profiles
from supclust.engine.knn import knn_accuracy as knn_accuracy
from supclust.profiles import Profile, SimCLR

if TYPE_CHECKING:
    from supclust.simclr import Encoder

log = logging.getLogger(__name__)

ARRAYS = ("train", "test", "train_labels", "test_labels")
SEEDED = ("cifar10-lt50", "isic2019", "ham10000")  # data sets whose pool is drawn from the seed
SHIPPED = ("cifar10", "cifar100", "cifar10-lt50", "ham10000")  # with the package; of pools that are drawn, draw 0


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
        d = self.train.shape[-1]
        for part, values, labels in (("train", self.train, self.train_labels), ("test", self.test, self.test_labels)):
            if values.ndim != 2 or values.shape[1] != d:
                raise ValueError(f"{part} features must be (n, {d}), not {values.shape}")
            if labels is not None and (len(labels) != len(values) or labels.min(initial=0) < 0):
                raise ValueError(f"{part}: {len(labels)} labels for {len(values)} features, or negative ones")
            if len(bad := np.flatnonzero(~np.isfinite(values).all(axis=1))):
                raise ValueError(f"{part} features are NaN or infinite in {len(bad)} rows, the first {bad[:5].tolist()}")
        object.__setattr__(self, "checksum", self.checksum or kept.checksum(self.arrays()))

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of a file: features in float32, and known labels in the smallest unsigned type that holds them."""
        labels = {name: values for name in ARRAYS[2:] if (values := getattr(self, name)) is not None}
        labels = {name: values.astype(np.min_scalar_type(values.max(initial=0))) for name, values in labels.items()}
        return {"train": self.train.astype(np.float32), "test": self.test.astype(np.float32)} | labels

    def subset(self, train_indices: Sequence[int] | np.ndarray) -> Features:
        """The same test set with these rows (k,) of the pool."""
        labels = None if self.train_labels is None else self.train_labels[train_indices]
        made_by = self.made_by | {"pool": f"{len(train_indices)} rows of the features {self.checksum}"}
        return replace(self, train=self.train[train_indices], train_labels=labels, made_by=made_by, checksum="")


def embed(encoder: Encoder, images: Any, batch_size: int = 256) -> np.ndarray:
    """Raw penultimate features, float32 (n, 8 * width), of images uint8 (n, 3, height, width) of any size, or of ImageFiles."""
    from supclust import simclr

    return simclr.embed(encoder.network, images, encoder.config.side, batch_size)


def extract(encoder: Encoder, train: datasets.Dataset, test: datasets.Dataset | None = None) -> Features:
    """The encoder's features of a data set's splits."""
    config = asdict(encoder.config)
    if not encoder.history:  # weights of unknown training: only what their shapes tell is true
        config = {key: config[key] for key in ("network", "width", "side")}
    versions = {name: importlib.metadata.version(name) for name in ("torch", "torchvision", "numpy")}
    made_by = {"dataset": train.name, "encoder": encoder.checksum, "config": config, "versions": versions}
    pool = embed(encoder, train.images)
    queries, labels = (pool[:0], None) if test is None else (embed(encoder, test.images), test.labels)
    return Features(pool, queries, train.labels, labels, train.classes, made_by)


def save(path: Path, features: Features, arrays: dict[str, np.ndarray] | None = None) -> Features:
    """Write one safetensors file, of features.arrays() or of smaller ones (train.shipping); returns what `load` reads from it."""
    kept.write(Path(path), arrays or features.arrays(), {"made_by": features.made_by, "classes": features.classes})
    return load(path)


def load(path: Path) -> Features:
    """Read what `save` wrote. Raises FileNotFoundError, and ValueError for a file that is damaged, if only in one bit."""
    try:
        arrays, about = kept.load(Path(path))
    except FileNotFoundError as error:
        advice = "CIFAR's come with the package (install it again); any others are made by features.obtain or notebook 01"
        raise FileNotFoundError(f"there is no feature file {path}. {advice}") from error
    except ValueError as error:
        raise ValueError(f"{error}. Remove it, and make or fetch it again") from error
    checksum = kept.checksum(arrays)
    if arrays["train"].dtype == np.uint8:  # each dimension is stored in 256 even steps
        arrays |= {name: arrays[name] * arrays["step"] + arrays["offset"] for name in ARRAYS[:2]}
    values = [arrays[name].astype(np.float32) for name in ARRAYS[:2]]
    values += [arrays[name].astype(np.int64) if name in arrays else None for name in ARRAYS[2:]]
    return Features(*values, tuple(about["classes"]), about["made_by"], checksum)


def obtain(profile: Profile, dataset: str, seed: int = 0) -> Features:
    """The features a profile works on: shipped with the package, or extracted by an encoder trained here, once.

    dataset: one of datasets.NAMES, or a folder of images; when its files change, its features are made anew. After an @, another
    encoder: where features are trained, a number of epochs (digits@4: 4 of them), else the name of a file, see `folder`.
    seed: of the pool's draw, where features are trained: each draw gets an encoder that has seen its images only. Of pools whose
    features are shipped, all seeds have draw 0.
    Raises ValueError for an unknown data set, a broken file, or a checkpoint made by another config, and FileNotFoundError for
    features that do not come with the package or images that are not on this machine.
    """
    found, (path, made_by) = find(profile, dataset, seed), _source(profile, dataset, seed)
    if found or made_by is None:
        return found or load(path)  # which says what to do about a file that is not there
    config = SimCLR(**made_by["config"])
    options = {"seed": seed, "side": config.side, "missing": made_by["missing"]}
    from supclust import simclr  # PyTorch takes seconds to import, and kept features do not need it

    train = datasets.load(made_by["dataset"], **options)
    test = None if train.labels is None else datasets.load(made_by["dataset"], "test", **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name("training.lock")):  # another process may be at it
        if not find(profile, dataset, seed):
            encoder = simclr.train(train.images, config, path.parent, labels=train.labels)
            made = extract(encoder, train, test)
            save(path, replace(made, made_by=made.made_by | made_by))
    return find(profile, dataset, seed)


def find(profile: Profile, dataset: str, seed: int = 0) -> Features | None:
    """The features that `obtain` need not train for, else None. A damaged file that can be made anew is logged, and ignored."""
    path, made_by = _source(profile, dataset, seed)
    if not path.exists():
        return None
    try:
        found = _load_version(path, path.stat().st_mtime_ns)
    except ValueError as error:
        if made_by is None:
            raise
        log.warning("%s", error)
        return None
    if made_by is None:
        tailed = dataset.startswith("cifar10-lt50@")  # a draw of CIFAR-10
        return found.subset(datasets.long_tail_indices(found.train_labels, 0)) if tailed else found
    return found if made_by.items() <= ({"missing": "error"} | found.made_by).items() else None


def obtainable(profile: Profile, dataset: str) -> bool:
    """Whether `obtain` finds the features or can train for them; those of other encoders than the shipped one must exist."""
    path, made_by = _source(profile, dataset, 0)
    return made_by is not None or path.exists()


def seeded(profile: Profile, dataset: str) -> bool:
    """Whether each seed has an encoder of its own."""
    name = split_encoder(dataset)[0]
    return name in SEEDED and not (profile.features == "shipped" and name in SHIPPED)


def folder(name: str, dataset: str, seed: int = 0) -> Path:
    """The folder of a data set's encoder and features; name: of the profile or recipe."""
    dataset, encoder = split_encoder(dataset)
    draw = f"-seed{seed}" if dataset in SEEDED else ""
    return kept.artefacts(name) / f"{datasets.identity(dataset)}{'@' * bool(encoder)}{encoder}{draw}"


def split_encoder(dataset: str) -> tuple[str, str]:
    """A data set's name and what stands after its @, if anything; paths of folders may contain one of their own."""
    name, _, encoder = dataset.partition("@")
    return (name, encoder) if name in datasets.NAMES else (dataset, "")


def _source(profile: Profile, dataset: str, seed: int) -> tuple[Path, dict[str, Any] | None]:
    """The feature file, and what its features must be made by; None where they ship, or are of another encoder than these."""
    name, encoder = split_encoder(dataset)
    if profile.features == "shipped" and name in SHIPPED:
        whole = name.removesuffix("-lt50")  # other encoders know the long tail as a draw of CIFAR-10
        own = folder(profile.name, f"{whole}@{encoder}") / "features.safetensors"
        return own if encoder else kept.shipped_features(name), None
    config = profiles.parsed(profiles.adapted(profile.simclr, name), {"epochs": encoder} if encoder else {})
    config = replace(config, seed=seed) if name in SEEDED else config
    missing = profile.missing if name == "isic2019" else "error"  # the others are whole, or not there
    made_by = {"dataset": name, "config": asdict(config), "missing": missing}
    return folder(profile.name, dataset, seed) / "features.safetensors", made_by


@lru_cache(maxsize=4)
def _load_version(path: Path, modified: int) -> Features:
    return load(path)
