"""kill -9 at random moments: the same command then goes on, and ends as if nothing had happened."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import psutil

from supclust import kept
from tests import drawn_images
from tests.conftest import make_blobs
from tests.torture import SEED, Case, command, environment, listing, often, run

KILLS = 100  # of each command
PATIENCE = 10  # seconds that processes may outlive the one that started them
# What `supclust label` says when it was killed after its last file. All files are then compared.
OVER = re.compile("holds results already|copies is not an empty folder")
TIMES = re.compile(r'"(sha256|seconds)": ("\w*"|[\d.]+)|"date": "[^"]*"|in [\d.]+ minutes')

# Every process of a trial imports this first. It counts what is about to change below the output folder, or is about to be removed,
# and at the change with the number that was drawn it kills its process, or the whole group.
HOOK = """
import os, signal, sys
from itertools import count

out, at, group, note = (os.environ[f"TORTURE_{name}"] for name in ("OUT", "AT", "GROUP", "NOTE"))
changes = count(1)


def hook(event, arguments):
    removes = event in ("os.remove", "os.rmdir")
    writes = event in ("os.rename", "os.mkdir") or event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if removes or writes and str(arguments[0]).startswith(out):
        number = next(changes)
        if at in ("0", str(number)):
            os.close(os.open(f"{note}-{os.getpid()}-{number}", os.O_CREAT))
        if at == str(number):
            os.killpg(0, signal.SIGKILL) if group else os.kill(os.getpid(), signal.SIGKILL)


sys.addaudithook(hook)
"""


class Trial:
    """A command on its way, with a folder for temporary files of its own, by which its processes are known."""

    def __init__(self, line: Sequence[str], work: Path, out: Path, at: int = 0, group: bool = False) -> None:
        self.tmp, self.group = Path(tempfile.mkdtemp(dir=work / "tmp")), group
        self.said, self.note = work / "said" / self.tmp.name, work / "notes" / self.tmp.name
        aimed = {"OUT": out, "AT": at, "GROUP": "group" * group, "NOTE": self.note}
        changes = {f"TORTURE_{name}": str(value) for name, value in aimed.items()}
        changes |= {"TMPDIR": str(self.tmp), "PYTHONPATH": f"{work / 'hook'}:{os.getcwd()}"}
        with open(self.said, "w") as said:
            streams = {"stdout": subprocess.DEVNULL, "stderr": said, "start_new_session": True}
            self.main = subprocess.Popen(line, cwd=work / "here", env=environment(**changes), **streams)

    def kill(self) -> None:
        """The main process, or all of its group."""
        with suppress(ProcessLookupError):
            os.killpg(self.main.pid, signal.SIGKILL) if self.group else self.main.kill()

    def was_killed(self) -> bool:
        """Whether the main process was, or one that it needs: it then says so."""
        said = self.said.read_text()
        return self.main.returncode < 0 or (bool(self.notes()) and self.main.returncode == 1 and "Traceback" not in said)

    def notes(self) -> list[Path]:
        """One for each change that the hook was to note: all of them, or that at which it killed."""
        return list(self.note.parent.glob(f"{self.note.name}-*"))

    def left(self) -> list[psutil.Process]:
        """Those of its processes that are still there."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("TMPDIR") == str(self.tmp):
                    found.append(process)
        return found

    def check(self, case: Case) -> None:
        """Count what it left running or lying about."""
        while (left := self.left()) and time.monotonic() < self.end + PATIENCE:
            time.sleep(0.1)
        for process in left:
            with suppress(psutil.Error):
                case.faults.append(f"{PATIENCE} s after the kill there was still {' '.join(process.cmdline())[:120]}")
                process.kill()
        files = [name for name in listing(self.tmp) if not re.fullmatch(r"tmp\w+\.json", name)]  # where a kernel listens
        files += [file.name for file in Path("/dev/shm").glob(f"joblib_*_{self.main.pid}_*/*")]  # arrays; semaphores are small
        case.expect(not files, f"left in $TMPDIR or /dev/shm: {', '.join(files[:5])}")


def killed(name: str, work: Path, share: float, line: Callable[[Path], Sequence[str]], but: str = "") -> Case:
    """Kill line(out) again and again, at a moment, at a change, in a write; then compare with an unbroken run.

    but: a pattern of the files that say how long things took. work: may have a folder given/ already, which nothing may change, and
    first/, with which every output folder begins.
    """
    case, rng = Case(name), random.Random(f"{name}{SEED}")
    for folder in ("given", "here", "tmp", "said", "notes", "hook", "first"):
        (work / folder).mkdir(exist_ok=True)
    (work / "hook" / "sitecustomize.py").write_text(HOOK)
    places = [work / "given", work / "here", kept.NOTEBOOKS, kept.REPOSITORY / "reports", kept.REPOSITORY / "figures"]
    around = [listing(place) for place in places]

    begun, out = time.monotonic(), shutil.copytree(work / "first", work / "out")
    unbroken = Trial(line(out), work, out)
    assert unbroken.main.wait() == 0, unbroken.said.read_text()
    seconds, changes, wanted = time.monotonic() - begun, len(unbroken.notes()), content(out, but)
    shutil.rmtree(out)

    number, dying, ways = 0, [], {}
    while case.trials < often(KILLS, share):
        shutil.copytree(work / "first", out)
        number, over = number + 1, False
        while not over:
            way = rng.choice(["a moment", "a change", "a write"]) if case.trials < often(KILLS, share) else "nothing"
            at = rng.randint(1, changes) if way == "a change" else -1
            trial = Trial(line(out), work, out, at, group=rng.random() < 0.5)
            if way in ("a moment", "a write"):
                strike(trial, out, rng.uniform(0, 1.1 * seconds), way == "a write")
            trial.main.wait()
            trial.end = time.monotonic()
            dying.append(trial)
            if trial.was_killed():
                case.trials, ways[way] = case.trials + 1, ways.get(way, 0) + 1
                continue
            over, said = True, trial.said.read_text()
            if trial.main.returncode != 0 and not OVER.search(said):
                case.faults.append(f"it does not go on: {said.strip().splitlines()[-1][:300]}")
            else:
                compare(case, wanted, content(out, but))
        while dying:
            dying.pop().check(case)
        shutil.rmtree(out)
    for place, before in zip(places, around, strict=True):
        case.expect(listing(place) == before, f"something changed in {place.name}")
    case.note = f"{number} times to the end; at {', '.join(f'{way}: {n}' for way, n in sorted(ways.items()))}"
    return case


