"""Makes the encoder and feature files that come with the package: small enough to ship, and as faithful as that allows."""

import dataclasses
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from sklearn.preprocessing import StandardScaler

from supclust import datasets, features, kept, learners, method, simclr
from supclust.engine import geometry
from supclust.engine.kmeans import kmeans
from supclust.features import Features

log = logging.getLogger(__name__)

LARGEST = 330  # bytes an image: 20 MB for all of CIFAR
# How features may be stored: as which type, and in how many dimensions (None = all).
ENCODINGS = {
    "float16, 128 dimensions": ("float16", 128),
    "uint8, all dimensions": ("uint8", None),
    "uint8, 256 dimensions": ("uint8", 256),
}


def ship(dataset: str, encoder_file: Path) -> pd.DataFrame:
    """Write the weights of an encoder and its features of a data set into the package; returns the encodings compared.

    The weights become float16 first, and the features are extracted with these, so that anyone can make the features anew from
    the shipped weights. Features take the best encoding of at most LARGEST bytes an image. Needs the images and takes minutes.
    """
    weights = kept.shipped_weights(dataset)
    simclr.save_weights(simclr.load_weights(encoder_file), weights, torch.float16)
    full = features.extract(simclr.load_weights(weights), datasets.load(dataset), datasets.load(dataset, "test"))
    log.info("linear probe: %.2f %% of the test images right", 100 * linear_probe(full))
    return pack(full, kept.shipped_features(dataset))


def embed(dataset: str, encoder: str, side: int, make: Callable[[Any, Path], tuple[np.ndarray, dict[str, Any]]]) -> pd.DataFrame:
    """Write the features of a data set by another encoder to where DATASET@ENCODER is looked for; returns the encodings compared.

    side, make: the pixels and the function of its label.embedders.Embedder. Needs the images and takes minutes.
    """
    train, test = (datasets.load(dataset, split, side=side) for split in datasets.SPLITS)
    path = features.folder("laptop", f"{dataset}@{encoder}") / "features.safetensors"
    (pool, about), (queries, _) = (make(one.images, path.parent) for one in (train, test))
    return pack(Features(pool, queries, train.labels, test.labels, train.classes, {"dataset": dataset} | about), path)


def linear_probe(full: Features) -> float:
    """Test accuracy of a linear layer trained on all labels of the pool, on standardised features."""
    scaler = StandardScaler().fit(full.train)
    head = learners.fit_linear_head(scaler.transform(full.train), full.train_labels, len(full.classes), weight_decay=1e-4)
    return float(np.mean(head.predict(scaler.transform(full.test)) == full.test_labels))


def pack(full: Features, path: Path) -> pd.DataFrame:
    """Write the features to path in the encoding that keeps typicality best and is not too large; returns all compared.

    Raises ValueError if all of them are too large.
    """
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "features.safetensors"
        for name, (dtype, dimensions) in ENCODINGS.items():
            stored = save_encoded(file, reduce(full, dimensions), dtype)
            rows[name] = {"bytes": file.stat().st_size, **fidelity(full, stored)}
    table = pd.DataFrame.from_dict(rows, orient="index")
    small = table[table["bytes"] <= LARGEST * (len(full.train) + len(full.test))]
    if small.empty:
        raise ValueError(f"no encoding of these features fits into {LARGEST} bytes an image")
    best = small["typicality rho"].idxmax()
    dtype, dimensions = ENCODINGS[best]
    about = {"encoding": best, "of": full.checksum, **table.loc[best].astype(float).round(5)}
    save_encoded(path, dataclasses.replace(reduce(full, dimensions), made_by=full.made_by | {"stored": about}, checksum=""), dtype)
    log.info("features stored as %s in %s", best, path)
    return table


def reduce(full: Features, dimensions: int | None) -> Features:
    """The normalised features in the leading dimensions of their singular value decomposition, or as they are.

    It is not centred, so that angles and distances both stay what they are, up to the dimensions that are left out.
    """
    train, test = geometry.normalise(full.train), geometry.normalise(full.test)
    if dimensions is not None:
        _, vectors = np.linalg.eigh(train.T.astype(float) @ train)
        basis = vectors[:, ::-1][:, :dimensions].astype(np.float32)
        train, test = train @ basis, test @ basis
    return dataclasses.replace(full, train=train, test=test, checksum="")


def save_encoded(path: Path, full: Features, dtype: str) -> Features:
    """Write a feature file as float16, or as uint8: each dimension in 256 even steps from its smallest to its largest value.

    Returns the features as they will be read from it.
    """
    codes, steps = np.concatenate([full.train, full.test]), {}
    if dtype == "uint8":
        offset, span = codes.min(axis=0), np.ptp(codes, axis=0)
        step = np.where(span > 0, span, 1) / 255
        codes, steps = np.rint((codes - offset) / step), {"step": step.astype(np.float32), "offset": offset.astype(np.float32)}
    train, test = np.split(codes.astype(dtype), [len(full.train)])
    return features.save(path, full, full.arrays() | {"train": train, "test": test} | steps)


def fidelity(full: Features, stored: Features) -> dict[str, float]:
    """How well stored features keep full ones: Spearman's rho of typicality and of SUP in the same fifty clusters, and kNN."""
    clusters, _ = kmeans(geometry.Points(full.train), 50)

    def scores(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own = [points[clusters == k] for k in range(50)]
        typicality, centers = np.concatenate([*map(method.typicality, own)]), np.stack([some.mean(axis=0) for some in own])
        return typicality, method.sup(points, clusters, centers, method.default_temperature(centers))

    pairs = zip(*(scores(geometry.normalise(part.train)) for part in (full, stored)), strict=True)
    typicality, sup = (float(spearmanr(*pair).statistic) for pair in pairs)
    knn = features.knn_accuracy(stored.train, stored.train_labels, stored.test, stored.test_labels)
    return {"typicality rho": typicality, "sup rho": sup, "kNN": knn}
