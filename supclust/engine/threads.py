"""Independent pieces of numpy work spread over the cores, each with a BLAS of one thread.

Results come in the order of the pieces, so nothing that is computed here depends on the number of threads.
"""

import math
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import chain, pairwise
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController
from tqdm import tqdm

SECONDS_BEFORE_BAR = 1  # a progress bar appears after these


class _Thread(threading.local):
    stop: threading.Event | None = None  # ends the map whose piece this thread works on


_here, _lock, _blocks, _limit = _Thread(), threading.Lock(), 0, None


def map(function: Callable[[Any], Any], pieces: Iterable[Any], desc: str | None = None) -> list[Any]:
    """[function(piece) for piece in pieces], over all cores; inside a piece, one after the other.

    desc: of a progress bar with the time left. An exception, Ctrl-C included, stops the map after the running pieces.
    """
    pieces, stop = list(pieces), threading.Event()

    def run(piece: Any) -> Any:
        raise_if_stopped()
        return function(piece)

    with _single_threaded_blas():
        if _here.stop or len(pieces) < 2:
            return [run(piece) for piece in pieces]
        with ThreadPoolExecutor(count(), initializer=lambda: setattr(_here, "stop", stop)) as executor:
            try:
                return list(progress(executor.map(run, pieces), desc, len(pieces)))
            finally:
                stop.set()
                executor.shutdown(cancel_futures=True)


def ahead(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """function(item) of one item after the other, in a thread that works on the next one while the caller has the last."""
    with ThreadPoolExecutor(1) as thread:
        coming = (thread.submit(function, item) for item in items)
        yield from (result.result() for result, _ in pairwise(chain(coming, [None])))


def progress(items: Iterable[Any], desc: str | None, total: int | None = None) -> Iterable[Any]:
    """The items under a progress bar, which appears after some seconds; without desc, and inside a piece, there is none."""
    if desc is None or _here.stop:
        return items
    return tqdm(items, desc, total, leave=False, delay=SECONDS_BEFORE_BAR)


def raise_if_stopped() -> None:
    """InterruptedError inside a piece of a map that has ended: for long loops that call no map."""
    if _here.stop and _here.stop.is_set():
        raise InterruptedError("the computation that this is a part of has ended")


@contextmanager
def alone() -> Iterator[None]:
    """Every map inside the block keeps to this thread, and so does the BLAS."""
    before, _here.stop = _here.stop, threading.Event()
    try:
        with _single_threaded_blas():
            yield
    finally:
        _here.stop = before


@contextmanager
def _single_threaded_blas() -> Iterator[None]:
    """The BLAS is a setting of the process: the first block limits it, the last one restores it."""
    global _blocks, _limit
    with _lock:
        _limit = _limit if _blocks else _controller().limit(limits=1, user_api="blas")
        _blocks += 1
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if _blocks == 0:
                _limit.restore_original_limits()


@cache
def _controller() -> ThreadpoolController:
    import scipy.linalg  # noqa: F401  it brings a BLAS of its own, and only those that are loaded can be limited

    return ThreadpoolController()


def end_with_parent() -> None:
    """For joblib's worker processes: they end with the one that started them, even if that is killed while they wait for work."""
    parent = multiprocessing.parent_process().pid

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def count() -> int:
    """Threads for what is computed here: one inside a piece and in `alone`, else the cores, or OMP_NUM_THREADS if that is fewer."""
    if _here.stop:
        return 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores(), max(1, int(asked))) if asked.isdecimal() else cores()


def cores() -> int:
    """The cores of this process; a container or a batch system may lend fewer than the machine has, which macOS cannot tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workspace(name: str, shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
    """An array of that shape to write into; a thread gets the same memory for the same name, because fresh memory is slow."""
    held, key, size = vars(_here).setdefault("workspaces", {}), (name, dtype), math.prod(shape)
    if key not in held or held[key].size < size:
        held[key] = np.empty(size, dtype=dtype)
    return held[key][:size].reshape(shape)
