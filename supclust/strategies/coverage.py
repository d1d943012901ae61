"""The strategies that cover the feature space: Coreset by its farthest points, ProbCover by balls of one radius."""

from __future__ import annotations

import logging
import math
import threading

import numpy as np

from supclust.balls import LARGEST_RADIUS, Balls, StoredBalls
from supclust.engine import geometry, threads
from supclust.engine.geometry import slices
from supclust.pairs import BLOCK, SAMPLE, ClosePairs, on_sphere, rounding_of_products, squared_distances
from supclust.pool import Pool

log = logging.getLogger(__name__)

PURITY = 0.95  # share of the balls that hold points of one k-means cluster only (Yehuda et al., 2022)
FEW_PIECES = 3  # blocks of differences that take less time than starting threads for them


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
    lots = pool.lots(rng, order)  # the pool's own order does not tell points of one direction apart
    picks = np.empty(budget, dtype=np.int64)
    nearest = _squared_distance_to_nearest(points, points[pool.labeled])
    nearest[~pool.free] = -1  # nor does a pick lower these
    for i in threads.bar(range(budget), "Coreset"):
        picks[i] = _largest(nearest, lots)
        _lower_to_distances_from(picks[i], points, squares, nearest)
        nearest[picks[i]] = -1
    return picks


def _with_squares_and_order(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features as float32 (n, d), their squared lengths (n,) float64, and their canonical order (n,)."""
    points = geometry.check_features(features)
    parts = geometry.blocks(points.shape)
    squares = threads.map(lambda part: np.einsum("nd,nd->n", points[part], points[part], dtype=float), parts)
    return points, np.concatenate(squares), geometry.canonical_order(points)


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
        nearest[rows] = np.minimum(nearest[rows], squared_distances(points[rows], points[center]))

    parts = slices(len(nearer), BLOCK)
    if len(parts) > FEW_PIECES:
        threads.map(lower, parts)
    else:
        for part in parts:
            lower(part)


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
    lots, free = pool.lots(rng), pool.free
    covered = balls.cover(pool.labeled)
    picks = np.empty(budget, dtype=np.int64)
    for i in threads.bar(range(budget), "ProbCover"):
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
    return math.sqrt(max(0, min(2 - 2 * (product + 2 * rounding_of_products(points)), LARGEST_RADIUS**2)))


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

    return np.max(threads.map(largest, slices(len(points), BLOCK)), axis=0)


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
        for rows in slices(end, BLOCK, start)
        for columns in slices(len(points), BLOCK, end)  # those before it have met it already
    ]
    threads.map(raise_to_products, blocks, "ProbCover: delta")
    return result[np.argsort(order)]


def _close_pairs(pool: Pool) -> ClosePairs:
    return pool.shared(("close pairs",), lambda: ClosePairs(on_sphere(pool.points)))


def _balls(pool: Pool, radius: float) -> Balls | StoredBalls:
    def make() -> Balls | StoredBalls:
        balls = Balls(_close_pairs(pool).points, radius)
        pairs = _close_pairs(pool).within(balls.radius)
        return balls if pairs is None else StoredBalls(len(balls.points), *pairs, balls.radius)

    return pool.shared(("balls", radius), make)
