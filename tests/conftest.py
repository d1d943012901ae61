"""What several test modules need."""

import dataclasses
import itertools
import logging
import os
import shutil
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import settings
from threadpoolctl import threadpool_limits

# Few examples, the same each time, before a change is committed; many new ones at night.
settings.register_profile("gate", max_examples=20, deadline=None, derandomize=True)
settings.register_profile("night", max_examples=200, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))

# A sweep stays in its process unless a test asks for two: the start of others takes seconds.
os.environ["LOKY_MAX_CPU_COUNT"] = "1"


def grid(*axes: Sequence) -> list:
    """Every combination of the axes' values, for `parametrize`.

    The gate runs a few, in which each value meets each value of the other axes; the rest are marked `night`.
    """
    pairs = {case: set(itertools.combinations(enumerate(case), 2)) for case in itertools.product(*axes)}
    few, missing = [], set().union(*pairs.values())
    while missing:
        few.append(max(pairs, key=lambda case: len(pairs[case] & missing)))
        missing -= pairs[few[-1]]
    return [pytest.param(*case, marks=() if case in few else pytest.mark.night) for case in pairs]


def check_picks(picks: np.ndarray, budget: int, pool) -> None:
    """What every query must give: the budget, distinct, as int64, none of them labelled."""
    assert picks.shape == (budget,)
    assert picks.dtype == np.int64
    assert len(set(picks)) == budget
    assert not set(picks) & set(pool.labeled)


def make_blobs(n_blobs: int, size: int, d: int, seed: int = 0, spread: float = 0.1) -> np.ndarray:
    """Points around n_blobs random directions, size around each, (n_blobs * size, d) float32."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((n_blobs, d))
    return (np.repeat(centers, size, axis=0) + spread * rng.standard_normal((n_blobs * size, d))).astype(np.float32)


@pytest.fixture
def log_level():
    """The command sets a log level for its process, which the tests share."""
    logger = logging.getLogger("supclust")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture
def two_threads(monkeypatch):
    """Two threads of numpy, PyTorch and `threads.map`: `make test` gives each of its processes one."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with threadpool_limits(2):
        yield


@pytest.fixture
def blobs() -> np.ndarray:
    return make_blobs(12, 40, 8)


def make_features(n_classes: int = 4, size: int = 50, d: int = 8, spread: float = 0.2):
    """Features of clear blobs, one class each."""
    from supclust.features import Features

    points, labels = make_blobs(n_classes, size, d, spread=spread), np.repeat(np.arange(n_classes), size)
    order = np.random.default_rng(0).permutation(len(points))
    points, labels = points[order], labels[order]
    half = len(points) // 2
    classes = tuple(f"class {k}" for k in range(n_classes))
    return Features(points, points[half:], labels, labels[half:], classes, {"dataset": "blobs"})


def keep_digits(folder, profile, found):
    """Keep these features as those of the digits that a profile trains an encoder for."""
    from supclust import features

    made_by = {"dataset": "digits", "config": dataclasses.asdict(profile.simclr)}
    path = folder / "artefacts" / profile.name / "digits" / "features.safetensors"
    features.save(path, dataclasses.replace(found, made_by=made_by, checksum=""))


@pytest.fixture(scope="session")
def dask_client():
    """A client of the Dask cluster that the tests of a process share: two workers of two threads."""
    import distributed

    options = {"n_workers": 2, "threads_per_worker": 2, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        yield client


@pytest.fixture(scope="session")
def browser():
    """Chromium, without a window."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the pages are tried in a browser through playwright")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("the pages are tried in Chromium, which this machine does not have")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()
