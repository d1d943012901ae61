import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from supclust import kept


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path):
    path = tmp_path / "new folder" / "file.txt"
    kept.write_text(path, "ä first")
    with pytest.raises(ZeroDivisionError), kept.replacing(path) as temporary:
        temporary.write_text(f"half of the sec {1 / 0}")
    assert path.read_text(encoding="utf-8") == "ä first"
    kept.write_bytes(path, b"second")
    assert path.read_bytes() == b"second"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    kept.write_text(path, "old")

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        kept.write_text(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


KILLED = """
import os, signal, sys
from pathlib import Path
from supclust import kept
with kept.replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_writer_that_is_killed_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    kept.write_text(path, "old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    kept.write_text(path, "new")
    assert [file.name for file in tmp_path.iterdir()] == ["file.txt"]


def test_writers_of_one_file_do_not_remove_what_others_are_writing(tmp_path):
    script = "import pathlib, sys, supclust.kept as k\nfor i in range(300): k.write_text(pathlib.Path(sys.argv[1]), str(i))"
    path = tmp_path / "file.txt"
    writers = [subprocess.Popen([sys.executable, "-c", script, path], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [writer.communicate()[1] for writer in writers] == ["", "", ""]
    assert path.read_text() == "299"
    other = tmp_path / f".file.txt.0000000f-{2**22 + 1}-ab.tmp"  # another machine's, whose processes nobody here knows
    other.touch()
    kept.write_text(path, "new")
    assert sorted(file.name for file in tmp_path.iterdir()) == [other.name, "file.txt"]


def test_what_a_killed_writer_left_goes_even_if_another_process_has_its_number(tmp_path):
    left_over = tmp_path / f".file.txt.{kept.HOST}-{os.getpid()}-17-ab.tmp"  # 17 ticks after the machine began
    left_over.touch()
    kept.write_text(tmp_path / "file.txt", "new")
    assert [file.name for file in tmp_path.iterdir()] == ["file.txt"]


def test_a_file_that_looks_like_a_temporary_one_is_no_trouble(tmp_path):
    (tmp_path / f".file.txt.{kept.HOST}-foo-bar.tmp").touch()
    kept.write_text(tmp_path / "file.txt", "new")
    assert (tmp_path / "file.txt").read_text() == "new"


def test_of_two_writers_at_once_the_last_one_to_end_counts(tmp_path):
    path = tmp_path / "[1]--*.txt"
    with kept.replacing(path) as temporary:
        temporary.write_text("slow")
        kept.write_text(path, "quick")
        assert path.read_text() == "quick"
    assert path.read_text() == "slow"
    assert len(list(tmp_path.iterdir())) == 1


def test_folders_follow_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPCLUST_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SUPCLUST_OUT", str(tmp_path / "out"))
    assert kept.data() == tmp_path / "data"
    for folder in ("reports", "figures", "artefacts"):
        assert getattr(kept, folder)("quick") == tmp_path / "out" / folder / "quick"


def test_by_default_everything_is_in_the_repository(monkeypatch):
    monkeypatch.delenv("SUPCLUST_DATA", raising=False)
    monkeypatch.delenv("SUPCLUST_OUT", raising=False)
    assert kept.data() == kept.REPOSITORY / "data"
    assert kept.out() == kept.REPOSITORY


def test_an_installed_package_writes_into_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("SUPCLUST_OUT", raising=False)
    monkeypatch.setattr(kept, "REPOSITORY", tmp_path / "site-packages")
    monkeypatch.chdir(tmp_path)
    assert kept.reports("quick") == tmp_path / "reports" / "quick"


def test_the_features_that_ship_are_there():
    assert kept.shipped_features("cifar10").is_file()


def test_an_environment_holds_for_a_block_and_is_put_back_after_an_error_too(monkeypatch, tmp_path):
    monkeypatch.delenv("SUPCLUST_DATA", raising=False)
    monkeypatch.setenv("SUPCLUST_OUT", str(tmp_path / "here"))
    before = kept.folders()

    def look_and_fail():
        assert (kept.data(), kept.out()) == (tmp_path / "a", tmp_path)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), kept.environment({"SUPCLUST_DATA": str(tmp_path / "a"), "SUPCLUST_OUT": str(tmp_path)}):
        look_and_fail()
    assert kept.folders() == before
    assert "SUPCLUST_DATA" not in os.environ


def test_the_same_arrays_give_the_same_bytes(tmp_path):
    path, arrays, contents = tmp_path / "arrays.safetensors", {"b": np.eye(3), "a": np.arange(4)}, set()
    for _ in range(20):
        kept.write(path, arrays, {"name": "é", "k": 5})
        contents.add(path.read_bytes())
    assert len(contents) == 1
