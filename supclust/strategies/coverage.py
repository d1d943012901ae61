"""The strategies that cover the feature space: Coreset by its farthest points, ProbCover by balls of one radius."""

from __future__ import annotations

import logging
import math
import threading
from functools import cached_property

import numpy as np

from supclust.engine import geometry, threads
from supclust.engine.geometry import slices
from supclust.pool import Pool

log = logging.getLogger(__name__)

BLOCK = 1000  # points a side of a block of products, 4 MB in float32; a power of two is slow where a block is transposed
PURITY = 0.95  # share of the balls that hold points of one k-means cluster only (Yehuda et al., 2022)
LARGEST_RADIUS = 2.0  # between points of unit length; a ball of it holds everything


def coreset(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """Greedy k-centre (Sener & Savarese, 2018): each pick is the point farthest from all that are labelled or picked.

    Distances are between what the model's last layer sees, where training has changed it, else between the raw features. Where
    nothing is labelled, the first pick is random.
    """
    learned = None if pool.model is None else pool.model.penultimate
    if learned is None:
        points, squares, order = pool.shared(("raw",), lambda: _with_squares_and_order(pool.features))
    else:
        points, squares, order = _with_squares_and_order(learned)
    tie_breakers = pool.tie_breakers(rng, order)  # the pool's own order does not tell points of one direction apart
    picks, nearest = np.empty(budget, dtype=np.int64), np.full(len(points), np.inf)
    if len(pool.labeled):
        nearest = geometry.distances(points, points[pool.labeled]).min(axis=1) ** 2
    nearest[~pool.free] = -1  # nor does a pick lower these
    for i in threads.progress(range(budget), "Coreset"):
        picks[i] = _largest(nearest, tie_breakers)
        _lower_to_distances_from(picks[i], points, squares, nearest)
        nearest[picks[i]] = -1
    return picks


def _with_squares_and_order(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features as float32 (n, d), their squared lengths (n,) float64, and their canonical order (n,)."""
    points = geometry.check_features(features)
    return points, np.einsum("nd,nd->n", points, points, dtype=float), geometry.canonical_order(points)


def _lower_to_distances_from(center: int, points: np.ndarray, squares: np.ndarray, nearest: np.ndarray) -> None:
    """Lower nearest (n,) to the squared distance from one of the points (n, d), whose squared lengths are squares (n,).

    |x|^2 + |c|^2 - 2xc in float32, less all that rounding can add to it, rules out most points in one pass; the distances of the
    others are taken from the differences in float64.
    """
    rounding, smallest = np.finfo(np.float32).eps * (points.shape[1] + 4), np.finfo(np.float32).tiny * points.shape[1]
    both = squares + squares[center]
    with np.errstate(over="ignore", invalid="ignore"):
        far = both - 2 * (points @ points[center]).astype(float) - rounding * both - smallest >= nearest
    nearer = np.flatnonzero(~far & (nearest >= 0))  # where a product overflowed, far is False
    for part in slices(len(nearer), BLOCK):
        rows = nearer[part]
        nearest[rows] = np.minimum(nearest[rows], squared_distances(points[rows], points[center]))


def _largest(scores: np.ndarray, tie_breakers: np.ndarray) -> int:
    """Index of the largest score; of those that tie, the one with the largest tie-breaker."""
    ties = np.flatnonzero(scores == scores.max())
    return ties[tie_breakers[ties].argmax()]


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances (m,) between the rows of a (m, d) and b, (m, d) or (d,), from differences in float64."""
    difference = a - b.astype(float)
    return np.einsum("nd,nd->n", difference, difference)


def probcover(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """Probability coverage (Yehuda et al., 2022): each pick is the point whose ball holds most points that no ball covers yet.

    Balls are of one radius, settings.radius or `radius_by_purity`, around normalised features; those of the labelled points cover
    from the start. Points that tie, as all do once everything is covered, are picked from at random.
    """
    radius = pool.settings.radius or radius_by_purity(pool, budget)
    balls = pool.shared(("balls", radius), lambda: Balls(pool.points, radius))
    tie_breakers, free = pool.tie_breakers(rng), pool.free
    covered, picks = balls.count(pool.labeled) > 0, np.empty(budget, dtype=np.int64)
    for i in threads.progress(range(budget), "ProbCover"):
        picks[i] = _largest(np.where(free, balls.count_uncovered(covered), -1), tie_breakers)
        free[picks[i]] = False
        covered = covered | (balls.count(picks[i : i + 1]) > 0)
    return picks


def radius_by_purity(pool: Pool, budget: int) -> float:
    """ProbCover's delta: the largest radius at which 95 % of the balls hold points of one k-means cluster only.

    K clusters stand for the classes: settings.n_classes of them, else as many as are queried, and at least two. A ball is pure as
    long as the nearest point of another cluster is outside of it, so delta is a quantile of the distances to those points.
    Computed once for each K, and logged.
    """
    n_clusters = min(max(pool.settings.n_classes or budget, 2), len(pool.features))

    def compute() -> float:
        points = on_sphere(pool.points)
        nearest = _largest_products_with_others(points, pool.clusters(n_clusters).assignments)
        impure = len(points) - math.ceil(round(PURITY * len(points), 9))  # balls that may be
        product = float(-np.partition(-nearest, impure)[impure]) + 2 * rounding_of_products(points.shape[1])
        radius = math.sqrt(max(0, min(2 - 2 * product, LARGEST_RADIUS**2)))
        log.info("delta = %.3f, by purity of at least %d %% with K = %d clusters", radius, 100 * PURITY, n_clusters)
        return radius

    return pool.shared(("delta", n_clusters), compute)


def _largest_products_with_others(points: np.ndarray, assignments: np.ndarray) -> np.ndarray:
    """Largest dot product (n,) of each of the points (n, d) with a point of another cluster; -inf where there is none."""
    order = np.argsort(assignments, kind="stable")
    points, result = points[order], np.full(len(points), -np.inf, dtype=np.float32)
    starts, lock = np.flatnonzero(np.diff(assignments[order], prepend=-1)), threading.Lock()

    def raise_to_products(block: tuple[slice, slice]) -> None:
        products = points[block[0]] @ points[block[1]].T
        for side, axis in zip(block, (1, 0), strict=True):
            largest = products.max(axis=axis)
            with lock:
                np.maximum(result[side], largest, out=result[side])

    blocks = [
        (rows, columns)
        for start, end in zip(starts, [*starts[1:], len(points)], strict=True)
        for rows in slices(end, BLOCK, start)
        for columns in slices(len(points), BLOCK, end)  # those before it have met it already
    ]
    threads.map(raise_to_products, blocks, "ProbCover: delta")
    return result[np.argsort(order)]


class Balls:
    """Closed balls of one radius around points (n, d) of unit length, in memory that does not grow with the number of pairs.

    float64 decides the pairs that a float32 product leaves open. So a pair is decided alike whenever it comes up, and counts can be
    kept up to date by adding and subtracting.
    """

    def __init__(self, points: np.ndarray, radius: float) -> None:
        self.points, self.rounding = on_sphere(points), rounding_of_products(points.shape[1])
        # below this radius float32 would leave open even which points are copies of each other
        self.radius = min(max(radius, 2 * math.sqrt(self.rounding)), LARGEST_RADIUS)
        self._latest = np.ones(len(points), dtype=bool), np.zeros(len(points), dtype=np.int64)

    @cached_property
    def sizes(self) -> np.ndarray:
        """Number of points (n,) in each ball."""
        sizes, lock, parts = np.zeros(len(self.points), dtype=np.int64), threading.Lock(), slices(len(self.points), BLOCK)

        def add(block: tuple[slice, slice]) -> None:
            rows, columns = block
            inside = self._inside(np.arange(rows.start, rows.stop), columns)
            with lock:
                sizes[columns] += np.count_nonzero(inside, axis=0)
                sizes[rows] += np.count_nonzero(inside, axis=1) if rows != columns else 0

        pairs = [(rows, columns) for i, rows in enumerate(parts) for columns in parts[i:]]
        threads.map(add, pairs, "ProbCover: balls")
        return sizes

    def count(self, members: np.ndarray) -> np.ndarray:
        """Number of members (m,), which are indices, in each ball, (n,)."""

        def count_columns(columns: slice) -> np.ndarray:
            counts = np.zeros(columns.stop - columns.start, dtype=np.int64)
            for part in slices(len(members), BLOCK):
                counts += np.count_nonzero(self._inside(members[part], columns), axis=0)
            return counts

        return np.concatenate(threads.map(count_columns, slices(len(self.points), BLOCK)))

    def count_uncovered(self, covered: np.ndarray) -> np.ndarray:
        """Number of points that are not covered (n,) in each ball, (n,).

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


def rounding_of_products(d: int) -> float:
    """A float32 product of two points of unit length in d dimensions is off by less than this."""
    return 1e-6 + 2e-7 * math.sqrt(d)


def on_sphere(points: np.ndarray) -> np.ndarray:
    """The normalised points (n, d) as they are; rows of zeros, which have no direction, get one of their own, (n, d + 1)."""
    zero = ~points.any(axis=1)
    return np.column_stack([points, zero.astype(points.dtype)]) if zero.any() else points
