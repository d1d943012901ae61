"""Many active-learning runs: one record each, kept as it is finished, so that a sweep that was stopped goes on where it was.

Runs are spread over the cores by joblib, without naming a backend: under `joblib.parallel_config(backend="dask")` the same call
spreads them over a cluster whose machines share the folder of the records.
"""

from __future__ import annotations

import functools
import itertools
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
from typing import Any

import joblib
import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from supclust import active, features, kept, profiles
from supclust.datasets import SPLITS
from supclust.datasets import load as load_images
from supclust.engine import threads
from supclust.profiles import Profile
from supclust.strategies import CONTROLS, NAMES, Pool, parse

log = logging.getLogger(__name__)

RUN = ["dataset", "framework", "strategy", "budget", "seed"]
MEASURES = ["labels", "accuracy", "balanced_accuracy", "tail_accuracy", "classes"]  # of a round
COLUMNS = [*RUN, "round", *MEASURES]
TURN = threading.Lock()  # of tasks in one process
# Raised when a change of the code changes the result of a run: older records and tables are then made anew. In 3, k-means starts
# differently; the runs from scratch, which take hours, are still those of 2, whose clusters are others of the same quality.
EXPERIMENT = {"ssl": 3, "fsl": 2}


@dataclass(frozen=True, order=True)
class Key:
    """The identity of one run."""

    dataset: str
    framework: str
    strategy: str
    budget: str
    seed: int

    @property
    def filename(self) -> str:
        """The name of its record."""
        return "--".join(map(str, astuple(self))).replace(":", "~") + ".json"

    @property
    def failure(self) -> str:
        """The name of the record that it leaves if it fails."""
        return self.filename.replace(".json", ".failed.json")

    @property
    def task(self) -> tuple[str, str, str, int]:
        """Runs of one task are done by one process, because they have k-means clusters in common: each is computed once.

        Networks take longer than clusters, so in FSL a task is smaller.
        """
        return self.dataset, self.framework, self.budget if self.framework == "fsl" else "", self.seed


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
    Raises ValueError for a framework, data set, strategy or budget that there is not, and for less than one seed.
    """
    grids = {"ssl": profile, "fsl": profile.fsl}
    known = dict.fromkeys(name for grid in grids.values() if grid for name in grid.datasets)
    for name in frameworks or ():
        if name not in grids:
            raise ValueError(f"unknown framework {name!r}; known: {', '.join(grids)}")
    for name in datasets or ():
        if features.split_encoder(name)[0] not in known:
            raise ValueError(f"profile {profile.name!r} has no data set {name!r}; it has: {', '.join(known)}")
    for name in strategies or ():
        parse(name)
    for name in budgets or ():
        active.step_size(name, 1)
    if seeds is not None and seeds < 1:
        raise ValueError(f"seeds must be at least 1, not {seeds}")
    wanted = []
    for framework, grid in grids.items():
        on_request = framework == "fsl" and grid and grid.on_request
        if grid and (framework in frameworks if frameworks else not on_request):
            own = [name for name in datasets or grid.datasets if features.split_encoder(name)[0] in grid.datasets]
            if framework == "fsl":  # networks from scratch have no encoder, so features of another one are not for them
                own = [name for name in own if "@" not in name]
            names = strategies or getattr(grid, "strategies", ()) or (*NAMES, *CONTROLS)
            wanted += itertools.product(own, [framework], names, budgets or grid.budgets, range(seeds or grid.seeds))
    return [Key(*key) for key in dict.fromkeys(wanted)]


# -- running -------------------------------------------------------------------------------------------------------------------


def run(
    profile: Profile, *, folder: Path | None = None, jobs: int = -1, shard: tuple[int, int] = (1, 1), **part: Any
) -> pd.DataFrame:
    """Run what has no record yet, over all cores, and return the table of the runs asked for that are done, a row per round.

    part: of the profile, as `keys` takes it. shard: (i, n), the i-th of n parts of the runs asked for, see `shard_of`.
    A record is a JSON file in folder (default: records/ in the profile's reports), written whole or not at all. One that cannot be
    read, whose checksum differs, or that was made from other features, is made anew; one that another sweep on the same folder
    has made meanwhile is not. A run that fails leaves its traceback as a record, see `failures`, and is tried again next time.
    Features that are not there are made first, data set after data set. The table does not depend on the number of jobs.
    Raises OSError when the disk is full, ChildProcessError when a process was killed; the records so far stay valid.
    """
    if jobs == 0:
        raise ValueError("jobs must not be 0: a number of processes, or -1 for one on each core")
    wanted, folder = keys(profile, **part), (folder or records_folder(profile)).absolute()
    _run_missing(profile, shard_of(wanted, *shard), folder, jobs)
    return _as_table(_records(profile, wanted, folder, _sources(profile, wanted, features.find)))


def shard_of(wanted: Sequence[Key], i: int, n: int) -> list[Key]:
    """The i-th of n parts of these runs, from 1: every n-th task, so that the parts are alike. ValueError unless 1 <= i <= n."""
    if not 1 <= i <= n:
        raise ValueError(f"a shard is i/n with i from 1 to n, not {i}/{n}")
    return list(itertools.chain.from_iterable(_tasks(wanted)[i - 1 :: n]))


def _tasks(wanted: Sequence[Key]) -> list[list[Key]]:
    by_task = itertools.groupby(sorted(wanted, key=lambda key: key.task), key=lambda key: key.task)
    return [list(task) for _, task in by_task]


def _run_missing(profile: Profile, wanted: Sequence[Key], folder: Path, jobs: int = -1) -> None:
    sources = _sources(profile, wanted, features.obtain)
    done = _records(profile, wanted, folder, sources)
    missing = [key for key in wanted if key not in done]
    if not missing:
        log.info("nothing to do: all %d runs asked for are on record", len(wanted))
    work = (joblib.delayed(_run_task)(profile, task, folder, sources, kept.folders()) for task in _tasks(missing))
    try:
        with tqdm(total=len(missing), desc="runs", unit="run", leave=False) as progress:
            for ended in joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")(work):
                progress.update(ended)
    except BrokenExecutor as error:
        raise ChildProcessError(
            "a process was killed, perhaps because memory ran out: try fewer --jobs. What was finished is kept"
        ) from error
    except OSError as error:
        if error.errno not in kept.DISK_FULL:
            raise
        whole = sum(not path.name.endswith(".failed.json") for path in folder.glob("*.json"))
        message = f"the disk is full; the {whole} records in {folder} are whole. Make room, and the same command goes on"
        raise OSError(error.errno, message) from error
    if failed := failures(wanted, folder):
        for key, error in itertools.islice(failed.items(), 3):
            log.error("failed: %s: %s", " ".join(map(str, astuple(key))), error.strip().splitlines()[-1])
        log.error(
            "%d runs failed; their tracebacks are in the records *.failed.json, and they are tried again next time", len(failed)
        )


@contextmanager
def alone(folders: dict[str, str]) -> Iterator[None]:
    """Run a task on one thread, so that its result does not depend on their number, and with the folders of its caller.

    Both are settings of the whole process, so the tasks of one process take turns: a Dask worker may have several.
    """
    with TURN, threadpool_limits(1), threads.alone(), threads.single_threaded_torch():
        os.environ.update(folders)  # a worker may have been started with other ones
        yield


def _run_task(profile: Profile, task: list[Key], folder: Path, sources: dict[str, dict], folders: dict[str, str]) -> int:
    """Run and record the runs of one task that no other sweep has made meanwhile; returns how many runs the task has."""
    with alone(folders):
        prepare = functools.cache(lambda: _prepare(profile, task[0]))
        for key in task:
            if not _records(profile, [key], folder, sources):
                _run_and_record(profile, key, folder, _made_from(profile, key, sources), prepare)
    return len(task)


def _run_and_record(profile: Profile, key: Key, folder: Path, made_from: dict, prepare: Callable[[], tuple]) -> None:
    """Write the run's record, or that of its failure."""
    begin = time.perf_counter()
    try:
        data, pool, fsl = prepare()
        rounds = [asdict(one) for one in active.run(data, pool, key.strategy, key.budget, profile.rounds, fsl)]
    except Exception as error:
        if isinstance(error, OSError) and error.errno in kept.DISK_FULL:
            raise
        kept.write(folder / key.failure, traceback.format_exc(), made_from)
    else:
        kept.write(folder / key.filename, {"seconds": round(time.perf_counter() - begin, 2), "rounds": rounds}, made_from)
        (folder / key.failure).unlink(missing_ok=True)


def _prepare(profile: Profile, key: Key) -> tuple[features.Features, Pool, active.Fit | None]:
    """What the runs of a task have in common."""
    data = features.obtain(profile, key.dataset, key.seed)
    pool = Pool(data.train, seed=key.seed, labels=data.train_labels)
    if key.framework == "ssl":
        return data, pool, None
    config = profiles.adapted(profile.fsl.network, key.dataset)
    options = {"seed": key.seed, "side": config.side, "missing": profile.missing}
    train, test = (load_images(key.dataset, split, **options) for split in SPLITS)
    if not (np.array_equal(train.labels, data.train_labels) and np.array_equal(test.labels, data.test_labels)):
        raise ValueError(
            f"the features of {key.dataset} are of other images ({len(data.train)} + {len(data.test)}) than those here "
            f"({len(train)} + {len(test)}): remove {features.folder(profile.name, key.dataset, key.seed)}, and they are made anew"
        )
    return data, pool, active.network(train, test, config)


# -- records and tables --------------------------------------------------------------------------------------------------------


def records_folder(profile: Profile) -> Path:
    """Where a profile's records are kept."""
    return kept.reports(profile.name) / "records"


def failures(wanted: Sequence[Key], folder: Path) -> dict[Key, str]:
    """The tracebacks of the runs that failed when they were last tried."""
    found = {key: kept.read(folder / key.failure) for key in wanted if not (folder / key.filename).exists()}
    return {key: one[0] for key, one in found.items() if one}


def more_seeds(profile: Profile, folder: Path | None = None) -> list[Key]:
    """The runs on record of seeds beyond the profile's: more of them narrow the intervals."""
    usual = keys(profile, frameworks=active.FRAMEWORKS)
    runs = {astuple(key)[:-1] for key in usual}
    found = [path.stem.split("--") for path in (folder or records_folder(profile)).glob("*.json")]
    return sorted({Key(*run, int(seed)) for *run, seed in found if tuple(run) in runs and seed.isdecimal()} - set(usual))


def table(profile: Profile, *, recompute: bool = False, name: str = "curves", **part: Any) -> pd.DataFrame:
    """The table of a profile, or of the part that `keys` takes: read from curves.csv if it is there and whole, else run.

    A table is used only if it was made from the same features by the same experiment. recompute=True passes it over; records of
    an earlier run are still used. After a run, curves.csv is written anew from all the records there are. What is on request, or
    needs features that cannot be made here, is never run from here: its rows are those that curves.csv has. name: of the table,
    for a table of other runs than the profile's own.
    """
    wanted = keys(profile, **part)
    rows, _ = kept_rows(profile, wanted, name)
    on_request = profile.fsl is not None and profile.fsl.on_request
    due = [key for key in wanted if features.obtainable(profile, key.dataset) and not (on_request and key.framework == "fsl")]
    if due and (recompute or len(_rows_of(due, rows).drop_duplicates(RUN)) < len(due)):
        _run_missing(profile, due, records_folder(profile))
        write_table(profile, name=name, wanted=None if name == "curves" else wanted)
        rows, _ = kept_rows(profile, wanted, name)
    return rows


def write_table(profile: Profile, folder: Path | None = None, *, name: str = "curves", wanted: Sequence[Key] | None = None) -> Path:
    """Write a table, of all the profile's runs or those wanted, in the profile's reports; returns its path.

    It holds what the valid records say, and of runs without one what the table said before.
    """
    folder = folder or records_folder(profile)
    wanted = keys(profile, frameworks=active.FRAMEWORKS) + more_seeds(profile, folder) if wanted is None else wanted
    sources = _sources(profile, wanted, features.find)
    records = _records(profile, wanted, folder, sources)
    before, made_from = kept_rows(profile, [key for key in wanted if key not in records], name)
    rows = pd.concat([_as_table(records), before]) if len(before) else _as_table(records)
    path = kept.reports(profile.name) / f"{name}.csv"
    kept.write(
        path, _rows_of(wanted, rows), {one: source if source["features"] else made_from.get(one) for one, source in sources.items()}
    )
    return path


def kept_rows(profile: Profile, wanted: Sequence[Key], name: str = "curves") -> tuple[pd.DataFrame, dict[str, dict]]:
    """Those of the wanted rows that a kept table has, one's own or else the one that comes with the repository, and its sources.

    Nothing is run and nothing is trained. Where features are not found, rows of whatever features will do.
    """
    best, sources = (pd.DataFrame(columns=COLUMNS), {}), _sources(profile, wanted, features.find)
    for folder in kept.reports_to_read(profile.name):
        if (found := kept.read(folder / f"{name}.csv")) is not None:
            rows, made_from = found
            same = {one for one in sources if _agree(sources[one], made_from.get(one))}
            rows = _rows_of([key for key in wanted if _source_name(profile, key) in same], rows)
            best = (rows, made_from) if len(rows) > len(best[0]) else best
    return best


def _sources(profile: Profile, wanted: Sequence[Key], obtain: Callable[..., features.Features | None]) -> dict[str, dict]:
    """What records are made from, by `_source_name`; a record of another source does not count.

    obtain: features.obtain, which makes features that are not there, or features.find; the checksum of features not found is None.
    """
    sources = {}
    for key in wanted:
        if (name := _source_name(profile, key)) not in sources:
            found = obtain(profile, key.dataset, key.seed if features.seeded(profile, key.dataset) else 0)
            checksum = None if found is None else found.checksum
            sources[name] = {"experiment": EXPERIMENT[key.framework], "features": checksum, "rounds": profile.rounds}
            if key.framework == "fsl":
                sources[name]["network"] = asdict(profiles.adapted(profile.fsl.network, key.dataset))
    return sources


def _source_name(profile: Profile, key: Key) -> str:
    """Data set and framework, and the seed where each has an encoder of its own."""
    return " ".join([key.dataset, key.framework, *([str(key.seed)] if features.seeded(profile, key.dataset) else [])])


def _made_from(profile: Profile, key: Key, sources: dict[str, dict]) -> dict[str, Any]:
    return {"key": asdict(key), **sources[_source_name(profile, key)]}


def _agree(source: dict, other: dict | None) -> bool:
    """Whether a table's source is this one; where the features are not found, whatever they were will do."""
    return other is not None and source == (other if source["features"] else other | {"features": None})


def _records(profile: Profile, wanted: Sequence[Key], folder: Path, sources: dict[str, dict]) -> dict[Key, dict[str, Any]]:
    """The records of the runs wanted, without those that are damaged (logged with their names) or made from other sources."""
    found = {key: kept.read(folder / key.filename) for key in wanted}
    return {key: one[0] for key, one in found.items() if one and one[1] == _made_from(profile, key, sources)}


def _as_table(records: dict[Key, dict[str, Any]]) -> pd.DataFrame:
    rows = [
        {**asdict(key), "round": number, **{measure: one[measure] for measure in MEASURES}}
        for key, record in records.items()
        for number, one in enumerate(record["rounds"], start=1)
    ]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"tail_accuracy": float})


def _rows_of(wanted: Sequence[Key], rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of these runs, in their order, round by round."""
    runs = pd.DataFrame([astuple(key) for key in wanted], columns=RUN).astype({"seed": int})
    return runs.merge(rows.astype({"seed": int}), on=RUN)[COLUMNS]
