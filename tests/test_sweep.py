import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time

import joblib
import numpy as np
import pandas as pd
import psutil
import pytest
import torch

from supclust import active, datasets, features, kept, profiles, simclr, strategies, sweep
from supclust.features import Features
from supclust.profiles import FSL, Supervised
from tests.conftest import make_features

PROFILE = profiles.get("quick", datasets=("digits",), seeds=2, rounds=3, fsl=None)
ALL = [*strategies.NAMES, *strategies.CONTROLS]
FEW = {"strategies": ["random", "typiclust", "supclust"]}


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty output folder in which the digits' features are clear blobs, for this process and for those it starts."""
    monkeypatch.setenv("SUPCLUST_OUT", str(tmp_path))
    made_by = {"dataset": "digits", "config": dataclasses.asdict(PROFILE.simclr)}
    path = tmp_path / "artefacts" / "quick" / "digits" / "features.safetensors"
    features.save(path, dataclasses.replace(make_features(), made_by=made_by))
    return tmp_path


def test_one_record_for_each_run_and_one_row_for_each_round(workplace):
    table = sweep.run(PROFILE, jobs=1)
    assert list(table.columns) == sweep.COLUMNS
    assert len(table) == len(ALL) * 2 * 2 * 3
    assert not table.duplicated(sweep.COLUMNS[:6]).any()
    names = {path.name for path in sweep.records_folder(PROFILE).iterdir()}
    assert names == {key.filename for key in sweep.keys(PROFILE)}


def test_later_baselines_run_where_they_are_named_and_are_in_no_profiles_table(workplace):
    assert not {key.strategy for key in sweep.keys(PROFILE)} & set(strategies.LATER)
    table = sweep.run(PROFILE, strategies=[*strategies.LATER, "maxherding:radius=0.5"], budgets=["tiny"], seeds=1, jobs=1)
    assert list(table["strategy"].unique()) == [*strategies.LATER, "maxherding:radius=0.5"]
    assert table.groupby("strategy")["labels"].apply(list).map(lambda labels: labels == [4, 8, 12]).all()


def test_the_table_does_not_depend_on_the_number_of_jobs(workplace, tmp_path):
    one, two = (sweep.run(PROFILE, **FEW, folder=tmp_path / str(jobs), jobs=jobs) for jobs in (1, 2))
    pd.testing.assert_frame_equal(one, two)


def test_a_slice_gives_the_rows_that_the_whole_gives(workplace, tmp_path):
    part = sweep.run(PROFILE, strategies=["supclust"], budgets=["small"], seeds=1, folder=tmp_path / "part", jobs=1)
    whole = sweep.run(PROFILE, **FEW, jobs=1)
    same = whole[(whole["strategy"] == "supclust") & (whole["budget"] == "small") & (whole["seed"] == 0)]
    pd.testing.assert_frame_equal(part, same.reset_index(drop=True))


def test_records_that_are_there_are_not_made_again(workplace):
    first = sweep.run(PROFILE, **FEW, jobs=1)
    written = {path: path.stat().st_mtime_ns for path in sweep.records_folder(PROFILE).iterdir()}
    pd.testing.assert_frame_equal(first, sweep.run(PROFILE, **FEW, jobs=1))
    assert written == {path: path.stat().st_mtime_ns for path in sweep.records_folder(PROFILE).iterdir()}


@pytest.mark.parametrize("damage", ["", "null", "better", "cut"])
def test_a_damaged_record_is_named_and_made_again(workplace, caplog, damage):
    first = sweep.run(PROFILE, **FEW, jobs=1)
    here = sweep.records_folder(PROFILE) / sweep.keys(PROFILE, **FEW)[0].filename
    if damage == "better":
        damage = here.read_text().replace('"accuracy": 0', '"accuracy": 1')
    if damage == "cut":
        record = json.loads(here.read_text())
        record["value"]["rounds"] = record["value"]["rounds"][:2]
        damage = json.dumps(record)
    here.write_text(damage)
    pd.testing.assert_frame_equal(first, sweep.run(PROFILE, **FEW, jobs=1))
    assert f"the file {here} is damaged" in caplog.text
    assert kept.load(here)[0]["rounds"]


