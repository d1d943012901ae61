"""Many active-learning runs: one record each, kept as it is finished, so that a sweep that was stopped goes on where it was.

Runs are spread over the cores by joblib, without naming a backend: under `joblib.parallel_config(backend="dask")` the same call
spreads them over a cluster whose machines share the folder of the records.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from supclust import active, datasets, features, kept, profiles
from supclust.engine import threads
from supclust.profiles import Profile, Supervised
from supclust.strategies import CONTROLS, NAMES, Pool, parse

log = logging.getLogger(__name__)

RUN = ["dataset", "framework", "strategy", "budget", "seed"]
MEASURES = ["labels", "accuracy", "balanced_accuracy", "tail_accuracy", "classes"]  # of a round
COLUMNS = [*RUN, "round", *MEASURES]
TURN = threading.Lock()  # of tasks in one process
# Raised when a change of the code changes what a run comes to: older records and tables are then made anew. In 3, k-means came to
# start otherwise; the runs from scratch, which take hours, are still those of 2, whose clusters are other ones of the same quality.
EXPERIMENT = {"ssl": 3, "fsl": 2}


@dataclass(frozen=True, order=True)
class Key:
    """What names a run, and its record."""

    dataset: str
    framework: str
    strategy: str
    budget: str
    seed: int

    @property
    def filename(self) -> str:
        """Of the record."""
        return "--".join(map(str, asdict(self).values())).replace(":", "~") + ".json"

    @property
    def failure(self) -> str:
        """Of the record that a failed run leaves."""
        return self.filename.replace(".json", ".failed.json")

    @property
    def task(self) -> tuple[str, ...]:
        """Runs of one task are done by one process, because they have k-means clusters in common: each is computed once.

        Networks take longer than clusters, so in FSL a task is smaller.
        """
        return self.dataset, self.framework, str(self.seed), self.budget if self.framework == "fsl" else ""


def keys(
    profile: Profile,
    datasets: Sequence[str] | None = None,
    strategies: Sequence[str] | None = None,
    budgets: Sequence[str] | None = None,
    seeds: int | None = None,
    frameworks: Sequence[str] | None = None,
) -> list[Key]:
    """The runs of a profile, or of a slice of it; of frameworks that are on request only where they are named.

    strategies: names, the control "class-balanced", or names with other settings, see strategies.parse.
    Raises ValueError for a framework, data set, strategy or budget that there is not.
    """
    on_request = ("fsl",) if profile.fsl and profile.fsl.on_request else ()
    frameworks = frameworks or [name for name in active.FRAMEWORKS if name not in on_request]
    _check_part(profile, frameworks, datasets, strategies, budgets, seeds)
    wanted = []
    for framework in frameworks:
        grid = profile if framework == "ssl" else profile.fsl
        if grid is not None:
            names = strategies or getattr(grid, "strategies", ()) or (*NAMES, *CONTROLS)
            own = [name for name in datasets or grid.datasets if _has_dataset(grid, name, framework)]
            numbers = range(grid.seeds if seeds is None else seeds)
            wanted += [Key(*key) for key in itertools.product(own, [framework], names, budgets or grid.budgets, numbers)]
    return wanted


def _has_dataset(grid: Profile | Supervised, dataset: str, framework: str) -> bool:
    """Networks from scratch have no encoder, so data sets with features of another one are not for them."""
    name, encoder = features.split_encoder(dataset)
    return name in grid.datasets and not (encoder and framework == "fsl")


def run(
    profile: Profile,
    *,
    folder: Path | None = None,
    jobs: int = -1,
    shard: tuple[int, int] = (1, 1),
    **part: Sequence[str] | int | None,
) -> pd.DataFrame:
    """Run what has no record yet, over all cores, and return the table of the runs asked for that are done, a row per round.

    part: of the profile, as `keys` takes it. shard: (i, n), the i-th of n parts of the work, from 1.
    A record is a JSON file in folder (default: records/ in the profile's reports), written whole or not at all. One that cannot be
    read, whose checksum differs, or that was made from other features, is made anew; one that another sweep on the same folder
    has made meanwhile is not. A run that fails leaves its traceback as a record, see `failures`, and is tried again next time.
    Features that are not there are made first, data set after data set. The table does not depend on the number of jobs.
    Raises OSError when the disk is full, ChildProcessError when a process was killed; the records so far stay valid.
    """
    if jobs == 0:
        raise ValueError("jobs must not be 0: a number of processes, or -1 for one on each core")
    wanted, folder = keys(profile, **part), (folder or records_folder(profile)).absolute()
    mine = shard_of(wanted, *shard)
    sources = _sources(profile, mine)
    missing = [key for key in mine if read_record(folder, key, sources[_made_from(profile, key)]) is None]
    tasks = _tasks(missing)
    work = (
        joblib.delayed(_run_task)(profile, task, folder, sources[_made_from(profile, task[0])], kept.folders()) for task in tasks
    )
    if not missing:
        log.info("nothing to do: all %d runs asked for are on record", len(mine))
    with _progress(folder, missing), _killed_processes_named():
        for _ in joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")(work):
            pass
    _report(failures(mine, folder))
    return _as_table(_records(profile, wanted, folder, _sources(profile, wanted, make=False)))


def table(profile: Profile, *, recompute: bool = False, name: str = "curves", **part: Sequence[str] | int | None) -> pd.DataFrame:
    """The table of a profile, or of the part that `keys` takes: read from curves.csv if it is there and whole, else run.

    A table is used only if it was made from the same features by the same experiment. recompute=True passes it over; records of
    an earlier run are still used. After a run, curves.csv is written anew from all the records there are. Runs that are on request
    are never started from here: the rows returned are those that curves.csv has. name: of the table, for a table of other runs
    than the profile's own.
    """
    wanted = keys(profile, **part)
    rows, _ = kept_rows(profile, wanted, name)
    due = [key for key in wanted if not _on_request(profile, key)]
    if due and (recompute or not _has(rows, due)):
        narrowed = {"frameworks": [key.framework for key in due], "datasets": [key.dataset for key in due]}
        run(profile, **part | {name: list(dict.fromkeys(values)) for name, values in narrowed.items()})
        write_table(profile, name=name, wanted=None if name == "curves" else wanted)
        rows, _ = kept_rows(profile, wanted, name)
    return rows


def write_table(profile: Profile, folder: Path | None = None, *, name: str = "curves", wanted: Sequence[Key] | None = None) -> Path:
    """Write a table, of all the profile's runs or those wanted, in the profile's reports; returns its path.

    It holds what the valid records say, and of runs without one what the table said before.
    """
    folder = folder or records_folder(profile)
    wanted = keys(profile, frameworks=active.FRAMEWORKS) + more_seeds(profile, folder) if wanted is None else wanted
    sources = _sources(profile, wanted, make=False)
    records = _records(profile, wanted, folder, sources)
    fresh = _as_table(records)
    before, made_from = kept_rows(profile, [key for key in wanted if records[key] is None], name)
    path = kept.reports(profile.name) / f"{name}.csv"
    rows = _in_order(pd.concat([fresh, before]) if len(before) else fresh, wanted)
    kept.write(path, rows, {name: source if source["features"] else made_from.get(name) for name, source in sources.items()})
    return path


def records_folder(profile: Profile) -> Path:
    """Where a profile's records live."""
    return kept.reports(profile.name) / "records"


def failures(wanted: Sequence[Key], folder: Path) -> dict[Key, str]:
    """The tracebacks of the runs that failed when they were last tried."""
    found = {}
    for key in wanted:
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError):  # another sweep may have just succeeded
            if not (folder / key.filename).exists():
                found[key] = json.loads((folder / key.failure).read_text(encoding="utf-8"))["error"]
    return found


