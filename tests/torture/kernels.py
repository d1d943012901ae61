"""Other kernels: the same tables, picks and weights with other threads and workers, and how far off on an older processor.

Each trial is a process of its own, because libraries choose their kernels as they load. `python -m tests.torture.kernels WHAT FILE`
is one: what it computed, as an .npz of arrays.
"""

import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from tests.torture import Case, environment, often

SCHEDULES = [("loky", 1), ("loky", 2), ("loky", 4), ("dask", 2), ("threading", 2), ("dask", 4)]  # joblib's backend, workers
# What older processors have. A variable may only take something away, or the process would end with SIGILL.
WITHOUT_AMX = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}
AVX2 = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # convolutions
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",  # PyTorch's matrix products
    "ATEN_CPU_CAPABILITY": "avx2",  # its other loops
    "OPENBLAS_CORETYPE": "Haswell",  # the matrix products of NumPy, SciPy and faiss
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    "FAISS_OPT_LEVEL": "AVX2",
}
STRATEGIES = ("typiclust", "supclust", "coreset", "uherding")
BUDGETS, LABELED = (10, 50), 100
Found = dict[str, np.ndarray]


# -- what a process computes ---------------------------------------------------------------------------------------------------


def picks() -> Found:
    """Picks on features of the package by strategies that need no model, and the clusters and typicality that they come from."""
    from supclust import features, method, profiles, strategies

    found = {}
    for name in ("cifar10", "ham10000"):
        data = features.obtain(profiles.get("laptop"), name)
        labeled = np.random.default_rng(0).choice(len(data.train), LABELED, replace=False)
        for seed in range(int(os.environ["SEEDS"])):
            pool = strategies.Pool(data.train, seed=seed)
            for some, budget, strategy in itertools.product(([], labeled), BUDGETS, STRATEGIES):
                key = f"{name}, {strategy}, {budget} of {len(some)}, seed {seed}"
                found[key] = strategies.query(strategy, pool.with_labeled(some), budget, np.random.default_rng(seed))
            details = method.explain(pool, BUDGETS[0])
            found[f"{name} typicality, seed {seed}"], found[f"{name} clusters, seed {seed}"] = (
                details.typicality,
                details.assignments,
            )
    return found


def approximate() -> Found:
    """Approximate neighbours of a large cluster, by faiss."""
    from supclust.bench import scaling
    from supclust.scale.approximate import mean_distances

    return {"distances": mean_distances(scaling.synthetic(20_000, 64), 20)}


def digits() -> Found:
    """The weights of the digits' encoder after an epoch, as profiles quick and laptop train it."""
    from supclust import datasets, profiles

    return _weights(datasets.load("digits").images, replace(profiles.DIGITS, epochs=1))


def wide() -> Found:
    """The weights of a network as wide as the paper's after three steps in float32."""
    from supclust import datasets, profiles

    return _weights(datasets.load("digits").images[:192], replace(profiles.DIGITS, width=64, side=16, epochs=1, batch_size=64))


def _weights(images: np.ndarray, config: object) -> Found:
    from supclust import simclr

    with tempfile.TemporaryDirectory() as folder:
        network = simclr.train(images, config, Path(folder), compiled=False).network
    return {key: value.numpy() for key, value in network.state_dict().items() if value.is_floating_point()}


def embedding() -> Found:
    """Features of drawn photographs by both encoders that `label` uses, untrained here."""
    from supclust.label import embedders
    from supclust.label.request import EncoderOptions
    from tests.drawn_images import draw

    found = {}
    for name in ("photos", "simclr"):
        embedder = embedders.load(EncoderOptions(name, minutes=None if name == "photos" else 0))
        images = [np.asarray(draw(i % 8, i, embedder.side)).transpose(2, 0, 1) for i in range(96)]
        with tempfile.TemporaryDirectory() as folder:
            found[name], _ = embedder.embed(np.stack(images), Path(folder))
    return found


def table() -> Found:
    """The table of profile smoke, its encoder trained anew, by this backend of joblib and so many workers."""
    from supclust import profiles, sweep

    backend, jobs = os.environ["BACKEND"], int(os.environ["JOBS"])
    with _workers(backend, jobs), tempfile.TemporaryDirectory() as folder:
        os.environ["SUPCLUST_OUT"] = folder
        rows = sweep.run(profiles.get("smoke"), jobs=jobs)
        return {column: values.to_numpy(float if pd.api.types.is_numeric_dtype(values) else str) for column, values in rows.items()}


