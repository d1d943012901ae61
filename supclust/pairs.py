"""Pairs of near points among very many, found exactly: cheap products rule out most pairs, float64 decides the others."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np

from supclust.engine import threads
from supclust.engine.geometry import slices

BLOCK = 1000  # points a side of a block of products, 4 MB in float32; a power of two is slow where a block is transposed
MOST_NEIGHBOURS = 100  # of a point, on average, that are stored, in 16 bytes each; where there are more, nothing is
SAMPLE = 1000  # points; four times as many tell how many pairs a screen lets pass
PAIR_PRICE = 250  # of deciding a pair by its differences in float64, in float32 products of the two points
INT8_PRICE = 0.4  # of a product in int8, where the processor has instructions for it
INT8_PAYS = 3e11  # multiplications from which int8 saves more time than importing PyTorch may take

Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]  # indices (p,) int32 of one point and of the other, and |a - b|^2 (p,) float64


class ClosePairs:
    """Pairs of near points (n, d) of unit length, which are few where balls are as small as purity has them."""

    def __init__(self, points: np.ndarray) -> None:
        self.points = points
        self._reach, self._too_far, self._pairs = -1.0, math.inf, None

    def within(self, distance: float) -> Pairs | None:
        """At least all pairs of points at most that far apart; None if they are too many to be stored. The last are kept."""
        if self._reach < distance < self._too_far:
            screen, share = _cheapest_screen(self.points, distance)
            if share * len(self.points) > MOST_NEIGHBOURS:
                self._too_far = distance
            else:
                self._reach, self._pairs = distance, _find_pairs(self.points, distance, screen(self.points))
        return self._pairs if distance <= self._reach else None


def _find_pairs(points: np.ndarray, distance: float, screen: Screen) -> Pairs:
    """All pairs of the points (n, d) that are at most that far apart, each once: of those that the screen lets pass."""

    def find(block: tuple[slice, slice]) -> Pairs:
        rows, columns = block
        a, b = np.divmod(np.flatnonzero(screen.passes(rows, columns)), columns.stop - columns.start)
        a, b = (a + rows.start).astype(np.int32), (b + columns.start).astype(np.int32)
        a, b = a[a < b], b[a < b]
        squared = [squared_distances(points[a[part]], points[b[part]]) for part in slices(len(a), BLOCK)]
        squared = np.concatenate([np.empty(0), *squared])
        near = squared <= distance**2
        return a[near], b[near], squared[near]

    with threads.single_threaded_torch() if screen.vectors.dtype == np.int8 else nullcontext():
        found = threads.map(find, upper_blocks(len(points)), "ProbCover: near points")
    return tuple(np.concatenate(part) for part in zip(*found, strict=True))


@dataclass(frozen=True)
class Screen:
    """Vectors (n, m) in place of points (n, d), whose products are at least `least` wherever two points are near enough."""

    vectors: np.ndarray  # float32, or int8, whose products are exact
    least: float

    def passes(self, rows: slice, columns: slice) -> np.ndarray:
        """Which pairs may be near enough, bool (rows, columns)."""
        return _products(self.vectors[rows], self.vectors[columns]) >= self.least


def _products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Dot products (m, n) of the rows of a (m, d) with those of b (n, d), all float32, or of int8 as int32."""
    if a.dtype != np.int8:
        return a @ b.T
    import torch

    products = np.empty((len(a), len(b)), dtype=np.int32)  # numpy's, as memory of PyTorch's own piles up between what is kept
    torch._int_mm(torch.from_numpy(a), torch.from_numpy(b).T, out=torch.from_numpy(products))
    return products


