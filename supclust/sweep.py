"""Many active-learning runs: one record each, kept as it is finished, so that a sweep that was stopped goes on where it was."""

from __future__ import annotations

import io
import itertools
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import joblib
import pandas as pd
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from supclust import active, features, files, paths
from supclust.profiles import Profile
from supclust.strategies import NAMES, Pool, check_names

log = logging.getLogger(__name__)

COLUMNS = ["dataset", "framework", "strategy", "budget", "seed", "round", "labels", "accuracy"]
EXPERIMENT = 1  # raised when a change of the code changes what a run comes to: older records and tables are then made anew


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
        return "--".join(map(str, asdict(self).values())) + ".json"

    @property
    def task(self) -> tuple[str, int]:
        """Runs of one task have their clusters in common."""
        return self.dataset, self.seed


def keys(
    profile: Profile,
    datasets: Sequence[str] | None = None,
    strategies: Sequence[str] | None = None,
    budgets: Sequence[str] | None = None,
    seeds: int | None = None,
) -> list[Key]:
    """The runs of a profile, or of a slice of it. ValueError for a data set, strategy or budget that it does not have."""
    datasets, budgets, strategies = datasets or profile.datasets, budgets or profile.budgets, strategies or NAMES
    seeds = profile.seeds if seeds is None else seeds
    check_names(strategies)
    for budget in budgets:
        active.step_size(budget, 1)
    for dataset in datasets:
        if dataset not in profile.datasets:
            raise ValueError(f"profile {profile.name!r} has no data set {dataset!r}; it has: {', '.join(profile.datasets)}")
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, not {seeds}")
    return [Key(*key) for key in itertools.product(datasets, profile.frameworks, strategies, budgets, range(seeds))]


def run(
    profile: Profile,
    *,
    datasets: Sequence[str] | None = None,
    strategies: Sequence[str] | None = None,
    budgets: Sequence[str] | None = None,
    seeds: int | None = None,
    folder: Path | None = None,
    jobs: int = -1,
) -> pd.DataFrame:
    """Run what has no record yet, over all cores, and return the table of all the runs asked for, a row per round.

    A record is a JSON file in folder (default: records/ in the profile's reports), written whole or not at all. One that cannot be
    read, whose checksum differs, or that was made from other features, is made anew. The table does not depend on the number of
    jobs.
    """
    if jobs == 0:
        raise ValueError("jobs must not be 0: a number of processes, or -1 for one on each core")
    wanted = keys(profile, datasets, strategies, budgets, seeds)
    folder = folder or records_folder(profile)
    sources = _sources(profile, wanted)
    missing = [key for key in wanted if read_record(folder, key, sources[key.dataset]) is None]
    tasks = [list(group) for _, group in itertools.groupby(sorted(missing, key=lambda key: key.task), key=lambda key: key.task)]
    work = (joblib.delayed(_run_task)(profile, task, folder, sources[task[0].dataset]) for task in tasks)
    with tqdm(total=len(missing), desc="runs", unit="run", leave=False) as bar:
        for count in joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")(work):
            bar.update(count)
    return _as_table({key: read_record(folder, key, sources[key.dataset]) for key in wanted})


def table(profile: Profile, *, recompute: bool = False, **part: Sequence[str] | int | None) -> pd.DataFrame:
    """The table of a profile, or of the part that `keys` takes: read from curves.csv if it is there and whole, else run.

    curves.csv is used only if it was made from the same features by the same experiment. recompute=True passes it over; records of
    an earlier run are still used. After a run, curves.csv is written anew from all the records there are.
    """
    wanted = keys(profile, **part)
    if not recompute and (kept := _read_table(profile, wanted)) is not None:
        return kept
    result = run(profile, **part)
    write_table(profile)
    return result


def write_table(profile: Profile, folder: Path | None = None) -> Path:
    """Write curves.csv of all the profile's records that are there and valid, in the profile's reports; returns its path."""
    folder = folder or records_folder(profile)
    everything = keys(profile)
    sources = _sources(profile, everything)
    records = {key: read_record(folder, key, sources[key.dataset]) for key in everything}
    curves = _as_table({key: record for key, record in records.items() if record})
    path = paths.reports(profile.name) / "curves.csv"
    body = curves.to_csv(index=False)
    files.write_text(path, f"# {json.dumps({'sources': sources, 'sha256': files.sha256(body)})}\n{body}")
    return path


def records_folder(profile: Profile) -> Path:
    """Where a profile's records live."""
    return paths.reports(profile.name) / "records"


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


def _run_task(profile: Profile, task: list[Key], folder: Path, source: dict) -> int:
    """Run and record the runs of one data set and seed, on one core, so that the result does not depend on how many there are."""
    with threadpool_limits(1):
        data = features.of(profile, task[0].dataset, task[0].seed)
        pool = Pool(data.train, seed=task[0].seed)
        for key in task:
            begin = time.perf_counter()
            rounds = [asdict(one) for one in active.run(data, pool, key.strategy, key.budget, profile.rounds)]
            record = {"key": asdict(key), "source": source, "seconds": round(time.perf_counter() - begin, 2), "rounds": rounds}
            files.write_text(folder / key.filename, json.dumps(record | {"sha256": _record_digest(record)}))
    return len(task)


def _sources(profile: Profile, wanted: Sequence[Key]) -> dict[str, dict]:
    """What the records of each data set are made from; a record of another source does not count."""
    names = sorted({key.dataset for key in wanted})
    checksums = {name: features.of(profile, name).checksum for name in names}
    return {name: {"experiment": EXPERIMENT, "features": checksums[name], "rounds": profile.rounds} for name in names}


def _as_table(records: dict[Key, dict]) -> pd.DataFrame:
    rows = [
        {**asdict(key), "round": number, "labels": one["labels"], "accuracy": one["accuracy"]}
        for key, record in records.items()
        for number, one in enumerate(record["rounds"], start=1)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _read_table(profile: Profile, wanted: Sequence[Key]) -> pd.DataFrame | None:
    """The wanted rows of curves.csv, of one's own or else as it comes with the repository; None unless all of them are valid."""
    sources = _sources(profile, wanted)
    for folder in (paths.reports(profile.name), paths.REPOSITORY / "reports" / profile.name):
        path = folder / "curves.csv"
        if not path.exists():
            continue
        kept = _rows_of(path, sources)
        runs = pd.MultiIndex.from_frame(kept[COLUMNS[:5]])
        index = pd.MultiIndex.from_tuples([tuple(asdict(key).values()) for key in wanted])
        if index.isin(runs).all():
            return kept[runs.isin(index)].reset_index(drop=True)
    return None


def _rows_of(path: Path, sources: dict[str, dict]) -> pd.DataFrame:
    """The rows of a curves.csv whose data sets have the given sources; none, with a warning, if the file is broken."""
    try:
        head, _, body = path.read_text(encoding="utf-8").partition("\n")
        made_from = json.loads(head.removeprefix("#"))
        if files.sha256(body) != made_from["sha256"]:
            raise ValueError("its checksum differs")
        kept = pd.read_csv(io.StringIO(body))[COLUMNS]
    except (ValueError, KeyError, TypeError, OSError) as error:
        log.warning("table %s is broken (%s); it is not used", path, error)
        return pd.DataFrame(columns=COLUMNS)
    same = [name for name, source in sources.items() if made_from["sources"].get(name) == source]
    return kept[kept["dataset"].isin(same)]


def _record_digest(record: dict) -> str:
    return files.sha256(json.dumps([record[part] for part in ("key", "source", "rounds")]))
