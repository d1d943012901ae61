"""How fast selection is: against other libraries and the machine's own rates, side by side, and as pools and budgets grow."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.neighbors import NearestNeighbors

import supclust
from supclust import active, features, kept, method, strategies, sweep
from supclust.bench.tables import table as table
from supclust.engine import geometry, kmeans, threads
from supclust.pool import Clusters, Pool
from supclust.profiles import Profile

N, DIMENSIONS = 50_000, 512  # of the synthetic features
CENTERS, SPREAD = 100, 3.0  # of their clusters, which overlap: noise three times as wide as the centres lie apart
LABELED = 250  # of a query in the middle of a run with the small budget
FLOOR = ["features", "clusters", "step", "operations", "bytes", "floor", "taken", "times floor"]
SIDE = 2048  # of the matrices whose product the machine's rate is measured with
SCALED = 2**20  # points that a file is filled with at a time
QUERY = """
import sys, time
import numpy as np
import supclust
features, begin = np.load(sys.argv[1], mmap_mode="r"), time.perf_counter()
supclust.select(features, int(sys.argv[2]))
seconds = time.perf_counter() - begin
[peak] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]  # kB; as Linux counts it
print(seconds, int(peak) / 1e6)
"""


def synthetic(n: int = N, d: int = DIMENSIONS, noise: float | np.ndarray = SPREAD, seed: int = 0) -> np.ndarray:
    """Features of overlapping clusters, float32 (n, d): Gaussian noise around Gaussian centres, which depend on d only."""
    rng, centers = np.random.default_rng([1, seed]), np.random.default_rng(0).standard_normal((CENTERS, d), dtype=np.float32)
    return centers[rng.integers(CENTERS, size=n)] + np.float32(noise) * rng.standard_normal((n, d), dtype=np.float32)


def _own_features(profile: Profile) -> np.ndarray:
    return geometry.normalise(features.obtain(profile, profile.datasets[0]).train.astype(np.float32))


def _pools(profile: Profile) -> list[tuple[str, np.ndarray]]:
    return [(f"synthetic, {DIMENSIONS}-d", synthetic()), (profile.datasets[0], _own_features(profile))]


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """What a function returns, and the seconds that it takes."""
    begin = time.perf_counter()
    return function(), time.perf_counter() - begin


def _seconds(function: Callable[[], object]) -> float:
    return _timed(function)[1]


# -- against other libraries ---------------------------------------------------------------------------------------------------


class Job(NamedTuple):
    """A query, done by this package and by another library."""

    name: str
    ours: Callable[[np.ndarray], object]
    theirs: Callable[[np.ndarray], object]
    library: str
    target: float  # times as fast
    repeats: int = 3


def ratios(profile: Profile) -> pd.DataFrame:
    """Seconds of each job, ours and theirs taking turns in this process, on synthetic features and the profile's own.

    Columns: features, job, against, ours, theirs (medians of repeats, s), times, target. Needs scikit-activeml.
    """
    rows = []
    for (pool, points), (job, ours, theirs, library, target, repeats) in itertools.product(_pools(profile), jobs()):
        seconds = np.median([(_seconds(partial(ours, points)), _seconds(partial(theirs, points))) for _ in range(repeats)], axis=0)
        rows.append((pool, job, library, *seconds, seconds[1] / seconds[0], target))
    return pd.DataFrame(rows, columns=["features", "job", "against", "ours", "theirs", "times", "target"])


def jobs() -> list[Job]:
    """What is compared; scikit-activeml as it comes, but for the twenty neighbours of typicality."""
    from skactiveml.pool import CoreSet, ProbCover, TypiClust

    def ours(name: str, budget: int) -> Callable[[np.ndarray], object]:
        return lambda points: strategies.query(name, Pool(points), budget, np.random.default_rng(0))

    def theirs(strategy: object, budget: int) -> Callable[[np.ndarray], object]:
        return lambda points: strategy.query(points, np.full(len(points), np.nan), batch_size=budget)

    stock, skactiveml = "scikit-learn MiniBatchKMeans, NearestNeighbors", "scikit-activeml"
    typiclust, probcover, coreset = TypiClust(k=20, random_state=0), ProbCover(random_state=0), CoreSet(random_state=0)
    middle = partial(_in_the_middle, supclust.select), partial(_in_the_middle, minibatch_select)
    return [
        Job("select 10", lambda x: supclust.select(x, 10), theirs(typiclust, 10), f"{skactiveml} TypiClust", 25),
        Job("select 50, 250 labelled", *middle, stock, 15),
        Job("ProbCover 10", ours("probcover", 10), theirs(probcover, 10), f"{skactiveml} ProbCover", 40, 1),
        Job("Coreset 10", ours("coreset", 10), theirs(coreset, 10), f"{skactiveml} CoreSet", 1),
        Job("Coreset 500", ours("coreset", 500), theirs(coreset, 500), f"{skactiveml} CoreSet", 3),
    ]


def _in_the_middle(select: Callable[..., object], points: np.ndarray) -> object:
    return select(points, 50, _labeled(points))


def _labeled(points: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).choice(len(points), min(LABELED, len(points) // 2), replace=False)


def minibatch_select(points: np.ndarray, budget: int, labeled: np.ndarray) -> list[int]:
    """The stock way to query: scikit-learn's quick k-means, and its neighbours in each of the largest clusters without a label."""
    found = MiniBatchKMeans(len(labeled) + budget, random_state=0, n_init=1).fit_predict(points)
    sizes = np.bincount(found)
    sizes[np.unique(found[labeled])] = 0
    groups = [np.flatnonzero(found == cluster) for cluster in np.argsort(-sizes)[:budget]]
    return [int(members[_stock_distances(points[members]).argmin()]) for members in groups]