def test_the_record_of_another_run_is_none(workplace):
    first = sweep.run(PROFILE, **FEW, jobs=1)
    here, there = (sweep.records_folder(PROFILE) / key.filename for key in sweep.keys(PROFILE, **FEW)[:2])
    here.write_text(there.read_text())
    pd.testing.assert_frame_equal(first, sweep.run(PROFILE, **FEW, jobs=1))
    assert here.read_text() != there.read_text()


def test_records_of_other_features_or_another_experiment_are_made_again(workplace, monkeypatch):
    first = sweep.run(PROFILE, **FEW, jobs=1)
    other = dataclasses.replace(make_features(size=60), made_by={"dataset": "digits", "config": dataclasses.asdict(PROFILE.simclr)})
    features.save(workplace / "artefacts" / "quick" / "digits" / "features.safetensors", other)
    second = sweep.run(PROFILE, **FEW, jobs=1)
    assert not first.equals(second)
    monkeypatch.setitem(sweep.EXPERIMENT, "ssl", 99)
    pd.testing.assert_frame_equal(second, sweep.run(PROFILE, **FEW, jobs=1))
    for key in sweep.keys(PROFILE, **FEW):
        assert kept.load(sweep.records_folder(PROFILE) / key.filename)[1]["experiment"] == 99


def test_the_kept_table_is_used_until_it_is_damaged_or_passed_over(workplace, caplog, monkeypatch):
    table = sweep.table(PROFILE)
    path = workplace / "reports" / "quick" / "curves.csv"
    calls, real = [], sweep.complete
    monkeypatch.setattr(sweep, "complete", lambda *args: calls.append(args) or real(*args))
    pd.testing.assert_frame_equal(table, sweep.table(PROFILE))
    assert len(sweep.table(PROFILE, strategies=["random"])) == len(table) / len(ALL)
    assert not calls
    sweep.table(PROFILE, recompute=True)
    assert len(calls) == 1
    whole = path.read_text()
    path.write_text(whole[:-2])
    pd.testing.assert_frame_equal(table, sweep.table(PROFILE))
    assert len(calls) == 2
    assert "curves.csv is damaged" in caplog.text
    assert path.read_text() == whole


def test_what_is_not_in_the_kept_table_is_run(workplace):
    part = sweep.table(PROFILE, strategies=["random"])
    whole = sweep.table(PROFILE)
    assert set(part["strategy"]) == {"random"}
    assert len(whole) == len(ALL) * len(part)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"strategies": ["typclust"]}, "unknown strategy 'typclust'; known: random"),
        ({"datasets": ["mnist"]}, "has no data set 'mnist'; it has: digits"),
        ({"budgets": ["large"]}, "unknown budget 'large'; known: tiny, small, or a number of labels"),
        ({"budgets": ["10", "0"]}, "unknown budget '0'"),
        ({"frameworks": ["ssl", "fls"]}, "unknown framework 'fls'; known: ssl, fsl"),
        ({"strategies": ["supclust:top=1"]}, "'supclust:top=1' does not name settings"),
        ({"shard": (3, 2)}, "i from 1 to n, not 3/2"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"jobs": 0}, "n_jobs == 0"),
    ],
)
def test_unknown_parts_are_refused_before_anything_runs(workplace, part, message):
    with pytest.raises(ValueError, match=message):
        sweep.run(PROFILE, **part)
    assert not sweep.records_folder(PROFILE).exists()


SCRIPT = """
import sys
from pathlib import Path
from supclust import profiles, sweep
profile, strategies = profiles.get("quick", seeds=2, rounds=3, fsl=None), sys.argv[3:] or None
sweep.run(profile, folder=Path(sys.argv[1]), jobs=int(sys.argv[2]), strategies=strategies)
"""


def start(folder, jobs=1, strategies=()):
    command = [sys.executable, "-c", SCRIPT, str(folder), str(jobs), *strategies]
    # A job in the background ignores Ctrl-C, and so would all that it starts.
    hears = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True, **hears)


def wait_for(folder, enough, process=None):
    deadline = time.monotonic() + 120
    while len(list(folder.glob("*.json"))) < enough and time.monotonic() < deadline:
        time.sleep(0.005)
    assert time.monotonic() < deadline