def _workers(backend: str, jobs: int) -> object:
    import joblib

    if backend != "dask":
        return joblib.parallel_config(backend=backend)
    import distributed

    cluster = distributed.LocalCluster(n_workers=min(jobs, 2), threads_per_worker=jobs // 2, dashboard_address=None)
    distributed.Client(cluster)
    return joblib.parallel_config(backend="dask")


def curves() -> Found:
    """Accuracies of the runs on HAM10000, and the verdicts when they take the place of those in the shipped table."""
    from supclust import claims, kept, profiles, sweep

    profile, seeds = profiles.get("laptop"), int(os.environ["SEEDS"])
    with tempfile.TemporaryDirectory() as folder:
        rows = sweep.run(profile, folder=Path(folder), jobs=1, datasets=["ham10000"], seeds=seeds)
    shipped, _ = kept.load(kept.REPOSITORY / "reports" / "laptop" / "curves.csv")
    replaced = shipped.set_index(sweep.RUN).index.isin(rows.set_index(sweep.RUN).index)
    found = claims.run(profile, pd.concat([shipped[~replaced], rows]))
    comparisons = pd.concat(claim.comparisons for claim in found)
    return {
        "accuracy": rows["accuracy"].to_numpy(),
        "claims": np.array([claim.verdict for claim in found]),
        "comparisons": comparisons["verdict"].to_numpy(dtype=str),
    }


# -- what is expected of it ----------------------------------------------------------------------------------------------------


def _computed(what: Callable[[], Found], work: Path, **changes: str) -> Found:
    """What a process of its own computes in this environment."""
    file = work / "found.npz"
    line = [sys.executable, "-m", "tests.torture.kernels", what.__name__, str(file)]
    done = subprocess.run(line, env=environment(**changes), text=True, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"{what.__name__} ended with {done.returncode}: {done.stderr[-2000:]}")
    with np.load(file) as arrays:
        return dict(arrays)


def _differing(one: Found, other: Found) -> list[str]:
    """The names of arrays that are not equal to the last bit."""
    return [name for name in one if not np.array_equal(one[name], other[name], equal_nan=one[name].dtype.kind == "f")]


def _off(one: Found, other: Found) -> float:
    """The distance of all numbers from those of the first, relative to their length."""
    a, b = (np.concatenate([np.ravel(found[name]).astype(float) for name in one]) for found in (one, other))
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


def threads(work: Path, share: float) -> Case:
    """Picks, neighbours, features and the digits' weights do not depend on threads; nor do wide networks, twice on as many."""
    case, two = Case("one thread or two: picks, neighbours, features, digits' weights to the last bit"), {"OMP_NUM_THREADS": "2"}
    trials = [(what, {}) for what in (picks, approximate, embedding, digits)] + [(wide, two)]
    for what, before in trials:
        one, other = (_computed(what, work, SEEDS=str(often(3, share)), **threads) for threads in (before, two))
        case.trials += len(one)
        for name in _differing(one, other):
            case.faults.append(f"{what.__name__}: {name} depends on more than the seed")
    case.note = f"a wide network's weights, one thread or two: {_off(other, _computed(wide, work)):.0e} apart after three steps"
    return case


def schedules(work: Path, share: float) -> Case:
    """The table of profile smoke does not depend on workers, their number, and what starts them."""
    case = Case("profile smoke by joblib and Dask, 1, 2 and 4 workers: tables to the last bit")
    first, *others = SCHEDULES[: 1 + often(len(SCHEDULES) - 1, share)]
    expected = _computed(table, work, BACKEND=first[0], JOBS=str(first[1]))
    for backend, jobs in others:
        case.trials += 1
        found = _computed(table, work, BACKEND=backend, JOBS=str(jobs), OMP_NUM_THREADS=str(jobs))
        case.expect(not _differing(expected, found), f"the table of {jobs} workers of {backend} is another one")
    return case


def without_amx(work: Path, share: float) -> Case:
    """Without AMX, nothing that computes in float32 changes."""
    case = Case("AVX-512 without AMX: features and weights to the last bit")
    if not torch.cpu.get_capabilities().get("amx_bf16"):  # a run would be compared with itself
        case.note = "skipped: this processor has no AMX"
        return case
    for what in (embedding, digits, wide):
        one, other = _computed(what, work), _computed(what, work, **WITHOUT_AMX)
        case.trials += len(one)
        case.faults += [f"{what.__name__}: {name} depends on AMX" for name in _differing(one, other)]
    return case


def avx2(work: Path, share: float) -> Case:
    """On a processor without AVX-512 sums are rounded otherwise: features are nearly the same, and what is claimed is.

    Picks are not (docs/reliability.md says why), and how many of them move is noted.
    """
    case, seeds = Case("AVX2 alone: features to 1e-4, every claim's verdict"), {"SEEDS": str(often(3, share))}
    (sharp, old), (one, other) = ([_computed(what, work, **seeds, **some) for some in ({}, AVX2)] for what in (embedding, picks))
    case.expect((apart := _off(sharp, old)) < 1e-4, f"features are {apart:.0e} apart")
    queries = [name for name in one if " of " in name]
    moved = [np.setdiff1d(one[name], other[name]).size for name in queries]
    total = sum(one[name].size for name in queries)
    runs, rerun = (_computed(curves, work, SEEDS=str(max(3, often(10, share))), **some) for some in ({}, AVX2))
    case.faults += [
        f"claim {number} is {b} instead of {a}"
        for number, (a, b) in enumerate(zip(runs["claims"], rerun["claims"], strict=True), 1)
        if a != b
    ]
    case.trials = len(sharp) + len(queries) + len(runs["accuracy"])
    flips, points = (runs["comparisons"] != rerun["comparisons"]).sum(), 100 * np.abs(runs["accuracy"] - rerun["accuracy"])
    case.note = (
        f"features {apart:.0e} apart; {sum(moved)} of {total} picks are others, in {np.count_nonzero(moved)} of {len(queries)} "
        f"queries; {(points > 0).mean():.0%} of accuracies move, by up to {points.max():.1f} points; "
        f"{flips} of {len(runs['comparisons'])} comparisons"
    )
    return case


CASES = [threads, schedules, without_amx, avx2]

if __name__ == "__main__":
    np.savez(sys.argv[2], **globals()[sys.argv[1]]())