def _cheapest_screen(points: np.ndarray, distance: float) -> tuple[Callable[[np.ndarray], Screen], float]:
    """What makes the screen by which the pairs of points (n, d) within a distance are found soonest, and the share of such pairs.

    By their costs on a sample, in float32 products of one dimension: of the products, and of deciding each pair that passes.
    """
    n, d = points.shape
    # of two points that are near enough; the rest is more than products, or what they are taken of, are off by
    least = 1 - distance**2 / 2 - 3 * rounding_of_products(points)
    sample = points[np.random.default_rng(0).permutation(n)[: 4 * SAMPLE]]
    screens = {lambda points: Screen(points, least): d}
    if n > len(sample):
        axes = _principal_axes(sample)
        screens |= {partial(_leading, axes[:, :m], least): m for m in (d // 16, d // 8, d // 4, d // 2) if m}
    if n * n * d >= INT8_PAYS and _has_fast_int8():
        screens[partial(_in_int8, least)] = INT8_PRICE * d
    shares = [_share_that_passes(screen(sample)) for screen in screens]
    costs = [price + PAIR_PRICE * d * share for price, share in zip(screens.values(), shares, strict=True)]
    return list(screens)[np.argmin(costs)], shares[0]


def _share_that_passes(screen: Screen) -> float:
    """Of the pairs of one point of the first half with one of the second."""
    n = len(screen.vectors)
    return np.count_nonzero(screen.passes(slice(0, n // 2), slice(n // 2, n))) / max(1, n // 2 * (n - n // 2))


def _principal_axes(points: np.ndarray) -> np.ndarray:
    """Orthonormal axes (d, d), as columns, of which the first hold most of the squared lengths of the points."""
    return np.linalg.eigh((points.T @ points).astype(float))[1][:, ::-1].astype(np.float32)


def _leading(axes: np.ndarray, least: float, points: np.ndarray) -> Screen:
    """Coordinates of the points (n, d) along the axes (d, m), and the length of what is left of each.

    What is left of two points has a product of at most that of its lengths (Cauchy-Schwarz).
    """
    along = points @ axes
    left = np.maximum(0, 1 - np.einsum("nm,nm->n", along, along, dtype=float)) + 2 * rounding_of_products(points)
    return Screen(np.column_stack([along, np.sqrt(left).astype(np.float32)]), least)


def _in_int8(least: float, points: np.ndarray) -> Screen:
    """The points (n, d) in 255 steps; a product is off by at most what rounding adds to either point, and to both."""
    step = float(np.abs(points).max()) / 127

    def quantise(rows: slice) -> tuple[np.ndarray, float]:
        whole = np.rint(points[rows] / np.float32(step))
        return whole.astype(np.int8), np.linalg.norm(points[rows] - np.float32(step) * whole, axis=1).max()

    parts, off = zip(*threads.map(quantise, slices(len(points), BLOCK)), strict=True)
    return Screen(np.concatenate(parts), math.ceil((least - max(off) * (2 + max(off))) / step**2))


def _has_fast_int8() -> bool:
    """Whether this processor multiplies int8 several times as fast as float32, and PyTorch knows how to have it do so."""
    import torch

    return hasattr(torch, "_int_mm") and getattr(torch.cpu, "get_capabilities", dict)().get("avx512_vnni", False)


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Between the rows of a (m, d) and those of b, or the one that b is, from differences in float64."""
    difference = a - b.astype(float)
    return np.einsum("nd,nd->n", difference, difference)


def upper_blocks(n: int) -> list[tuple[slice, slice]]:
    """Blocks of rows and columns that hold each pair of n points once, and those on the diagonal twice."""
    return [(rows, columns) for rows in slices(n, BLOCK) for columns in slices(n, BLOCK, rows.start)]


def rounding_of_products(points: np.ndarray) -> float:
    """More than a float32 product of two of the points (n, d) of unit length is off by."""
    return 1e-6 + 2e-7 * math.sqrt(points.shape[1])


def on_sphere(points: np.ndarray) -> np.ndarray:
    """The normalised points (n, d) as they are; rows of zeros, which have no direction, get one of their own, (n, d + 1)."""
    zero = ~points.any(axis=1)
    return np.column_stack([points, zero.astype(points.dtype)]) if zero.any() else points
