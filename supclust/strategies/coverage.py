"""The strategies that cover the feature space: Coreset by its farthest points, ProbCover by balls of one radius."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from scipy import sparse

from supclust import geometry, threads
from supclust.strategies.pool import Pool

log = logging.getLogger(__name__)

PURITY = 0.95  # share of the balls that hold points of one k-means cluster only (Yehuda et al., 2022)
LARGEST_RADIUS = 2.0  # between points of unit length; a ball of it holds everything
BLOCK = 1000  # points a side of a block of products, 4 MB in float32; a power of two is slow where a block is transposed
FEW_PIECES = 3  # blocks of differences that take less time than starting threads for them
COUNTED_ROWS = 255  # what a sum in uint8 can hold, which is many times as fast as one in a wider type
MOST_NEIGHBOURS = 100  # of a point, on average, that are stored, in 16 bytes each; where there are more, nothing is
SAMPLE = 1000  # points from which to estimate how many neighbours there are and how near those of other clusters
PAIR_PRICE = 250  # of deciding a pair by its differences in float64, in float32 products of the two points
INT8_PRICE = 0.4  # of a product in int8, where the processor has instructions for it
INT8_PAYS = 3e11  # multiplications from which int8 saves more time than importing PyTorch may take


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
    blocks = range(0, len(points), BLOCK)
    return np.concatenate([geometry.distances(points[i : i + BLOCK], centers).min(axis=1) for i in blocks]) ** 2


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

    def lower(part: slice) -> None:
        rows = nearer[part]
        nearest[rows] = np.minimum(nearest[rows], _squared_distances(points[rows], points[center]))

    parts = list(_slices(0, len(nearer), BLOCK))
    if len(parts) > FEW_PIECES:
        threads.map(lower, parts)
    else:
        for part in parts:
            lower(part)


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Between the rows of a (m, d) and those of b, or the one that b is, from differences in float64."""
    difference = a - b.astype(float)
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
        radius = _largest_pure_radius(_close_pairs(pool), pool.clusters(n_clusters).assignments)
        log.info("delta = %.3f, by purity of at least %d %% with K = %d clusters", radius, 100 * PURITY, n_clusters)
        return radius

    return pool.shared(("delta", n_clusters), compute)


def _largest_pure_radius(close: ClosePairs, assignments: np.ndarray) -> float:
    """Largest radius at which at most 5 % of the balls hold a point of another cluster.

    A sample tells within which distance more than 5 % of the points have one; among the pairs that lie as near, if they are few
    enough to be stored, is then the one that sets the radius. Else, or should the sample mislead, all pairs are gone through.
    """
    points = close.points
    impure = len(points) - math.ceil(round(PURITY * len(points), 9))  # that many may be
    product = _quantile_among_pairs(close, assignments, impure) if len(points) > SAMPLE else None
    if product is None:
        product = _from_largest(_largest_product_with_others(points, assignments), impure)
    return math.sqrt(max(0, min(2 - 2 * (product + 2 * _rounding(points)), LARGEST_RADIUS**2)))


def _quantile_among_pairs(close: ClosePairs, assignments: np.ndarray, rank: int) -> float | None:
    """Of the points' largest products with another cluster, the one at that rank from the largest; None if it is not found."""
    share = (rank + 1) / len(assignments)
    margin = 5 * math.sqrt(SAMPLE * share * (1 - share))  # five standard errors
    sampled = _sampled_product_with_others(close.points, assignments)
    product = _from_largest(sampled, min(math.ceil(SAMPLE * share + margin), SAMPLE - 1))
    pairs = close.within(math.sqrt(max(0.0, min(2 - 2 * product, LARGEST_RADIUS**2))))
    if pairs is None:
        return None
    a, b, squared = pairs
    apart, nearest = assignments[a] != assignments[b], np.full(len(assignments), np.inf)
    for ends in (a, b):
        np.minimum.at(nearest, ends[apart], squared[apart])
    found = np.partition(nearest, rank)[rank]
    return 1 - found / 2 if np.isfinite(found) else None


def _from_largest(values: np.ndarray, rank: int) -> float:
    """The value at that rank from the largest, which has rank 0."""
    return float(-np.partition(-values, rank)[rank])


def _sampled_product_with_others(points: np.ndarray, assignments: np.ndarray) -> np.ndarray:
    """Largest dot product (SAMPLE,) of a random sample of the points (n, d) with a point of another cluster."""
    rows = np.random.default_rng(0).choice(len(points), SAMPLE, replace=False)

    def largest(columns: slice) -> np.ndarray:
        products = points[rows] @ points[columns].T
        products[assignments[rows][:, None] == assignments[columns]] = -np.inf
        return products.max(axis=1)

    return np.max(threads.map(largest, _slices(0, len(points), BLOCK)), axis=0)


