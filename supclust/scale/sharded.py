"""Features past one machine: shards that stay on the workers of a Dask cluster, and what k-means and scores ask of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from supclust.engine import geometry, threads
from supclust.scale.mapped import Mapped

if TYPE_CHECKING:
    from distributed import Client, Future

MERGED = 64  # results of blocks that a worker holds before it merges them
GROUPS_AHEAD = 2  # groups under way for each of the workers' threads, whose points are then in memory
NEED_MEMORY = (
    "these features are in shards on a cluster and are not gathered: supclust, supclust-no-sup, supclust-no-typicality, typiclust "
    "and random work on them; other strategies need all the features in memory, as one array"
)


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
        given = _rows_of(shards) if hasattr(shards, "rechunk") else list(shards)
        if not given:
            raise ValueError("there are no shards")
        self._shards = self._submit(_Shard, [self._sent(shard) for shard in given], range(len(given)))
        found = self._results(self._submit(_report, self._shards), "checking the features")
        shapes, bad, along = zip(*found, strict=True)
        self.shape = _joint_shape(shapes)
        self._bounds = np.cumsum([0, *(rows for rows, _ in shapes)])
        geometry.check_finite(np.concatenate([start + rows for start, rows in zip(self._bounds, bad, strict=False)]))
        self.order = np.argsort(np.concatenate(along), kind="stable")

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise TypeError(NEED_MEMORY)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self._of_rows(_points, rows)

    def map_rows(self, function: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> np.ndarray:
        """function(points[rows]), computed where the points are."""
        return self._of_rows(_map_rows, rows, function)

    def map(self, function: Callable[[np.ndarray], Any], merge: Callable[[list[Any]], Any]) -> list[Any]:
        """One result for each shard, merged on its worker from function(block) of each block."""
        n = len(self._shards)
        return self._results(self._submit(_map, self._shards, [function] * n, [merge] * n), None)

    def map_groups(self, function: Callable[..., Any], groups: Sequence[np.ndarray], desc: str | None = None) -> list[Any]:
        """function(points[group]) of each group of indices on one of the workers, which gets the points from the others."""
        at_once = GROUPS_AHEAD * max(1, sum(self._client.nthreads().values()))
        return self._flow((self._submit_group(function, group) for group in groups), len(groups), at_once, desc)

    def _submit_group(self, function: Callable[..., Any], group: np.ndarray) -> Future:
        places, shards, rows = self._places(group)
        parts = self._submit(_points, shards, rows)
        return self._client.submit(_of_group, function, places, *parts, pure=False)

    def _of_rows(self, function: Callable[..., np.ndarray], rows: np.ndarray, *more: Any) -> np.ndarray:
        """function(shard, rows of it, *more) (m, ...) of each shard that has some of the rows, in their order."""
        places, shards, of_shards = self._places(rows)
        parts = self._results(self._submit(function, shards, of_shards, *([one] * len(shards) for one in more)), None)
        return _put(places, parts)

    def _places(self, rows: np.ndarray) -> tuple[list[np.ndarray], list[Future], list[np.ndarray]]:
        """Shards that have some of the rows (m,): for each, where in rows these stand; it; and which of its own they are."""
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows must lie in 0..{len(self) - 1}")
        shard = np.searchsorted(self._bounds, rows, side="right") - 1
        order, ends = np.argsort(shard, kind="stable"), np.cumsum(np.bincount(shard, minlength=len(self._shards)))
        places = np.split(order, ends[:-1])
        some = [i for i, where in enumerate(places) if len(where)] or [0]  # no rows at all have a width too
        return [places[i] for i in some], [self._shards[i] for i in some], [rows[places[i]] - self._bounds[i] for i in some]

    def _submit(self, function: Callable[..., Any], *arguments: Sequence[Any]) -> list[Future]:
        """Futures of function(*one of each), all in one message."""
        return self._client.map(function, *arguments, pure=False)

    def _results(self, futures: list[Future], desc: str | None) -> list[Any]:
        return self._flow(iter(futures), len(futures), len(futures), desc)

    def _flow(self, futures: Iterator[Future], total: int, at_once: int, desc: str | None) -> list[Any]:
        """Results of the futures in their order; at most at_once are submitted ahead. An error or Ctrl-C cancels them."""
        from distributed import as_completed

        started = list(itertools.islice(futures, at_once))
        try:
            if desc or len(started) < total:  # else there is nothing to do or show before all are there, which is faster
                running = as_completed(started)
                for done in threads.progress(running, desc, total):
                    if done.status != "finished":
                        done.result()  # raises what went wrong
                    for future in itertools.islice(futures, 1):
                        started.append(future)
                        running.add(future)
            return self._client.gather(started)
        except BaseException:
            self._client.cancel(started)
            raise

    def _sent(self, shard: Any) -> Any:
        """What `_Shard` takes: a path, or the future of an array."""
        import dask
        from distributed import Future

        if dask.is_dask_collection(shard):
            return self._client.compute(shard)
        if isinstance(shard, str | Path):
            return str(Path(shard).absolute())  # a worker may have another working directory
        return shard if isinstance(shard, Future) else self._client.scatter(shard, hash=False)


def _current_client() -> Client:
    try:
        from distributed import get_client
    except ImportError as error:
        raise ImportError("features in shards are worked on by Dask: pip install distributed") from error
    try:
        return get_client()
    except ValueError as error:
        raise ValueError("no Dask client is running: make one with distributed.Client(...), or pass client=") from error


def _rows_of(array: Any) -> list[Any]:
    """A dask.array (n, d) cut between rows only, as Delayed blocks."""
    if array.ndim != 2:
        raise ValueError(f"features must be 2-d (points, dimensions), not of shape {array.shape}")
    return array.rechunk({1: -1}).to_delayed().ravel().tolist()


def _joint_shape(shapes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Shape (n, d) of all shards together; ValueError unless they have one width."""
    width = shapes[0][1]
    for number, (_, d) in enumerate(shapes):
        if d != width:
            raise ValueError(f"shards must be of one width: shard {number} has {d} dimensions, shard 0 has {width}")
    return sum(rows for rows, _ in shapes), width


