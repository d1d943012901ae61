"""Hostile machines: disks that fill, permissions and images that go, odd paths, little memory, no home, Ctrl-C.

In a trial a command runs in a fresh copy of its surroundings while something is wrong. It must end with a sentence, or with the
right results, must leave what was given as it was, and afterwards succeed with the results of an untroubled run.
"""

import ctypes
import functools
import hashlib
import itertools
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from tests.torture import SEED, Case, command, environment, often, refused

JOBS = {  # in a folder with given/, out/ and tmp/
    "label": "label given/points.npz --budget 5 --out out",
    "next round": "label given/first --labeled given/labels.csv --budget 5 --out out",
    "suggest": "suggest given/first --labeled given/labels.csv --out out",
    "images": "label given/images --budget 5 --encoder simclr --train-minutes 0 --out out --copy out/copies",
    "encoder": "label given/images --budget 5 --train-epochs 1 --out out",
    "compare": "compare given/labelled.npz --strategies typiclust --seeds 2 --rounds 2 --jobs 1 --out out",
    "sweep": "sweep --profile smoke --strategies typiclust --frameworks ssl --seeds 1 --jobs 1 --out out",
    "train": "train digits --recipe digits -p epochs 1 -p width 4 --folder out",
    "figures": "figures 00 --profile smoke --out out",
}
CHEAP = ("label", "next round", "suggest")
VOLATILE = ("records/*", "*.pdf", "*.html", "*.ipynb", "provenance.json", "checkpoint.pt")  # which times or versions are in
GIVEN = """
import sys, numpy as np
from pathlib import Path
from supclust.label import embeddings
from tests.conftest import make_blobs
from tests.drawn_images import draw
root, blobs = Path(sys.argv[1]), make_blobs(6, 20, 8)
ids = [f"group{i // 20}/{i % 20:02}.png" for i in range(120)]
embeddings.write(root / "points.npz", embeddings.Embeddings(blobs, tuple(ids)))
np.savez(root / "labelled.npz", features=blobs, labels=[one[:6] for one in ids])
for i in range(40):
    path = root / "images" / "ab"[i % 2] / f"{i:02}.{'jpg' if i % 3 else 'png'}"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(i % 4, seed=i, side=48).save(path)
"""
MISSING = ("left out", "no longer there", "not copied")  # what a run says that goes on without some images
LONG = 600  # seconds, after which a command counts as hanging
DISK = 2**29  # bytes of the disk that is filled
T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
PLAIN = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()  # root obeys permissions, too


