"""Geometry of the feature space: checking, normalising, handing out points in blocks, neighbours and distances."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from supclust.engine import gpu, threads

ROWS_PER_BLOCK = 8192
VALUES_PER_BLOCK = 2**20  # 4 MB in float32, near what a core's cache holds
COPIED_BYTES = 2**29  # features in memory are normalised once and for all up to this size
TILE = 1000  # points by points of one matrix product; not a power of two, which would make transposing slow
DIRECTION = 2403_03741  # seeds the direction of the canonical order


def check_features(features: ArrayLike) -> np.ndarray:
    """The features as a C-contiguous float32 array (n, d); ValueError if not 2-d, empty, or not finite (naming the first rows)."""
    features = check_shape(features)
    with np.errstate(over="ignore"):
        features = np.ascontiguousarray(features, dtype=np.float32)
    check_finite(np.concatenate([part.start + _not_finite(features[part]) for part in slices(len(features))]))
    return features


def check_shape(features: ArrayLike) -> np.ndarray:
    """The features as an array (n, d) of real numbers, not copied if they are one; ValueError if they are not."""
    features = np.asanyarray(features)
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"features must be 2-d (points, dimensions) and not empty, not of shape {features.shape}")
    if features.dtype.kind not in "fiub":
        raise ValueError(f"features must be real numbers, not {features.dtype}")
    return features


def check_finite(bad: np.ndarray) -> None:
    """ValueError that names the first of the rows that are not finite, if there is one."""
    if len(bad):
        more = " ..." if len(bad) > 5 else ""
        raise ValueError(
            f"features are NaN, infinite or too large for float32 in {len(bad)} row(s): {', '.join(map(str, bad[:5]))}{more}"
        )


def _not_finite(block: np.ndarray) -> np.ndarray:
    """Rows of a block (m, d) with an entry that is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(np.einsum("nd,nd->n", block, block)).all():  # one pass, without a mask
            return np.empty(0, dtype=np.int64)
    return np.flatnonzero(~np.isfinite(block).all(axis=1))


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


def slices(end: int, step: int = ROWS_PER_BLOCK, start: int = 0) -> list[slice]:
    """Consecutive slices of start..end of at most step."""
    return [slice(i, min(i + step, end)) for i in range(start, end, step)]


Merge = Callable[[list[Any]], Any]


