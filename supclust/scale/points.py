"""Features that stay where they are: in a memory-mapped file, or in shards on the workers of a Dask cluster."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from supclust.engine import geometry, threads

if TYPE_CHECKING:
    from distributed import Client, Future

MERGED = 64  # results of blocks that a worker holds before it merges them
READING = threading.Lock()  # CPython 3.11 parses the header of a file on one thread at a time only (gh-106905)
GROUPS_AHEAD = 2  # groups under way for each of the workers' threads, whose points are then in memory


class Mapped(geometry.Points):
    """`geometry.Points` features (n, d) of which no copy is kept: a block is converted and normalised whenever it is asked for."""

    def __init__(self, features: ArrayLike) -> None:
        self._features = geometry.check_shape(features)
        self.shape = self._features.shape
        bad, along = _read_through(self._features)
        geometry.check_finite(bad)
        self.order = np.argsort(along, kind="stable")

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        return _read(self._features, rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate([self[part] for part in geometry.blocks(self.shape)], dtype=dtype)


def _read(features: np.ndarray, rows: np.ndarray | slice) -> np.ndarray:
    """Some of the points (m, d), read and normalised."""
    with np.errstate(over="ignore", invalid="ignore"):
        return geometry.normalise(np.ascontiguousarray(features[rows], dtype=np.float32))


def _read_through(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows that are not finite, and where the points lie along the canonical direction (n,)."""

    def read(part: slice) -> tuple[np.ndarray, np.ndarray]:
        points = _read(features, part)
        return part.start + np.flatnonzero(~np.isfinite(points).all(axis=1)), geometry.along_direction(points)

    bad, along = zip(*threads.map(read, geometry.blocks(features.shape), "checking the features"), strict=True)
    return np.concatenate(bad), np.concatenate(along)