class Bench:
    """Where the trials of a case take place."""

    def __init__(self, name: str, work: Path) -> None:
        self.case, self.work, self.random, self.model = Case(name), work, random.Random(f"{name}{SEED}"), work / "model"
        self.known: dict[str, tuple[dict[str, str], float]] = {}
        (self.model / "given").mkdir(parents=True)
        (self.model / "tmp").mkdir()
        made = subprocess.run([sys.executable, "-c", GIVEN, self.model / "given"], env=self.environment(self.model), cwd=ROOT)
        made.check_returncode()
        self.run("label given/points.npz --budget 5 --out given/first", self.model, check=True)
        labels = "".join(f"{one},{one[:6]}\n" for one in picked(self.model / "given/first"))
        (self.model / "given/labels.csv").write_text(f"id,label\n{labels}")

    def place(self, job: str, within: Path | None = None, name: str = "place") -> Path:
        """A fresh folder for a trial. That of a sweep has features in out, which take long to make."""
        place = (within or self.work) / name
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.model, place)
        if job == "sweep":
            shutil.copytree(self.features, place / "out")
        return place

    @functools.cached_property
    def features(self) -> Path:
        self.run(JOBS["sweep"], place := self.place("", name="features"), check=True)
        shutil.rmtree(place / "out" / "reports")
        return place / "out"

    def untroubled(self, job: str) -> tuple[dict[str, str], float]:
        """The results of a job, and how many seconds it takes."""
        if job not in self.known:
            place, begun = self.place(job, name="untroubled"), time.perf_counter()
            self.run(JOBS[job], place, check=True)
            self.known[job] = results(place / "out"), time.perf_counter() - begun
        return self.known[job]

    def some(self, trials: Iterable[T], share: float) -> list[T]:
        """A share of the trials, one at least, in their order."""
        trials = list(trials)
        return [trials[i] for i in sorted(self.random.sample(range(len(trials)), often(len(trials), share)))]

    def environment(self, place: Path, **changes: str) -> dict[str, str]:
        return environment(TMPDIR=str(place / "tmp"), PYTHONPATH=str(ROOT), SUPCLUST_DATA=str(place / "data")) | changes

    def run(
        self,
        line: str | Sequence[object],
        place: Path,
        before: Sequence[object] = (),
        module: Sequence[object] = ("supclust",),
        check: bool = False,
        **options: object,
    ) -> subprocess.CompletedProcess[str]:
        """Run `supclust` in a place. before: what stands before the command, such as setpriv. module: what runs it."""
        arguments = line.split() if isinstance(line, str) else line
        whole = [*map(str, before), sys.executable, "-m", *map(str, module), *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": self.environment(place)}
        try:
            done = subprocess.run(whole, text=True, errors="replace", timeout=LONG, cwd=place, **(pipes | options))
        except subprocess.TimeoutExpired:
            done = subprocess.CompletedProcess(whole, -1, "", f"no end after {LONG} s")
        if check and done.returncode:
            raise RuntimeError(f"{line} fails without any trouble: {done.stderr}")
        return done

    def judge(
        self,
        job: str,
        trouble: str,
        place: Path,
        done: subprocess.CompletedProcess[str],
        lift: Callable[[], object] = int,
        silent: bool = False,
    ) -> None:
        """Count a trial: how the command ended, what it left, and what comes of it once the trouble is lifted.

        silent: whether nobody could read a sentence.
        """
        expect, what, said = self.case.expect, f"{job}, {trouble}", (done.stderr or "").strip()[-300:]
        whole = done.returncode == 0 and not any(one in done.stderr for one in MISSING)
        self.case.trials += 1
        if done.returncode and not silent:
            expect(refused(done), f"{what}: exit code {done.returncode}: {said!r}")
        lift()
        given, mine = (results(one / "given") for one in (self.model, place))
        changed = sorted(name for name in given if given[name] != mine.get(name))
        expect(not changed, f"{what}: what was given has changed: {changed[:3]}")
        if not whole:
            if done.returncode == 0:
                shutil.rmtree(place / "out")
            done = self.run(JOBS[job], place)
            expect(done.returncode == 0, f"{what}: afterwards, exit code {done.returncode}: {done.stderr.strip()[-300:]!r}")
        if done.returncode == 0:
            right, found = self.untroubled(job)[0], results(place / "out")
            wrong = sorted(name for name in right.keys() | found if right.get(name) != found.get(name))
            expect(not wrong, f"{what}: not the results of an untroubled run: {wrong[:3]}")


def picked(folder: Path) -> list[str]:
    """The ids of a round's picks."""
    return [line.split(",")[0].strip('"') for line in (folder / "picks.csv").read_text().splitlines()[1:]]


def results(folder: Path) -> dict[str, str]:
    """Every file in a folder by its name, with its checksum where that is always the same."""
    found = {}
    for path in (path for path in folder.rglob("*") if path.is_file()):
        content, name = path.read_bytes().replace(os.fsencode(folder.parent), b""), path.relative_to(folder).as_posix()
        if path.suffix == ".safetensors":  # the header has the seconds of the epochs
            content = content[8 + int.from_bytes(content[:8], "little") :]
        volatile = any(path.match(one) for one in VOLATILE) and not (folder / "picks.csv").exists()
        found[name] = "" if volatile else hashlib.sha256(content).hexdigest()
    return found


# -- troubles ------------------------------------------------------------------------------------------------------------------


def fill(place: Path, leave: int = 0) -> None:
    """Fill the small disk of a place but for some bytes."""
    free = shutil.disk_usage(place).free
    assert free <= DISK, "this is no small disk, and others need it"
    with open(place.parent / "ballast", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free - leave))