def read_record(folder: Path, key: Key, source: dict) -> dict | None:
    """The record of a run, or None if there is none, it is broken (logged with its name), or it was made from another source."""
    path = folder / key.filename
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["sha256"] != _record_digest(record):
            raise ValueError("its checksum differs")
        if record["key"] != asdict(key):
            raise ValueError("it is the record of another run")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, OSError) as error:
        log.warning("record %s is broken (%s); the run is done again", path, error)
        return None
    return record if record.get("source") == source else None


def _check_part(
    profile: Profile,
    frameworks: Sequence[str],
    names: Sequence[str] | None,
    strategies: Sequence[str] | None,
    budgets: Sequence[str] | None,
    seeds: int | None,
) -> None:
    known = dict.fromkeys((*profile.datasets, *(profile.fsl.datasets if profile.fsl else ())))
    for framework in frameworks:
        if framework not in active.FRAMEWORKS:
            raise ValueError(f"unknown framework {framework!r}; known: {', '.join(active.FRAMEWORKS)}")
    for dataset in names or ():
        if features.split_encoder(dataset)[0] not in known:
            raise ValueError(f"profile {profile.name!r} has no data set {dataset!r}; it has: {', '.join(known)}")
    for strategy in strategies or ():
        parse(strategy)
    for budget in budgets or ():
        active.step_size(budget, 1)
    if seeds is not None and seeds < 1:
        raise ValueError(f"seeds must be at least 1, not {seeds}")