def check_whole(folder):
    """No half record, whatever the moment."""
    for path in folder.glob("*.json"):
        assert len(kept.load(path)[0]["rounds"]) == 3


@pytest.mark.slow
def test_a_killed_sweep_ends_with_the_same_table(workplace, tmp_path):
    folder, total = tmp_path / "killed", len(sweep.keys(PROFILE))
    process = start(folder)
    wait_for(folder, total // 4)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    check_whole(folder)
    assert total // 4 <= len(list(folder.glob("*.json"))) < total
    killed, clean = (sweep.run(PROFILE, folder=tmp_path / name, jobs=1) for name in ("killed", "clean"))
    pd.testing.assert_frame_equal(killed, clean)


@pytest.mark.slow
def test_workers_end_with_the_sweep_that_started_them(workplace, tmp_path):
    process = start(tmp_path / "killed", jobs=4)  # more than there are groups of runs: some have nothing to do
    wait_for(tmp_path / "killed", 1)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert len(workers) >= 4
    assert not psutil.wait_procs(workers, timeout=10)[1]


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [pytest.param(1, marks=pytest.mark.night), 2])
def test_ctrl_c_leaves_no_half_record(workplace, tmp_path, jobs):
    folder = tmp_path / "stopped"
    process = start(folder, jobs)
    wait_for(folder, 3)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    assert process.wait(timeout=60) != 0
    check_whole(folder)
    assert len(list(folder.glob("*.json"))) < len(sweep.keys(PROFILE))
    assert not list(folder.glob(".*.tmp"))


@pytest.mark.slow
def test_two_sweeps_on_one_folder_do_not_harm_each_other(workplace, tmp_path):
    folder = tmp_path / "shared"
    both = [start(folder, strategies=FEW["strategies"]) for _ in range(2)]
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    check_whole(folder)
    together, alone = (sweep.run(PROFILE, **FEW, folder=tmp_path / name, jobs=1) for name in ("shared", "alone"))
    pd.testing.assert_frame_equal(together, alone)
    assert {path.name for path in folder.iterdir()} == {key.filename for key in sweep.keys(PROFILE, **FEW)}


def test_a_run_that_fails_leaves_its_traceback_and_stops_no_other(workplace, monkeypatch, caplog):
    real = active.run

    def broken(data, pool, strategy, *more):
        if strategy == "typiclust" and pool.seed == 1:
            raise RuntimeError("a cosmic ray")
        return real(data, pool, strategy, *more)

    monkeypatch.setattr(active, "run", broken)
    table, folder = sweep.run(PROFILE, **FEW, jobs=1), sweep.records_folder(PROFILE)
    failed = sweep.failures(sweep.keys(PROFILE, **FEW), folder)
    assert {(key.strategy, key.seed, key.budget) for key in failed} == {("typiclust", 1, "tiny"), ("typiclust", 1, "small")}
    assert all("Traceback" in error and "cosmic ray" in error and "in broken" in error for error in failed.values())
    assert "2 runs failed" in caplog.text
    assert len(table) == (3 * 4 - 2) * 3
    monkeypatch.setattr(active, "run", real)
    assert len(sweep.run(PROFILE, **FEW, jobs=1)) == 3 * 4 * 3
    assert not sweep.failures(sweep.keys(PROFILE, **FEW), folder)
    assert not list(folder.glob("*.failed.json"))


@pytest.mark.parametrize("where", ["fsync", "write"])
def test_a_full_disk_stops_the_sweep_with_a_message_and_valid_records(workplace, monkeypatch, where):
    calls = []

    def full(*args):
        calls.append(args)
        if len(calls) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args)

    target, name = (os, "fsync") if where == "fsync" else (type(workplace), "write_bytes")
    real = getattr(target, name)
    monkeypatch.setattr(target, name, full)
    with pytest.raises(OSError, match=r"disk is full; the 5 records in .* are whole. Make room") as raised:
        sweep.run(PROFILE, **FEW, jobs=1)
    assert raised.value.errno in kept.DISK_FULL
    folder = sweep.records_folder(PROFILE)
    check_whole(folder)
    assert not list(folder.glob(".*.tmp"))
    monkeypatch.setattr(target, name, real)
    assert len(sweep.run(PROFILE, **FEW, jobs=1)) == 3 * 4 * 3


