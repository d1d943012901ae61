"""Closed balls of one radius around points of unit length: what lies in each of them, stored or counted anew."""

from __future__ import annotations

import math
import threading
from functools import cached_property

import numpy as np
from scipy import sparse

from supclust.engine import threads
from supclust.engine.geometry import slices
from supclust.pairs import BLOCK, rounding_of_products, squared_distances, upper_blocks

LARGEST_RADIUS = 2.0  # between points of unit length; a ball of it holds everything
COUNTED_ROWS = 255  # what a sum in uint8 can hold, which is many times as fast as one in a wider type


class StoredBalls:
    """Closed balls of one radius around n points, each with what lies in it; pairs: at least those that lie in each other's."""

    def __init__(self, n: int, a: np.ndarray, b: np.ndarray, squared: np.ndarray, radius: float) -> None:
        a, b = (np.concatenate([ends[squared <= radius**2], np.arange(n, dtype=np.int32)]) for ends in (a, b))
        upper = sparse.csr_array((np.ones(len(a), dtype=np.int32), (a, b)), shape=(n, n))
        self.inside = upper + upper.T - sparse.eye_array(n, dtype=np.int32, format="csr")
        self.sizes = self.inside.sum(axis=1)

    def cover(self, centers: np.ndarray) -> np.ndarray:
        """Whether each of the points (n,) lies in a ball around one of centers (m,), which are indices."""
        chosen = np.zeros(self.inside.shape[0], dtype=np.int32)
        chosen[centers] = 1
        return self.inside @ chosen > 0

    def count_uncovered(self, covered: np.ndarray) -> np.ndarray:
        """How many points that are not covered (n,) lie in each ball, (n,)."""
        return self.inside @ (~covered).astype(np.int32)


class Balls:
    """Closed balls of one radius around points (n, d) of unit length; which point lies in which is never stored.

    Pairs whose float32 product leaves it open are decided in float64, so that a pair is decided alike whenever it comes up: counts
    can then be kept up to date by adding and subtracting.
    """

    def __init__(self, points: np.ndarray, radius: float) -> None:
        self.points, self.rounding = points, rounding_of_products(points)
        # below this radius float32 would leave open even which points are copies of each other
        self.radius = min(max(radius, 2 * math.sqrt(self.rounding)), LARGEST_RADIUS)
        n = len(points)
        self._latest = np.ones(n, dtype=bool), np.zeros(n, dtype=np.int64)

    @cached_property
    def sizes(self) -> np.ndarray:
        """Number of points (n,) in each ball."""
        sizes, lock = np.zeros(len(self.points), dtype=np.int64), threading.Lock()

        def add(block: tuple[slice, slice]) -> None:
            rows, columns = block
            inside = self._inside(np.arange(rows.start, rows.stop), columns)
            in_columns, in_rows = _count_rows(inside), inside.sum(axis=1) if rows != columns else 0
            with lock:
                sizes[columns] += in_columns
                sizes[rows] += in_rows

        threads.map(add, upper_blocks(len(self.points)), "ProbCover: balls")
        return sizes

    def cover(self, centers: np.ndarray) -> np.ndarray:
        """Whether each of the points (n,) lies in a ball around one of centers (m,), which are indices."""
        return self.count(centers) > 0

    def count(self, members: np.ndarray) -> np.ndarray:
        """How many of members (m,), which are indices, lie in each ball, (n,)."""
        parts = slices(len(members), BLOCK)

        def count_columns(columns: slice) -> np.ndarray:
            counts = [_count_rows(self._inside(members[part], columns)) for part in parts]
            return np.sum([np.zeros(columns.stop - columns.start, dtype=np.int64), *counts], axis=0)

        return np.concatenate(threads.map(count_columns, slices(len(self.points), BLOCK)))

    def count_uncovered(self, covered: np.ndarray) -> np.ndarray:
        """How many points that are not covered (n,) lie in each ball, (n,).

        Goes from the counts of the last call, or of when nothing is covered, whichever differs in fewer points.
        """
        nothing = np.zeros(len(self.points), dtype=bool), self.sizes
        before, counts = min(nothing, self._latest, key=lambda state: np.count_nonzero(state[0] != covered))
        counts = counts - self.count(np.flatnonzero(covered & ~before)) + self.count(np.flatnonzero(before & ~covered))
        self._latest = covered, counts
        return counts

    def _inside(self, rows: np.ndarray, columns: slice) -> np.ndarray:
        """Whether |a - b| <= radius, (rows, columns): from the products ab, as |a - b|^2 = 2 - 2ab."""
        products = self.points[rows] @ self.points[columns].T
        needed = 1 - self.radius**2 / 2
        inside, possible = products >= needed + self.rounding, products >= needed - self.rounding
        a, b = np.divmod(np.flatnonzero(inside != possible), inside.shape[1])
        for part in slices(len(a), BLOCK):
            pairs = self.points[rows[a[part]]], self.points[columns.start + b[part]]
            inside[a[part], b[part]] = squared_distances(*pairs) <= self.radius**2
        return inside


def _count_rows(inside: np.ndarray) -> np.ndarray:
    """Number of True in each column of (rows, columns)."""
    parts = [inside[rows].view(np.uint8) for rows in slices(len(inside), COUNTED_ROWS)]
    return np.sum([part.sum(axis=0, dtype=np.uint8) for part in parts], axis=0, dtype=np.int64)