def _records(profile: Profile, wanted: Sequence[Key], folder: Path, sources: dict[str, dict]) -> dict[Key, dict | None]:
    """The valid records of the runs wanted; None for those that have none."""
    return {key: read_record(folder, key, sources[_made_from(profile, key)]) for key in wanted}


def more_seeds(profile: Profile, folder: Path | None = None) -> list[Key]:
    """The runs on record of seeds beyond the profile's: more of them narrow the intervals."""
    folder = folder or records_folder(profile)
    usual = {(key.dataset, key.framework, key.strategy, key.budget) for key in keys(profile, frameworks=active.FRAMEWORKS)}
    found = [path.stem.split("--") for path in folder.glob("*.json") if path.stem.count("--") == 4]
    named = {Key(*run, int(seed)) for *run, seed in found if tuple(run) in usual and seed.isdecimal()}
    return sorted(named - set(keys(profile, frameworks=active.FRAMEWORKS)))


def _on_request(profile: Profile, key: Key) -> bool:
    """Whether `table` leaves it at what is kept: networks where they take hours, and features that cannot be made from here."""
    return (key.framework == "fsl" and profile.fsl.on_request) or not features.obtainable(profile, key.dataset)


def shard_of(wanted: Sequence[Key], i: int, n: int) -> list[Key]:
    """The runs of the i-th of n parts, from 1. Which part a run belongs to does not depend on what else is wanted."""
    return list(itertools.chain.from_iterable(_tasks(wanted, i, n)))


def _tasks(wanted: Sequence[Key], i: int = 1, n: int = 1) -> list[list[Key]]:
    """The i-th of n parts of the work. Which runs belong to a part does not depend on what else is wanted."""
    if not 1 <= i <= n:
        raise ValueError(f"a shard is i/n with i from 1 to n, not {i}/{n}")
    by_task: dict[tuple, list[Key]] = {}
    for key in wanted:
        by_task.setdefault(key.task, []).append(key)
    return [by_task[task] for task in sorted(by_task) if _part_of(task, n) == i - 1]


def _part_of(task: tuple[str, ...], n: int) -> int:
    """Seed after seed goes to the next part; data sets, frameworks and budgets begin at different ones."""
    dataset, framework, seed, budget = task
    return (int(seed) + int(kept.sha256(f"{dataset} {framework} {budget}"), 16)) % n


