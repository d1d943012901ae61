"""How fast selection is: against other libraries, side by side, and as pools and budgets grow."""

import itertools
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.cluster import MiniBatchKMeans
from sklearn.neighbors import NearestNeighbors

import supclust
from supclust import active, features, learners, strategies
from supclust.engine import geometry
from supclust.pool import Pool
from supclust.profiles import Profile

N, DIMENSIONS = 50_000, 512  # of the synthetic features
CENTERS, SPREAD = 100, 3.0  # of their clusters, which overlap: noise three times as wide as the centres lie apart
LABELED = 250  # of a query in the middle of a run with the small budget
SCALED = 2**20  # points that a file is filled with at a time
Query = Callable[[np.ndarray], object]


def synthetic(n: int = N, d: int = DIMENSIONS, noise: float | np.ndarray = SPREAD, seed: int = 0) -> np.ndarray:
    """Features of overlapping clusters, float32 (n, d): Gaussian noise around Gaussian centres, which depend on d only."""
    rng, centers = np.random.default_rng([1, seed]), np.random.default_rng(0).standard_normal((CENTERS, d), dtype=np.float32)
    return centers[rng.integers(CENTERS, size=n)] + np.float32(noise) * rng.standard_normal((n, d), dtype=np.float32)


def _pools(profile: Profile) -> dict[str, np.ndarray]:
    own = features.obtain(profile, profile.datasets[0]).train.astype(np.float32)
    return {f"synthetic, {DIMENSIONS}-d": synthetic(), profile.datasets[0]: geometry.normalise(own)}


# -- against other libraries ---------------------------------------------------------------------------------------------------


def ratios(profile: Profile) -> pd.DataFrame:
    """Seconds of each job, ours and theirs taking turns in this process, on synthetic features and the profile's own.

    Columns: features, job, against, ours, theirs (medians of repeats, s), times. Needs scikit-activeml.
    """
    rows = []
    for (pool, points), (name, ours, theirs, library, repeats) in itertools.product(_pools(profile).items(), jobs()):
        turns = [(_seconds(ours, points), _seconds(theirs, points)) for _ in range(repeats)]
        mine, other = np.median(turns, axis=0)
        rows.append((pool, name, library, mine, other, other / mine))
    return pd.DataFrame(rows, columns=["features", "job", "against", "ours", "theirs", "times"])


def jobs() -> list[tuple[str, Query, Query, str, int]]:
    """What is compared: a query, ours, theirs, of which library, and repeats. Theirs comes as it is, but for K = 20 neighbours."""
    from skactiveml.pool import CoreSet, ProbCover, TypiClust

    def ours(name: str, budget: int) -> Query:
        return lambda points: strategies.query(name, Pool(points), budget, np.random.default_rng(0))

    def theirs(strategy: object, budget: int) -> Query:
        return lambda points: strategy.query(points, np.full(len(points), np.nan), batch_size=budget)

    def in_the_middle(select: Callable[..., object], points: np.ndarray) -> object:
        return select(points, 50, np.random.default_rng(0).choice(len(points), LABELED, replace=False))

    stock, skactiveml = "scikit-learn MiniBatchKMeans, NearestNeighbors", "scikit-activeml"
    typiclust, probcover, coreset = TypiClust(k=20, random_state=0), ProbCover(random_state=0), CoreSet(random_state=0)
    middle = partial(in_the_middle, supclust.select), partial(in_the_middle, minibatch_select)
    return [
        ("select 10", partial(supclust.select, budget=10), theirs(typiclust, 10), f"{skactiveml} TypiClust", 3),
        ("select 50, 250 labelled", *middle, stock, 3),
        ("ProbCover 10", ours("probcover", 10), theirs(probcover, 10), f"{skactiveml} ProbCover", 1),
        ("Coreset 10", ours("coreset", 10), theirs(coreset, 10), f"{skactiveml} CoreSet", 3),
        ("Coreset 500", ours("coreset", 500), theirs(coreset, 500), f"{skactiveml} CoreSet", 3),
    ]


