"""Features in a memory-mapped file, or too large for a second copy in memory: read and normalised block by block."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from supclust.engine import threads
from supclust.engine.geometry import Points, along_direction, blocks, check_finite, check_shape, normalise


class Mapped(Points):
    """`Points` features (n, d) of which no copy is kept: a block is converted and normalised whenever it is asked for."""

    def __init__(self, features: ArrayLike) -> None:
        self._features = check_shape(features)
        self.shape = self._features.shape
        bad, along = self.read_through()
        check_finite(bad)
        self.order = np.argsort(along, kind="stable")

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        with np.errstate(over="ignore"):
            return normalise(np.ascontiguousarray(self._features[rows], dtype=np.float32))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate([self[part] for part in blocks(self.shape)], dtype=dtype)

    def read_through(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows that are not finite, and where the points lie along the canonical direction (n,)."""

        def read(part: slice) -> tuple[np.ndarray, np.ndarray]:
            with np.errstate(invalid="ignore"):
                points = self[part]
            return part.start + np.flatnonzero(~np.isfinite(points).all(axis=1)), along_direction(points)

        bad, along = zip(*threads.map(read, blocks(self.shape), "checking the features"), strict=True)
        return np.concatenate(bad), np.concatenate(along)
