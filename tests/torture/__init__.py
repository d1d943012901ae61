"""The fault campaign: kills, two at once, hostile machines, damaged files, other kernels, untrusted input. `make torture` runs it.

A part is a module here with CASES, functions `case(work, share) -> Case`. work: an empty folder of the case's own. share: of the
trials that the whole campaign makes, 1 for all of them. A case never raises for what it finds: it counts it.
"""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

SEED = os.environ.get("TORTURE_SEED", "")  # of random draws, besides a case's own: other trials, as CI has them each week


@dataclass
class Case:
    """A line of the table: what was done, how often, and what went wrong."""

    name: str
    trials: int = 0
    faults: list[str] = field(default_factory=list)  # one sentence each
    note: str = ""  # what was measured besides

    def expect(self, kept: bool, fault: str) -> None:
        """Count a promise that was not kept as a fault."""
        if not kept:
            self.faults.append(fault)


def often(trials: int, share: float) -> int:
    """How many of a campaign's trials a share of it makes: one at least."""
    return max(1, round(trials * share))


def command(*arguments: object) -> list[str]:
    """`supclust` with these arguments, as a command line for `subprocess`."""
    return [sys.executable, "-m", "supclust", *map(str, arguments)]


def environment(**changes: str) -> dict[str, str]:
    """What a trial's process sees: one thread and no bars, so that trials beside each other are alike."""
    return os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TQDM_DISABLE": "1"} | changes


def run(*arguments: object, timeout: float = 600, **changes: str) -> subprocess.CompletedProcess[str]:
    """`supclust` with these arguments, waited for, with its output as text."""
    return subprocess.run(command(*arguments), env=environment(**changes), text=True, capture_output=True, timeout=timeout)


def refused(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether a command ended with a sentence: no exit status 0, no traceback, nothing longer than a few lines."""
    said = done.stderr.strip()
    return done.returncode not in (0, None) and done.returncode > 0 and "Traceback" not in said and 0 < len(said) < 2000


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder with its size and time of change, to see that nothing there was touched."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}
