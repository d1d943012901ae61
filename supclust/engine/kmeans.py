"""k-means: Lloyd's algorithm in the leading dimensions of a sample first, then in all dimensions, then on all the points."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from supclust.engine import threads
from supclust.engine.geometry import Points, blocks

SAMPLE = 2**16, 256  # points, and points per cluster, whichever is more, that the centres are found on
SEEDED = 2**12, 16  # the same, that k-means++ goes through
LEADING = 64  # dimensions that the centres are found in
RESTARTS = 40  # divided by the number of clusters: where they are few, a bad start is costly, and another one is cheap
TRIALS = 3  # of k-means++ for each centre
LEADING_STOP = 25, 3e-4  # passes in the leading dimensions; share of the inertia that the last one gained
FULL_STOP = 8, 1e-3  # the same in all dimensions


class Pass(NamedTuple):
    """Points (m, d) assigned to centres (K, d)."""

    nearest: np.ndarray  # centre of each point, (m,)
    score: float  # sum of x c - |c|^2 / 2, which is half of |x|^2 - |x - c|^2
    sums: np.ndarray  # of the points of each centre, (K, d)
    counts: np.ndarray  # of the points of each centre, (K,)


def kmeans(points: Points, n_clusters: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """k-means clusters of points (n, d): assignments (n,) int64 in 0..K-1, and centers (K, d) float32.

    Each point is assigned to the nearest centre, which is close to the mean of its cluster. Centres are seeded by greedy k-means++
    (Arthur & Vassilvitskii, 2007) on a few thousand points, improved on a sample of 65,536, or 256 per cluster if that is more, in
    its 64 leading dimensions (this scheme is ours), then in all, then on all the points, each until a pass gains little.
    The same seed gives the same clusters, with any number of threads and in any order of the points, in pools larger than the
    sample up to the rounding of sums. Raises ValueError if there are fewer points than clusters.
    """
    n = points.shape[0]
    if not 1 <= n_clusters <= n:
        raise ValueError(f"{n_clusters} clusters of {n} points: there must be at least one, and at least a point for each")
    rng = np.random.default_rng([seed, n_clusters])
    size = min(n, max(SAMPLE[0], SAMPLE[1] * n_clusters))
    drawn = points.order if size == n else points.order[np.sort(rng.choice(n, size, replace=False))]
    centers, nearest = _of_sample(points[drawn], n_clusters, rng)
    if size == n:
        return nearest[np.argsort(drawn)].astype(np.int64), centers
    centers, last = _lloyd(points, centers, n, FULL_STOP)
    return last.nearest.astype(np.int64), centers


def _of_sample(sample: np.ndarray, n_clusters: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Centres (K, d) of a sample (m, d), which is overwritten, and the nearest one of each of its points (m,)."""
    parts = blocks(sample.shape)
    sums = threads.map(lambda part: sample[part].sum(axis=0, dtype=float), parts)
    mean = (np.sum(sums, axis=0) / len(sample)).astype(np.float32)
    threads.map(lambda part: np.subtract(sample[part], mean, out=sample[part]), parts)
    leading, squares = _in_leading_dimensions(sample, rng), _squares(sample)
    centers, last = _lloyd(leading, _start(leading, n_clusters, rng), _squares(leading), LEADING_STOP)
    if leading is not sample:
        sums = _total(threads.map(lambda part: _sums(sample[part], last.nearest[part], n_clusters), parts))
        centers = _means(sums, last.counts, np.zeros((n_clusters, sample.shape[1])))
        inertia = squares - float(last.counts @ (centers.astype(float) ** 2).sum(axis=1))
        centers, last = _lloyd(sample, centers, squares, FULL_STOP, inertia)
    return centers + mean, last.nearest


