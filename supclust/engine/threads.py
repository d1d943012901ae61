"""The cores of this machine: independent pieces of numpy work spread over threads, each of which has the BLAS for itself.

A piece is done by one thread with a BLAS of one thread, and results come in the order of the pieces, so nothing that is computed
here depends on how many threads there are. On two cores it is also faster than a BLAS of two threads, as what is not a matrix
product is spread too.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import cache
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController
from tqdm import tqdm

SECONDS_BEFORE_BAR = 3  # what takes less shows no progress bar

_inside = threading.local()  # .stop, where this thread works on a piece: set when the pieces are no longer wanted
_limits: list[int] = []
_lock, _maps, _single = threading.Lock(), 0, None


def map(function: Callable[[Any], Any], pieces: Iterable[Any], desc: str | None = None) -> list:
    """[function(piece) for piece in pieces], over all the cores; numpy lets go of Python's lock while it computes.

    Inside of a piece, the pieces of another map are done one after the other. desc: of a progress bar with the time left.
    An exception, Ctrl-C too, ends it as soon as the pieces in work, and of another map inside of them the pieces of that, are done.
    """
    pieces, stop = list(pieces), getattr(_inside, "stop", None)
    if stop is not None:
        return [(check(), function(piece))[1] for piece in pieces]
    with _single_threaded_blas(), closing(_results(function, pieces)) as results:
        return list(bar(results, desc, len(pieces)))


def bar(items: Iterable[Any], desc: str | None, total: int | None = None) -> Iterable[Any]:
    """The items, under a progress bar with the time left that appears once they have taken some seconds.

    Without desc, and inside of a piece, there is none.
    """
    shown = desc and getattr(_inside, "stop", None) is None
    return tqdm(items, desc, total, leave=False, delay=SECONDS_BEFORE_BAR) if shown else items


def check() -> None:
    """InterruptedError if this is inside of a piece that is no longer wanted, for loops that no map is part of."""
    stop = getattr(_inside, "stop", None)
    if stop is not None and stop.is_set():
        raise InterruptedError("what this was a part of has ended")


def _results(function: Callable[[Any], Any], pieces: Sequence[Any]) -> Iterator[Any]:
    stop = threading.Event()
    if (workers := min(count(), len(pieces))) < 2:
        yield from (_alone(stop, function, piece) for piece in pieces)
        return
    executor = ThreadPoolExecutor(workers)
    try:
        yield from executor.map(_alone, [stop] * len(pieces), [function] * len(pieces), pieces)
    finally:
        stop.set()
        executor.shutdown(cancel_futures=True)


def _alone(stop: threading.Event, function: Callable[[Any], Any], piece: Any) -> Any:
    _inside.stop = stop
    try:
        return function(piece)
    finally:
        _inside.stop = None


def workspace(name: str, shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
    """An array of that shape to write into, the same memory for each piece of a thread: fresh memory is slow.

    What it holds is lost when a piece asks for one of that name again.
    """
    size, held, key = math.prod(shape), vars(_inside).setdefault("workspaces", {}), (name, dtype)
    if key not in held or held[key].size < size:
        held[key] = np.empty(size, dtype=dtype)
    return held[key][:size].reshape(shape)


def count() -> int:
    """Threads that `map` uses: the cores that this process may have, or OMP_NUM_THREADS or `limit` if that is fewer."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min([cores, *([max(1, int(asked))] if asked.isdecimal() else []), *_limits])


@contextmanager
def limit(threads: int) -> Iterator[None]:
    """At most that many threads for the length of the block, in the whole process."""
    _limits.append(threads)
    try:
        yield
    finally:
        _limits.remove(threads)


@contextmanager
def _single_threaded_blas() -> Iterator[None]:
    """A BLAS of one thread while any `map` is at work; a setting of the whole process, so the first sets it, the last resets it."""
    global _maps, _single
    with _lock:
        if _maps == 0:
            _single = _controller().limit(limits=1, user_api="blas")
        _maps += 1
    try:
        yield
    finally:
        with _lock:
            _maps -= 1
            if _maps == 0:
                _single.restore_original_limits()


@contextmanager
def single_threaded_torch() -> Iterator[None]:
    """PyTorch with one thread for the length of the block; threads that are begun inside take the setting over."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _begin_anew() -> None:
    """In the child of a fork, where the threads of its parent are not: what they held and counted is not its own."""
    global _inside, _lock, _maps, _single
    _inside, _lock, _maps, _single = threading.local(), threading.Lock(), 0, None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


@cache
def _controller() -> ThreadpoolController:
    import scipy.linalg  # noqa: F401  it brings a BLAS of its own, and only those that are loaded can be limited

    return ThreadpoolController()