@contextmanager
def _progress(folder: Path, awaited: Sequence[Key]) -> Iterator[None]:
    """A bar with the time left, that sees records as they appear, whichever process of whichever machine writes them."""
    with tqdm(total=len(awaited), desc="runs", unit="run", leave=False) as bar:
        done = threading.Event()
        watcher = threading.Thread(target=_watch, args=(bar, folder, awaited, done), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


def _watch(bar: tqdm, folder: Path, awaited: Sequence[Key], done: threading.Event) -> None:
    before, ended = _names(folder), False
    while not ended:
        ended = done.wait(2)
        new = _names(folder) - before
        bar.n = sum(key.filename in new or key.failure in new for key in awaited)
        bar.refresh()


def _names(folder: Path) -> set[str]:
    return set(os.listdir(folder)) if folder.is_dir() else set()


@contextmanager
def _killed_processes_named() -> Iterator[None]:
    try:
        yield
    except BrokenExecutor as error:
        raise ChildProcessError(
            "a process was killed, perhaps because memory ran out: try fewer --jobs. What was finished is kept"
        ) from error


@contextmanager
def alone(folders: dict[str, str]) -> Iterator[None]:
    """What a task runs under: one thread, so that its result does not depend on how many there are, and its caller's folders.

    Both are settings of the whole process, so the tasks of one process, as dask's workers may have several, take turns.
    """
    with TURN, threadpool_limits(1), threads.limit(1), threads.single_threaded_torch():
        os.environ.update(folders)  # a worker may have been started with other ones
        yield


def _run_task(profile: Profile, task: list[Key], folder: Path, source: dict, folders: dict[str, str]) -> None:
    """Run and record the runs of one task that no other sweep has made meanwhile."""
    with alone(folders):
        prepared = None
        for key in task:
            if read_record(folder, key, source) is None:
                prepared = _run_and_record(profile, key, folder, source, prepared)


def _run_and_record(
    profile: Profile, key: Key, folder: Path, source: dict, prepared: Callable[[Key], Iterator[active.Round]] | None
) -> Callable[[Key], Iterator[active.Round]] | None:
    """Write the run's record, or that of its failure; returns what the next run of the task needs."""
    begin = time.perf_counter()
    try:
        prepared = prepared or _prepare(profile, key)
        rounds = [asdict(one) for one in prepared(key)]
    except Exception as error:
        if isinstance(error, OSError) and error.errno in kept.DISK_FULL:
            raise _disk_full(folder, error) from error
        _write(folder / key.failure, {"key": asdict(key), "source": source, "error": traceback.format_exc()})
        return prepared
    record = {"key": asdict(key), "source": source, "seconds": round(time.perf_counter() - begin, 2), "rounds": rounds}
    _write(folder / key.filename, record | {"sha256": _record_digest(record)})
    (folder / key.failure).unlink(missing_ok=True)
    return prepared


def _prepare(profile: Profile, key: Key) -> Callable[[Key], Iterator[active.Round]]:
    """Loads what the runs of a task have in common; the function returned does one of them."""
    data = features.obtain(profile, key.dataset, key.seed)
    pool = Pool(data.train, seed=key.seed, labels=data.train_labels)
    framework = active.linear(data) if key.framework == "ssl" else _network(profile, key, data)
    return lambda key: active.run(data, pool, key.strategy, key.budget, profile.rounds, framework)


def _network(profile: Profile, key: Key, data: features.Features) -> active.Framework:
    config = profiles.adapted(profile.fsl.network, key.dataset)
    options = {"seed": key.seed, "side": config.side, "missing": profile.missing}
    train, test = (datasets.load(key.dataset, split, **options) for split in datasets.SPLITS)
    if not (np.array_equal(train.labels, data.train_labels) and np.array_equal(test.labels, data.test_labels)):
        raise ValueError(
            f"the features of {key.dataset} are of other images ({len(data.train)} + {len(data.test)}) than those here "
            f"({len(train)} + {len(test)}): remove {features.folder(profile.name, key.dataset, key.seed)}, and they are made anew"
        )
    return active.network(train, test, config)


def _write(path: Path, record: dict) -> None:
    try:
        kept.write_text(path, json.dumps(record))
    except OSError as error:
        raise (_disk_full(path.parent, error) if error.errno in kept.DISK_FULL else error) from error


def _disk_full(folder: Path, error: OSError) -> OSError:
    done = sum(not path.name.endswith(".failed.json") for path in folder.glob("*.json"))
    return OSError(
        error.errno, f"the disk is full; the {done} records in {folder} are whole. Make room, and the same command goes on"
    )


def _report(failed: dict[Key, str]) -> None:
    for key, error in itertools.islice(failed.items(), 3):
        log.error("failed: %s: %s", " ".join(map(str, asdict(key).values())), error.strip().splitlines()[-1])
    if failed:
        log.error(
            "%d runs failed; their tracebacks are in the records *.failed.json, and they are tried again next time", len(failed)
        )


def _sources(profile: Profile, wanted: Sequence[Key], make: bool = True) -> dict[str, dict]:
    """What records are made from, by `_made_from`; a record of another source does not count.

    make: train and extract features that are not there; else their checksum is None.
    """
    obtain, sources = features.obtain if make else features.find, {}
    for name, key in {_made_from(profile, key): key for key in reversed(wanted)}.items():  # the first seed of each
        found = obtain(profile, key.dataset, key.seed if features.seeded(profile, key.dataset) else 0)
        sources[name] = {"experiment": EXPERIMENT[key.framework], "features": found and found.checksum, "rounds": profile.rounds}
        if key.framework == "fsl":
            sources[name]["network"] = asdict(profiles.adapted(profile.fsl.network, key.dataset))
    return sources


def _made_from(profile: Profile, key: Key) -> str:
    """Names what a run is made from: data set and framework, and the seed where each has an encoder of its own."""
    return " ".join([key.dataset, key.framework, *([str(key.seed)] if features.seeded(profile, key.dataset) else [])])


def _agree(source: dict, other: dict | None) -> bool:
    """Whether a table's source is this one; where the features are not at hand, whatever they were will do."""
    return other is not None and source == (other if source["features"] else other | {"features": None})


def _as_table(records: dict[Key, dict | None]) -> pd.DataFrame:
    rows = [
        {**asdict(key), "round": number, **{measure: one[measure] for measure in MEASURES}}
        for key, record in records.items()
        for number, one in enumerate(record["rounds"] if record else (), start=1)
    ]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"tail_accuracy": float})


