"""Many active-learning runs: each leaves a record as it finishes, so a stopped sweep resumes where it stopped.

No backend of joblib is named: under `joblib.parallel_config(backend="dask")` the same call runs on a cluster with a shared folder.
"""

import functools
import itertools
import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from supclust import active, features, kept, profiles
from supclust.datasets import SPLITS, load
from supclust.engine import threads
from supclust.profiles import Profile
from supclust.strategies import CONTROLS, NAMES, Pool, parse

log = logging.getLogger(__name__)

# Raise the number when code changes the result of a run: older records and tables are then redone. ssl 3: k-means starts
# differently. fsl stays at 2: its runs take hours, and their clusters are of equal quality.
EXPERIMENT = {"ssl": 3, "fsl": 2}
RUN = ["dataset", "framework", "strategy", "budget", "seed"]
ROUND_COLUMNS = ["labels", "accuracy", "balanced_accuracy", "tail_accuracy", "classes"]  # of a round
COLUMNS = [*RUN, "round", *ROUND_COLUMNS]
TURN = threading.Lock()  # of tasks in one process


class Key(NamedTuple):
    """The identity of one run."""

    dataset: str
    framework: str
    strategy: str
    budget: str
    seed: int

    @property
    def filename(self) -> str:
        """The name of its record."""
        return "--".join(map(str, self)).replace(":", "~") + ".json"

    @property
    def failure(self) -> str:
        """The name of the record that it leaves if it fails."""
        return self.filename.replace(".json", ".failed.json")

    @property
    def task(self) -> tuple[str, str, str, int]:
        """Runs of one task share a process and k-means clusters. In FSL, where networks take longer, a task is smaller."""
        return self.dataset, self.framework, self.budget if self.framework == "fsl" else "", self.seed


Sources = dict[Key, tuple[str, dict[str, Any]]]  # what runs are made from, under a name in a table: see _sources
Prepared = tuple[features.Features, Pool, dict[str, Any]]  # data, pool, and what else active.run takes: runs of a task share them


def keys(
    profile: Profile,
    datasets: Sequence[str] | None = None,
    strategies: Sequence[str] | None = None,
    budgets: Sequence[str] | None = None,
    seeds: int | None = None,
    frameworks: Sequence[str] | None = None,
) -> list[Key]:
    """The runs of a profile, or of a slice of it; of frameworks that are on request only where they are named.

    strategies: as `strategies.parse` reads them. Raises ValueError for an unknown name, and for less than one seed.
    """
    grids = {framework: grid for framework, grid in zip(active.FRAMEWORKS, (profile, profile.fsl), strict=True) if grid}
    known = dict.fromkeys(name for grid in grids.values() for name in grid.datasets)
    if unknown := set(frameworks or ()) - set(active.FRAMEWORKS):
        raise ValueError(f"unknown framework {min(unknown)!r}; known: {', '.join(active.FRAMEWORKS)}")
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
        if framework in frameworks if frameworks else not getattr(grid, "on_request", False):
            plain = {name: name if framework == "fsl" else features.split_encoder(name)[0] for name in datasets or grid.datasets}
            own = [name for name in plain if plain[name] in grid.datasets]  # networks from scratch have no encoder
            names = strategies or getattr(grid, "strategies", ()) or (*NAMES, *CONTROLS)
            wanted += itertools.product(own, [framework], names, budgets or grid.budgets, range(seeds or grid.seeds))
    return [Key(*key) for key in dict.fromkeys(wanted)]


def run(
    profile: Profile, *, folder: Path | None = None, jobs: int = -1, shard: tuple[int, int] = (1, 1), **part: Any
) -> pd.DataFrame:
    """Run what has no valid record yet, and return the table of the runs asked for that are done, a row per round.

    part: as `keys` takes it. shard: see `shard_of`. folder: of the records, by default records/ in the profile's reports. A run
    that fails leaves its traceback as a record and is tried again next time. Raises OSError when the disk is full,
    ChildProcessError when a process was killed; the records so far stay valid.
    """
    wanted, folder = keys(profile, **part), (folder or records_folder(profile)).absolute()
    sources = _sources(profile, shard_of(wanted, *shard), features.obtain)  # features that are not there are made first
    complete(sources, functools.partial(_prepare, profile), folder, jobs)
    return recorded(_sources(profile, wanted, features.find), folder)


def shard_of(wanted: Sequence[Key], i: int, n: int) -> list[Key]:
    """The i-th of n parts of these runs, from 1: every n-th task, so that the parts are alike. ValueError unless 1 <= i <= n."""
    if not 1 <= i <= n:
        raise ValueError(f"a shard is i/n with i from 1 to n, not {i}/{n}")
    tasks = set(sorted({key.task for key in wanted})[i - 1 :: n])
    return [key for key in wanted if key.task in tasks]


