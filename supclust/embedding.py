"""The features drawn in the plane by t-SNE and UMAP; the coordinates are kept, because they differ from machine to machine."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
from sklearn.manifold import TSNE

from supclust import kept
from supclust.engine import geometry
from supclust.features import Features
from supclust.profiles import Profile


@dataclass(frozen=True)
class Embedding:
    """Places in the plane of some points of the pool: indices (m,), and maps of (m, 2) by method."""

    indices: np.ndarray
    maps: Mapping[str, np.ndarray]

    def place(self, features: np.ndarray, points: np.ndarray, method: str = "UMAP") -> np.ndarray:
        """Where points (B,), indices into the features (n, d), lie on a map: (B, 2).

        A point that is not among those drawn is put where the nearest one is that is.
        """
        drawn = geometry.normalise(features[self.indices])
        nearest = faiss.knn(geometry.normalise(features[points]), drawn, 1)[1][:, 0]
        return self.maps[method][nearest]


def make(features: np.ndarray, n_points: int, seed: int = 0) -> Embedding:
    """t-SNE and UMAP of n_points of the normalised features (n, d), drawn at random."""
    import umap  # takes seconds, and most users never need it

    indices = np.sort(np.random.default_rng(seed).choice(len(features), min(n_points, len(features)), replace=False))
    points = geometry.normalise(features[indices])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of umap, about its own seed and threads
        places = {
            "t-SNE": TSNE(init="pca", perplexity=30, random_state=seed).fit_transform(points),
            "UMAP": umap.UMAP(random_state=seed).fit_transform(points),
        }
    return Embedding(indices, {name: np.asarray(place, dtype=np.float32) for name, place in places.items()})


def of(profile: Profile, features: Features, *, recompute: bool = False, seed: int = 0) -> Embedding:
    """The profile's embedding: as kept by an earlier run or with the repository if it is of these features, else made and kept."""
    name = f"embedding-{seed}.npz"
    stored = kept.reports(profile.name) / name
    if not recompute:
        for path in (stored, kept.REPOSITORY / "reports" / profile.name / name):
            if (found := _read(path, features)) is not None:
                return found
    embedding = make(features.train, profile.embedding_points, seed)
    with kept.replacing(stored) as temporary, open(temporary, "wb") as file:
        np.savez(file, checksum=features.checksum, indices=embedding.indices.astype(np.int32), **embedding.maps)
    return embedding


def _read(path: Path, features: Features) -> Embedding | None:
    """The embedding in a file, or None if there is none, it cannot be read, or it is of other features."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if str(arrays["checksum"]) != features.checksum:
                return None
            maps = {name: arrays[name] for name in arrays.files if name not in ("checksum", "indices")}
            return Embedding(arrays["indices"].astype(np.int64), maps)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
