"""What a result was made with: package versions, git state, hardware and feature checksums; no path, host or user name."""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from supclust import kept
from supclust.engine import threads
from supclust.profiles import Profile

log = logging.getLogger(__name__)

PACKAGES = (
    "supclust",
    "torch",
    "torchvision",
    "lightly",
    "scikit-learn",
    "faiss-cpu",
    "numpy",
    "scipy",
    "pandas",
    "matplotlib",
    "seaborn",
    "umap-learn",
    "papermill",
)

# What a run itself writes; that it differs from the commit says nothing about the code that made it.
WRITTEN_BY_RUNS = ("figures", "reports")


def collect() -> dict[str, Any]:
    """Versions, git state (None outside a repository) and hardware, ready for JSON."""
    return {"versions": versions(), "git": git_state(), "hardware": hardware()}


def versions() -> dict[str, str | None]:
    """Python's version and that of each of PACKAGES, None where it is not installed."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def git_state(folder: Path | None = None) -> dict[str, Any] | None:
    """The commit that is checked out in a folder (default: the repository), and whether files differ from it.

    None when the folder is not the top of a repository with a commit: an installed package that happens to lie somewhere below
    another project's repository has no state of its own.
    """
    folder = folder or kept.REPOSITORY
    if not (folder / ".git").exists() or not (commit := _output(["git", "rev-parse", "HEAD"], folder)):
        return None
    others = [f":(exclude){name}" for name in WRITTEN_BY_RUNS]
    changes = _output(["git", "--no-optional-locks", "status", "--porcelain", "--", ".", *others], folder)
    return {"commit": commit, "dirty": None if changes is None else changes != ""}


@functools.cache
def _hardware() -> dict[str, Any]:
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": threads.cores(),
        "memory_gib": _memory_gib(),
        "gpus": (_output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]) or "").splitlines(),
    }


def hardware() -> dict[str, Any]:
    """System, CPU model, cores that this process may use, memory in GiB, names of the NVIDIA GPUs."""
    return dict(_hardware())


def feature_checksums(profile: Profile) -> dict[str, str | None]:
    """The checksum of each feature file that a profile reads, None for a file that is not there (yet).

    Of shipped features, the long-tailed draw is taken from those of the whole data set, so it has no file of its own. Of trained
    ones, each draw and each encoder has one.
    """
    if profile.features == "shipped":
        return {"cifar10": _checksum(kept.shipped_features("cifar10"))}
    files = sorted(kept.artefacts(profile.name).glob("*/features.safetensors"))
    found = {file.parent.name: _checksum(file) for file in files}
    return dict.fromkeys(profile.datasets) | found


def without_paths(text: str) -> str:
    """The text with the folders of every absolute path left out: .../name instead of them."""
    home = str(Path.home())
    text = text.replace(home, "~") if len(home) > 1 else text
    return re.sub(r"(?<![\w.:~/])/(?:[^\s/'\":,;]+/)+(?=[^\s/])", ".../", text)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _checksum(file: Path) -> str | None:
    try:
        return kept.checksum(kept.load(file)[0]) if file.exists() else None
    except ValueError as error:  # whoever computes with the file stops at it; a log of the run need not
        log.warning("no checksum: %s", error)
        return None


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (found := re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)):
        return found[1].strip()
    return _output(["sysctl", "-n", "machdep.cpu.brand_string"]) or platform.processor() or platform.machine()


def _memory_gib() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def _output(command: Sequence[str], folder: Path | None = None) -> str | None:
    """What a command prints, stripped; None when it is not installed or fails."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