def strike(trial: Trial, out: Path, delay: float, in_write: bool) -> None:
    """Kill after that many seconds; or at the first temporary file after them."""
    end = time.monotonic() + delay
    while trial.main.poll() is None:
        if time.monotonic() >= end and not (in_write and not any(out.rglob(".*.tmp"))):
            return trial.kill()
        time.sleep(0.0005 if in_write else 0.005)


def content(folder: Path, but: str) -> dict[str, bytes | str]:
    """What the files say, by name, but for how long it took; nothing of those that fit the pattern, whose names count only."""
    found = {}
    for path in folder.rglob("*"):
        name, held = str(path.relative_to(folder)), path.read_bytes() if path.is_file() else b"a folder"
        if but and re.search(but, name):
            held = b""
        elif path.suffix == ".safetensors":
            size = 8 + int.from_bytes(held[:8], "little")
            tensors = {key: value for key, value in json.loads(held[8:size]).items() if key != "__metadata__"}
            held = f"{sorted(tensors.items())}".encode() + held[size:]
        elif path.suffix in (".json", ".md", ".html", ".csv"):
            held = TIMES.sub("", held.decode())
        found[name] = held
    return found


def compare(case: Case, wanted: dict, found: dict) -> None:
    """Count files that are missing, left over or different."""
    missing, more = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    other = sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name])
    for what, names in (("missing", missing), ("left over", more), ("another result", other)):
        case.expect(not names, f"{what}: {', '.join(names[:5])}")


# -- commands ------------------------------------------------------------------------------------------------------------------

# Checkpoints of such a short training would never be due.
TRAIN = """
import functools, sys
from supclust import __main__, simclr
simclr.train = functools.partial(simclr.train, save_every=0.1)
sys.exit(__main__.main(sys.argv[1:]))
"""


def sweep(work: Path, share: float) -> Case:
    """Features are trained first; then two workers write a record for each run."""
    part = ("--profile", "smoke", "--frameworks", "ssl", "--strategies", "random", "typiclust", "--jobs", 2)
    return killed("sweep, two workers", work, share, lambda out: command("sweep", *part, "--out", out), r"checkpoint\.pt$")


def train(work: Path, share: float) -> Case:
    """A checkpoint every tenth of a second."""
    line = [sys.executable, "-c", TRAIN, "train", "digits", "--recipe", "digits", "-p", "epochs", "2", "--folder"]
    return killed("train", work, share, lambda out: [*line, str(out)], r"checkpoint\.pt$")


def draw_images(folder: Path) -> None:
    """Small photographs, as it were."""
    folder.mkdir(parents=True)
    for number in range(40):
        drawn_images.draw(number % 8, number, 32).save(folder / f"{number}.png")


def label(work: Path, share: float) -> Case:
    """An encoder is trained on the images, which are then embedded and picked."""
    draw_images(work / "given" / "images")
    line = partial(command, "label", work / "given" / "images", "--encoder", "simclr", "--train-epochs", 1, "--budget", 5)
    return killed("label a folder", work, share, lambda out: line("--out", out / "round", "--copy", out / "copies"))


def label_chain(work: Path, share: float) -> Case:
    """A second round from a first one, which notes what was picked."""
    np.savez(work / "points.npz", features=make_blobs(6, 20, 8))
    run("label", work / "points.npz", "--budget", 5, "--out", work / "first" / "round").check_returncode()
    line = partial(command, "label")
    return killed("label the next round", work, share, lambda out: line(out / "round", "--budget", 5, "--out", out / "round-2"))


def figures(work: Path, share: float) -> Case:
    """Two workers run a notebook each, in a kernel that ends with the process that started it."""
    part = ("--profile", "laptop", "00", "04", "--out")
    timed = r"ipynb$|html$|provenance.json$"
    return killed("figures, two notebooks at a time", work, share, lambda out: command("figures", *part, out), timed)


def compare_strategies(work: Path, share: float) -> Case:
    """Two workers, records, tables and a figure."""
    points, labels = make_blobs(4, 30, 8), np.repeat([*"abcd"], 30)
    (work / "given").mkdir()
    np.savez(work / "given" / "points.npz", features=points, labels=labels)
    part = ("--strategies", "supclust", "typiclust", "--seeds", 4, "--rounds", 3, "--jobs", 2, "--out")
    return killed("compare, two workers", work, share, lambda out: command("compare", work / "given" / "points.npz", *part, out))


CASES = [sweep, train, label, label_chain, figures, compare_strategies]
