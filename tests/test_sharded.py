"""A query over shards on a Dask cluster of two workers against the one-machine answer.

Where k-means passes over all the points, a cluster's points are added up in another order than on one machine, so its centre
moves by some 1e-7. Features whose picks must be the same are therefore clear blobs, where no point lies that near to a border;
noise is compared by its inertia, and by its picks given the same clusters.
"""

import gc
import importlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

import supclust
from supclust import strategies
from supclust.engine import geometry, kmeans, threads
from supclust.scale import Shards
from supclust.scale import points as scale_points
from tests.conftest import make_blobs

CUTS = [500, 501, 1100]  # four uneven shards, one of a single row
LABELED = [3, 500, 501, 900, 1599]


@pytest.fixture(scope="module")
def features():
    """Clear blobs in random order."""
    return np.random.default_rng(1).permutation(make_blobs(40, 40, 16, spread=0.02))


def as_paths(features, folder):
    paths = [folder / f"{i}.npy" for i in range(len(CUTS) + 1)]
    for path, shard in zip(paths, np.split(features, CUTS), strict=True):
        np.save(path, shard)
    return paths


def as_dask_array(features, folder):
    sizes = tuple(map(len, np.split(features, CUTS)))
    return importlib.import_module("dask.array").from_array(features, chunks=(sizes, (7, 9)))


def as_anything(features, folder):
    dask, distributed = importlib.import_module("dask"), importlib.import_module("distributed")
    first, *others, last = np.split(features, CUTS)
    return [dask.delayed(first), *others, distributed.get_client().submit(np.array, last)]


SOURCES = {
    "paths": as_paths,
    "float16 paths": as_paths,
    "arrays": lambda features, folder: np.split(features, CUTS),
    "dask.array": as_dask_array,
    "delayed, arrays and a future": as_anything,
}


def small_samples(monkeypatch):
    """k-means of the tests' few points goes as that of millions: over a sample, then over all of them."""
    monkeypatch.setattr(kmeans, "SAMPLE", (400, 5))


@pytest.fixture(params=SOURCES)
def both(request, dask_client, features, tmp_path):
    """The features in memory, and in shards."""
    features = features.astype(np.float16) if "float16" in request.param else features
    return features, Shards(SOURCES[request.param](features, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "labeled", "sampled", "budget"),
    [("supclust", [], True, 40), ("supclust", [], False, 1), ("typiclust", LABELED, True, 1), ("typiclust", [], False, 10)],
)
def test_shards_give_the_clusters_and_picks_of_one_machine(
    dask_client, features, tmp_path, monkeypatch, name, labeled, sampled, budget
):
    if sampled:
        small_samples(monkeypatch)
    one, shards = strategies.Pool(features, labeled), strategies.Pool(Shards(as_paths(features, tmp_path)), labeled)
    check_same(one, shards, name, budget)
    found, wanted = (pool.clusters_for(budget) for pool in (shards, one))
    np.testing.assert_array_equal(found.assignments, wanted.assignments)
    np.testing.assert_allclose(found.centers, wanted.centers, atol=1e-6)


def check_same(one, shards, name, budget):
    found, wanted = (strategies.query(name, pool, budget, np.random.default_rng(0)) for pool in (shards, one))
    np.testing.assert_array_equal(found, wanted)


def test_wherever_the_shards_come_from(both, monkeypatch):
    small_samples(monkeypatch)
    one, shards = (strategies.Pool(features, LABELED) for features in both)
    check_same(one, shards, "supclust", 10)


@pytest.mark.parametrize("name", ["random", "supclust", "supclust-no-sup", "supclust-no-typicality"])
def test_the_ablations_and_random_work_on_shards_and_keep_to_candidates(dask_client, features, name):
    candidates = np.arange(400, 1200, 7)
    one, shards = (strategies.Pool(given, LABELED, candidates=candidates) for given in (features, Shards(np.split(features, CUTS))))
    check_same(one, shards, name, 10)
    assert set(strategies.query(name, shards, 10, np.random.default_rng(0))) <= set(candidates)