class Shards(geometry.Points):
    """Features (n, d) in shards on the workers of a Dask cluster, scaled to unit length there: `geometry.Points`.

    shards: a sequence, in the order of the rows, of paths of .npy files on a disk that all workers see (memory-mapped by the
    worker), arrays (m, d), and Delayed ones or Futures of Dask; or a dask.array. client: a distributed.Client; None = the current.
    A worker does a shard, and a cluster, on one of its threads, so there should be at least as many shards as threads. Here, on the
    client, there are some tens of bytes for each point and a sample for k-means, never the features. The points of a cluster come
    together on one worker, from the others; the clusters should be many enough for that.
    Raises ValueError for features that are not finite (naming their rows among all), real, 2-d and of one width, and without a
    client; ImportError without Dask.
    """

    def __init__(self, shards: Sequence[Any], client: Client | None = None) -> None:
        self._client = client or _current_client()
        self._submit = functools.partial(self._client.map, pure=False)  # futures of function(*one of each), all in one message
        if hasattr(shards, "rechunk"):  # a dask.array, which is cut between rows only
            shards = shards.rechunk(dict.fromkeys(range(1, shards.ndim), -1)).to_delayed().ravel()
        given = [self._sent(shard) for shard in self._client.compute(list(shards))]  # Delayed ones are Futures then
        if not given:
            raise ValueError("there are no shards")
        self._shards = self._submit(_checked, given, range(len(given)))
        rows, widths, bad, along = zip(*self._results(self._submit(_report, self._shards), "checking the features"), strict=True)
        for number, width in enumerate(widths):
            if width != widths[0]:
                raise ValueError(f"shards must be of one width: shard {number} has {width} dimensions, shard 0 has {widths[0]}")
        self.shape, self._bounds = (sum(rows), widths[0]), np.cumsum([0, *rows])
        geometry.check_finite(np.concatenate([start + part for start, part in zip(self._bounds, bad, strict=False)]))
        self.order = np.argsort(np.concatenate(along), kind="stable")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise TypeError(
            "these features are in shards on a cluster and are not gathered: supclust, supclust-no-sup, supclust-no-typicality, "
            "typiclust and random work on them; other strategies need all the features in memory, as one array"
        )

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.map_rows(np.asarray, rows)

    def map_rows(self, function: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> np.ndarray:
        """function(points[rows]), computed where the points are."""
        places, parts = self._of_rows(function, rows)
        return _put(places, self._results(parts))

    def map(self, function: Callable[[np.ndarray], Any], merge: Callable[[list[Any]], Any]) -> list[Any]:
        """One result for each shard, merged on its worker from function(block) of each block."""
        return self._results(self._submit(_map, self._shards, function=function, merge=merge))

    def map_groups(self, function: Callable[..., Any], groups: Sequence[np.ndarray], desc: str | None = None) -> list[Any]:
        """function(points[group]) of each group of indices on one of the workers, which gets the points from the others."""

        def submit(group: np.ndarray) -> Future:
            places, parts = self._of_rows(np.asarray, group)
            return self._client.submit(_of_group, function, places, *parts, pure=False)

        at_once = GROUPS_AHEAD * max(1, sum(self._client.nthreads().values()))
        return self._results(map(submit, groups), desc, len(groups), at_once)

    def _of_rows(self, function: Callable[..., np.ndarray], rows: np.ndarray) -> tuple[list[np.ndarray], list[Future]]:
        """For each shard that has some of the rows (m,): where in rows these stand, and the future of function of their points."""
        shard = np.searchsorted(self._bounds, rows, side="right") - 1
        order, ends = np.argsort(shard, kind="stable"), np.cumsum(np.bincount(shard, minlength=len(self._shards)))
        places = np.split(order, ends[:-1])
        some = [i for i, where in enumerate(places) if len(where)] or [0]  # no rows at all have a width too
        of_shards = [rows[places[i]] - self._bounds[i] for i in some]
        return [places[i] for i in some], self._submit(_map_rows, [self._shards[i] for i in some], of_shards, function=function)

    def _results(
        self, futures: Iterable[Future], desc: str | None = None, total: int | None = None, at_once: int | None = None
    ) -> list[Any]:
        """Results of the futures in their order; at_once (default: all) are submitted ahead. An error or Ctrl-C cancels them."""
        from distributed import as_completed

        waiting = iter(futures)
        started = list(itertools.islice(waiting, at_once))
        try:
            running = as_completed(started)
            for done in threads.progress(running, desc, total or len(started)):
                if done.status != "finished":
                    done.result()  # raises what went wrong
                for future in itertools.islice(waiting, 1):
                    started.append(future)
                    running.add(future)
            return self._client.gather(started)
        except BaseException:
            self._client.cancel(started)
            raise

    def _sent(self, shard: Any) -> Any:
        """What `_checked` takes: a path, or the future of an array."""
        from distributed import Future

        if isinstance(shard, str | Path):
            return str(Path(shard).absolute())  # a worker may have another working directory
        return shard if isinstance(shard, Future) else self._client.scatter(shard, hash=False)


def _current_client() -> Client:
    try:
        from distributed import get_client

        return get_client()
    except ImportError as error:
        raise ImportError("features in shards are worked on by Dask: pip install distributed") from error
    except ValueError as error:
        raise ValueError("no Dask client is running: make one with distributed.Client(...), or pass client=") from error


def _put(places: list[np.ndarray], parts: Sequence[np.ndarray]) -> np.ndarray:
    """Parts (m_i, ...) put together so that their rows stand at those places (m_i,)."""
    whole = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), dtype=parts[0].dtype)
    for where, part in zip(places, parts, strict=True):
        whole[where] = part
    return whole


# -- what the workers do, each task on one thread ------------------------------------------------------------------------------


def _checked(source: Any, number: int) -> str | np.ndarray:
    """What a worker keeps of a shard: an array, or the path of a file, which another worker may open instead."""
    source = source if isinstance(source, str) else np.asanyarray(source)
    try:
        geometry.check_shape(_opened(source))
    except ValueError as error:
        raise ValueError(f"shard {number}: {error}") from error
    return source


def _opened(source: str | np.ndarray) -> np.ndarray:
    with READING:
        return np.load(source, mmap_mode="r") if isinstance(source, str) else source


@threads.alone()
def _report(source: str | np.ndarray) -> tuple[int, int, np.ndarray, np.ndarray]:
    features = _opened(source)
    return *features.shape, *_read_through(features)


@threads.alone()
def _map_rows(source: str | np.ndarray, rows: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return function(_read(_opened(source), rows))


@threads.alone()
def _map(source: str | np.ndarray, function: Callable[[np.ndarray], Any], merge: Callable[[list[Any]], Any]) -> Any:
    """function(block) of each block of a shard, merged in between, so that few results are in memory."""
    features, results = _opened(source), []
    for part in geometry.blocks(features.shape):
        results.append(function(_read(features, part)))
        if len(results) == MERGED:
            results = [merge(results)]
    return merge(results)


@threads.alone()
def _of_group(function: Callable[[np.ndarray], Any], places: list[np.ndarray], *parts: np.ndarray) -> Any:
    return function(_put(places, parts))
