"""Baselines that came after the paper's: MaxHerding, UHerding, k-means centroid, TCM, DropQuery, DCoM, BADGE; and one of ours."""

import itertools

import numpy as np
from scipy.spatial.distance import pdist

from supclust import method
from supclust.engine import geometry, threads
from supclust.engine.geometry import blocks, slices
from supclust.pool import Clusters, Pool
from supclust.strategies import coverage, uncertainty
from supclust.strategies.coverage import largest, on_sphere, rounding_of_products

HERDED = 14_000  # points a side of the kernel's matrix, 784 MB in float32
ROWS = 256, 64  # of it that are filled, and gone through, together: as fast as they are here
DIGITS = 7  # of a mean that float32 knows
COPIES = 1e-3  # labelled points as near as that are copies
PASSES, DROPPED = 3, 0.75  # of DropQuery; probability that dropout drops an input
LARGEST_BALL, CENTER, STEEPNESS = 1.1, 0.8, 50  # of DCoM: Delta_max, and a and k of its competence


def maxherding(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """MaxHerding (Bae et al., 2024): the points that most raise the mean kernel between a point and the nearest labelled one.

    k(x, y) = exp(-|x - y|^2 / s^2) of normalised features, with s = settings.radius or 1. The mean goes over 14,000 random points
    at most, and so many that may be queried are compared; the authors draw 35,000.
    """
    return _herd(pool, budget, rng, pool.settings.radius or 1.0, np.ones(len(pool.features)))


def uherding(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """UHerding (Bae et al., 2025): the points that most raise the mean kernel of uncertain points and the nearest labelled ones.

    As MaxHerding, with weights 1 - (p1 - p2) from the model's two largest probabilities, as they are, without the temperature that
    the authors fit; and s = settings.radius or the smallest distance between labelled points. In the first round, ones and 1.
    """
    apart = pdist(pool.normalised[pool.labeled])
    apart = apart[apart > COPIES]
    s = pool.settings.radius or (apart.min() if len(apart) else 1.0)
    weights = np.ones(len(pool.features)) if pool.model is None else uncertainty.margin_uncertainty(pool)
    return _herd(pool, budget, rng, s, weights)


def balanced_herding(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """MaxHerding where all classes weigh the same: ours, for long tails.

    As in the correction of a label shift, a point's weight is sum_c p_c / m_c of its probabilities p and of the predicted mass
    m_c = sum_i p_ic of class c. Without a model, all weights are 1.
    """
    weights = np.ones(len(pool.features))
    if pool.model is not None:
        probabilities = np.exp(pool.model.log_probabilities())
        mass = probabilities.sum(axis=0)  # of a class without a label: 0
        weights = probabilities @ np.divide(1, mass, out=np.zeros_like(mass), where=mass > 0)
        weights *= len(weights) / weights.sum()
    return _herd(pool, budget, rng, pool.settings.radius or 1.0, weights)


def _herd(pool: Pool, budget: int, rng: np.random.Generator, s: float, weights: np.ndarray) -> np.ndarray:
    """Greedy argmax over j of sum_i w_i max(0, k(x_i, x_j) - m_i), m_i = max over labelled and picked l of k(x_i, x_l).

    When a pick raises m, the gains are not summed anew, but lowered by what the points whose m it raises no longer give.
    """
    drawn = np.argsort(pool.tie_breakers(rng))
    some, compared = drawn[:HERDED], drawn[pool.free[drawn]][: max(HERDED, budget)]  # gains that tie come in random order
    together = on_sphere(pool.normalised[np.concatenate([some, compared, pool.labeled])])
    points, others, labeled = np.split(together, [len(some), len(some) + len(compared)])
    kernel, nearest, weights = np.empty((len(some), len(compared)), np.float32), np.zeros(len(some), np.float32), weights[some]

    def kernel_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(np.minimum(2 * a @ b.T - 2, 0) / np.float32(max(s, COPIES) ** 2))  # -|x - y|^2, and never above zero

    def fill(part: slice) -> None:
        kernel[part] = kernel_between(points[part], others)
        nearest[part] = kernel_between(points[part], labeled).max(axis=1, initial=0)

    def gained(rows: np.ndarray, upto: np.ndarray) -> np.ndarray:
        def of_rows(rows: np.ndarray) -> np.ndarray:
            low = nearest[rows, None]
            return weights[rows] @ (np.clip(kernel[rows], low, upto[rows, None]) - low)

        return sum(threads.map(of_rows, [rows[part] for part in slices(len(rows), ROWS[1])]), np.zeros(len(others))) / len(some)

    threads.map(fill, slices(len(some), ROWS[0]), "kernel")
    gains, picks = gained(np.arange(len(some)), np.full(len(some), np.inf)), np.empty(budget, dtype=np.int64)
    for i in threads.progress(range(budget), "herding"):
        best = np.argmax(np.round(gains, DIGITS))
        raised = np.maximum(nearest, kernel[:, best])
        gains -= gained(np.flatnonzero(raised > nearest), raised)
        picks[i], gains[best], nearest = compared[best], -np.inf, raised
    return picks


def kmeans_centroid(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """k-means centroid: the point nearest to the centre of each cluster that TypiClust queries, too."""
    return method.query_clusters(pool, budget, lambda *cluster: _by_distance(pool, *cluster)[0], by_typicality=False)


def _by_distance(pool: Pool, clusters: Clusters, cluster: int, some: np.ndarray) -> np.ndarray:
    """Some points (m,) of a cluster, the nearest to its centre first."""
    distances = geometry.distances(pool.normalised[some], clusters.centers[[cluster]])[:, 0]
    return some[np.argsort(distances, kind="stable")]


def tcm(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """TCM (Doucet et al., 2024): the picks of TypiClust in the first three rounds, those of Margin in the later ones.

    A round is the third as long as fewer than three budgets are labelled. Without a model TypiClust goes on.
    """
    early = pool.model is None or len(pool.labeled) < 3 * budget
    return (method.typiclust if early else uncertainty.margin)(pool, budget, rng)


def dropquery(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """DropQuery (Gupte et al., 2024): the nearest to each centre of k-means among points whose predicted class dropout changes.

    It has to change in most of three passes, in which inputs of the model's last layer are dropped with probability 0.75; where
    fewer points than the budget are like that, those with the most changes are taken. Without a model: k-means centroid.
    """
    if pool.model is None:
        return kmeans_centroid(pool, budget, rng)
    order, free, changes = pool.normalised.order, pool.queryable, np.zeros(len(pool.features))
    points, predict = pool.model.points[order], pool.model.head.predict
    plain = predict(points)
    for _ in range(PASSES):
        kept = rng.random(points.shape, dtype=np.float32) >= DROPPED
        changes[order] += predict(points * kept / np.float32(1 - DROPPED)) != plain
    ranked = free[np.lexsort((pool.tie_breakers(rng)[free], -changes[free]))]
    ranked = ranked[: max(budget, np.count_nonzero(changes[free] > PASSES / 2))]
    uncertain = Pool(pool.normalised[ranked], seed=pool.seed)
    clusters = uncertain.clusters(budget)
    nearest = [_by_distance(uncertain, clusters, cluster, members) for cluster, members in enumerate(clusters.members)]
    turns = [point for turn in itertools.zip_longest(*nearest) for point in turn if point is not None]  # a cluster may be empty
    return ranked[turns[:budget]]


def dcom(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """DCoM (Mishal & Weinshall, 2024): the more of the pool is covered, the more does uncertainty count, and the less coverage.

    The score S u + (1 - S) m is of uncertainty u = 1 - (p1 - p2) and the number m of points within the mean radius that nothing
    covers yet (of 14,000 random ones at most), scaled to 0..1. Competence S grows with what the `_pure_balls` of labelled points
    cover, at tau = 0.4 + 0.2 times the share that those at 0.4 cover; the authors take that from the radii of earlier rounds, which
    a query does not know here. A labelled point's class is the predicted one, too. Without a model: ProbCover.
    """
    if pool.model is None or not len(pool.labeled):
        return coverage.probcover(pool, budget, rng)
    points, classes, covered = on_sphere(pool.points), pool.model.log_probabilities().argmax(axis=1), np.zeros(1)
    for _ in range(2):
        radii, covered = _pure_balls(points, classes, pool.labeled, 0.4 + 0.2 * covered.mean())
    competence = (1 + np.exp(-STEEPNESS * (1 - CENTER))) / (1 + np.exp(-STEEPNESS * (covered.mean() - CENTER)))
    needed = 1 - max(radii.mean() ** 2 / 2, 2 * rounding_of_products(points.shape[1]))  # product with a point in the ball

    def in_balls(some: np.ndarray) -> np.ndarray:
        return np.concatenate(threads.map(lambda part: (points[part] @ points[some].T >= needed).sum(axis=1), blocks(points.shape)))

    free, tie_breakers, picks = pool.free, pool.tie_breakers(rng), np.empty(budget, dtype=np.int64)
    left = np.argsort(np.where(covered, np.inf, tie_breakers))[: min(HERDED, np.count_nonzero(~covered))]
    scores, counts = np.round(uncertainty.margin_uncertainty(pool), DIGITS), in_balls(left)
    for i in threads.progress(range(budget), "DCoM"):
        u, m = ((one - low) / (one[free].max() - low or 1) for one, low in ((scores, scores.min()), (counts, 0)))
        picks[i] = largest(np.where(free, competence * u + (1 - competence) * m, -1), tie_breakers)
        newly = points[left] @ points[picks[i]] >= needed
        counts, left, free[picks[i]] = counts - in_balls(left[newly]), left[~newly], False
    return picks


def _pure_balls(points: np.ndarray, classes: np.ndarray, centers: np.ndarray, purity: float) -> tuple[np.ndarray, np.ndarray]:
    """Radii (l,) of the largest balls, up to 1.1, of which the center's class has that share; whether each point is in one."""

    def of_some(some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        distances, radii = np.round(geometry.distances(points, points[some]).T, DIGITS - 1), np.zeros(len(some))
        for i, row in enumerate(distances):
            edges, own = np.sort(row[row <= LARGEST_BALL]), np.sort(row[classes == classes[some[i]]])
            pure = np.searchsorted(own, edges, "right") >= purity * np.searchsorted(edges, edges, "right")
            radii[i] = edges[pure].max(initial=0)
        return radii, (distances <= radii[:, None]).any(axis=0)

    radii, covered = zip(*threads.map(of_some, [centers[part] for part in slices(len(centers), ROWS[1])]), strict=True)
    return np.concatenate(radii), np.any(covered, axis=0)


def badge(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """BADGE (Ash et al., 2020): k-means++ among the gradients of the last layer, as if each predicted class were the true one.

    The first pick has the longest gradient, as in the authors' code; each of the others is drawn with a probability proportional to
    the squared distance to the nearest pick. A gradient is (p - e_y) z', and these are never formed: their products factor.
    """
    model = uncertainty.model_of(pool)
    points, errors = model.points, np.exp(model.log_probabilities())
    errors[np.arange(len(errors)), errors.argmax(axis=1)] -= 1
    squares = np.einsum("nc,nc->n", errors, errors) * np.einsum("nd,nd->n", points, points, dtype=float)
    free, nearest, picks, scores = pool.free, np.full(len(points), np.inf), np.empty(budget, dtype=np.int64), squares
    for i in range(budget):
        pick = picks[i] = largest(np.where(free, scores, -np.inf), pool.tie_breakers(rng))
        products = (errors @ errors[pick]) * (points @ points[pick])
        apart = np.maximum(squares + squares[pick] - 2 * products, 1e-300)  # copies are drawn when nothing else is left
        nearest, free[pick] = np.minimum(nearest, apart), False
        scores = np.log1p(-pool.tie_breakers(rng)) / nearest  # the largest belongs to a point with a probability like that
    return picks
