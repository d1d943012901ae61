"""How fast selection is: against other libraries and the machine's own rates, side by side, and as pools and budgets grow."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.neighbors import NearestNeighbors

import supclust
from supclust import active, features, kept, method, strategies, sweep
from supclust.bench import speed
from supclust.engine import geometry, kmeans, threads
from supclust.profiles import Profile

N, DIMENSIONS = 50_000, 512  # of the synthetic features
CENTERS, SPREAD = 100, 3.0  # of their clusters, which overlap: noise three times as wide as the centres lie apart
LABELED = 250  # of a query in the middle of a run with the small budget
TILE = 1000, 512  # of the products that the machine's rate is measured with
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


def table(name: str, measured: Callable[[], pd.DataFrame], measure: bool = False) -> tuple[pd.DataFrame, str]:
    """A kept table, reports/laptop/<name>.csv, and the machine that it is of; measured now, and kept, where asked for.

    Raises FileNotFoundError if there is none.
    """
    if measure:
        kept.write(kept.reports("laptop") / f"{name}.csv", measured().round(4), speed.machine())
    if found := next(kept.read_all("laptop", f"{name}.csv"), None):
        return found
    raise FileNotFoundError(f"there is no table {name}.csv in reports/laptop; with measure = True it is made")


def synthetic(n: int = N, d: int = DIMENSIONS, seed: int = 0) -> np.ndarray:
    """Features of overlapping clusters, float32 (n, d): Gaussian noise around Gaussian centres."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((CENTERS, d), dtype=np.float32)
    return centers[rng.integers(CENTERS, size=n)] + np.float32(SPREAD) * rng.standard_normal((n, d), dtype=np.float32)


# -- against other libraries ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
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
    pools = {f"synthetic, {DIMENSIONS}-d": synthetic(), f"{profile.datasets[0]}": _own_features(profile)}
    return pd.DataFrame([_race(name, points, job) for name, points in pools.items() for job in jobs()])


def _own_features(profile: Profile) -> np.ndarray:
    return geometry.normalise(features.obtain(profile, profile.datasets[0]).train.astype(np.float32))


def jobs() -> list[Job]:
    """What is compared; scikit-activeml as it comes, but for the twenty neighbours of typicality."""
    from skactiveml.pool import CoreSet, ProbCover, TypiClust

    def theirs(strategy: object, budget: int) -> Callable[[np.ndarray], object]:
        return lambda points: strategy.query(points, np.full(len(points), np.nan), batch_size=budget)

    typiclust, coreset = "scikit-activeml TypiClust", "scikit-activeml CoreSet"
    return [
        Job("select 10", lambda x: supclust.select(x, 10), theirs(TypiClust(k=20, random_state=0), 10), typiclust, 25),
        Job(
            "select 50, 250 labelled",
            lambda x: supclust.select(x, 50, _labeled(x)),
            lambda x: minibatch_select(x, 50, _labeled(x)),
            "scikit-learn MiniBatchKMeans, NearestNeighbors",
            15,
        ),
        Job("ProbCover 10", _ours("probcover", 10), theirs(ProbCover(random_state=0), 10), "scikit-activeml ProbCover", 40, 1),
        Job("Coreset 10", _ours("coreset", 10), theirs(CoreSet(random_state=0), 10), coreset, 1),
        Job("Coreset 500", _ours("coreset", 500), theirs(CoreSet(random_state=0), 500), coreset, 3),
    ]


def _ours(name: str, budget: int) -> Callable[[np.ndarray], object]:
    return lambda points: strategies.query(name, strategies.Pool(points), budget, np.random.default_rng(0))