@runtime_checkable
class Points(Protocol):
    """Points (n, d) in float32 that need not be in memory: what k-means and the scores of clusters ask for."""

    shape: tuple[int, int]
    order: np.ndarray  # canonical order (n,) of the points, see `canonical_order`

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """The points of these indices (m,), float32 (m, d)."""

    def exact(self, rows: np.ndarray) -> np.ndarray:
        """The same in float64, normalised in float64."""

    def map_exact(self, function: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> np.ndarray:
        """function(points.exact(rows)) of a function that takes each point for itself, (m, ...): it goes to the points."""

    def map(
        self, function: Callable[..., Any], *arrays: np.ndarray, desc: str | None = None, merge: Merge | None = None
    ) -> list[Any]:
        """function(block, *parts) of each block of the points in turn, with the parts of arrays (n, ...) that belong to it.

        merge: makes one result of several in turn, merged ones among them, so that fewer and smaller ones come back.
        """

    def map_groups(self, function: Callable[..., Any], groups: Sequence[np.ndarray], desc: str | None = None) -> list[Any]:
        """function(points[group]) of each group of indices."""


class Normalised:
    """Features (n, d) scaled to unit length: the `Points` of one machine.

    Features in memory, up to half a gigabyte as float32, are normalised once. Larger and memory-mapped ones are never copied whole:
    a block is converted and normalised when it is asked for.
    Raises ValueError for features that are not finite, real and 2-d.
    """

    def __init__(self, features: ArrayLike) -> None:
        bad, along = self._prepare(features)
        check_finite(bad)
        self.order = np.argsort(along, kind="stable")

    def __len__(self) -> int:
        return len(self._features)

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        if isinstance(rows, slice):
            return self._normalised(rows) if self._kept is None else self._kept[rows]
        rows = np.asarray(rows)
        result = np.empty((len(rows), self.shape[1]), dtype=np.float32)

        def gather(part: slice) -> None:
            result[part] = self._normalised(rows[part]) if self._kept is None else self._kept.take(rows[part], axis=0)

        threads.map(gather, blocks(result.shape), "drawing points")
        return result

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = self._kept if self._kept is not None else np.concatenate([self[part] for part in self._slices])
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def exact(self, rows: np.ndarray) -> np.ndarray:
        """The points of these indices (m,) normalised in float64, (m, d)."""
        points = self._features[rows].astype(np.float32).astype(float)
        length = np.linalg.norm(points, axis=1, keepdims=True)
        return points / np.where(length > 0, length, 1)

    def map_exact(self, function: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> np.ndarray:
        """function of the points of these indices (m,) in float64."""
        return function(self.exact(rows))

    def map(
        self, function: Callable[..., Any], *arrays: np.ndarray, desc: str | None = None, merge: Merge | None = None
    ) -> list[Any]:
        """function(block, *parts) of each block, in the order of the features; with merge, one result of them all."""
        results = threads.map(lambda part: function(self[part], *(array[part] for array in arrays)), self._slices, desc)
        return [merge(results)] if merge else results

    def map_groups(self, function: Callable[..., Any], groups: Sequence[np.ndarray], desc: str | None = None) -> list[Any]:
        """function(points[group]) of each group of indices: side by side, or one after the other if one is most of the work."""
        work = [len(group) ** 2 for group in groups]
        if max(work, default=0) * threads.count() > sum(work):
            return [function(self[group]) for group in threads.bar(groups, desc)]
        return threads.map(lambda group: function(self[group]), groups, desc)

    def _prepare(self, features: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Take the features in; returns the rows that are not finite, and where the points lie along the canonical direction."""
        self._features = check_shape(features)
        self.shape = self._features.shape
        n, d = self.shape
        kept = not isinstance(self._features, np.memmap) and 4 * n * d <= COPIED_BYTES
        self._kept = np.empty(self.shape, dtype=np.float32) if kept else None
        bad, along = zip(*threads.map(self._read, self._slices, "checking the features"), strict=True)
        return np.concatenate(bad), np.concatenate(along)

    def _normalised(self, rows: np.ndarray | slice) -> np.ndarray:
        return normalise(np.ascontiguousarray(self._features[rows], dtype=np.float32))

    @cached_property
    def _slices(self) -> list[slice]:
        return blocks(self.shape)

    def _read(self, part: slice) -> tuple[np.ndarray, np.ndarray]:
        """Rows of a block that are not finite, and where its points lie along the canonical direction."""
        with np.errstate(over="ignore", invalid="ignore"):
            block = np.ascontiguousarray(self._features[part], dtype=np.float32)
            if len(bad := _not_finite(block)):
                return part.start + bad, np.empty(0)
        points = normalise(block)
        if self._kept is not None:
            self._kept[part] = points
        return bad, points.astype(float) @ _direction(self.shape[1])


def blocks(shape: tuple[int, int]) -> list[slice]:
    """The slices of points of that shape (n, d) that are looked at together: as many as a core's cache holds."""
    n, d = shape
    return slices(n, int(np.clip(VALUES_PER_BLOCK // d, 256, ROWS_PER_BLOCK)))


def canonical_order(points: np.ndarray) -> np.ndarray:
    """An order (n,) of the points that depends on their values only: along one random direction, fixed once and for all."""
    direction = _direction(points.shape[1])
    parts = blocks(points.shape)
    return np.argsort(np.concatenate(threads.map(lambda part: points[part].astype(float) @ direction, parts)), kind="stable")


def _direction(d: int) -> np.ndarray:
    return np.random.default_rng(DIRECTION).standard_normal(d)


# -- neighbours ----------------------------------------------------------------------------------------------------------------


def nearest_squares(points: np.ndarray, k: int) -> tuple[np.ndarray, float]:
    """Squared distances (n, k) float32 from each of the points (n, d) to its k nearest others, 1 <= k < n, in no order.

    And how far rounding can have moved each of them, on a GPU too. All pairs are looked at.
    """
    left, right, rounding = product_factors(points)
    best = gpu.attempt(gpu.nearest_products, left, right, k)
    if best is None:
        best = _largest_products(left, right, k)
    return np.maximum(-2 * best, 0), rounding


def _largest_products(left: np.ndarray, right: np.ndarray, k: int) -> np.ndarray:
    """The k largest products (n, k) of each of n points with the others, given the factors of `product_factors`.

    Each pair is looked at once, in tiles: first those on the diagonal; of the others, only what is nearer than the k nearest so far
    is kept.
    """
    parts = slices(len(left), TILE)
    best = np.full((len(left), k), -np.inf, dtype=np.float32)
    for part, products in zip(parts, threads.map(lambda part: largest_on_diagonal(left[part], right[part], k), parts), strict=True):
        best[part, : products.shape[1]] = products
    for pairs in threads.bar(list(_rounds(parts)), "neighbours"):
        larger = partial(_larger, left, right, best.min(axis=1))
        for pair, found in zip(pairs, threads.map(lambda pair, larger=larger: larger(*pair), pairs), strict=True):
            for part, (rows, products) in zip(pair, found, strict=True):
                merge(best[part], rows, products)
    return best


def _rounds(parts: list[slice]) -> Iterator[list[tuple[slice, slice]]]:
    """All pairs of different parts, each once, in rounds in which none comes up more than twice."""
    n = len(parts)
    for step in range(1, n // 2 + 1):
        yield [(parts[i], parts[(i + step) % n]) for i in range(n // 2 if 2 * step == n else n)]


def largest_on_diagonal(left: np.ndarray, right: np.ndarray, k: int) -> np.ndarray:
    """The k largest products (m, k) of each of m points with the others, or as many as there are."""
    products = np.matmul(left, right.T, out=threads.workspace("products", (len(left), len(left))))
    np.fill_diagonal(products, -np.inf)
    return _largest_in_rows(products, k)


def _larger(
    left: np.ndarray, right: np.ndarray, least: np.ndarray, rows: slice, columns: slice
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Products of a tile above the least (n,) of their row, and above that of their column: where, ascending, and what they are."""
    shape = rows.stop - rows.start, columns.stop - columns.start
    products, larger = threads.workspace("products", shape), threads.workspace("larger", shape, bool)
    np.matmul(left[rows], right[columns].T, out=products)
    of_rows = np.flatnonzero(np.greater(products, least[rows, None], out=larger))
    of_columns = np.flatnonzero(np.greater(products, least[columns], out=larger))
    where = (of_columns % shape[1]).astype(np.uint16)
    order = np.argsort(where, kind="stable")  # a radix sort, as it is of 16 bits
    values = products.ravel()
    return (of_rows // shape[1], values[of_rows]), (where[order].astype(np.int64), values[of_columns[order]])


def merge(best: np.ndarray, rows: np.ndarray, products: np.ndarray) -> None:
    """Put products (m,) among the k largest (n, k) of their rows (m,), which ascend."""
    counts = np.bincount(rows, minlength=len(best))
    more = np.full((len(best), counts.max(initial=0)), -np.inf, dtype=np.float32)
    more[rows, np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)] = products
    best[:] = _largest_in_rows(np.concatenate([best, more], axis=1), best.shape[1])


def product_factors(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Factors (n, d + 2) whose products are -|a - b|^2 / 2 of points (n, d), and how far rounding can move |a - b|^2.

    [a, 1, -|a|^2 / 2] [b, -|b|^2 / 2, 1], float32, around the mean of the points, where squares are small. In whatever order a
    product is summed up, by numpy or on a GPU.
    """
    n, d = points.shape
    mean = points.mean(axis=0, dtype=float).astype(np.float32)
    left, right = np.empty((2, n, d + 2), dtype=np.float32)
    np.subtract(points, mean, out=left[:, :d])
    right[:, :d] = left[:, :d]
    left[:, -2] = right[:, -1] = 1
    left[:, -1] = right[:, -2] = np.einsum("nd,nd->n", left[:, :d], left[:, :d]) / -2
    squares, epsilon = -2 * float(left[:, -1].min(initial=0)), float(np.finfo(np.float32).eps)
    of_points = (squares + float(mean @ mean)) ** 0.5  # no point is longer than sqrt(2) of that; its digits end where these do
    return left, right, epsilon * (4 * (d + 4) * squares + 32 * of_points * squares**0.5)


def _largest_in_rows(values: np.ndarray, k: int) -> np.ndarray:
    """The k largest of each row, or all there are, a copy (m, k); values come into another order."""
    if values.shape[1] > k:
        values.partition(values.shape[1] - k, axis=1)
    return values[:, -k:].copy()


def nearest_exactly(points: np.ndarray, exact: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, k: int) -> np.ndarray:
    """Distances (m, k) float64 from some of the points (n, d), given by rows (m,), to their k nearest others.

    exact(rows) are points in float64, (m, d). float32 says which could be among the nearest, float64 how near they are. Below a
    millionth of what the points lie apart, two of them are copies, at distance 0.
    """
    return nearest_among(could_be_nearest(points, rows, k), exact, k)


def could_be_nearest(points: np.ndarray, rows: np.ndarray, k: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Some of the rows (m,) at a time, and they with all that could be among the k nearest of one of them, ascending."""
    left, right, rounding = product_factors(points)

    def of(some: np.ndarray) -> np.ndarray:
        products = left[some] @ right.T
        products[np.arange(len(products)), some] = -np.inf
        kth = np.partition(products, len(points) - k, axis=1)[:, [-k]]
        return np.union1d(np.flatnonzero((products >= kth - rounding).any(axis=0)), some)

    some = int(np.clip(2**25 // len(points), 1, 256))  # 128 MB of products
    return [(rows[part], of(rows[part])) for part in slices(len(rows), some)]


def nearest_among(candidates: list[tuple[np.ndarray, np.ndarray]], exact: Callable[[np.ndarray], np.ndarray], k: int) -> np.ndarray:
    """Distances (m, k) float64 from the rows to their k nearest, given `could_be_nearest` of them, see `nearest_exactly`."""
    result = [np.empty((0, k))]
    for some, near in candidates:
        between = _distances_of_copies_zero(exact(near), np.searchsorted(near, some))
        result.append(np.partition(between, k - 1, axis=1)[:, :k])
    return np.concatenate(result)


def _distances_of_copies_zero(points: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Distances (m, n) in float64 from some of the points (n, d) to all, inf to itself, 0 where rounding could be all there is."""
    centred = points - points.mean(axis=0)
    squares = np.einsum("nd,nd->n", centred, centred)
    between = squares[rows, None] + squares - 2 * (centred[rows] @ centred.T)
    between[between <= 1e-12 * squares.max()] = 0
    between[np.arange(len(rows)), rows] = np.inf
    return np.sqrt(between)


def distances(points: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Euclidean distances (n, K) float64 from points (n, d) to centers (K, d)."""
    origin = centers.mean(axis=0, dtype=float)
    centers = centers - origin
    squares = (centers**2).sum(axis=1)

    def of(part: slice) -> np.ndarray:
        block = points[part] - origin
        return np.sqrt(np.maximum((block**2).sum(axis=1)[:, None] + squares - 2 * block @ centers.T, 0))

    parts = blocks(points.shape) or [slice(0, 0)]
    return np.concatenate(threads.map(of, parts))
