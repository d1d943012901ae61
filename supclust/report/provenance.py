"""What a result was made with: package versions, git state, hardware and feature checksums; no path, host or user name."""

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from supclust import kept
from supclust.engine import threads
from supclust.profiles import Profile

PACKAGES = (
    "supclust", "torch", "torchvision", "lightly", "scikit-learn", "faiss-cpu", "numpy", "scipy", "pandas", "matplotlib", "seaborn",
    "umap-learn", "papermill",
)  # fmt: skip
WRITTEN_BY_RUNS = ("figures", "reports")  # that these differ from the commit says nothing about the code that made them


def collect() -> dict[str, Any]:
    """Versions (None where a package is not installed), git state (None outside a repository) and hardware, ready for JSON."""
    installed = {one.name: one.version for one in importlib.metadata.distributions()}
    gpus = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or ""
    return {
        "versions": {"python": platform.python_version()} | {name: installed.get(name) for name in PACKAGES},
        "git": git_state(kept.REPOSITORY),
        "hardware": {
            "system": f"{platform.system()} {platform.machine()}",
            "cpu": _cpu_model(),
            "cores": threads.cores(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "gpus": gpus.splitlines(),
        },
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """The commit that is checked out in a folder, and whether files differ from it; None if it is not the top of a repository.

    An installed package that lies somewhere below another project's repository has no state of its own.
    """
    if not (folder / ".git").exists() or not (commit := _output("git", "-C", folder, "rev-parse", "HEAD")):
        return None
    others = [f":(exclude){name}" for name in WRITTEN_BY_RUNS]
    changes = _output("git", "-C", folder, "--no-optional-locks", "status", "--porcelain", "--", ".", *others)
    return {"commit": commit, "dirty": changes != ""}


def feature_checksums(profile: Profile) -> dict[str, str | None]:
    """The checksum of each feature file that a profile reads, None for a file that is not there (yet) or damaged.

    Shipped features are one file for each data set. Of trained ones, each draw and encoder has a file.
    """
    files = {name: kept.shipped_features(name) for name in profile.datasets}
    if profile.features == "trained":
        files = {file.parent.name: file for file in sorted(kept.artefacts(profile.name).glob("*/features.safetensors"))}
    return dict.fromkeys(profile.datasets) | {
        name: kept.checksum(read[0]) if (read := kept.read(file)) else None for name, file in files.items()
    }


def without_paths(text: str) -> str:
    """A text with the folders of every absolute path in it left out: .../name instead of them."""
    home = str(Path.home())
    text = text.replace(home, "~") if home != "/" else text
    return re.sub(r"(?<![\w.:~/])/(?:[^\s/'\":,;]+/)+(?=[^\s/])", ".../", text)


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (found := re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)):
        return found[1]
    return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()


def _output(*command: str | Path) -> str | None:
    """What a command prints, stripped; None when it is not installed or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