def test_a_pool_smaller_than_the_budget_keeps_the_rounds_done_so_far(workplace):
    profile = profiles.replace(PROFILE, rounds=12)
    rows = sweep.run(profile, strategies=["random", "typiclust"], seeds=1, jobs=1)
    assert rows.groupby(["strategy", "budget"])["labels"].max().to_dict() == {
        ("random", "small"): 200, ("random", "tiny"): 48, ("typiclust", "small"): 200, ("typiclust", "tiny"): 48,
    }  # fmt: skip


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_shards_are_the_whole_each_run_once(n):
    wanted = sweep.keys(profiles.get("paper"), frameworks=["ssl", "fsl"])
    parts = [sweep.shard_of(wanted, i, n) for i in range(1, n + 1)]
    assert sorted(key for part in parts for key in part) == sorted(wanted)
    assert max(map(len, parts)) <= 1.5 * len(wanted) / n
    assert sum(len({key.task for key in part}) for part in parts) == len({key.task for key in wanted})


def test_shards_together_give_the_table_of_the_whole(workplace, tmp_path):
    for i in (1, 2):
        sweep.run(PROFILE, **FEW, folder=tmp_path / "parts", jobs=1, shard=(i, 2))
    pd.testing.assert_frame_equal(sweep.run(PROFILE, **FEW, folder=tmp_path / "parts", jobs=1), sweep.run(PROFILE, **FEW, jobs=1))


def test_frameworks_on_request_run_only_where_they_are_named():
    laptop = profiles.get("laptop")
    assert {key.framework for key in sweep.keys(laptop)} == {"ssl"}
    named = sweep.keys(laptop, frameworks=["fsl"])
    assert {key.framework for key in named} == {"fsl"}
    assert {key.dataset for key in named} == set(laptop.datasets)
    assert {key.framework for key in sweep.keys(profiles.get("paper"))} == {"ssl", "fsl"}


def test_networks_have_no_encoder_of_another_age():
    assert {key.framework for key in sweep.keys(profiles.get("quick"), datasets=["digits@4"])} == {"ssl"}


def test_networks_run_in_a_sweep_and_their_table_is_kept_apart(workplace, tmp_path, monkeypatch):
    train, test = (datasets.load("digits", split) for split in datasets.SPLITS)
    pixels = [part.images[:, 0].reshape(len(part), -1).astype(np.float32) for part in (train, test)]
    made_by = {"dataset": "digits", "config": dataclasses.asdict(PROFILE.simclr)}
    path = workplace / "artefacts" / "quick" / "digits" / "features.safetensors"
    features.save(path, Features(*pixels, train.labels, test.labels, train.classes, made_by))
    runs = Supervised(("digits",), 2, ("tiny",), ("random", "bald"), True, FSL(width=4, side=8, epochs=2, flip=0.0))
    profile = profiles.replace(PROFILE, fsl=runs, rounds=2)
    one, two = (sweep.run(profile, frameworks=["fsl"], folder=tmp_path / str(jobs), jobs=jobs) for jobs in (1, 2))
    pd.testing.assert_frame_equal(one, two)
    assert len(one) == 2 * 2 * 2
    assert sweep.table(profile, frameworks=["fsl"]).empty  # on request, so not run from here
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "records_folder", lambda profile: tmp_path / "1")
        sweep.write_table(profile)
    pd.testing.assert_frame_equal(sweep.table(profile, frameworks=["fsl"]), one)
    sweep.table(profile, strategies=["random"], recompute=True)
    pd.testing.assert_frame_equal(sweep.table(profile, frameworks=["fsl"]), one)  # kept, though there is no record in the folder
    other = profiles.replace(profile, fsl=profiles.replace(runs, network=profiles.replace(runs.network, epochs=3)))
    assert sweep.table(other, frameworks=["fsl"]).empty