def _labeled(points: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).choice(len(points), min(LABELED, len(points) // 2), replace=False)


def minibatch_select(points: np.ndarray, budget: int, labeled: np.ndarray) -> list[int]:
    """The stock way to query: scikit-learn's quick k-means, and its neighbours in each of the largest clusters without a label."""
    found = MiniBatchKMeans(len(labeled) + budget, random_state=0, n_init=1).fit_predict(points)
    sizes = np.bincount(found)
    sizes[np.unique(found[labeled])] = 0
    return [_most_typical(points, np.flatnonzero(found == cluster)) for cluster in np.argsort(-sizes)[:budget]]


def _most_typical(points: np.ndarray, members: np.ndarray) -> int:
    if len(members) == 1:
        return int(members[0])
    k = max(1, min(20, len(members) // 2))
    distances, _ = NearestNeighbors(n_neighbors=min(k + 1, len(members))).fit(points[members]).kneighbors(points[members])
    return int(members[distances[:, 1:].mean(axis=1).argmin()])


def _race(pool: str, points: np.ndarray, job: Job) -> dict[str, object]:
    turns = [(_seconds(lambda: job.ours(points)), _seconds(lambda: job.theirs(points))) for _ in range(job.repeats)]
    ours, theirs = np.median(turns, axis=0)
    row = {"features": pool, "job": job.name, "against": job.library, "ours": ours, "theirs": theirs}
    return row | {"times": theirs / ours, "target": job.target}


def _seconds(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


# -- against the machine -------------------------------------------------------------------------------------------------------


def floor(profile: Profile, repeats: int = 3) -> pd.DataFrame:
    """What the arithmetic and the memory traffic of k-means and of the neighbours in clusters take at this machine's own rates.

    Rates are measured in the same run: of products of tiles over all cores (GFLOP/s), and of copying (GB/s). Columns: features,
    step, operations (10^9), bytes (10^9), floor (s, the larger of the two times), taken (s, median), times floor.
    """
    rows = []
    for name, points in {f"synthetic, {DIMENSIONS}-d": synthetic(), f"{profile.datasets[0]}": _own_features(profile)}.items():
        for budget, labeled in ((10, 0), (50, LABELED)):
            runs = [_steps(points, budget, labeled) for _ in range(repeats)]
            for step in runs[0]:
                taken = float(np.median([run[step][2] for run in runs]))
                rows.append(
                    {"features": name, "clusters": budget + labeled, "step": step, **_against_floor(*runs[0][step][:2], taken)}
                )
    return pd.DataFrame(rows)


def _against_floor(operations: float, moved: float, taken: float) -> dict[str, float]:
    products, copying = rates()
    least = max(operations / products, moved / copying)
    return {"operations": operations / 1e9, "bytes": moved / 1e9, "floor": least, "taken": taken, "times floor": taken / least}


def rates() -> tuple[float, float]:
    """Floating-point operations a second of matrix products over all cores, and bytes a second read and written by copying."""
    a, b = np.random.default_rng(0).standard_normal((2, *TILE), dtype=np.float32)  # of a with itself, numpy computes one half
    large = np.ones((threads.count(), 2**25), dtype=np.float32)
    other = large.copy()

    def multiply(piece: int) -> None:
        np.matmul(a, b.T, out=threads.workspace("products", (TILE[0], TILE[0])))

    pieces = range(16 * threads.count())
    products = len(pieces) * 2 * TILE[0] ** 2 * TILE[1] / min(_seconds(lambda: threads.map(multiply, pieces)) for _ in range(5))
    copied = min(_seconds(lambda: threads.map(lambda i: np.copyto(other[i], large[i]), range(len(large)))) for _ in range(5))
    return products, 2 * large.nbytes / copied


def _steps(points: np.ndarray, budget: int, labeled: int) -> dict[str, tuple[float, float, float]]:
    """Operations, bytes and seconds of the two steps of a query that cost most.

    k-means: its passes; before these, the points are read and written as they are checked and normalised, put in order and moved
    to their mean, and read and multiplied as they are taken to the leading dimensions. Neighbours: each pair of points once.
    """
    counted, one_pass, (n, d) = [0.0, 7.0 * points.nbytes], kmeans.block_pass, points.shape
    counted[0] += 2.0 * n * d * kmeans.LEADING * (d >= 1.5 * kmeans.LEADING)

    def counting(block: np.ndarray, centers: np.ndarray) -> kmeans.Pass:
        counted[0] += 2 * block.size * len(centers)
        counted[1] += block.nbytes
        return one_pass(block, centers)

    seconds = _seconds(lambda: strategies.Pool(points).clusters(budget + labeled))
    pool = strategies.Pool(points, _labeled(points)[:labeled])
    with threads.alone(), mock.patch.object(kmeans, "block_pass", counting):
        clustered = pool.clusters(budget + labeled)
    queried = list(method.clusters_to_query(clustered, pool, budget))
    sizes = clustered.sizes[queried].astype(float)
    neighbours = float((sizes**2).sum() * d), float(sizes.sum() * d * points.itemsize)
    return {
        "k-means": (*counted, seconds),
        "neighbours": (*neighbours, _seconds(lambda: pool.neighbor_distances(clustered, queried))),
    }


def inertias(profile: Profile, n_clusters: tuple[int, ...] = (10, 50, 300), seeds: int = 5) -> pd.DataFrame:
    """Inertia of k-means over that of scikit-learn's KMeans(n_init=10), and the seconds of both, on the profile's own features.

    Columns: clusters, ratio (mean over the seeds), worst, ours, theirs (s).
    """
    points, rows = _own_features(profile), []
    pool = geometry.Points(points)
    for k in n_clusters:
        begin, best = time.perf_counter(), KMeans(k, n_init=10, random_state=0).fit(points).inertia_
        theirs, ratio, seconds = time.perf_counter() - begin, [], []
        for seed in range(seeds):
            begin, (assignments, centers) = time.perf_counter(), kmeans.kmeans(pool, k, seed)
            seconds.append(time.perf_counter() - begin)
            ratio.append(((points - centers[assignments]) ** 2).sum(dtype=float) / best)
        rows.append({"clusters": k, "ratio": np.mean(ratio), "worst": max(ratio), "ours": np.median(seconds), "theirs": theirs})
    return pd.DataFrame(rows)


# -- a sweep -------------------------------------------------------------------------------------------------------------------


def sweeping(profile: Profile, seed: int = 0) -> pd.DataFrame:
    """Seconds of one core for all runs of a seed on the profile's first data set: here, and with stock parts that share nothing.

    The ten strategies of Figure 6. Columns: strategy, budget, ours, stock (s); what runs share is counted where it comes up first.
    """
    data, rows = features.obtain(profile, profile.datasets[0], seed), []
    pool = strategies.Pool(data.train, seed=seed, labels=data.train_labels)
    with sweep.alone(kept.folders()):
        for budget, name in itertools.product(profile.budgets, strategies.NAMES[:10]):
            run = partial(_run, data, name, budget, profile.rounds)
            ours = _seconds(partial(run, pool))
            with stock_parts():
                stock = _seconds(partial(run, strategies.Pool(data.train, seed=seed, labels=data.train_labels)))
            rows.append({"strategy": name, "budget": budget, "ours": ours, "stock": stock})
    return pd.DataFrame(rows)


def _run(data: features.Features, name: str, budget: str, rounds: int, pool: strategies.Pool) -> list[active.Round]:
    return list(active.run(data, pool, name, budget, rounds))


@contextmanager
def stock_parts() -> Iterator[None]:
    """For the length of the block: k-means and neighbours are scikit-learn's, and queries share nothing but normalised features."""
    share = strategies.Pool.shared

    def share_points(pool: strategies.Pool, key: tuple, compute: Callable[[], object]) -> object:
        return share(pool, key, compute) if key == ("normalised",) else compute()

    with (
        mock.patch("supclust.pool.kmeans", _stock_kmeans),
        mock.patch("supclust.pool.mean_distances", _stock_distances),
        mock.patch.object(strategies.Pool, "shared", share_points),
    ):
        yield


def _stock_kmeans(points: geometry.Points, n_clusters: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    model = KMeans(n_clusters, n_init=1, random_state=seed).fit(np.asarray(points))
    return model.labels_.astype(np.int64), model.cluster_centers_


def _stock_distances(points: np.ndarray, n_neighbors: int = 20, squared: bool = False) -> np.ndarray:
    k = max(1, min(n_neighbors, len(points) // 2))
    return NearestNeighbors(n_neighbors=min(k + 1, len(points))).fit(points).kneighbors(points)[0][:, 1:].mean(axis=1)


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
    """Write synthetic features (n, d) into a .npy file, a part at a time; returns the path."""
    rng, centers = np.random.default_rng(1), np.random.default_rng(0).standard_normal((CENTERS, d), dtype=np.float32)
    widths = (
        SPREAD * np.arange(1, d + 1, dtype=np.float32) ** -0.5
    )  # noise with a spectrum that falls, as that of real features does
    out = np.lib.format.open_memmap(path, "w+", dtype, (n, d))
    for part in geometry.slices(n, SCALED):
        m = part.stop - part.start
        out[part] = centers[rng.integers(CENTERS, size=m)] + widths * rng.standard_normal((m, d), dtype=np.float32)
    out.flush()
    return path


def exponent(table: pd.DataFrame, column: str) -> float:
    """Slope of the logarithm of the seconds against that of a column: 1 where cost is proportional to it."""
    return float(np.polyfit(np.log(table[column]), np.log(table["seconds"]), 1)[0])