def _put(places: list[np.ndarray], parts: Sequence[np.ndarray]) -> np.ndarray:
    """Parts (m_i, ...) put together so that their rows stand at those places (m_i,)."""
    whole = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), dtype=parts[0].dtype)
    for where, part in zip(places, parts, strict=True):
        whole[where] = part
    return whole


# -- what the workers do, each task on one thread ------------------------------------------------------------------------------


class _Shard(Mapped):
    """A shard on its worker, with its rows that are not finite, and where its points lie along the canonical direction."""

    def __init__(self, features: Any, number: int) -> None:
        self._path = features if isinstance(features, str) else None
        try:
            with threads.alone():
                self._features = geometry.check_shape(np.load(self._path, mmap_mode="r") if self._path else features)
                self.shape = self._features.shape
                self.bad, self.along = self._report()
        except ValueError as error:
            raise ValueError(f"shard {number}: {error}") from error

    def __sizeof__(self) -> int:
        """Bytes that go to another worker with it, by which Dask decides whether they do."""
        return self.along.nbytes + (0 if self._path else self._features.nbytes)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | ({"_features": None} if self._path else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self._path:
            self._features = np.load(self._path, mmap_mode="r")


def _report(shard: _Shard) -> tuple[tuple[int, int], np.ndarray, np.ndarray]:
    return shard.shape, shard.bad, shard.along


def _points(shard: _Shard, rows: np.ndarray) -> np.ndarray:
    with threads.alone():
        return shard[rows]


def _map_rows(shard: _Shard, rows: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    with threads.alone():
        return function(shard[rows])


def _map(shard: _Shard, function: Callable[[np.ndarray], Any], merge: Callable[[list[Any]], Any]) -> Any:
    """function(block) of each block of a shard, merged in between, so that few results are in memory."""
    with threads.alone():
        results = []
        for part in geometry.blocks(shard.shape):
            results.append(function(shard[part]))
            if len(results) == MERGED:
                results = [merge(results)]
        return merge(results)


def _of_group(function: Callable[[np.ndarray], Any], places: list[np.ndarray], *parts: np.ndarray) -> Any:
    with threads.alone():
        return function(_put(places, parts))