def test_select_explains_as_on_one_machine(dask_client, features, monkeypatch):
    small_samples(monkeypatch)
    (found, details), (wanted, expected) = (
        supclust.select(given, 20, LABELED, return_details=True) for given in (Shards(np.split(features, CUTS)), features)
    )
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_allclose(details.typicality, expected.typicality, rtol=1e-5)
    np.testing.assert_allclose(details.sup, expected.sup, rtol=1e-5)


def test_noise_has_the_inertia_of_one_machine_and_given_the_clusters_its_picks(dask_client, monkeypatch):
    small_samples(monkeypatch)
    points = geometry.normalise(np.random.default_rng(0).standard_normal((5000, 16)).astype(np.float32))
    one, shards = strategies.Pool(points), strategies.Pool(Shards(np.split(points, [1000, 4500])))
    clusterings = [pool.clusters(20) for pool in (one, shards)]
    inertia = [((points - found.centers[found.assignments]) ** 2).sum() for found in clusterings]
    assert inertia[1] == pytest.approx(inertia[0], rel=1e-3)
    for name in ("supclust", "typiclust"):
        pools = (
            strategies.Pool(pool.features, _shared={**pool._shared, ("k-means", 20): clusterings[0]}) for pool in (one, shards)
        )
        picks = [strategies.query(name, pool, 20, np.random.default_rng(0)) for pool in pools]
        np.testing.assert_array_equal(*picks)


def test_approximate_neighbours_are_those_of_one_machine(dask_client):
    points = np.random.default_rng(0).standard_normal((17_000, 4)).astype(np.float32)
    picks = [
        strategies.query("typiclust", strategies.Pool(given, settings=strategies.Settings(exact=False)), 1, None)
        for given in (points, Shards(np.split(points, [3, 9000])))
    ]
    np.testing.assert_array_equal(*picks)


def test_points_come_from_their_shards_in_the_order_asked(both):
    one, shards = geometry.Points(both[0]), both[1]
    assert shards.shape == one.shape
    assert isinstance(shards, geometry.Points)
    np.testing.assert_array_equal(shards.order, one.order)
    for rows in (np.array([1599, 0, 500, 501, 499, 0]), np.empty(0, dtype=int), one.order):
        np.testing.assert_array_equal(shards[rows], one[rows])
    np.testing.assert_array_equal(shards.map_rows(partial(np.sum, axis=1), one.order), one[one.order].sum(axis=1))
    with pytest.raises(IndexError):
        shards[np.array([1600])]


def test_map_merges_by_shard_and_groups_come_together(dask_client, features, monkeypatch):
    monkeypatch.setattr(scale_points, "GROUPS_AHEAD", 1)
    shards = Shards(np.split(features, CUTS))
    parts = shards.map(np.array, merge=np.concatenate)
    assert [len(part) for part in parts] == [500, 1, 599, 500]
    np.testing.assert_allclose(np.concatenate(parts), geometry.normalise(features), rtol=1e-6)
    groups = np.split(np.random.default_rng(0).permutation(1600), range(100, 1600, 100))
    for group, points in zip(groups, shards.map_groups(np.array, groups), strict=True):
        np.testing.assert_array_equal(points, shards[group])


def test_blocks_beyond_some_are_merged_on_the_way(dask_client):
    points = np.random.default_rng(0).standard_normal((70 * 8192 + 5, 2)).astype(np.float32)
    [whole] = Shards([points]).map(partial(np.sum, axis=1), merge=np.concatenate)
    np.testing.assert_allclose(whole, geometry.normalise(points).sum(axis=1), rtol=1e-5)


def test_most_points_never_leave_the_workers(dask_client, monkeypatch):
    small_samples(monkeypatch)
    asked, real = [], Shards.map_rows
    monkeypatch.setattr(Shards, "map_rows", lambda *given: asked.append(given[1:]) or real(*given))
    points = np.random.default_rng(0).standard_normal((5000, 16)).astype(np.float32)
    for budget in (1, 10):
        supclust.select(Shards(np.split(points, [1000, 4500])), budget, return_details=True)
    here = [len(rows) for function, rows in asked if function is np.asarray]
    assert 0 < sum(here) < 1500


