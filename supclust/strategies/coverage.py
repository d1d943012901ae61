"""The strategies that cover the feature space: Coreset by its farthest points, ProbCover by balls of one radius."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from functools import cached_property

import numpy as np

from supclust import geometry
from supclust.strategies.pool import Pool

log = logging.getLogger(__name__)

PURITY = 0.95  # share of the balls that hold points of one k-means cluster only (Yehuda et al., 2022)
LARGEST_RADIUS = 2.0  # between points of unit length; a ball of it holds everything
BLOCK_ROWS, BLOCK_COLUMNS = 1020, 8192  # of products of points with points: 32 MB in float32
COUNTED_ROWS = 255  # what a sum in uint8 can hold, which is many times as fast as one in a wider type


def coreset(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """Greedy k-centre (Sener & Savarese, 2018): each pick is the point farthest from all that are labelled or picked.

    Distances are between what the model's last layer sees, where training has changed it, else between the raw features. Where
    nothing is labelled, the first pick is random.
    """
    learned = None if pool.model is None else pool.model.penultimate
    points = geometry.check_features(pool.features if learned is None else learned)
    squares = np.einsum("nd,nd->n", points, points, dtype=float)
    lots = pool.lots(rng, geometry.canonical_order(points))  # the pool's own does not tell points of one direction apart
    picks = np.empty(budget, dtype=np.int64)
    nearest = _squared_distance_to_nearest(points, points[pool.labeled])
    nearest[pool.labeled] = -1
    for i in range(budget):
        picks[i] = _largest(nearest, lots)
        _lower_to_distances_from(picks[i], points, squares, nearest)
        nearest[picks[i]] = -1
    return picks


def _squared_distance_to_nearest(points: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Squared distance (n,) float64 from each of the points (n, d) to the nearest of the centers (m, d); inf where m = 0."""
    if len(centers) == 0:
        return np.full(len(points), np.inf)
    blocks = range(0, len(points), BLOCK_ROWS)
    return np.concatenate([geometry.distances(points[i : i + BLOCK_ROWS], centers).min(axis=1) for i in blocks]) ** 2


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
    for i in range(0, len(nearer), BLOCK_ROWS):
        rows = nearer[i : i + BLOCK_ROWS]
        nearest[rows] = np.minimum(nearest[rows], _squared_distances(points[rows], points[center]))


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Between the rows of a (m, d) and those of b, or the one that b is, from differences in float64."""
    difference = a.astype(float) - b
    return np.einsum("nd,nd->n", difference, difference)


def _largest(scores: np.ndarray, lots: np.ndarray) -> int:
    """Index of the largest score; of those that tie, the one with the largest lot."""
    ties = np.flatnonzero(scores == scores.max())
    return ties[lots[ties].argmax()]


def probcover(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """Probability coverage (Yehuda et al., 2022): each pick is the point whose ball holds most points that no ball covers yet.

    Balls are of one radius, settings.radius or `radius_by_purity`, around normalised features; those of the labelled points cover
    from the start. Points that tie, as all do once everything is covered, are picked from at random.
    """
    balls = _balls(pool, pool.settings.radius or radius_by_purity(pool, budget))
    lots, free = pool.lots(rng), np.ones(len(pool.features), dtype=bool)
    free[pool.labeled] = False
    covered = balls.cover(pool.labeled)
    picks = np.empty(budget, dtype=np.int64)
    for i in range(budget):
        picks[i] = _largest(np.where(free, balls.count_uncovered(covered), -1), lots)
        free[picks[i]] = False
        covered = covered | balls.cover(picks[i : i + 1])
    return picks


def radius_by_purity(pool: Pool, budget: int) -> float:
    """ProbCover's delta: the largest radius at which 95 % of the balls hold points of one k-means cluster only.

    K clusters stand for the classes: settings.n_classes of them, else as many as are queried, and at least two. A ball is pure as
    long as the nearest point of another cluster is outside of it, so delta is a quantile of the distances to those points.
    Computed once for each K, and logged.
    """
    n_clusters = min(max(pool.settings.n_classes or budget, 2), len(pool.features))

    def compute() -> float:
        radius = _largest_pure_radius(_on_sphere(pool.points), pool.clusters(n_clusters).assignments)
        log.info("delta = %.3f, by purity of at least %d %% with K = %d clusters", radius, 100 * PURITY, n_clusters)
        return radius

    return pool.shared(("delta", n_clusters), compute)


def _largest_pure_radius(points: np.ndarray, assignments: np.ndarray) -> float:
    """Largest radius at which at most 5 % of the balls hold a point of another cluster."""
    impure = len(points) - math.ceil(round(PURITY * len(points), 9))  # that many may be
    product = -np.partition(-_largest_product_with_others(points, assignments), impure)[impure]
    return math.sqrt(max(0, min(2 - 2 * (product + 2 * _rounding(points)), LARGEST_RADIUS**2)))


def _largest_product_with_others(points: np.ndarray, assignments: np.ndarray) -> np.ndarray:
    """Largest dot product (n,) of each of the points (n, d) with a point of another cluster; -inf where there is none."""
    order = np.argsort(assignments, kind="stable")
    points, result = points[order], np.full(len(points), -np.inf, dtype=np.float32)
    starts = np.flatnonzero(np.diff(assignments[order], prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(points)], strict=True):
        for rows in _slices(start, end, BLOCK_ROWS):
            for columns in _slices(end, len(points), BLOCK_COLUMNS):  # those before it have met it already
                products = points[rows] @ points[columns].T
                np.maximum(result[rows], products.max(axis=1), out=result[rows])
                np.maximum(result[columns], products.max(axis=0), out=result[columns])
    return result[np.argsort(order)]


def _balls(pool: Pool, radius: float) -> Balls:
    return pool.shared(("balls", radius), lambda: Balls(_on_sphere(pool.points), radius))


class Balls:
    """Closed balls of one radius around points (n, d) of unit length; which point lies in which is never stored.

    Pairs whose float32 product leaves it open are decided in float64, so that a pair is decided alike whenever it comes up: counts
    can then be kept up to date by adding and subtracting.
    """

    def __init__(self, points: np.ndarray, radius: float) -> None:
        self.points, self.rounding = points, _rounding(points)
        # below this radius float32 would leave open even which points are copies of each other
        self.radius = min(max(radius, 2 * math.sqrt(self.rounding)), LARGEST_RADIUS)
        n = len(points)
        self._latest = np.ones(n, dtype=bool), np.zeros(n, dtype=np.int64)

    @cached_property
    def sizes(self) -> np.ndarray:
        """Number of points (n,) in each ball."""
        sizes = np.zeros(len(self.points), dtype=np.int64)
        for rows in _slices(0, len(self.points), BLOCK_ROWS):
            for columns in _slices(rows.start, len(self.points), BLOCK_COLUMNS):
                inside = self._inside(np.arange(rows.start, rows.stop), columns)
                sizes[columns] += _count_rows(inside)
                beyond = inside[:, max(0, rows.stop - columns.start) :]  # the others were counted from the other side just now
                sizes[rows] += [np.count_nonzero(row) for row in beyond]
        return sizes

    def cover(self, centers: np.ndarray) -> np.ndarray:
        """Whether each of the points (n,) lies in a ball around one of centers (m,), which are indices."""
        covered = np.zeros(len(self.points), dtype=bool)
        for columns, inside in self._blocks(centers):
            covered[columns] |= inside.any(axis=0)
        return covered

    def count(self, members: np.ndarray) -> np.ndarray:
        """How many of members (m,), which are indices, lie in each ball, (n,)."""
        counts = np.zeros(len(self.points), dtype=np.int64)
        for columns, inside in self._blocks(members):
            counts[columns] += _count_rows(inside)
        return counts

    def count_uncovered(self, covered: np.ndarray) -> np.ndarray:
        """How many points that are not covered (n,) lie in each ball, (n,).

        Goes from the counts of the last call, or of when nothing is covered, whichever differs in fewer points.
        """
        nothing = np.zeros(len(self.points), dtype=bool), self.sizes
        before, counts = min(nothing, self._latest, key=lambda state: np.count_nonzero(state[0] != covered))
        counts = counts - self.count(np.flatnonzero(covered & ~before)) + self.count(np.flatnonzero(before & ~covered))
        self._latest = covered, counts
        return counts

    def _blocks(self, rows: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Which points lie in the balls around rows, bool (rows, columns), a block at a time, with the columns."""
        for part in _slices(0, len(rows), BLOCK_ROWS):
            for columns in _slices(0, len(self.points), BLOCK_COLUMNS):
                yield columns, self._inside(rows[part], columns)

    def _inside(self, rows: np.ndarray, columns: slice) -> np.ndarray:
        """Whether |a - b| <= radius, (rows, columns): from the products ab, as |a - b|^2 = 2 - 2ab."""
        products = self.points[rows] @ self.points[columns].T
        needed = 1 - self.radius**2 / 2
        inside, possible = products >= needed + self.rounding, products >= needed - self.rounding
        a, b = np.divmod(np.flatnonzero(inside != possible), inside.shape[1])
        for part in _slices(0, len(a), BLOCK_ROWS):
            pairs = self.points[rows[a[part]]], self.points[columns.start + b[part]]
            inside[a[part], b[part]] = _squared_distances(*pairs) <= self.radius**2
        return inside


def _count_rows(inside: np.ndarray) -> np.ndarray:
    """Number of True in each column of (rows, columns)."""
    parts = [inside[rows].view(np.uint8) for rows in _slices(0, len(inside), COUNTED_ROWS)]
    return np.sum([part.sum(axis=0, dtype=np.uint8) for part in parts], axis=0, dtype=np.int64)


def _rounding(points: np.ndarray) -> float:
    """More than a float32 product of two of the points (n, d) of unit length is off by."""
    return 1e-6 + 2e-7 * math.sqrt(points.shape[1])


def _on_sphere(points: np.ndarray) -> np.ndarray:
    """The normalised points (n, d) as they are; rows of zeros, which have no direction, get one of their own, (n, d + 1)."""
    zero = ~points.any(axis=1)
    return np.column_stack([points, zero.astype(points.dtype)]) if zero.any() else points


def _slices(start: int, end: int, step: int) -> Iterator[slice]:
    """Consecutive slices of start..end of at most step."""
    return (slice(i, min(i + step, end)) for i in range(start, end, step))
