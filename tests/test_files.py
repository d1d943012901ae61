import os
import select
import signal
import subprocess
import sys

import pytest

from supclust import files


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path):
    path = tmp_path / "new folder" / "file.txt"
    files.write_text(path, "ä first")
    with pytest.raises(ZeroDivisionError), files.replacing(path) as temporary:
        temporary.write_text(f"half of the sec {1 / 0}")
    assert path.read_text(encoding="utf-8") == "ä first"
    files.write_bytes(path, b"second")
    assert path.read_bytes() == b"second"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    files.write_text(path, "old")

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


KILLED = """
import os, signal, sys
from pathlib import Path
from supclust import files
with files.replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_writer_that_is_killed_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    files.write_text(path, "old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_a_lock_lets_one_process_in_at_a_time_and_ends_with_it(tmp_path):
    script = "import sys, time; from pathlib import Path; from supclust import files\n"
    script += "with files.locked(Path(sys.argv[1])): print('in', flush=True); time.sleep(60)"
    first, second = (
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    )
    both = {process.stdout.fileno(): process for process in (first, second)}
    (ready,) = select.select(list(both), [], [], 60)[0]
    inside = both.pop(ready)
    (waiting,) = both.values()
    assert select.select(list(both), [], [], 1)[0] == []
    inside.kill()
    assert select.select(list(both), [], [], 60)[0] == list(both)
    waiting.kill()
    for process in (inside, waiting):
        process.wait()
        process.stdout.close()