@pytest.mark.parametrize("name", ["coreset", "probcover"])
def test_strategies_that_need_memory_say_so(dask_client, features, name):
    pool = strategies.Pool(Shards(np.split(features, CUTS)))
    with pytest.raises(
        TypeError, match="not gathered: supclust, supclust-no-sup, supclust-no-typicality, typiclust and random work"
    ):
        strategies.query(name, pool, 5, np.random.default_rng(0))


def test_rows_that_are_not_finite_are_named_by_their_number_among_all(dask_client, features):
    features = features.copy()
    features[[510, 1200], 3] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"NaN, infinite or too large for float32 in 2 row\(s\): 510, 1200$"):
        Shards(np.split(features, CUTS))


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ([np.ones((3, 4)), np.ones((3, 4)), np.ones((3, 5))], "one width: shard 2 has 5 dimensions, shard 0 has 4"),
        ([np.ones((3, 4)), np.ones(3)], "shard 1: features must be 2-d"),
        ([np.ones((3, 4)), np.ones((0, 4))], "shard 1: features must be 2-d .* and not empty"),
        ([np.array([["a"]])], "shard 0: features must be real numbers"),
        ([], "there are no shards"),
    ],
)
def test_bad_shards_are_refused(dask_client, shards, message):
    with pytest.raises(ValueError, match=message):
        Shards(shards)


def test_files_that_are_missing_and_dask_arrays_that_are_not_2d_are_refused(dask_client, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npy"):
        Shards([tmp_path / "nowhere.npy"])
    with pytest.raises(ValueError, match="must be 2-d"):
        Shards(importlib.import_module("dask.array").ones(5))


def test_an_interrupt_cancels_what_is_under_way(dask_client, features, monkeypatch):
    shards = Shards(np.split(features, CUTS))

    def interrupted(items, desc, total):
        yield next(iter(items))
        raise KeyboardInterrupt

    monkeypatch.setattr(threads, "progress", interrupted)
    with pytest.raises(KeyboardInterrupt):
        shards.map_groups(_slowly, [np.arange(10 * i, 10 * i + 10) for i in range(100)], "groups")

    def tasks(dask_scheduler):
        return sum("_of_group" in str(key) for key in dask_scheduler.tasks)

    for _ in range(100):
        if not dask_client.run_on_scheduler(tasks):
            return
        time.sleep(0.05)
    pytest.fail("tasks are left")


def _slowly(points):
    time.sleep(0.2)
    return len(points)


ALONE = """
import sys
import numpy as np
import supclust
from supclust.scale import Shards
assert not {"dask", "distributed"} & set(sys.modules)
try:
    Shards([np.ones((3, 3))])
except ValueError as error:
    assert "no Dask client is running" in str(error)
sys.modules["distributed"] = None
try:
    Shards([np.ones((3, 3))])
except ImportError as error:
    assert "pip install distributed" in str(error)
else:
    raise AssertionError
"""


def test_without_a_client_or_dask_there_is_a_sentence_and_dask_is_imported_only_when_needed():
    subprocess.run([sys.executable, "-c", ALONE], check=True)


@pytest.mark.slow
def test_shards_of_a_killed_worker_are_read_again(dask_client, features, tmp_path):
    shards = Shards(as_paths(features, tmp_path))
    os.kill(next(iter(dask_client.run(os.getpid).values())), signal.SIGKILL)
    np.testing.assert_array_equal(supclust.select(shards, 40), supclust.select(features, 40))
    dask_client.wait_for_workers(2)


def test_shards_are_opened_on_many_threads(tmp_path):
    np.save(tmp_path / "shard.npy", np.zeros((3, 2)))

    def open_it(depth):
        return open_it(depth - 1) if depth else scale_points._opened(str(tmp_path / "shard.npy"))

    def yield_to_others(*_):
        time.sleep(0)

    thresholds = gc.get_threshold()
    gc.callbacks.append(yield_to_others)  # as Dask does, which lets other threads run in the middle of everything
    gc.set_threshold(5)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert {found.shape for found in pool.map(open_it, [*range(30)] * 50)} == {(3, 2)}
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(yield_to_others)
