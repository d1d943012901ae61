"""The strategies that cover the feature space: Coreset by its farthest points, ProbCover by balls of one radius."""

import logging
import math

import numpy as np
from scipy.sparse import csr_array

from supclust.engine import geometry, threads
from supclust.pool import Pool

log = logging.getLogger(__name__)

BLOCK = 1000  # points a side of a block of products, 4 MB in float32
PAIRS = 2**27  # of points in each other's ball, which take 1 GB, and as much again while they are put together
BALLS = 1000  # whose median is taken for that of all
PURITY = 0.95  # share of the balls that hold points of one k-means cluster only (Yehuda et al., 2022)
LARGEST_RADIUS = 2.0  # between points of unit length; a ball of it holds everything


def coreset(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """Greedy k-centre (Sener & Savarese, 2018): each pick is the point farthest from all that are labelled or picked.

    Distances are between what the model's last layer sees, where training has changed it, else between the raw features. Where
    nothing is labelled, the first pick is random.
    """
    if pool.model is not None and pool.model.learned:
        points, squares, order = _with_squares_and_order(pool.model.points)
    else:
        points, squares, order = pool.shared(("raw",), lambda: _with_squares_and_order(pool.features))
    tie_breakers = pool.tie_breakers(rng, order)  # the pool's own order does not tell points of one direction apart
    picks, nearest = np.empty(budget, dtype=np.int64), np.full(len(points), np.inf)
    if len(pool.labeled):
        nearest = geometry.distances(points, points[pool.labeled]).min(axis=1) ** 2
    nearest[~pool.free] = -1  # nor does a pick lower these
    for i in threads.progress(range(budget), "Coreset"):
        picks[i] = largest(nearest, tie_breakers)
        _lower_to_distances_from(picks[i], points, squares, nearest)
        nearest[picks[i]] = -1
    return picks


def _with_squares_and_order(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features as float32 (n, d), their squared lengths (n,) float64, and their canonical order (n,)."""
    points = geometry.check_features(features)
    return points, np.einsum("nd,nd->n", points, points, dtype=float), geometry.canonical_order(points)


def _lower_to_distances_from(center: int, points: np.ndarray, squares: np.ndarray, nearest: np.ndarray) -> None:
    """Lower nearest (n,) to the squared distance from one of the points (n, d), whose squared lengths are squares (n,).

    |x|^2 + |c|^2 - 2xc in float32, less all that rounding can add, rules out most points; of the others differences are taken.
    """
    rounding, smallest = np.finfo(np.float32).eps * (points.shape[1] + 4), np.finfo(np.float32).tiny * points.shape[1]
    both = squares + squares[center]
    with np.errstate(over="ignore", invalid="ignore"):
        far = both - 2 * (points @ points[center]).astype(float) - rounding * both - smallest >= nearest
    nearer = np.flatnonzero(~far & (nearest >= 0))  # where a product overflowed, far is False
    for part in geometry.slices(len(nearer), BLOCK):
        rows = nearer[part]
        nearest[rows] = np.minimum(nearest[rows], squared_distances(points[rows], points[center]))


def largest(scores: np.ndarray, tie_breakers: np.ndarray) -> int:
    """Index of the largest score; of those that tie, the one with the largest tie-breaker."""
    ties = np.flatnonzero(scores == scores.max())
    return ties[tie_breakers[ties].argmax()]


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances (m,) between the rows of a (m, d) and b, (m, d) or (d,), from differences in float64."""
    difference = a - b.astype(float)
    return np.einsum("nd,nd->n", difference, difference)


def probcover(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """Probability coverage (Yehuda et al., 2022): each pick is the point whose ball holds most points that no ball covers yet.

    Balls are of one radius around normalised features: settings.radius, or `radius_by_share` where settings.ball_share is set, else
    `radius_by_purity`. Those of the labelled points cover from the start. Of points that tie, as all do once everything is covered,
    a random one is picked.
    """
    radius = pool.settings.radius or (radius_by_share(pool) if pool.settings.ball_share else radius_by_purity(pool, budget))
    balls = pool.shared(("balls", radius), lambda: ball_graph(pool.points, radius))
    tie_breakers, free, uncovered = pool.tie_breakers(rng), pool.free, np.ones(len(pool.features), dtype=np.int32)
    uncovered[balls[pool.labeled].indices] = 0
    counts, picks = balls @ uncovered, np.empty(budget, dtype=np.int64)
    for i in threads.progress(range(budget), "ProbCover"):
        picks[i] = largest(np.where(free, counts, -1), tie_breakers)
        free[picks[i]] = False
        ball = balls[picks[i : i + 1]].indices
        newly = ball[uncovered[ball] > 0]
        uncovered[newly] = 0
        counts = counts - np.bincount(balls[newly].indices, minlength=len(counts))
    return picks


def radius_by_purity(pool: Pool, budget: int) -> float:
    """ProbCover's delta: the largest radius at which 95 % of the balls hold points of one k-means cluster only.

    K clusters stand for the classes: settings.n_classes of them, else as many as are queried, and at least two. A ball is pure as
    long as the nearest point of another cluster is outside of it, so delta is a quantile of the distances to those points.
    """
    n_clusters = min(max(pool.settings.n_classes or budget, 2), len(pool.features))

    def compute() -> float:
        points = on_sphere(pool.points)
        nearest = _largest_products_with_others(points, pool.clusters(n_clusters).members)
        impure = len(points) - math.ceil(round(PURITY * len(points), 9))  # balls that may be
        product = float(-np.partition(-nearest, impure)[impure]) + 2 * rounding_of_products(points.shape[1])
        radius = math.sqrt(max(0, min(2 - 2 * product, LARGEST_RADIUS**2)))
        log.info("delta = %.3f, by purity of at least %d %% with K = %d clusters", radius, 100 * PURITY, n_clusters)
        return radius

    return pool.shared(("delta", n_clusters), compute)


def radius_by_share(pool: Pool) -> float:
    """The radius at which the median ball holds settings.ball_share of the pool, from up to 1,000 balls; this rule is ours."""
    share = pool.settings.ball_share

    def compute() -> float:
        points = on_sphere(pool.points)
        centers = points[pool.normalised.order[:: -(-len(points) // BALLS)]]
        radii = [np.quantile(geometry.distances(points, some), share, axis=0) for some in np.array_split(centers, 20) if len(some)]
        radius = float(np.median(np.concatenate(radii)))
        log.info("delta = %.3f, where the median ball holds %.3g %% of the points", radius, 100 * share)
        return radius

    return pool.shared(("delta of share", share), compute)


def _largest_products_with_others(points: np.ndarray, clusters: list[np.ndarray]) -> np.ndarray:
    """Largest dot product (n,) of each of the points (n, d), in the clusters' order, with a point of another; -inf without any."""
    ends, points = np.cumsum([len(members) for members in clusters]), points[np.concatenate(clusters)]
    blocks = [(rows, own) for own in map(slice, [0, *ends[:-1]], ends) for rows in geometry.slices(own.stop, BLOCK, own.start)]

    def of_rows(block: tuple[slice, slice]) -> np.ndarray:
        (rows, own), largest = block, -np.inf
        for others in geometry.slices(own.start, BLOCK) + geometry.slices(len(points), BLOCK, own.stop):
            largest = np.maximum(largest, (points[rows] @ points[others].T).max(axis=1))
        return np.broadcast_to(largest, rows.stop - rows.start)

    return np.concatenate(threads.map(of_rows, blocks, "ProbCover: delta"))


def ball_graph(points: np.ndarray, radius: float) -> csr_array:
    """Whether |a - b| <= radius for each pair of points (n, d) of unit length: a sparse matrix (n, n) of ones, int32.

    |a - b|^2 = 2 - 2ab, and float64 decides what a float32 product leaves open. ValueError for more than 2^27 pairs: 2 GB.
    """
    points, rounding = on_sphere(points), rounding_of_products(points.shape[1])
    # below this radius float32 would leave open even which points are copies of each other
    radius = min(max(radius, 2 * math.sqrt(rounding)), LARGEST_RADIUS)
    needed, n, pairs = 1 - radius**2 / 2, len(points), 0

    def of_block(block: tuple[slice, slice]) -> tuple[np.ndarray, np.ndarray]:
        nonlocal pairs
        rows, columns = block
        products = points[rows] @ points[columns].T
        a, b = np.nonzero(products >= needed - rounding)
        inside = products[a, b] >= needed + rounding
        a, b, left_open = rows.start + a, columns.start + b, ~inside
        inside[left_open] = squared_distances(points[a[left_open]], points[b[left_open]]) <= radius**2
        pairs += 2 * np.count_nonzero(inside)
        if pairs > PAIRS:
            raise ValueError(
                f"more than {PAIRS} pairs of the {n} points lie within ProbCover's radius {radius:.3f}: set probcover:radius="
            )
        return a[inside], b[inside]

    parts = geometry.slices(n, BLOCK)
    blocks = [(rows, columns) for i, rows in enumerate(parts) for columns in parts[i:]]
    a, b = map(np.concatenate, zip(*threads.map(of_block, blocks, "ProbCover: balls"), strict=True))
    half = csr_array((np.ones(len(a), dtype=np.int32), (a, b)), shape=(n, n))
    return half.maximum(half.T)


def rounding_of_products(d: int) -> float:
    """A float32 product of two points of unit length in d dimensions is off by less than this."""
    return 1e-6 + 2e-7 * math.sqrt(d)


def on_sphere(points: np.ndarray) -> np.ndarray:
    """The normalised points (n, d) as they are; rows of zeros, which have no direction, get one of their own, (n, d + 1)."""
    zero = ~points.any(axis=1)
    return np.column_stack([points, zero.astype(points.dtype)]) if zero.any() else points