def test_tasks_of_one_process_take_turns(workplace, tmp_path, two_threads):
    """As on a dask worker with several threads: folders and numbers of threads are settings of the whole process."""
    before = kept.folders(), torch.get_num_threads()
    with joblib.parallel_config(backend="threading"):
        many = sweep.run(PROFILE, strategies=["supclust", "random"], folder=tmp_path / "threads", jobs=4)
    assert (kept.folders(), torch.get_num_threads()) == before
    pd.testing.assert_frame_equal(many, sweep.run(PROFILE, strategies=["supclust", "random"], jobs=1))


@pytest.mark.slow
def test_a_killed_process_ends_the_sweep_with_a_sentence(workplace, monkeypatch):
    monkeypatch.setattr(sweep, "_run_task", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(ChildProcessError, match="a process was killed, perhaps because memory ran out: try fewer --jobs"):
        sweep.run(PROFILE, jobs=2)


def test_a_failure_that_another_sweep_has_made_good_is_none(workplace):
    key = sweep.keys(PROFILE)[0]
    sweep.run(PROFILE, strategies=[key.strategy], jobs=1)
    folder = sweep.records_folder(PROFILE)
    kept.write(folder / key.failure, "of the slower one", kept.load(folder / key.filename)[1])
    assert not sweep.failures([key], folder)


def test_a_table_and_records_of_other_features_are_not_taken(workplace):
    before = sweep.table(PROFILE, strategies=["random"], budgets=["tiny"])
    path = workplace / "artefacts" / "quick" / "digits" / "features.safetensors"
    old = features.load(path)
    features.save(path, dataclasses.replace(old, train=old.train[::-1], checksum=""))
    wanted = sweep.keys(PROFILE, strategies=["random"], budgets=["tiny"])
    assert sweep.kept_rows(PROFILE, wanted)[0].empty
    after = sweep.table(PROFILE, strategies=["random"], budgets=["tiny"])
    assert len(after) == len(before)
    assert (after["accuracy"] != before["accuracy"]).any()


def test_seeds_beyond_the_profiles_get_into_the_table(workplace):
    sweep.run(PROFILE, strategies=["random"], seeds=4, jobs=1)
    sweep.write_table(PROFILE)
    stored, _ = kept.read(workplace / "reports" / "quick" / "curves.csv")
    assert set(stored["seed"]) == {0, 1, 2, 3}
    assert [key.seed for key in sweep.more_seeds(PROFILE) if key.budget == "tiny"] == [2, 3]


def test_features_are_made_before_the_processes_start_and_only_those_of_the_shard(workplace, monkeypatch):
    asked = []
    monkeypatch.setattr(features, "obtain", lambda profile, dataset, seed=0: asked.append((dataset, seed)) or make_features())
    monkeypatch.setattr(sweep, "_run_task", lambda *_: asked.append("run") or 0)
    paper = profiles.get("paper", datasets=("isic2019",), seeds=4, fsl=None)
    sweep.run(paper, jobs=1, shard=(1, 2))
    mine = sorted({key.seed for key in sweep.shard_of(sweep.keys(paper), 1, 2)})
    assert len(mine) == 2
    assert sorted(asked[:2]) == [("isic2019", seed) for seed in mine]
    assert asked[2:] == ["run"] * 2


def test_writing_a_table_trains_nothing(workplace, monkeypatch):
    monkeypatch.setattr(simclr, "train", lambda *_, **__: pytest.fail("trains"))
    sweep.write_table(PROFILE)
    other = profiles.replace(PROFILE, simclr=profiles.replace(PROFILE.simclr, epochs=99))  # the file there is not of this one
    sweep.write_table(other)
    assert sweep.kept_rows(other, sweep.keys(other))[0].empty


@pytest.mark.slow
def test_the_same_code_runs_on_a_dask_cluster_of_two_workers(workplace, tmp_path, dask_client):
    before = dask_client.run(os.getpid)
    with joblib.parallel_config(backend="dask"):
        spread = sweep.run(PROFILE, **FEW, folder=tmp_path / "cluster")
    assert before == dask_client.run(os.getpid)
    assert list(dask_client.run(lambda: "supclust.sweep" in sys.modules).values()) == [True, True]  # both have worked
    pd.testing.assert_frame_equal(spread, sweep.run(PROFILE, **FEW, folder=tmp_path / "alone", jobs=1))
