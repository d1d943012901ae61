"""How training and embedding use the hardware: precision, memory layout, threads, freed memory."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from supclust.profiles import FSL, SimCLR

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # <malloc.h>


def memory_format(width: int) -> torch.memory_format:
    """Layout of the maps in training: channels last, the faster one, for networks of at least 16 channels."""
    # With fewer, oneDNN's weight gradient of a strided 1 x 1 convolution is wrong: github.com/uxlfoundation/oneDNN/issues/6035.
    return torch.channels_last if width >= 16 else torch.contiguous_format


def autocast(device: torch.device, config: SimCLR | FSL, side: int) -> AbstractContextManager:
    """The precision of a step on views of side pixels: config.precision, or where that is "auto" the faster one."""
    amx = getattr(torch.cpu, "get_capabilities", dict)().get("amx_bf16", False)  # since PyTorch 2.10
    stem_side = side // 4 if config.stem == "imagenet" else side
    # Small views stay in float32: on maps of 1 x 1 pixel, oneDNN's bfloat16 gradient of a strided 3 x 3 convolution is garbage.
    gains = (device.type == "cuda" or amx) and config.width >= 32 and stem_side >= 16
    enabled = gains if config.precision == "auto" else config.precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


@contextmanager
def conditions(width: int, side: int) -> Iterator[None]:
    """Convolutions repeat exactly on GPUs, and networks as small as the digits' run in one thread.

    On idle cores a second thread would save a third of the time of such a network; on a busy core it makes it five times slower.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if width * side <= 256 else threads)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def kept_memory() -> Iterator[None]:
    """glibc keeps freed memory for the length of the block, and returns it to the system at its end.

    By default it returns blocks of more than 32 MB at once, which costs a sixth more CPU time in steps of ResNet-18 on 128 images
    of 32 pixels, and nothing on 16 pixels. Without glibc (macOS, Windows) nothing happens.
    """
    if sys.platform != "linux":
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        libc.mallopt(M_MMAP_MAX, 65_536)  # the default; thresholds as high as glibc itself raises them
        libc.mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
        libc.mallopt(M_TRIM_THRESHOLD, 64 * 2**20)
        libc.malloc_trim(0)
