import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from supclust import features, profiles, sweep
from tests.conftest import make_features

PROFILE = dataclasses.replace(profiles.get("quick"), datasets=("digits",), seeds=2, rounds=3)


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
    assert len(table) == 5 * 2 * 2 * 3
    assert not table.duplicated(sweep.COLUMNS[:6]).any()
    names = {path.name for path in sweep.records_folder(PROFILE).iterdir()}
    assert names == {key.filename for key in sweep.keys(PROFILE)}


def test_the_table_does_not_depend_on_the_number_of_jobs(workplace, tmp_path):
    one, two = (sweep.run(PROFILE, folder=tmp_path / str(jobs), jobs=jobs) for jobs in (1, 2))
    pd.testing.assert_frame_equal(one, two)


def test_a_slice_gives_the_rows_that_the_whole_gives(workplace, tmp_path):
    part = sweep.run(PROFILE, strategies=["supclust"], budgets=["small"], seeds=1, folder=tmp_path / "part", jobs=1)
    whole = sweep.run(PROFILE, jobs=1)
    same = whole[(whole["strategy"] == "supclust") & (whole["budget"] == "small") & (whole["seed"] == 0)]
    pd.testing.assert_frame_equal(part, same.reset_index(drop=True))


def test_records_that_are_there_are_not_made_again(workplace):
    first = sweep.run(PROFILE, jobs=1)
    written = {path: path.stat().st_mtime_ns for path in sweep.records_folder(PROFILE).iterdir()}
    pd.testing.assert_frame_equal(first, sweep.run(PROFILE, jobs=1))
    assert written == {path: path.stat().st_mtime_ns for path in sweep.records_folder(PROFILE).iterdir()}


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", "null", '{"rounds": []}', "\x00\x00", "of another run", "better", "cut"])
def test_a_broken_record_is_named_and_made_again(workplace, caplog, damage):
    first = sweep.run(PROFILE, jobs=1)
    here, there = (sweep.records_folder(PROFILE) / key.filename for key in sweep.keys(PROFILE)[:2])
    if damage == "of another run":
        damage = there.read_text()
    if damage == "better":
        damage = here.read_text().replace('"accuracy": 0', '"accuracy": 1')
    if damage == "cut":
        record = json.loads(here.read_text())
        damage = json.dumps(record | {"rounds": record["rounds"][:2]})
    here.write_text(damage)
    pd.testing.assert_frame_equal(first, sweep.run(PROFILE, jobs=1))
    assert str(here) in caplog.text
    assert json.loads(here.read_text())["rounds"]


def test_records_of_other_features_or_another_experiment_are_made_again(workplace, monkeypatch):
    first = sweep.run(PROFILE, jobs=1)
    other = dataclasses.replace(make_features(size=60), made_by={"dataset": "digits", "config": dataclasses.asdict(PROFILE.simclr)})
    features.save(workplace / "artefacts" / "quick" / "digits" / "features.safetensors", other)
    second = sweep.run(PROFILE, jobs=1)
    assert not first.equals(second)
    key = sweep.keys(PROFILE)[0]
    source = {"experiment": sweep.EXPERIMENT + 1, "features": features.of(PROFILE, "digits").checksum, "rounds": 3}
    assert sweep.read_record(sweep.records_folder(PROFILE), key, source) is None


def test_the_kept_table_is_used_until_it_is_damaged_or_passed_over(workplace, caplog, monkeypatch):
    table = sweep.table(PROFILE)
    path = workplace / "reports" / "quick" / "curves.csv"
    calls, real = [], sweep.run
    monkeypatch.setattr(sweep, "run", lambda *args, **part: calls.append(part) or real(*args, **part))
    pd.testing.assert_frame_equal(table, sweep.table(PROFILE))
    assert len(sweep.table(PROFILE, strategies=["random"])) == len(table) / 5
    assert not calls
    sweep.table(PROFILE, recompute=True)
    assert len(calls) == 1
    whole = path.read_text()
    path.write_text(whole[:-2])
    pd.testing.assert_frame_equal(table, sweep.table(PROFILE))
    assert len(calls) == 2
    assert "curves.csv is broken" in caplog.text
    assert path.read_text() == whole


def test_what_is_not_in_the_kept_table_is_run(workplace):
    part = sweep.table(PROFILE, strategies=["random"])
    whole = sweep.table(PROFILE)
    assert set(part["strategy"]) == {"random"}
    assert len(whole) == 5 * len(part)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"strategies": ["typclust"]}, "unknown strategy 'typclust'; known: random"),
        ({"datasets": ["mnist"]}, "has no data set 'mnist'; it has: digits"),
        ({"budgets": ["large"]}, "unknown budget 'large'; known: tiny, small"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"jobs": 0}, "jobs must not be 0"),
    ],
)
def test_unknown_parts_are_refused_before_anything_runs(workplace, part, message):
    with pytest.raises(ValueError, match=message):
        sweep.run(PROFILE, **part)
    assert not sweep.records_folder(PROFILE).exists()


SCRIPT = """
import dataclasses, sys
from pathlib import Path
from supclust import profiles, sweep
sweep.run(dataclasses.replace(profiles.get("quick"), seeds=2, rounds=3), folder=Path(sys.argv[1]), jobs=1)
"""


def start(folder):
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], stderr=subprocess.DEVNULL, start_new_session=True)


@pytest.mark.slow
def test_a_sweep_killed_again_and_again_ends_with_the_same_table(workplace, tmp_path):
    folder = tmp_path / "killed"
    for enough in (1, 6, 13):
        process, deadline = start(folder), time.monotonic() + 120
        while len(list(folder.glob("*.json"))) < enough and time.monotonic() < deadline:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert 13 <= len(list(folder.glob("*.json"))) < 20
    for path in folder.glob("*.json"):
        json.loads(path.read_text())  # each whole, whatever the moment
    killed, clean = (sweep.run(PROFILE, folder=tmp_path / name, jobs=1) for name in ("killed", "clean"))
    pd.testing.assert_frame_equal(killed, clean)
