"""Points of unit length: features are checked, normalised, and handed out by index or in blocks."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from supclust.engine import threads

ROWS_PER_BLOCK = 8192
VALUES_PER_BLOCK = 2**20  # 4 MB in float32, near what a core's cache holds
DIRECTION = 2403_03741  # seeds the direction of the canonical order


def check_features(features: ArrayLike) -> np.ndarray:
    """The features as a C-contiguous float32 array (n, d); ValueError if not 2-d, empty, or not finite (naming the first rows)."""
    with np.errstate(over="ignore", invalid="ignore"):
        features = np.ascontiguousarray(check_shape(features), dtype=np.float32)
    check_finite(np.flatnonzero(~np.isfinite(features).all(axis=1)))
    return features


def check_shape(features: ArrayLike) -> np.ndarray:
    """The features as an array (n, d), not copied if they are one; ValueError unless they are real numbers and 2-d."""
    features = np.asanyarray(features)
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"features must be 2-d (points, dimensions) and not empty, not of shape {features.shape}")
    if features.dtype.kind not in "fiub":
        raise ValueError(f"features must be real numbers, not {features.dtype}")
    return features


def check_finite(bad: np.ndarray) -> None:
    """Raise ValueError naming the first of these rows, which are not finite; do nothing if there are none."""
    if len(bad):
        first = ", ".join(map(str, bad[:5])) + " ..." * (len(bad) > 5)
        raise ValueError(f"features are NaN, infinite or too large for float32 in {len(bad)} row(s): {first}")


def normalise(points: np.ndarray) -> np.ndarray:
    """Rows scaled to unit L2 length, float32 (n, d); a row of zeros stays as it is."""
    with np.errstate(over="ignore"):
        squares = np.einsum("nd,nd->n", points, points)
    extreme = np.flatnonzero((squares < 1e-30) | ~(squares < 1e30))  # squares of their values leave float32
    if len(extreme):
        points = points.copy()
        largest = np.abs(points[extreme]).max(axis=1, keepdims=True)
        points[extreme] /= np.where(largest > 0, largest, 1)
        squares[extreme] = np.einsum("nd,nd->n", points[extreme], points[extreme])
    return points / np.sqrt(np.where(squares > 0, squares, 1))[:, None]


def slices(end: int, step: int, start: int = 0) -> list[slice]:
    """Consecutive slices of start..end of at most step."""
    return [slice(i, min(i + step, end)) for i in range(start, end, step)]


def blocks(shape: tuple[int, int]) -> list[slice]:
    """Slices of points of that shape (n, d), each about as large as a core's cache."""
    return slices(shape[0], int(np.clip(VALUES_PER_BLOCK // shape[1], 256, ROWS_PER_BLOCK)))


def distances(points: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Euclidean distances (n, K) float64 from points (n, d) to centers (K, d)."""
    origin = centers.mean(axis=0, dtype=float)
    centers = centers - origin
    squares = (centers**2).sum(axis=1)

    def of_block(part: slice) -> np.ndarray:
        block = points[part] - origin
        return np.sqrt(np.maximum((block**2).sum(axis=1)[:, None] + squares - 2 * block @ centers.T, 0))

    return np.concatenate([np.empty((0, len(centers))), *threads.map(of_block, blocks(points.shape))])


def canonical_order(points: np.ndarray) -> np.ndarray:
    """An order (n,) of the points that depends on their values only: along a random direction, the same one for all pools."""
    along = threads.map(lambda part: along_direction(points[part]), blocks(points.shape))
    return np.argsort(np.concatenate(along), kind="stable")


def along_direction(points: np.ndarray) -> np.ndarray:
    """Coordinates (m,) of points (m, d) along the direction of the canonical order."""
    return points.astype(float) @ np.random.default_rng(DIRECTION).standard_normal(points.shape[1])


class Points:
    """Features (n, d) scaled to unit length, in float32, with their canonical order (n,); here in memory.

    Subclasses keep them elsewhere, so k-means and the scores of clusters ask for rows, blocks and groups only.
    Raises ValueError unless the features are finite, real and 2-d.
    """

    def __init__(self, features: ArrayLike) -> None:
        features = check_features(features)
        self.shape, self._points = features.shape, np.empty_like(features)
        threads.map(lambda part: np.copyto(self._points[part], normalise(features[part])), blocks(self.shape))
        self.order = canonical_order(self._points)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        return self._points[rows]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype=dtype)

    def map_rows(self, function: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> np.ndarray:
        """function(points[rows]) (m, ...), where function takes each point for itself: it goes to the points."""
        return function(self[rows])

    def map(self, function: Callable[[np.ndarray], Any], merge: Callable[[list[Any]], Any]) -> list[Any]:
        """function(block) of each block in turn; merge makes one result of several, merged ones among them."""
        return [merge(threads.map(lambda part: function(self[part]), blocks(self.shape)))]

    def map_groups(self, function: Callable[[np.ndarray], Any], groups: Sequence[np.ndarray], desc: str | None = None) -> list[Any]:
        """function(points[group]) of each group of indices: side by side, or one by one if one of them is most of the work."""
        work = [len(group) ** 2 for group in groups]
        if max(work, default=0) * threads.count() > sum(work):
            return [function(self[group]) for group in groups]  # each shows a progress bar of its own
        return threads.map(lambda group: function(self[group]), groups, desc)