def minibatch_select(points: np.ndarray, budget: int, labeled: np.ndarray) -> list[int]:
    """The stock way to query: scikit-learn's quick k-means, and its neighbours in each of the largest clusters without a label."""
    found = MiniBatchKMeans(len(labeled) + budget, random_state=0, n_init=1).fit_predict(points)
    sizes = np.bincount(found)
    sizes[np.unique(found[labeled])] = 0
    groups = [np.flatnonzero(found == cluster) for cluster in np.argsort(-sizes)[:budget]]
    return [int(members[_stock_distances(points[members]).argmin()]) for members in groups]


def _stock_distances(points: np.ndarray) -> np.ndarray:
    if len(points) == 1:
        return np.zeros(1)
    k = max(1, min(20, len(points) // 2))
    return NearestNeighbors(n_neighbors=k + 1).fit(points).kneighbors(points)[0][:, 1:].mean(axis=1)


# -- a query in a fresh process ------------------------------------------------------------------------------------------------


def costs(names: Sequence[str]) -> pd.DataFrame:
    """Seconds of a query of ten by each strategy on `synthetic` features with 250 labels and a linear layer, in a fresh process.

    Columns: strategy, seconds, peak (GB of the process's memory).
    """
    rows = [(name, *_in_a_fresh_process(_cost, name)) for name in names]
    return pd.DataFrame(rows, columns=["strategy", "seconds", "peak"])


def _cost(strategy: str) -> float:
    pool, (name, changes) = Pool(synthetic()), strategies.parse(strategy)
    labeled = np.random.default_rng(0).choice(N, LABELED, replace=False)
    head = learners.fit_linear_head(pool.points[labeled], np.arange(LABELED) % 10, 10)
    pool = pool.with_labeled(labeled, active.Outputs(head, lambda: pool.points, learned=False))
    pool = pool.with_settings(n_classes=10, **changes)
    return _seconds(partial(strategies.query, name, budget=10, rng=np.random.default_rng(0)), pool)


def growth(sizes: tuple[int, ...], d: int, budgets: tuple[int, ...]) -> pd.DataFrame:
    """Seconds and peak memory of queries of each budget from memory-mapped files of each size, each query in a fresh process.

    Columns: points, dimensions, budget, seconds (checking the features included, starting Python not), features (GB of the file),
    peak (GB of the process's memory, with the pages of the file that it has mapped, and some 0.2 of libraries).
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n in sizes:
            path = write_synthetic(Path(folder) / "features.npy", n, d)
            for budget in budgets:
                seconds, peak = _in_a_fresh_process(_select, path, budget)
                rows.append((n, d, budget, seconds, path.stat().st_size / 1e9, peak))
    return pd.DataFrame(rows, columns=["points", "dimensions", "budget", "seconds", "features", "peak"])


def _select(path: Path, budget: int) -> float:
    return _seconds(partial(supclust.select, budget=budget), np.load(path, mmap_mode="r"))


def _in_a_fresh_process(measure: Callable[..., float], *arguments: object) -> tuple[float, float]:
    """What measure(*arguments) returns, and the peak memory of the process (GB), as Linux counts it."""
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
        seconds, status = fresh.submit(measure, *arguments).result(), fresh.submit(Path("/proc/self/status").read_text).result()
    return seconds, int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1e6


def _seconds(query: Callable[..., object], points: object) -> float:
    begin = time.perf_counter()
    query(points)
    return time.perf_counter() - begin


def write_synthetic(path: Path, n: int, d: int) -> Path:
    """Write `synthetic` features (n, d), whose noise falls from axis to axis as that of real ones does, a part at a time."""
    out = np.lib.format.open_memmap(path, "w+", np.float32, (n, d))
    for number, part in enumerate(geometry.slices(n, SCALED)):
        out[part] = synthetic(part.stop - part.start, d, SPREAD * np.arange(1, d + 1) ** -0.5, number)
    out.flush()
    return path
