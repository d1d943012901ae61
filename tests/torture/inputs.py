"""Bad input: damaged files for every reader, in processes of which a crash, a hang and a gigabyte count as faults.

What a fault needs is kept, as small as it gets, in build/torture/inputs/; once it is mended it belongs into tests/corpus/.
"""

import hashlib
import importlib
import json
import logging
import mmap
import os
import pickle
import random
import resource
import signal
import time
import traceback
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from tests.readers import READERS, Reader
from tests.torture import SEED, Case, often

BATCH = 250  # trials for each process: a fork takes as long as some trials
SECONDS, WAITING = 5, 30  # of computing, and of anything, after which a trial hangs
ENDED = 99  # the exit status of a process that came through all its trials: any other one, even 0, is a reader's
MEMORY = 2**30  # bytes that a trial may take
KEPT = Path("build/torture/inputs")


def sentence(error: BaseException) -> str:
    """What was raised, and the last line of the package, or of the checks, on the way there."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "supclust/" in frame.filename or "tests/readers" in frame.filename] or frames
    return f"{type(error).__name__} in {Path(ours[-1].filename).name} {ours[-1].name}: {str(error)[:150]}"


def fault(reader: Reader, folder: Path, content: bytes) -> str:
    """What is wrong with how a file is read; nothing if it is read rightly, or refused in a few lines that name it."""
    path = folder / reader.file
    path.write_bytes(content)
    try:
        reader.check(path)
    except AssertionError as error:
        return f"wrong: {sentence(error)}"
    except (ValueError, FileNotFoundError) as error:
        said = str(error)
        if type(error) not in (ValueError, FileNotFoundError) or not (reader.file in said or str(folder) in said):
            return f"from inside: {sentence(error)}"
        return f"a long message: {said[:100]}" if len(said) > 1500 or said.count("\n") > 5 else ""
    except BaseException as error:
        return sentence(error)
    return ""


def watched(reader: Reader, folder: Path, contents: list[Callable[[], bytes]]) -> list[tuple[int, str]]:
    """The faults of some files, by their number, each file read in a process of which no crash gets out."""
    at, found, first = mmap.mmap(-1, 8), [], 0
    while first < len(contents):
        log = folder / "faults.jsonl"
        log.write_text("")
        at[:8] = first.to_bytes(8, "little")
        if (process := os.fork()) == 0:
            try:
                _read_each(reader, folder, contents, first, at, log)
                os._exit(ENDED)
            finally:
                os._exit(1)
        status = _wait(process, at, reader.heavy * WAITING)
        found += [(number, what) for number, what in map(json.loads, log.read_text().splitlines())]
        last = int.from_bytes(at[:8], "little")
        if status != ENDED:
            name = {
                -signal.SIGXCPU: f"more than {reader.heavy * SECONDS} s",
                -signal.SIGKILL: f"no end in {reader.heavy * WAITING} s, or out of memory",
            }
            ends = f"a crash ({signal.Signals(-status).name})" if status < 0 else f"the process ends with exit status {status}"
            found.append((last, name.get(status, ends)))
        first = last + 1
    return found


def _read_each(reader: Reader, folder: Path, contents: list[Callable[[], bytes]], first: int, at: mmap.mmap, log: Path) -> None:
    """In the new process: read one file after the other, note what is wrong, and listen to what libraries print."""
    said = os.open(folder / "said", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    logging.basicConfig(format="%(name)s: %(message)s", level=logging.WARNING, force=True)  # as in the command
    logging.getLogger("supclust").addHandler(logging.NullHandler())
    logging.getLogger("supclust").propagate = False  # what it says itself are sentences
    warnings.simplefilter("always")
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # as Python does
    resource.setrlimit(resource.RLIMIT_AS, (8 * MEMORY + _virtual(), -1))
    for number, content in enumerate(contents[first:], start=first):
        at[:8] = number.to_bytes(8, "little")
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        resource.setrlimit(resource.RLIMIT_CPU, (int(used) + reader.heavy * SECONDS + 1, -1))
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is in use
        before = _peak()
        what = fault(reader, folder, content())
        grown = _peak() - before
        if not what and grown > reader.heavy * MEMORY:
            what = f"too much memory ({grown / 2**30:.1f} GB)"
        if os.fstat(said).st_size:
            words = (folder / "said").read_bytes().decode(errors="replace").strip()
            what = what or f"a library prints: {words[:150]}"
            os.ftruncate(said, 0)
        if what:
            with log.open("a") as file:
                file.write(json.dumps([number, what]) + "\n")
        if grown > reader.heavy * MEMORY:  # the next ones are measured anew
            at[:8] = number.to_bytes(8, "little")
            return


def _virtual() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _peak() -> int:
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024


def _wait(process: int, at: mmap.mmap, limit: float) -> int:
    """Until a process ends: its exit status, or minus the signal that ended it. One that stays with a file for long is killed."""
    seen, since = at[:8], time.monotonic()
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if at[:8] != seen:
            seen, since = at[:8], time.monotonic()
        elif time.monotonic() - since > limit:
            os.kill(process, signal.SIGKILL)
        time.sleep(0.002)


def kind(what: str) -> str:
    """What is alike in faults: all but the words of the message."""
    return what.partition(": ")[0] if not what.startswith(("wrong", "from inside", "a library")) else what[:60]


def minimised(content: bytes, fails: Callable[[bytes], bool], tries: int = 150) -> bytes:
    """A smaller file with the same fault: pieces are left out, first large ones."""
    size = len(content) // 2
    while size and tries:
        at = 0
        while at < len(content) and tries:
            shorter = content[:at] + content[at + size :]
            tries -= 1
            if fails(shorter):
                content = shorter
            else:
                at += size
        size //= 2
    return content


def made(make: Callable[[], list[bytes]], work: Path) -> list[bytes]:
    """What a function makes, in a process of its own: libraries that have begun threads do not survive a fork."""
    if (process := os.fork()) == 0:
        try:
            (work / "made").write_bytes(pickle.dumps(make()))
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitpid(process, 0)[1]:
        raise RuntimeError("files for the trials cannot be made")
    return pickle.loads((work / "made").read_bytes())


def bad_files(reader: Reader, work: Path, share: float) -> Case:
    """Read a reader's damaged files, and keep a small one of each kind of fault."""
    for module in reader.needs.split():  # else each process would import them
        importlib.import_module(module)
    case, seeds = Case(reader.name, often(reader.trials, share)), made(reader.seeds, work)

    def content(trial: int) -> bytes:
        rng = random.Random(f"{reader.name} {trial}{SEED}")
        return reader.damage(rng.choice(seeds or [b""]), rng)

    whole = watched(reader, work, [lambda seed=seed: seed for seed in seeds])
    case.expect(not whole, f"{len(whole)} valid files are not read: {whole[:1]}")
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for start in range(0, case.trials, BATCH):
        trials = range(start, min(start + BATCH, case.trials))
        for number, what in watched(reader, work, [lambda trial=trial: content(trial) for trial in trials]):
            found[kind(what)].append((start + number, what))
    for name, ones in found.items():
        trial, what = ones[0]

        def fails(shorter: bytes, name: str = name) -> bool:
            again = watched(reader, work, [lambda: shorter])
            return any(kind(one) == name for _, one in again)

        try:
            [damaged] = made(lambda trial=trial: [content(trial)], work)
        except RuntimeError as error:
            case.expect(False, f"{len(ones)} times, as in trial {trial} ({error}): {what}")
            continue
        small = minimised(damaged, fails)
        (KEPT / reader.name).mkdir(parents=True, exist_ok=True)
        file = KEPT / reader.name / (hashlib.sha256(small).hexdigest()[:8] + Path(reader.file).suffix)
        file.write_bytes(small)
        case.expect(False, f"{len(ones)} times, as in trial {trial} ({file}): {what}")
    return case


def _case(reader: Reader) -> Callable[[Path, float], Case]:
    def case(work: Path, share: float) -> Case:
        return bad_files(reader, work, share)

    case.__name__ = reader.name
    return case


CASES = [_case(reader) for reader in READERS.values()]