def kept_rows(profile: Profile, wanted: Sequence[Key], name: str = "curves") -> tuple[pd.DataFrame, dict[str, dict]]:
    """Those of the wanted rows that a kept table has, one's own or else the one that comes with the repository, and its sources.

    Nothing is run and nothing is trained.
    """
    best, sources = (pd.DataFrame(columns=COLUMNS), {}), _sources(profile, wanted, make=False)
    for folder in kept.reports_to_read(profile.name):
        if (found := kept.read(folder / f"{name}.csv")) is not None and set(COLUMNS) <= set(found[0]):
            rows, made_from = found
            valid = [key for key in wanted if _agree(sources[name := _made_from(profile, key)], made_from.get(name))]
            rows = _in_order(rows[_runs(rows).isin([astuple(key) for key in valid])], wanted)
            best = (rows, made_from) if len(rows) > len(best[0]) else best
    return best


def _has(rows: pd.DataFrame, wanted: Sequence[Key]) -> bool:
    return pd.MultiIndex.from_tuples([astuple(key) for key in wanted]).isin(_runs(rows)).all()


def _runs(rows: pd.DataFrame) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(rows[RUN])


def _in_order(rows: pd.DataFrame, wanted: Sequence[Key]) -> pd.DataFrame:
    """Rows in the order of the runs wanted, round by round."""
    order = {astuple(key): i for i, key in enumerate(wanted)}
    place = [order[run] for run in _runs(rows)]
    return rows[COLUMNS].assign(place=place).sort_values(["place", "round"]).drop(columns="place").reset_index(drop=True)


def _record_digest(record: dict) -> str:
    return kept.sha256(json.dumps([record[part] for part in ("key", "source", "rounds")]))