def complete(sources: Sources, prepare: Callable[[Key], Prepared], folder: Path, jobs: int = -1) -> None:
    """Make the runs that have no record in the folder from these sources. Workers call prepare. For errors see `run`."""
    done = _runs(recorded(sources, folder))
    missing = [key for key in sources if key not in done]
    if not missing:
        log.info("nothing to do: all %d runs asked for are on record", len(sources))
    tasks = [{key: sources[key] for key in missing if key.task == task} for task in sorted({key.task for key in missing})]
    work = (joblib.delayed(_run_task)(prepare, task, folder, kept.folders()) for task in tasks)
    try:
        ended = joblib.Parallel(jobs, return_as="generator_unordered", initializer=threads.end_with_parent)(work)
        list(threads.progress(ended, "groups of runs", len(tasks)))
    except BrokenExecutor as error:
        message = "a process was killed, perhaps because memory ran out: try fewer --jobs. Finished runs are kept"
        raise ChildProcessError(message) from error
    except OSError as error:
        if error.errno not in kept.DISK_FULL:
            raise
        whole = len(set(folder.glob("*.json")) - set(folder.glob("*.failed.json")))
        message = f"the disk is full; the {whole} records in {folder} are whole. Make room, and run the same command again"
        raise OSError(error.errno, message) from error
    if failed := failures(sources, folder):
        reasons = {trace.strip().splitlines()[-1]: key for key, trace in reversed(failed.items())}  # each once, of the first run
        for reason, key in itertools.islice(reversed(reasons.items()), 10):
            log.error("failed: %s: %s", " ".join(map(str, key)), reason)
        told = "%d runs failed; the same command tries them again. Their tracebacks are in the records *.failed.json"
        log.error(told, len(failed))


@contextmanager
def alone(folders: dict[str, str]) -> Iterator[None]:
    """One thread and the caller's folders. Both are settings of the process, so its tasks take turns: a Dask worker has several."""
    with TURN, threadpool_limits(1), threads.alone(), kept.environment(folders):  # PyTorch keeps to the limit, too
        yield


def _run_task(prepare: Callable[[Key], Prepared], sources: Sources, folder: Path, folders: dict[str, str]) -> None:
    """Run and record those runs of a task that no other sweep has made meanwhile."""
    prepared = functools.cache(lambda: prepare(next(iter(sources))))
    if any(key.framework == "fsl" for key in sources):
        import torch  # noqa: F401  only libraries that are loaded can be limited to one thread
    with alone(folders):
        for key, source in sources.items():
            if not recorded({key: source}, folder).empty:
                continue
            begin, made_from = time.perf_counter(), {"key": key._asdict(), **source[1]}
            try:
                data, pool, more = prepared()
                rounds = [asdict(one) for one in active.run(data, pool, key.strategy, key.budget, source[1]["rounds"], **more)]
            except Exception as error:
                if getattr(error, "errno", None) in kept.DISK_FULL:
                    raise
                kept.write(folder / key.failure, traceback.format_exc(), made_from)
            else:
                kept.write(folder / key.filename, {"seconds": round(time.perf_counter() - begin, 2), "rounds": rounds}, made_from)
                (folder / key.failure).unlink(missing_ok=True)


def _prepare(profile: Profile, key: Key) -> Prepared:
    data = features.obtain(profile, key.dataset, key.seed)
    pool = Pool(data.train, seed=key.seed, labels=data.train_labels)
    if key.framework == "ssl":
        return data, pool, {}
    config = profiles.adapted(profile.fsl.network, key.dataset)
    options = {"seed": key.seed, "side": config.side, "missing": profile.missing}
    train, test = (load(key.dataset, split, **options) for split in SPLITS)
    if not (np.array_equal(train.labels, data.train_labels) and np.array_equal(test.labels, data.test_labels)):
        where, there = features.folder(profile.name, key.dataset, key.seed), f"({len(data.train)} + {len(data.test)})"
        message = f"the features of {key.dataset} are of other images {there} than those here ({len(train)} + {len(test)}): "
        raise ValueError(f"{message}delete {where} to compute them again")
    return data, pool, {"fsl": active.network(train, test, config)}


def records_folder(profile: Profile) -> Path:
    """The folder of a profile's records."""
    return kept.reports(profile.name) / "records"


def failures(wanted: Iterable[Key], folder: Path) -> dict[Key, str]:
    """The tracebacks of the runs that failed when they were last tried; a record made from the same sources makes good for it."""
    found = {key: one for key in wanted if (one := kept.read(folder / key.failure))}
    return {key: one[0] for key, one in found.items() if one[1] != (kept.read(folder / key.filename) or (None, {}))[1]}