def _in_leading_dimensions(sample: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A sample (m, d) in the space of its leading principal axes, (m, LEADING); itself if it has not many dimensions more."""
    if sample.shape[1] < 1.5 * LEADING or len(sample) < LEADING:
        return sample
    from sklearn.utils.extmath import randomized_range_finder  # half a second that most of the package does not need

    some = sample[rng.choice(len(sample), min(len(sample), SEEDED[0]), replace=False)]
    with threads.alone():
        state = np.random.RandomState(rng.integers(2**31))
        axes = randomized_range_finder(some.T, size=LEADING, n_iter=2, random_state=state).astype(np.float32)
    return np.concatenate(threads.map(lambda part: sample[part] @ axes, blocks(sample.shape)))


def _start(points: np.ndarray, n_clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Centres (K, d) to begin with: of some tries on a part of the points (m, d), those with the least inertia on all."""
    size = min(len(points), max(SEEDED[0], SEEDED[1] * n_clusters))

    def attempt(rng: np.random.Generator) -> np.ndarray:
        part = points[np.sort(rng.choice(len(points), size, replace=False))]
        return _lloyd(part, _plus_plus(part, n_clusters, rng), _squares(part), LEADING_STOP)[0]

    tries = threads.map(attempt, rng.spawn(max(1, RESTARTS // n_clusters)))
    if len(tries) == 1:
        return tries[0]
    return max(tries, key=lambda centers: _assign(points, centers).score)


def _plus_plus(points: np.ndarray, n_clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Greedy k-means++: each centre (K, d) is the best of a few points drawn by their squared distance to the nearest centre."""
    squares = np.einsum("nd,nd->n", points, points)
    chosen = [rng.integers(len(points))]
    nearest = np.maximum(squares + squares[chosen[0]] - 2 * (points @ points[chosen[0]]), 0)
    for _ in range(n_clusters - 1):
        threads.raise_if_stopped()
        upto = np.cumsum(nearest, dtype=float)
        drawn = np.minimum(np.searchsorted(upto, rng.random(TRIALS) * upto[-1]), len(points) - 1)
        lowered = squares + squares[drawn, None] - 2 * (points[drawn] @ points.T)
        np.clip(lowered, 0, nearest, out=lowered)
        best = lowered.sum(axis=1).argmin()
        nearest = lowered[best]
        chosen.append(drawn[best])
    return points[chosen]


def _lloyd(
    points: np.ndarray | Points, centers: np.ndarray, squares: float, stop: tuple[int, float], inertia: float = np.inf
) -> tuple[np.ndarray, Pass]:
    """Move centres to the means of their points until that gains little; returns the last centres and the pass with them.

    squares: sum of the squared lengths of all points. inertia: before the first pass, if it is known. Where the points are an
    array, a centre that has lost its points moves to the point that is farthest from its own centre.
    """
    most, tolerance = stop
    for number in threads.progress(range(1, most + 1), "k-means"):
        last = _assign(points, centers)
        before, inertia = inertia, squares - 2 * last.score
        lost = np.flatnonzero(last.counts == 0) if isinstance(points, np.ndarray) else ()
        if (before - inertia <= tolerance * abs(inertia) and not len(lost)) or number == most:
            break
        moved = _means(last.sums, last.counts, centers)
        if len(lost):
            gaps = np.square(points - centers[last.nearest]).sum(axis=1)
            moved[lost] = points[np.argsort(-gaps, kind="stable")[: len(lost)]]
        centers = moved
    return centers, last


def _assign(points: np.ndarray | Points, centers: np.ndarray) -> Pass:
    function = partial(block_pass, centers=centers)
    if isinstance(points, Points):
        return _merged(points.map(function, _merged))
    return _merged(threads.map(lambda part: function(points[part]), blocks(points.shape)))


def block_pass(block: np.ndarray, centers: np.ndarray) -> Pass:
    """Assign each point of a block (m, d) to the nearest of the centers (K, d), and sum up those of each."""
    products = np.matmul(block, centers.T, out=threads.workspace("products", (len(block), len(centers))))
    products -= np.einsum("kd,kd->k", centers, centers) / 2
    nearest = products.argmax(axis=1)
    score = float(products[np.arange(len(block)), nearest].sum(dtype=float))
    counts = np.bincount(nearest, minlength=len(centers))
    return Pass(nearest.astype(np.min_scalar_type(len(centers))), score, _sums(block, nearest, len(centers)), counts)


def _merged(parts: list[Pass]) -> Pass:
    nearest, scores, sums, counts = zip(*parts, strict=True)
    return Pass(np.concatenate(nearest), sum(scores), _total(sums), sum(counts))


def _total(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Sum of the arrays in float64, without stacking them."""
    return sum(arrays[1:], arrays[0].astype(float))


def _sums(block: np.ndarray, nearest: np.ndarray, n_clusters: int) -> np.ndarray:
    """Sum of the points (m, d) of each cluster, (K, d) float32."""
    from scipy.sparse import csr_matrix  # it takes as long to import as the rest of the package

    m = len(block)
    return csr_matrix((np.ones(m, dtype=np.float32), (nearest, np.arange(m))), shape=(n_clusters, m)) @ block


def _means(sums: np.ndarray, counts: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Mean of each cluster, (K, d) float32; otherwise (K, d) where a cluster has no points."""
    return np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], otherwise).astype(np.float32)


def _squares(points: np.ndarray) -> float:
    return sum(threads.map(lambda part: float(np.vdot(points[part], points[part])), blocks(points.shape)))
