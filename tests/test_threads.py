"""Pieces over threads: order, one BLAS thread each, nesting, and how it ends when something is wrong."""

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from supclust.engine import threads

pytestmark = pytest.mark.usefixtures("two_threads")


def blas_threads():
    """Of numpy's and scipy's libraries; that of faiss is loaded only where neighbours are approximate."""
    libraries = [one for one in threadpool_info() if one["user_api"] == "blas" and "faiss" not in one["filepath"]]
    return {library["num_threads"] for library in libraries}


def test_results_come_in_the_order_of_the_pieces():
    assert threads.map(lambda i: time.sleep(0.01 * (i % 3)) or i, range(20)) == list(range(20))
    assert threads.map(str, []) == []


def test_each_piece_has_a_blas_of_one_thread_and_afterwards_it_is_as_before():
    before = blas_threads()
    assert threads.map(lambda _: blas_threads(), range(4)) == [{1}] * 4
    assert blas_threads() == before


def test_the_pieces_of_a_piece_are_done_by_its_thread():
    def piece(_):
        return {threading.get_ident(), *threads.map(lambda _: threading.get_ident(), range(5))}

    assert all(len(idents) == 1 for idents in threads.map(piece, range(4)))


@pytest.mark.parametrize("asked", [1, 2, 7])
def test_no_more_threads_than_openmp_is_told(asked, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", str(asked))
    assert threads.count() == min(asked, 4)
    idents = threads.map(lambda _: time.sleep(0.01) or threading.get_ident(), range(12))
    assert len(set(idents)) <= min(asked, 4)


def test_alone_keeps_to_one_thread_with_a_blas_of_one():
    with threads.alone():
        found = threads.map(lambda _: (threading.get_ident(), *blas_threads()), range(5))
    assert set(found) == {(threading.get_ident(), 1)}


def test_an_error_ends_the_other_pieces_and_what_is_inside_of_them():
    begun = []

    def piece(i):
        if i == 0:
            time.sleep(0.1)
            raise KeyError("broken")
        threads.map(lambda j: begun.append((i, j)) or time.sleep(0.05), range(100))

    with pytest.raises(KeyError, match="broken"):
        threads.map(piece, range(50))
    assert len(begun) < 30


def test_a_workspace_is_a_threads_own_and_is_used_again():
    def piece(i):
        first = threads.workspace("products", (3, 4))
        first[:] = i
        time.sleep(0.01)
        again = threads.workspace("products", (2, 5))
        return np.shares_memory(first, again), set(again.ravel().tolist()) == {i}, threads.workspace("other", (2,), bool).dtype

    assert threads.map(piece, range(8)) == [(True, True, np.dtype(bool))] * 8


PROGRAM = """
import signal, sys
import numpy as np
signal.signal(signal.SIGINT, signal.default_int_handler)
import supclust
features = np.random.default_rng(0).standard_normal((60_000, 128), dtype=np.float32)
print("begun", flush=True)
try:
    supclust.select(features, 1)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_stops_a_query_at_once():
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True, stderr=subprocess.PIPE)
    assert process.stdout.readline() == "begun\n"
    time.sleep(1.5)  # in the middle of the neighbours, which take several seconds in one cluster of 60,000 points
    begin = time.perf_counter()
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert out == "stopped\n", error
    assert time.perf_counter() - begin < 5


def test_a_bar_with_the_time_left_appears_only_where_it_takes_long(capfd, monkeypatch):
    monkeypatch.setattr(threads, "tqdm", partial(threads.tqdm, disable=False))
    monkeypatch.setattr(threads, "SECONDS_BEFORE_BAR", 0.1)
    threads.map(lambda _: None, range(5), "quick")
    threads.map(lambda _: time.sleep(0.1), range(8), "long")
    written = capfd.readouterr().err
    assert "quick" not in written
    assert "long" in written


def test_ahead_works_on_the_next_one_while_the_caller_has_the_last_and_no_further():
    begun, third = [], threading.Event()

    def function(i):
        begun.append(i)
        if i == 2:
            third.set()
        return 10 * i

    found = threads.ahead(function, range(5))
    assert next(found) == 0
    assert next(found) == 10
    assert third.wait(10)
    assert begun == [0, 1, 2]
    assert list(found) == [20, 30, 40]
    assert list(threads.ahead(function, [])) == []
    with pytest.raises(ZeroDivisionError):
        list(threads.ahead(lambda i: 1 // i, [1, 0]))


def test_an_interrupt_in_the_bar_stops_the_threads_while_its_traceback_is_held(monkeypatch):
    done = []

    def interrupted(items, *_):
        for item in items:
            raise KeyboardInterrupt(item)

    monkeypatch.setattr(threads, "progress", interrupted)
    with pytest.raises(KeyboardInterrupt) as held:
        threads.map(lambda i: done.append(time.sleep(0.02)), range(100))
    before = len(done)
    time.sleep(0.2)
    assert len(done) == before < 20
    assert held.tb is not None


def test_a_blas_that_comes_with_scipy_is_limited_too():
    def piece(_):
        import scipy.linalg

        return blas_threads() if scipy.linalg else None

    assert threads.map(piece, range(2)) == [{1}] * 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_process_forked_in_the_middle_of_a_map_begins_anew():
    def fork(_):
        child = os.fork()
        if child == 0:
            os._exit(0 if threads.map(lambda _: blas_threads(), range(3)) == [{1}] * 3 else 1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert threads.map(fork, range(2)) == [0, 0]
