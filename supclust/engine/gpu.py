"""The GPU, where there is one: the large matrix products of k-means and of neighbours, in PyTorch.

A product comes in float32 as numpy's does, not in TF32, and off by no more: the bounds that it is used with hold for any order of
summation. What they leave open is decided by numpy, as without a GPU.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

DRIVER = ["/dev/nvidiactl", "/proc/driver/nvidia", "/dev/dxg"]  # any of them: there may be a GPU; the last is that of WSL
# When a GPU pays, reckoned and not measured, in operations that a few cores do in the same time, at 2e11 a second: to start a piece
# of work and wait for it takes 2.5 ms at worst, to send a value about a nanosecond, and the products next to nothing. The seconds
# in which PyTorch is imported for the first piece are not counted: the choice would hang on what came before.
OPERATIONS = 5e8
OPERATIONS_PER_VALUE = 200
TILE = 8192  # points by points of one product: 256 MB

_lock = threading.Lock()


@cache
def device() -> torch.device | None:
    """The first GPU that this process may see, if it can do a product. PyTorch is not imported where there cannot be one."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if hidden or not ("torch" in sys.modules or any(Path(path).exists() for path in DRIVER)):
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    found = torch.device("cuda", 0)
    try:
        (torch.ones(2, 2, device=found) @ torch.ones(2, 2, device=found)).cpu()
    except RuntimeError:  # too old for this PyTorch, full, or in use by the process that this one was forked from
        return None
    return found


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=device.cache_clear)


def attempt(kernel: Callable[..., Any], left: np.ndarray, right: np.ndarray, *arguments: Any) -> Any:
    """kernel(left, right, *arguments, device) on the GPU; None where there is none, it would not pay, or its memory is too small.

    It is taken to multiply left (n, d) by right (m, d). Whether it would pay hangs on their shapes alone.
    """
    if 2 * len(left) * right.size < OPERATIONS + OPERATIONS_PER_VALUE * (left.size + right.size) or (found := device()) is None:
        return None
    import torch

    try:
        return kernel(left, right, *arguments, found)
    except RuntimeError as error:
        if isinstance(error, torch.cuda.OutOfMemoryError) or "alloc" in str(error).lower():  # cuBLAS says it in its own way
            return None
        raise


def nearest_products(left: np.ndarray, right: np.ndarray, k: int, device: torch.device) -> np.ndarray:
    """The k largest products (n, k) float32 of each row of left (n, d) with the rows of right (n, d) but its own, 1 <= k < n."""
    import torch

    found = []
    with _alone_in_float32(device):
        rows, columns = (torch.tensor(factors, device=device).split(TILE) for factors in (left, right))
        for i, points in enumerate(rows):
            best = torch.full((len(points), k), -torch.inf, device=device)
            for j, others in enumerate(columns):
                products = points @ others.T
                if i == j:
                    products.fill_diagonal_(-torch.inf)
                more = products.topk(min(k, len(others)), sorted=False).values
                best = torch.cat([best, more], dim=1).topk(k, sorted=False).values
            found.append(best.cpu())
    return torch.cat(found).numpy()


def nearest_centers(points: np.ndarray, centers: np.ndarray, device: torch.device) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each of the points x (m, d) the center c of (K, d) with the largest x c - |c|^2 / 2, that score, and its lead on the next.

    (m,) each. With a single center the lead is 0.
    """
    import torch

    with _alone_in_float32(device):
        x, c = (torch.tensor(rows, device=device) for rows in (points, centers))
        best, nearest = (x @ c.T).sub_(c.square().sum(dim=1) / 2).topk(min(2, len(c)))
        return tuple(part.cpu().numpy() for part in (nearest[:, 0], best[:, 0], best[:, 0] - best[:, -1]))


@contextmanager
def _alone_in_float32(device: torch.device) -> Iterator[None]:
    """One kernel at a time, in float32 even where the process has set TF32, or the thread autocast; both are put back.

    TF32 is a setting of the process, and so is the memory of the GPU: what several threads give it, it does one after the other.
    """
    import torch

    matmul = torch.backends.cuda.matmul
    name, exact = ("fp32_precision", "ieee") if hasattr(matmul, "fp32_precision") else ("allow_tf32", False)  # before 2.9
    with _lock, torch.no_grad(), torch.autocast(device.type, enabled=False):
        before = getattr(matmul, name)
        if before not in ("tf32", True):
            yield
            return
        setattr(matmul, name, exact)
        try:
            yield
        finally:
            setattr(matmul, name, before)