def more_seeds(profile: Profile) -> list[Key]:
    """The runs on record of seeds beyond the profile's: more of them narrow the intervals."""
    usual = set(keys(profile, frameworks=active.FRAMEWORKS))
    found = [path.stem.split("--") for path in records_folder(profile).glob("*.json")]
    found = {Key(*run, int(seed)) for *run, seed in found if seed.isdecimal()} - usual
    return sorted(key for key in found if key._replace(seed=0) in usual)


def table(
    profile: Profile, *, recompute: bool = False, name: str = "curves", on_request: bool = False, **part: Any
) -> pd.DataFrame:
    """The table of the runs that `keys` gives: read from NAME.csv where the same features and experiment made it, else run.

    name: "curves", of all the profile's runs, or another one, of these only. recompute=True passes the file over, but not the
    records; with on_request nothing is run without it. Runs on request, and those whose features cannot be made here, are left out.
    """
    wanted = keys(profile, **part)
    rows, _ = kept_rows(profile, wanted, name)
    due = [key for key in wanted if key.framework == "ssl" or not profile.fsl.on_request]
    due = [key for key in due if features.obtainable(profile, key.dataset)]
    if due and (recompute or not (on_request or _runs(rows).issuperset(due))):
        sources = _sources(profile, due, features.obtain)
        complete(sources, functools.partial(_prepare, profile), records_folder(profile))
        write_table(profile, name, wanted)
        rows, _ = kept_rows(profile, wanted, name)
    return rows


def write_table(profile: Profile, name: str = "curves", wanted: Sequence[Key] = ()) -> Path:
    """Write NAME.csv of the runs wanted, all of the profile's in "curves": what records say, else what it said before; its path."""
    if name == "curves":
        wanted = keys(profile, frameworks=active.FRAMEWORKS) + more_seeds(profile)
    path, sources = kept.reports(profile.name) / f"{name}.csv", _sources(profile, wanted, features.find)
    done = recorded(sources, records_folder(profile))
    before, known = kept_rows(profile, sorted(set(wanted) - _runs(done)), name)
    rows = pd.concat([done, before]) if len(before) else done
    made_from = {one: source if "features" in source else known.get(one) for one, source in sources.values()}
    kept.write(path, _rows_of(wanted, rows), made_from)
    return path


def kept_rows(profile: Profile, wanted: Sequence[Key], name: str = "curves") -> tuple[pd.DataFrame, dict[str, dict]]:
    """The wanted rows that the best kept table has, one's own or the repository's, and its sources; runs and trains nothing.

    Where features are not found, rows of whatever features will do.
    """
    best, sources = (pd.DataFrame(columns=COLUMNS), {}), _sources(profile, wanted, features.find)
    for rows, known in kept.read_all(profile.name, f"{name}.csv"):
        same = [key for key, (one, source) in sources.items() if source.items() <= (known.get(one) or {}).items()]
        best = max(best, (_rows_of(same, rows), known), key=lambda found: len(found[0]))
    return best


def _sources(profile: Profile, wanted: Sequence[Key], obtain: Callable[..., Any]) -> Sources:
    """Sources of each run, under their name in a table: data set, framework, and seed where encoders differ.

    obtain: features.obtain, or features.find, which trains nothing; the checksum of features that are not found is left out.
    """
    made = functools.cache(lambda *draw: {"features": found.checksum} if (found := obtain(profile, *draw)) else {})
    sources = {}
    for key in wanted:
        draw = (key.dataset, key.seed) if features.seeded(profile, key.dataset) else (key.dataset,)
        network = {"network": asdict(profiles.adapted(profile.fsl.network, key.dataset))} if key.framework == "fsl" else {}
        source = {"experiment": EXPERIMENT[key.framework], **made(*draw), "rounds": profile.rounds, **network}
        sources[key] = " ".join([key.dataset, key.framework, *map(str, draw[1:])]), source
    return sources


def recorded(sources: Sources, folder: Path) -> pd.DataFrame:
    """The table of the runs that have a record made from these sources; damaged records are logged with their names."""
    rows = []
    for key, (_, source) in sources.items():
        record, made_from = kept.read(folder / key.filename) or ({}, None)
        if made_from == {"key": key._asdict(), **source}:
            rounds = enumerate(record["rounds"], start=1)
            rows += [[*key, number, *(one[measure] for measure in ROUND_COLUMNS)] for number, one in rounds]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"tail_accuracy": float})


def _runs(rows: pd.DataFrame) -> set[tuple]:
    return set(rows[RUN].itertuples(index=False, name=None))


def _rows_of(wanted: Sequence[Key], rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of these runs, in their order, round by round."""
    return pd.DataFrame(wanted, columns=RUN).astype({"seed": int}).merge(rows.astype({"seed": int}), on=RUN)[COLUMNS]