def _largest_product_with_others(points: np.ndarray, assignments: np.ndarray) -> np.ndarray:
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
        for rows in _slices(start, end, BLOCK)
        for columns in _slices(end, len(points), BLOCK)  # those before it have met it already
    ]
    threads.map(raise_to_products, blocks, "ProbCover: delta")
    return result[np.argsort(order)]


def _close_pairs(pool: Pool) -> ClosePairs:
    return pool.shared(("close pairs",), lambda: ClosePairs(_on_sphere(pool.points)))


def _balls(pool: Pool, radius: float) -> Balls | StoredBalls:
    def make() -> Balls | StoredBalls:
        balls = Balls(_close_pairs(pool).points, radius)
        pairs = _close_pairs(pool).within(balls.radius)
        return balls if pairs is None else StoredBalls(len(balls.points), *pairs, balls.radius)

    return pool.shared(("balls", radius), make)


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
        squared = [_squared_distances(points[a[part]], points[b[part]]) for part in _slices(0, len(a), BLOCK)]
        squared = np.concatenate([np.empty(0), *squared])
        near = squared <= distance**2
        return a[near], b[near], squared[near]

    with _single_threaded_torch() if screen.vectors.dtype == np.int8 else nullcontext():
        found = threads.map(find, _upper_blocks(len(points)), "ProbCover: near points")
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


@contextmanager
def _single_threaded_torch() -> Iterator[None]:
    """As `threads.map` does for numpy; threads that are begun inside take the setting over."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cheapest_screen(points: np.ndarray, distance: float) -> tuple[Callable[[np.ndarray], Screen], float]:
    """What makes the screen by which the pairs of points (n, d) within a distance are found soonest, and the share of such pairs.

    By their costs on a sample, in float32 products of one dimension: of the products, and of deciding each pair that passes.
    """
    n, d = points.shape
    # of two points that are near enough; the rest is more than products, or what they are taken of, are off by
    least = 1 - distance**2 / 2 - 3 * _rounding(points)
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
    left = np.maximum(0, 1 - np.einsum("nm,nm->n", along, along, dtype=float)) + 2 * _rounding(points)
    return Screen(np.column_stack([along, np.sqrt(left).astype(np.float32)]), least)


def _in_int8(least: float, points: np.ndarray) -> Screen:
    """The points (n, d) in 255 steps; a product is off by at most what rounding adds to either point, and to both."""
    step = float(np.abs(points).max()) / 127

    def quantise(rows: slice) -> tuple[np.ndarray, float]:
        whole = np.rint(points[rows] / np.float32(step))
        return whole.astype(np.int8), np.linalg.norm(points[rows] - np.float32(step) * whole, axis=1).max()

    parts, off = zip(*threads.map(quantise, _slices(0, len(points), BLOCK)), strict=True)
    return Screen(np.concatenate(parts), math.ceil((least - max(off) * (2 + max(off))) / step**2))


def _has_fast_int8() -> bool:
    """Whether this processor multiplies int8 several times as fast as float32, and PyTorch knows how to have it do so."""
    import torch

    return hasattr(torch, "_int_mm") and getattr(torch.cpu, "get_capabilities", dict)().get("avx512_vnni", False)


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
        self.points, self.rounding = points, _rounding(points)
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

        threads.map(add, _upper_blocks(len(self.points)), "ProbCover: balls")
        return sizes

    def cover(self, centers: np.ndarray) -> np.ndarray:
        """Whether each of the points (n,) lies in a ball around one of centers (m,), which are indices."""
        return self.count(centers) > 0

    def count(self, members: np.ndarray) -> np.ndarray:
        """How many of members (m,), which are indices, lie in each ball, (n,)."""
        parts = list(_slices(0, len(members), BLOCK))

        def count_columns(columns: slice) -> np.ndarray:
            counts = [_count_rows(self._inside(members[part], columns)) for part in parts]
            return np.sum([np.zeros(columns.stop - columns.start, dtype=np.int64), *counts], axis=0)

        return np.concatenate(threads.map(count_columns, _slices(0, len(self.points), BLOCK)))

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
        for part in _slices(0, len(a), BLOCK):
            pairs = self.points[rows[a[part]]], self.points[columns.start + b[part]]
            inside[a[part], b[part]] = _squared_distances(*pairs) <= self.radius**2
        return inside


def _count_rows(inside: np.ndarray) -> np.ndarray:
    """Number of True in each column of (rows, columns)."""
    parts = [inside[rows].view(np.uint8) for rows in _slices(0, len(inside), COUNTED_ROWS)]
    return np.sum([part.sum(axis=0, dtype=np.uint8) for part in parts], axis=0, dtype=np.int64)


def _upper_blocks(n: int) -> list[tuple[slice, slice]]:
    """Blocks of rows and columns that hold each pair of n points once, and those on the diagonal twice."""
    return [(rows, columns) for rows in _slices(0, n, BLOCK) for columns in _slices(rows.start, n, BLOCK)]


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
