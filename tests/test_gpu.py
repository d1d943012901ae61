"""What goes to a GPU: the same code on PyTorch's CPU against numpy's, and on the GPU itself where there is one."""

import multiprocessing
import subprocess
import sys

import numpy as np
import pytest
import torch

import supclust
from supclust import scores, strategies
from supclust.engine import geometry, gpu, kmeans, threads
from supclust.strategies import pool
from tests.conftest import make_blobs

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"))
MATMUL = torch.backends.cuda.matmul


@pytest.fixture(params=["cpu", CUDA])
def device(request):
    return torch.device(request.param)


@pytest.fixture
def use_device(monkeypatch, device):
    """When called: from now on all work, however small, goes to the device. Returns the names of kernels, as they are called."""
    names = []

    def spy(name):
        kernel = getattr(gpu, name)
        return lambda *arguments: names.append(name) or kernel(*arguments)

    def use():
        for name in ("nearest_products", "nearest_centers"):
            monkeypatch.setattr(gpu, name, spy(name))
        for name in ("OPERATIONS", "OPERATIONS_PER_VALUE"):
            monkeypatch.setattr(gpu, name, 0)
        monkeypatch.setattr(gpu, "device", lambda: device)
        return names

    return use


def with_copies(n, d, seed=0):
    """Points of which a third have a copy."""
    points = make_blobs(1, n, d, seed=seed, spread=1.0)
    points[: n // 3] = points[n // 3 : 2 * (n // 3)]
    return points


@pytest.mark.parametrize("tile", [7, 64, 8192])
@pytest.mark.parametrize(("n", "d", "k"), [(2, 3, 1), (30, 1, 29), (200, 7, 20), (500, 130, 20)])
@pytest.mark.parametrize("make", [with_copies, lambda n, d: make_blobs(2, n // 2, d, spread=1e-3)])
def test_nearest_products_are_numpys_up_to_rounding(n, d, k, make, tile, device, monkeypatch):
    monkeypatch.setattr(gpu, "TILE", tile)
    left, right, rounding = geometry.product_factors(make(n, d))
    found = gpu.nearest_products(left, right, k, device)
    assert (found.shape, found.dtype) == ((n, k), np.float32)
    expected = np.sort(geometry._largest_products(left, right, k), axis=1)
    np.testing.assert_allclose(np.sort(found, axis=1), expected, rtol=0, atol=rounding)


@pytest.mark.parametrize(("n", "d", "k"), [(1, 1, 1), (50, 3, 1), (50, 3, 2), (400, 64, 30)])
def test_nearest_centers_are_numpys_where_they_lead(n, d, k, device):
    points = with_copies(n, d)
    centers = points[np.random.default_rng(1).permutation(n)[:k]]
    nearest, found, leads = gpu.nearest_centers(points, centers, device)
    expected = kmeans._nearest(points, centers)
    clear = leads > 1e-4
    assert (leads >= 0).all()
    assert clear.any() == (k > 1)
    np.testing.assert_array_equal(nearest[clear], expected[0][clear])
    np.testing.assert_allclose(found, expected[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("n", "d", "k"), [(1, 1, 1), (600, 5, 12), (900, 96, 40)])
def test_a_pass_of_kmeans_is_numpys(n, d, k, use_device):
    """Half of the centres are copies of the others: the first of them is the nearest, as in numpy."""
    points = with_copies(n, d)
    centers = np.resize(points[np.random.default_rng(1).permutation(n)[: -(-k // 2)]], (k, d))
    expected = kmeans.block_pass(points, centers)
    calls = use_device()
    found = kmeans.block_pass(points, centers)
    assert calls == ["nearest_centers"]
    for name in ("nearest", "sums", "counts"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-5)


def test_a_device_that_rounds_as_badly_as_the_bound_allows_gives_the_same_pass(monkeypatch):
    """Leads of ties are blown up to what rounding can make of them, and point at another centre."""
    points, centers = with_copies(300, 40), np.repeat(with_copies(9, 40, seed=1), 2, axis=0)
    expected = kmeans.block_pass(points, centers)
    largest = max(np.linalg.norm(points, axis=1).max(), np.linalg.norm(centers, axis=1).max())

    def worst(points, centers):
        nearest, found = kmeans._nearest(points, centers)
        return (
            nearest + 1,
            found,
            np.full(len(points), 40 * np.finfo(np.float32).eps * largest * np.linalg.norm(centers, axis=1).max()),
        )

    monkeypatch.setattr(gpu, "attempt", lambda kernel, points, centers: worst(points, centers))
    np.testing.assert_array_equal(kmeans.block_pass(points, centers).nearest, expected.nearest)


@pytest.mark.parametrize("n_clusters", [1, 8, 40])
def test_kmeans_finds_the_same_clusters(n_clusters, use_device):
    points = geometry.Normalised(make_blobs(10, 60, 100, spread=1.0))
    expected = kmeans.kmeans(points, n_clusters)
    calls = use_device()
    found = kmeans.kmeans(points, n_clusters)
    assert set(calls) == {"nearest_centers"}
    np.testing.assert_array_equal(found.assignments, expected.assignments)
    np.testing.assert_array_equal(found.centers, expected.centers)


@pytest.mark.parametrize("squared", [False, True])
def test_bounds_of_mean_distances_hold(squared, use_device):
    calls = use_device()
    points = geometry.normalise(with_copies(400, 24))
    low, high = scores.mean_distance_bounds(points, squared=squared)
    exact = scores.mean_distances(points, lambda rows: points[rows].astype(float), np.arange(400), squared=squared)
    assert calls == ["nearest_products"]
    assert (low <= exact * (1 + 1e-12)).all()
    assert (exact <= high * (1 + 1e-12)).all()


@pytest.mark.parametrize(("budget", "labeled", "tile"), [(1, [], 8192), (10, [], 16), (6, [0, 3, 200], 8192), (60, [1], 16)])
@pytest.mark.parametrize("make", [with_copies, lambda n, d: make_blobs(6, n // 6, d)])
def test_the_same_clusters_give_the_same_picks(make, budget, labeled, tile, monkeypatch, use_device):
    """tile: of the GPU's neighbours, and of numpy's."""
    features = make(600, 24)
    normalised = geometry.Normalised(features)
    known = {k: kmeans.kmeans(normalised, k) for k in {min(len(labeled) + budget, 500)}}
    monkeypatch.setattr(pool, "kmeans", lambda points, n_clusters, seed: known[n_clusters])
    expected = supclust.select(features, budget, labeled)
    calls = use_device()
    monkeypatch.setattr(gpu, "TILE", tile)
    np.testing.assert_array_equal(supclust.select(features, budget, labeled), expected)
    assert "nearest_products" in calls


@pytest.mark.parametrize("name", ["supclust", "typiclust"])
def test_strategies_pick_the_same_from_the_features_on(name, use_device):
    def picks():
        return strategies.query(name, strategies.Pool(features), 12, np.random.default_rng(0))

    features = make_blobs(6, 50, 32, spread=0.5)
    expected = picks()
    calls = use_device()
    np.testing.assert_array_equal(picks(), expected)
    assert set(calls) == {"nearest_centers", "nearest_products"}


# -- whether and how it is used ------------------------------------------------------------------------------------------------

SELECT = """
import sys
import numpy as np
import supclust
from supclust.engine import gpu
gpu.OPERATIONS = gpu.OPERATIONS_PER_VALUE = 0
{}
supclust.select(np.random.default_rng(0).standard_normal((100, 8)), 5)
assert gpu.device() is None
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize("setting", ["gpu.DRIVER = ['/dev/null/none']", "import os; os.environ['CUDA_VISIBLE_DEVICES'] = ''"])
def test_torch_is_not_imported_where_there_is_no_gpu_or_it_is_hidden(setting):
    subprocess.run([sys.executable, "-c", SELECT.format(setting)], check=True)


@pytest.fixture
def fresh(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpu.device.cache_clear()
    yield monkeypatch
    gpu.device.cache_clear()


def test_torch_without_a_gpu_is_none(fresh, tmp_path):
    fresh.setattr(gpu, "DRIVER", [tmp_path])
    fresh.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.device() is None


def test_a_gpu_that_can_do_no_product_is_none(fresh):
    def fail(*arguments, **options):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    fresh.setattr(torch.cuda, "is_available", lambda: True)
    fresh.setattr(torch, "ones", fail)
    assert gpu.device() is None


def test_small_work_does_not_even_look_for_a_gpu(monkeypatch):
    monkeypatch.setattr(gpu, "device", lambda: pytest.fail("looked for one"))
    supclust.select(make_blobs(4, 30, 8), 5)


@pytest.mark.parametrize(
    ("n", "m", "d", "pays"), [(600, 600, 512, False), (2000, 2000, 512, True), (2048, 20, 512, False), (2048, 500, 512, True)]
)
def test_what_pays_hangs_on_the_shapes(n, m, d, pays, monkeypatch):
    monkeypatch.setattr(gpu, "device", lambda: torch.device("cpu"))
    left, right = np.empty((n, d), dtype=np.float32), np.empty((m, d), dtype=np.float32)
    assert (gpu.attempt(lambda left, right, device: "done", left, right) == "done") is pays


def test_what_the_memory_is_too_small_for_is_left_to_numpy(use_device, monkeypatch):
    use_device()

    def full(*arguments):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    points = with_copies(200, 8)
    left, right, _ = geometry.product_factors(points)
    monkeypatch.setattr(gpu, "nearest_products", full)
    squares, _ = geometry.nearest_squares(points, 5)
    np.testing.assert_array_equal(squares, np.maximum(-2 * geometry._largest_products(left, right, 5), 0))


@pytest.mark.skipif(not hasattr(MATMUL, "fp32_precision"), reason="PyTorch before 2.9")
def test_tf32_and_autocast_are_off_inside_and_put_back(device):
    def precisions():
        inside = torch.ones(2, 2, device=device) @ torch.ones(2, 2, device=device)
        return MATMUL.fp32_precision, inside.dtype

    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert precisions() == (MATMUL.fp32_precision, torch.bfloat16)
        before = MATMUL.fp32_precision
        MATMUL.fp32_precision = "tf32"
        try:
            with gpu._alone_in_float32(device):
                assert precisions() == ("ieee", torch.float32)
            assert precisions() == ("tf32", torch.bfloat16)
        finally:
            MATMUL.fp32_precision = before


def test_several_threads_get_what_one_does(use_device):
    use_device()
    points = with_copies(900, 16)
    parts = geometry.slices(900, 90)
    together = threads.map(lambda part: geometry.nearest_squares(points[part], 5)[0], parts)
    for part, squares in zip(parts, together, strict=True):
        np.testing.assert_array_equal(squares, geometry.nearest_squares(points[part], 5)[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_where_there_is_a_gpu_it_is_used_and_found_again_by_no_forked_process(fresh):
    assert gpu.device() == torch.device("cuda", 0)
    with multiprocessing.get_context("fork").Pool(1) as forked:
        assert forked.apply(gpu.device) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_large_work_goes_to_the_gpu_and_is_done_in_float32_even_with_tf32_set(fresh):
    """TF32 is off by 3e-4 here."""
    points = geometry.normalise(make_blobs(10, 600, 512, spread=1.0))
    left, right, _ = geometry.product_factors(points)
    torch.set_float32_matmul_precision("high")
    try:
        found = gpu.attempt(gpu.nearest_products, left, right, 20)
    finally:
        torch.set_float32_matmul_precision("highest")
    expected = geometry._largest_products(left, right, 20)
    np.testing.assert_allclose(np.sort(found, axis=1), np.sort(expected, axis=1), rtol=0, atol=1e-5)