def _stock_distances(points: np.ndarray, n_neighbors: int = 20) -> np.ndarray:
    if len(points) == 1:
        return np.full(1, np.inf)
    k = max(1, min(n_neighbors, len(points) // 2))
    return NearestNeighbors(n_neighbors=k + 1).fit(points).kneighbors(points)[0][:, 1:].mean(axis=1)


# -- against the machine -------------------------------------------------------------------------------------------------------


def floor(profile: Profile, repeats: int = 3) -> pd.DataFrame:
    """What the arithmetic and the memory traffic of k-means and of the neighbours in clusters take at this machine's own rates.

    Rates are measured in the same run: of matrix products over all cores (GFLOP/s), and of copying (GB/s). Columns: FLOOR;
    operations and bytes in 10^9, floor (the larger of the two times) and taken (median) in s.
    """
    rows = []
    for (name, points), (budget, labeled) in itertools.product(_pools(profile), ((10, 0), (50, LABELED))):
        sizes, seconds = zip(*(_steps(points, budget, _labeled(points)[:labeled]) for _ in range(repeats)), strict=True)
        pairs, read = float((sizes[0] ** 2).sum()), float(sizes[0].sum())  # each pair of points once
        work = {
            "k-means": _work_of_kmeans(points, budget + labeled),
            "neighbours": (pairs * points.shape[1], read * points.shape[1] * points.itemsize),
        }
        for (step, (operations, moved)), taken in zip(work.items(), np.median(seconds, axis=0), strict=True):
            products, copying = rates()
            least = max(operations / products, moved / copying)
            rows.append((name, budget + labeled, step, operations / 1e9, moved / 1e9, least, taken, taken / least))
    return pd.DataFrame(rows, columns=FLOOR)


def rates() -> tuple[float, float]:
    """Floating-point operations a second of matrix products over all cores, and bytes a second read and written by copying."""
    a, b = np.random.default_rng(0).standard_normal((2, SIDE, SIDE), dtype=np.float32)  # of a with itself, numpy computes one half
    large = np.ones((threads.count(), 2**25), dtype=np.float32)
    other, out = large.copy(), np.empty_like(a)
    multiplying = min(_seconds(lambda: np.matmul(a, b, out=out)) for _ in range(5))
    copying = min(_seconds(lambda: threads.map(lambda i: np.copyto(other[i], large[i]), range(len(large)))) for _ in range(5))
    return 2 * SIDE**3 / multiplying, 2 * large.nbytes / copying


def _steps(points: np.ndarray, budget: int, labeled: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Sizes of the clusters that a query looks for neighbours in, and the seconds of k-means, checking included, and of that."""

    def cluster() -> tuple[Pool, Clusters]:
        pool = Pool(points, labeled)
        return pool, pool.clusters(len(labeled) + budget)

    (pool, clusters), seconds = _timed(cluster)
    queried = list(method.clusters_to_query(clusters, pool, budget))
    return clusters.sizes[queried], (seconds, _seconds(partial(pool.neighbor_distances, clusters, queried)))


def _work_of_kmeans(points: np.ndarray, n_clusters: int) -> tuple[float, float]:
    """Operations and bytes of k-means: those of its passes, which a profiler counts on the one thread that does them all.

    Before the passes, the points are read and written as they are checked and normalised, put in order and moved to their mean,
    and read and multiplied as they are taken to the leading dimensions.
    """
    n, d = points.shape
    work = np.array([2.0 * n * d * kmeans.LEADING * (d >= 1.5 * kmeans.LEADING), 7.0 * points.nbytes])

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is kmeans.block_pass.__code__:
            block, centers = frame.f_locals["block"], frame.f_locals["centers"]
            work[:] += 2 * block.size * len(centers), block.nbytes

    pool = Pool(points)
    with threads.alone():
        sys.setprofile(count)
        try:
            pool.clusters(n_clusters)
        finally:
            sys.setprofile(None)
    return float(work[0]), float(work[1])


def inertias(profile: Profile, n_clusters: tuple[int, ...] = (10, 50, 300), seeds: int = 5) -> pd.DataFrame:
    """Inertia of k-means over that of scikit-learn's KMeans(n_init=10), and the seconds of both, on the profile's own features.

    Columns: clusters, ratio (mean over the seeds), worst, ours, theirs (s).
    """
    points, rows = _own_features(profile), []
    pool = geometry.Points(points)
    for k in n_clusters:
        best, theirs = _timed(partial(KMeans(k, n_init=10, random_state=0).fit, points))
        found, seconds = zip(*(_timed(partial(kmeans.kmeans, pool, k, seed)) for seed in range(seeds)), strict=True)
        ratio = [((points - centers[nearest]) ** 2).sum(dtype=float) / best.inertia_ for nearest, centers in found]
        rows.append({"clusters": k, "ratio": np.mean(ratio), "worst": max(ratio), "ours": np.median(seconds), "theirs": theirs})
    return pd.DataFrame(rows)


# -- a sweep -------------------------------------------------------------------------------------------------------------------


class StockPool(Pool):
    """A pool whose k-means and neighbours are scikit-learn's; queries share nothing but the normalised features."""

    def shared(self, key: tuple, compute: Callable[[], object]) -> object:
        return super().shared(key, compute) if key == ("normalised",) else compute()

    def clusters(self, n_clusters: int) -> Clusters:
        model, order = KMeans(n_clusters, n_init=1, random_state=self.seed).fit(self.points), self.normalised.order
        assignments = model.labels_.astype(np.int64)
        members = [order[assignments[order] == cluster] for cluster in range(n_clusters)]
        return Clusters(assignments, model.cluster_centers_, np.bincount(assignments, minlength=n_clusters), members)

    def neighbor_distances(self, clusters: Clusters, some: Iterable[int]) -> np.ndarray:
        distances = np.full(len(self.features), np.nan)
        for members in (clusters.members[cluster] for cluster in some):
            distances[members] = _stock_distances(self.points[members], self.settings.n_neighbors)
        return distances


def sweeping(profile: Profile, seed: int = 0) -> pd.DataFrame:
    """Seconds of one core for all runs of a seed on the profile's first data set: here, and with stock parts that share nothing.

    The ten strategies of Figure 6. Columns: strategy, budget, ours, stock (s); what runs share is counted where it comes up first.
    """
    data, rows = features.obtain(profile, profile.datasets[0], seed), []
    pool = Pool(data.train, seed=seed, labels=data.train_labels)

    def seconds(pool: Pool, name: str, budget: str) -> float:
        return _seconds(lambda: list(active.run(data, pool, name, budget, profile.rounds)))

    with sweep.alone(kept.folders()):
        for budget, name in itertools.product(profile.budgets, strategies.NAMES[:10]):
            ours = seconds(pool, name, budget)
            stock = seconds(StockPool(data.train, seed=seed, labels=data.train_labels), name, budget)
            rows.append({"strategy": name, "budget": budget, "ours": ours, "stock": stock})
    return pd.DataFrame(rows)


# -- growth --------------------------------------------------------------------------------------------------------------------


def growth(sizes: tuple[int, ...], d: int, budgets: tuple[int, ...], dtype: str = "float32") -> pd.DataFrame:
    """Seconds and peak memory of queries of each budget from memory-mapped files of each size, each query in a fresh process.

    Columns: points, dimensions, budget, seconds (checking the features included, starting Python not), features (GB of the file),
    peak (GB of the process's memory, with the pages of the file that it has mapped).
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n in sizes:
            path = write_synthetic(Path(folder) / "features.npy", n, d, dtype)
            for budget in budgets:
                command = [sys.executable, "-c", QUERY, str(path), str(budget)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                seconds, peak = map(float, done.stdout.split())
                size = path.stat().st_size / 1e9
                rows.append({"points": n, "dimensions": d, "budget": budget, "seconds": seconds, "features": size, "peak": peak})
    return pd.DataFrame(rows)


def write_synthetic(path: Path, n: int, d: int, dtype: str = "float32") -> Path:
    """Write `synthetic` features (n, d), whose noise falls from axis to axis as that of real ones does, a part at a time."""
    out = np.lib.format.open_memmap(path, "w+", dtype, (n, d))
    for number, part in enumerate(geometry.slices(n, SCALED)):
        out[part] = synthetic(part.stop - part.start, d, SPREAD * np.arange(1, d + 1) ** -0.5, number)
    out.flush()
    return path


def exponent(table: pd.DataFrame, column: str) -> float:
    """Slope of the logarithm of the seconds against that of a column: 1 where cost is proportional to it."""
    return float(np.polyfit(np.log(table[column]), np.log(table["seconds"]), 1)[0])