def empty(place: Path) -> None:
    """Make room on the disk of a place."""
    (place.parent / "ballast").unlink(missing_ok=True)


def lock(place: Path) -> None:
    """Take the permission to write from what is in out."""
    for path in (place / "out", *(place / "out").rglob("*")):
        with suppress(FileNotFoundError):
            path.chmod(path.stat().st_mode & ~0o222)


def unlock(place: Path) -> None:
    for name, folders, files in os.walk(place / "out"):
        for path in (Path(name), *(Path(name) / one for one in (*folders, *files))):
            path.chmod(path.stat().st_mode | 0o200)


def hide(place: Path) -> None:
    """Remove the images."""
    with suppress(FileNotFoundError):
        os.rename(place / "given/images", place / "given/elsewhere")


def restore(place: Path) -> None:
    with suppress(FileNotFoundError):
        os.rename(place / "given/elsewhere", place / "given/images")


TROUBLES = {"fill": fill, "nearly fill": functools.partial(fill, leave=8192), "lock": lock, "hide": hide}


def disturbed(trouble: str, number: int, arguments: Sequence[str]) -> int:
    """`supclust` in the working folder, with a trouble that begins at the n-th event there: a file is written, moved, removed.

    With 0 there is none, and the number of these events is written to the file `events`.
    """
    place, count, busy = Path.cwd(), itertools.count(1), []
    changes = ("os.rename", "os.mkdir", "os.remove", "os.rmdir")

    def hook(event: str, values: tuple) -> None:
        reading = trouble == "hide" and event == "open"  # every image that is opened is a moment, too
        writing = event in changes or (event == "open" and values[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if (
            not (reading or writing)
            or busy
            or not isinstance(values[0], str | os.PathLike)
            or place not in Path(place, values[0]).parents
        ):
            return
        if next(count) == number:
            busy.append(event)
            TROUBLES[trouble](place)
            busy.clear()

    from supclust.__main__ import main

    sys.addaudithook(hook)
    try:
        return main(arguments)
    finally:
        if number == 0:
            busy.append("")
            (place / "events").write_text(str(next(count) - 1))


def at_each_event(
    bench: Bench, job: str, trouble: str, most: int, lift: Callable[[Path], object], within: Path | None = None
) -> None:
    """A trial for each of a job's writes, or for so many of them."""

    def run(number: int, place: Path, **options: bool) -> subprocess.CompletedProcess[str]:
        return bench.run(JOBS[job], place, PLAIN, module=("tests.torture.machines", trouble, number), **options)

    run(0, place := bench.place(job, within), check=True)
    events = int((place / "events").read_text())
    for number in sorted(bench.random.sample(range(1, events + 1), min(most, events))):
        place = bench.place(job, within)
        done = run(number, place)
        bench.judge(job, f"{trouble} at write {number} of {events}", place, done, functools.partial(lift, place))


class Unable(Exception):
    """What a case needs is not to be had here."""


@contextmanager
def mounted(folder: Path, *options: object) -> Iterator[None]:
    """Something mounted at a folder, for this process and its children only; Unable where that is not allowed."""
    if os.geteuid() or ctypes.CDLL(None).unshare(0x20000):  # CLONE_NEWNS
        raise Unable("only root can mount file systems")
    folder.mkdir(parents=True, exist_ok=True)
    for line in (["--make-rprivate", "/"], [*options, folder]):
        if subprocess.run(["mount", *map(str, line)], capture_output=True).returncode:
            raise Unable(f"mount {' '.join(map(str, line))} is not possible")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def case(function: Callable[[Bench, float], None]) -> Callable[[Path, float], Case]:
    """Make a case, whose name is the docstring, of a function that has its trials on a bench."""

    @functools.wraps(function)
    def run(work: Path, share: float) -> Case:
        bench = Bench(function.__doc__, work)
        try:
            function(bench, share)
        except Unable as error:
            bench.case.note = f"skipped: {error}"
        return bench.case

    return run


# -- cases ---------------------------------------------------------------------------------------------------------------------


@case
def full_disk(bench: Bench, share: float) -> None:
    """the disk fills up at a write"""
    most = {
        "label": 20,
        "next round": 6,
        "suggest": 6,
        "images": 4,
        "compare": 4,
        "sweep": 4,
        "train": 2,
        "encoder": 2,
        "figures": 2,
    }
    trials = [(job, ("fill", "nearly fill")[i % 2]) for job, number in most.items() for i in range(number)]
    with mounted(disk := bench.work / "disk", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs"):
        for (job, trouble), number in Counter(bench.some(trials, share)).items():
            at_each_event(bench, job, trouble, number, empty, disk)


@case
def refused_folder(bench: Bench, share: float) -> None:
    """the results may not be written, or lie on a read-only file system"""
    for job, read_only in bench.some(itertools.product((*CHEAP, "images", "compare", "sweep", "train"), (False, True)), share):
        place = bench.place(job)
        (place / "out").mkdir(exist_ok=True)
        if read_only:
            try:
                with mounted(place / "out", "-t", "tmpfs", "-o", "ro", "tmpfs"):
                    done = bench.run(JOBS[job], place)
            except Unable as error:
                bench.case.note = f"read-only file systems skipped: {error}"
                continue
        else:
            lock(place)
            done = bench.run(JOBS[job], place, PLAIN)
        what = "a read-only file system" if read_only else "no permission to write"
        bench.case.expect(done.returncode != 0, f"{job}, {what}: exit code 0")
        bench.judge(job, what, place, done, functools.partial(unlock, place))


@case
def lost_permissions(bench: Bench, share: float) -> None:
    """the results lose the permission to write at a write"""
    most = {"label": 12, "next round": 5, "suggest": 5, "images": 2, "compare": 2, "sweep": 2, "train": 2}
    for job, trials in Counter(bench.some(Counter(most).elements(), share)).items():
        at_each_event(bench, job, "lock", trials, unlock)


@case
def removed_images(bench: Bench, share: float) -> None:
    """the images go in mid-run, or between two rounds"""
    at_each_event(bench, "images", "hide", often(6, share), restore)
    bench.run(JOBS["images"], place := bench.place("images"), check=True)
    (place / "labels.csv").write_text("id,label\n" + "".join(f"{one},{i % 2}\n" for i, one in enumerate(picked(place / "out"))))
    for line in ("label out --out next --budget 5", "suggest out --labeled labels.csv --out next"):
        found = []
        for gone in ("nothing", "given/images/a", "given/images", "nothing"):
            if gone != "nothing":
                os.rename(place / gone, place / "elsewhere")
            done = bench.run(line, place)
            bench.case.trials += 1
            bench.case.expect(done.returncode == 0 or refused(done), f"{line} without {gone}: {done.stderr[-300:]!r}")
            found.append(results(place / "next"))
            shutil.rmtree(place / "next", ignore_errors=True)
            if gone != "nothing":
                os.rename(place / "elsewhere", place / gone)
        bench.case.expect(found[0] and found[0] == found[3], f"{line}: not the same once the images are back")


@case
def clock(bench: Bench, share: float) -> None:
    """files are from 1970, or from 2100, as after a clock was set"""
    jobs = (*CHEAP, "sweep", "compare", "train", "images")
    for job, year in bench.some(itertools.product(jobs, (1970, 2100)), share):
        for path in (place := bench.place(job)).rglob("*"):
            os.utime(path, (seconds := (year - 1970) * 31_557_600, seconds))
        done = bench.run(JOBS[job], place)
        bench.case.expect(done.returncode == 0, f"{job}, files of {year}: exit code {done.returncode}")
        bench.judge(job, f"files of {year}", place, done)


@case
def other_disk(bench: Bench, share: float) -> None:
    """results, temporary files or what is given lie on another file system, behind links"""
    for job, name in bench.some(itertools.product((*CHEAP, "sweep", "images"), ("out", "tmp", "given")), share):
        with mounted(bench.work / "other", "-t", "tmpfs", "tmpfs"):
            place = bench.place(job)
            (place / "out").mkdir(exist_ok=True)
            shutil.move(place / name, bench.work / "other" / name)
            (place / name).symlink_to(bench.work / "other" / name)
            done = bench.run(JOBS[job], place)
            bench.case.expect(done.returncode == 0, f"{job}, {name} elsewhere: exit code {done.returncode}")
            bench.judge(job, f"{name} elsewhere", place, done)


@case
def many_files(bench: Bench, share: float) -> None:
    """a folder of 200,000 small files"""
    n, said = often(200_000, share), []
    for kind, right in (("text", 2), ("images", 0)):
        sources = [path for path in (bench.model / "given/images").rglob("*") if path.is_file()]
        place = bench.place("images")
        for i in range(n):  # a hundred folders of links; a file has 65,000 at most
            path = place / "many" / f"{i % 100:02}" / f"{i:06}.{'txt' if kind == 'text' else sources[i % 40].suffix[1:]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(place / sources[i % 40].relative_to(bench.model), path)
        begun = time.perf_counter()
        done = bench.run("label many --budget 5 --encoder simclr --train-minutes 0 --out out", place)
        seconds, megabytes = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
        bench.case.trials += 1
        bench.case.expect(done.returncode == right, f"{n:,} files of {kind}: exit code {done.returncode}: {done.stderr[-300:]!r}")
        bench.case.expect(right == 0 or refused(done), f"{n:,} files of {kind}: {done.stderr[-300:]!r}")
        said.append(f"{n:,} {kind}: {seconds:.0f} s, {megabytes} MB")
    bench.case.note = "; ".join(said)


@case
def names(bench: Bench, share: float) -> None:
    """folders and files with odd names"""
    odd = ("a b", "-dash", "üé 漢字 🦋", "new\nline", "'quote\"", "$HOME;#", "%s{0}\\", "x" * 250)
    for name, job in bench.some(itertools.product(odd, CHEAP), share):
        place = bench.place(job, name=name)
        done = bench.run(JOBS[job], place)
        bench.case.expect(done.returncode == 0, f"{job} in {name!r}: exit code {done.returncode}: {done.stderr[-300:]!r}")
        bench.judge(job, f"in a folder {name!r}", place, done)
    for name, job in bench.some(itertools.product(odd, ("label", "compare")), share):
        place, file = bench.place(""), f"{name[:200]}.npz"  # names of records are longer
        line = JOBS[job].replace("--out out", "").split()
        (place / line[1]).rename(place / "given" / file)
        done = bench.run([line[0], f"given/{file}", *line[2:], f"--out={name}"], place)
        bench.case.trials += 1
        bench.case.expect(done.returncode == 0, f"{job} of {file!r}: exit code {done.returncode}: {done.stderr[-300:]!r}")


@case
def no_shared_memory(bench: Bench, share: float) -> None:
    """there is no /dev/shm that can be written"""
    with mounted(Path("/dev/shm"), "-t", "tmpfs", "-o", "ro", "tmpfs"):
        for job in bench.some(("compare", "sweep", "images", "train", "figures"), share):
            place = bench.place(job)
            done = bench.run(JOBS[job].replace("--jobs 1", "--jobs 2"), place)
            bench.case.expect(done.returncode == 0, f"{job}: exit code {done.returncode}: {done.stderr[-300:]!r}")
            bench.judge(job, "on two workers", place, done)


@case
def little_memory(bench: Bench, share: float) -> None:
    """a process may have so many megabytes of data"""

    def run(job: str, megabytes: int) -> bool:
        place, limit = bench.place(job), (megabytes * 2**20,) * 2
        done = bench.run(JOBS[job], place, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, limit))
        bench.judge(job, f"{megabytes} MB", place, done)
        return done.returncode == 0

    needs = {}
    for job in bench.some((*CHEAP, "compare", "images"), share):
        low, high = 192, 512 if run(job, 512) else 2048  # with less, the BLAS of numpy may hang as it is loaded
        while high - low > (16 if job in CHEAP else 256) / min(1, max(share, 0.25)):
            low, high = (low, middle) if run(job, middle := (low + high) // 2) else (middle, high)
        needs[job] = high
    bench.case.note = "enough: " + ", ".join(f"{job} {megabytes} MB" for job, megabytes in needs.items())


@case
def surroundings(bench: Bench, share: float) -> None:
    """no home, no folder for temporary files, closed streams, a plain terminal"""
    shells = {
        "no HOME": 'unset HOME; exec "$@"',
        "a HOME that is not there": 'HOME=/nowhere exec "$@"',
        "a HOME that may not be written": 'HOME=/proc exec "$@"',
        "no TMPDIR": 'TMPDIR=/nowhere exec "$@"',
        "LANG=C": 'LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 exec "$@"',
        "stdin closed": 'exec "$@" <&-',
        "stdout closed": 'exec "$@" >&-',
        "stderr closed": 'exec "$@" 2>&-',
        "all closed": 'exec "$@" <&- >&- 2>&-',
        "stdout full": 'exec "$@" >/dev/full',
        "stderr full": 'exec "$@" 2>/dev/full',
        "read by head": 'set -o pipefail; "$@" | head -c 1',
    }
    for job, name in bench.some(itertools.product(("label", "compare", "images"), shells), share):
        place = bench.place(job)
        done = bench.run(JOBS[job], place, ("bash", "-c", shells[name], "bash"))
        if done.returncode and ("full" in name or "head" in name):  # only the name of the results could not be told
            bench.case.expect(results(place / "out") == bench.untroubled(job)[0], f"{job}, {name}: results are missing")
            shutil.rmtree(place / "out")
        bench.judge(job, name, place, done, silent=name in ("stderr closed", "stderr full", "all closed", "read by head"))


@case
def interrupts(bench: Bench, share: float) -> None:
    """Ctrl-C at random moments"""
    early = 0
    most = {"label": 15, "next round": 4, "suggest": 4, "images": 4, "compare": 4, "sweep": 4, "train": 4, "figures": 1}
    for job in bench.some(Counter(most).elements(), share):
        place, moment = bench.place(job), bench.random.uniform(0, bench.untroubled(job)[1])
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
        line = JOBS[job].replace("--jobs 1", "--jobs 2").split()
        process = subprocess.Popen(command(*line), cwd=place, env=bench.environment(place), **pipes)
        time.sleep(moment)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all processes
        said = process.communicate(timeout=LONG)
        if before_main := "KeyboardInterrupt" in said[1] and ", in main\n" not in said[1]:
            early += 1  # Python is still importing itself and numpy
        done = subprocess.CompletedProcess(
            process.args, 130 if before_main else process.returncode, said[0], "" if before_main else said[1]
        )
        what = f"Ctrl-C after {moment:.2f} s"
        bench.case.expect(done.returncode in (0, 130), f"{job}, {what}: exit code {done.returncode}")
        bench.case.expect(gone(process.pid), f"{job}, {what}: processes go on")
        bench.judge(job, what, place, done, silent=before_main)
    bench.case.note = f"{early} of them while Python starts, which ends with its own traceback"


def gone(group: int) -> bool:
    """Whether no process of a group is left, within some seconds."""
    for _ in range(50):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


CASES = [
    *(full_disk, refused_folder, lost_permissions, removed_images, clock, other_disk, many_files, names, no_shared_memory),
    *(little_memory, surroundings, interrupts),
]


if __name__ == "__main__":
    sys.exit(disturbed(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
