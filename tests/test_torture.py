"""The fault campaign finds faults: commands and results that break a promise on purpose are counted, sound ones are not."""

import shutil
import subprocess
import sys

import pytest

from tests.torture import kills, machines

# Writes five rows, each in its place at once, and goes on where it was. A fault of its own begins where one is named.
COMMAND = """
import os, subprocess, sys, tempfile, time
from pathlib import Path

out, fault = Path(sys.argv[1]), sys.argv[2]
if fault == "refuses" and any(out.iterdir()):
    sys.exit("there is something already")
if fault == "process":
    subprocess.Popen(["sleep", "20"])
if fault == "temporary":
    tempfile.mkstemp()
if fault == "elsewhere":
    Path("notes.txt").write_text(str(time.time()))
for row in range(5):
    place = out / f"{row}.txt"
    if fault == "appends":
        with open(out / "all.txt", "a") as file:
            file.write(f"{row}\\n")
    if not place.exists():
        temporary = out / f".{row}.{os.getpid() if fault == 'left over' else ''}.tmp"
        temporary.write_text(f"{time.time() if fault == 'time' else row}\\n")
        time.sleep(0.01)
        temporary.rename(place)
"""


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("none", ""),
        ("refuses", "it does not go on: there is something already"),
        ("process", "after the kill there was still sleep 20"),
        ("temporary", "left in $TMPDIR"),
        ("elsewhere", "something changed in here"),
        ("appends", "another result: all.txt"),
        ("left over", "left over: ."),
        ("time", "another result: "),
    ],
)
def test_kills_find_a_command_that_breaks_a_promise(tmp_path, monkeypatch, fault, found):
    monkeypatch.setattr(kills, "KILLS", 6)
    monkeypatch.setattr(kills, "PATIENCE", 0.2 if fault == "process" else 10)
    case = kills.killed("a command", tmp_path, 1, lambda out: [sys.executable, "-c", COMMAND, str(out), fault])
    assert case.trials == 6
    assert (found in "\n".join(case.faults)) if found else not case.faults, case.faults


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return machines.Bench("a case", tmp_path_factory.mktemp("bench"))


TRACEBACK = "Traceback (most recent call last):\n  ...\nOSError: [Errno 28] No space left on device"


@pytest.mark.parametrize(
    ("status", "said", "harm", "found"),
    [
        (0, "", "", ""),
        (1, "supclust: the disk is full", "", ""),
        (1, TRACEBACK, "", "exit code 1: 'Traceback"),
        (-9, "", "", "exit code -9"),
        (1, "", "", "exit code 1: ''"),
        (0, "", "out/picks.csv", "not the results of an untroubled run: ['picks.csv']"),
        (0, "", "given/points.npz", "what was given has changed: ['points.npz']"),
        (1, "supclust: the disk is full", "given/points.npz", "afterwards, exit code 2"),
    ],
)
def test_machines_find_a_command_that_breaks_a_promise(bench, status, said, harm, found):
    bench.case.faults.clear()
    place = bench.place("label")
    bench.run(machines.JOBS["label"], place, check=True)
    if harm:
        (place / harm).write_text("harm")
    if status:
        shutil.rmtree(place / "out")
    bench.judge("label", "a trouble", place, subprocess.CompletedProcess([], status, "", said))
    assert (found in "\n".join(bench.case.faults)) if found else not bench.case.faults, bench.case.faults
