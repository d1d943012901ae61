"""Checkpoints: whole or not there, damage noticed wherever it is, and the one before used."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from supclust import checkpoints


@pytest.fixture
def two(tmp_path):
    """A folder with a checkpoint and the one before it."""
    path = tmp_path / "folder" / "checkpoint.pt"
    for step in (1, 2):
        checkpoints.save(path, {"step": step, "weights": torch.full((50, 50), float(step))})
    return path


def test_the_newest_is_read(two):
    saved = checkpoints.load(two)
    assert saved["step"] == 2
    assert torch.equal(saved["weights"], torch.full((50, 50), 2.0))


def test_none_is_none(tmp_path):
    assert checkpoints.load(tmp_path / "checkpoint.pt") is None


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_of_a_torn_one_the_one_before_is_used(two, share, caplog):
    whole = two.read_bytes()
    two.write_bytes(whole[: int(share * len(whole))])
    assert checkpoints.load(two)["step"] == 1
    assert f"{two} is damaged" in caplog.text


@pytest.mark.parametrize("place", [0, 100, 5000, -40, -1])
def test_one_flipped_bit_is_noticed(two, place):
    content = bytearray(two.read_bytes())
    content[place] ^= 1
    two.write_bytes(content)
    assert checkpoints.load(two)["step"] == 1


def test_a_damaged_one_never_takes_the_place_of_the_one_before(two, monkeypatch):
    """Killed while it writes the next: the good one must still be there."""
    two.write_bytes(two.read_bytes()[:-7])

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints.files, "write_bytes", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(two, {"step": 3})
    assert checkpoints.load(two)["step"] == 1


def test_what_a_killed_process_left_over_is_removed(two):
    left_over = two.with_name(f".{two.name}.99999.tmp")
    left_over.write_bytes(b"half")
    checkpoints.save(two, {"step": 3})
    assert {file.name for file in two.parent.iterdir()} == {two.name, checkpoints.previous(two).name}


def test_none_left_undamaged_is_an_error_that_names_the_file(two):
    for file in (two, checkpoints.previous(two)):
        file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(ValueError, match=f"checkpoint {two} cannot be read"):
        checkpoints.load(two)


def test_killed_between_the_two_renames(two):
    two.unlink()
    assert checkpoints.load(two)["step"] == 1


def test_a_hostile_pickle_is_not_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harm",))

    checkpoints.save(tmp_path / "checkpoint.pt", {"config": Hostile()})
    with pytest.raises(ValueError, match="cannot be read"):
        checkpoints.load(tmp_path / "checkpoint.pt")
    assert not (tmp_path / "harm").exists()


WRITER = """
import sys, torch
from pathlib import Path
from supclust import checkpoints
for step in range(1, 10**6):
    checkpoints.save(Path(sys.argv[1]), {"step": step, "weights": torch.full((300, 300), float(step))})
    print(step, flush=True)
"""


@pytest.mark.parametrize("after", [1, 4, 9])
def test_killed_while_writing_leaves_one_that_is_whole(tmp_path, after):
    path = tmp_path / "checkpoint.pt"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as child:
        for line in child.stdout:
            if int(line) == after:
                child.send_signal(signal.SIGKILL)
                break
    saved = checkpoints.load(path)
    assert saved["step"] >= after - 1
    assert (saved["weights"] == saved["step"]).all()
