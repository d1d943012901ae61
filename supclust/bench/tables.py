"""The kept tables of notebook 09: measured where that is asked for, and read otherwise."""

import platform
from collections.abc import Callable

import pandas as pd
import torch

from supclust import kept


def table(name: str, make: Callable[[], pd.DataFrame], measure: bool = False, profile: str = "laptop") -> tuple[pd.DataFrame, str]:
    """A kept table, reports/<profile>/<name>.csv, and the machine that it is of; measured now, and kept, where asked for.

    Raises FileNotFoundError if there is none.
    """
    if measure:
        kept.write(kept.reports(profile) / f"{name}.csv", make().round(4), machine())
    if found := next(kept.read_all(profile, f"{name}.csv"), None):
        return found
    raise FileNotFoundError(f"there is no table {name}.csv in reports/{profile}; with measure = True it is made")


def machine() -> str:
    """What is measured on: processor, threads, GPU, PyTorch."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    known = getattr(torch.cpu, "get_capabilities", dict)()  # since PyTorch 2.10
    features = ", ".join(name for name in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16") if known.get(name))
    processor, version = known.get("cpu_name", platform.machine()), torch.__version__.split("+")[0]
    return f"{processor} ({features}), {torch.get_num_threads()} threads, {gpu}, PyTorch {version}"
