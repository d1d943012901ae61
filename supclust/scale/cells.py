"""Approximate neighbours for very many points: sought in the nearest of many small cells instead of among all."""

from __future__ import annotations

import numpy as np

from supclust.engine import geometry, kmeans, threads

CELL = 256  # points of a cell, on average
PROBED = 16  # cells nearest to a point's own, it included, in which its neighbours are sought
SEED = 0  # of the cells
LARGEST = 4 * CELL  # points of a cell; more, as copies of one point are, are several cells
CHECKED = 200  # points that the recall is measured on


def pay(n: int, k: int) -> bool:
    """Whether n points are so many more than are probed for each that looking at all pairs, each once, takes longer.

    And the k nearest a small part of those that are probed.
    """
    return n > 4 * CELL * PROBED and 8 * k <= CELL * PROBED


def nearest_squares(points: np.ndarray, k: int) -> np.ndarray:
    """Squared distances (n, k) float32 from each of the points (n, d) to k others that are near; of the nearest, some are missed.

    An inverted file (Jegou, Douze & Schmid, 2011): k-means cells of 256 points, of which each point sees the 16 nearest to its own.
    """
    order, cells = _cells(points)
    left, right, _ = geometry.product_factors(points[order])
    centers = np.stack([left[cell, :-2].mean(axis=0) for cell in cells])
    sizes = np.array([cell.stop - cell.start for cell in cells])
    best = np.full((len(points), k), -np.inf, dtype=np.float32)

    def search(own: int) -> None:
        cell, size = cells[own], cells[own].stop - cells[own].start
        first = geometry.largest_on_diagonal(left[cell], right[cell], k)
        best[cell, : first.shape[1]] = first
        beyond = np.concatenate([right[:0], *(right[cells[i]] for i in _nearest_cells(centers, own, sizes, k) if i != own)])
        products = np.matmul(left[cell], beyond.T, out=threads.workspace("beyond", (size, len(beyond))))
        found = np.flatnonzero(products > best[cell].min(axis=1, keepdims=True))
        geometry.merge(best[cell], found // max(1, len(beyond)), products.ravel()[found])

    threads.map(search, range(len(cells)), "neighbours")
    squares = np.empty_like(best)
    squares[order] = np.maximum(-2 * best, 0)
    return squares


def _nearest_cells(centers: np.ndarray, own: int, sizes: np.ndarray, k: int) -> np.ndarray:
    """Those whose centres of (c, d) are nearest to a cell's own: PROBED, or more until they hold more than k points."""
    order = np.argsort(np.einsum("cd,cd->c", centers, centers) / 2 - centers @ centers[own], kind="stable")
    enough = np.searchsorted(np.cumsum(sizes[order]), k, side="right") + 1
    return order[: max(PROBED, enough)]


def _cells(points: np.ndarray) -> tuple[np.ndarray, list[slice]]:
    """An order (n,) of the points in which each cell is consecutive, and the cells in it, none of them empty."""
    centers = kmeans.quick_centers(points, -(-len(points) // CELL), SEED)
    nearest = np.concatenate([part.nearest for part in kmeans.passes(points)(centers)])
    ends = np.cumsum(np.bincount(nearest, minlength=len(centers)))
    cells = [part for start, end in zip([0, *ends[:-1]], ends, strict=True) for part in geometry.slices(end, LARGEST, start)]
    return np.argsort(nearest, kind="stable"), cells


def recall(points: np.ndarray, squares: np.ndarray) -> float:
    """Share of the k nearest of some of the points (n, d) that are among those found, at squared distances squares (n, k)."""
    rows = np.random.default_rng(SEED).choice(len(points), min(CHECKED, len(points)), replace=False)
    exact = geometry.nearest_exactly(points, lambda some: points[some].astype(float), rows, squares.shape[1])
    rounding = 1e-6 * squares[np.isfinite(squares)].max(initial=0)
    return float((squares[rows] <= (exact.max(axis=1, keepdims=True) ** 2) * (1 + 1e-4) + rounding).mean())
