"""How training uses the hardware: precision, memory layout, threads, freed memory, compiled steps, decoding."""

import ctypes
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from supclust import simclr
from supclust.engine import threads
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
    repeating = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    with repeating, threadpool_limits(1 if width * side <= 256 else None):  # PyTorch keeps to the limit, too
        yield


@contextmanager
def kept_memory() -> Iterator[None]:
    """glibc keeps freed memory for the length of the block, and returns it to the system at its end. Elsewhere, nothing happens.

    By default it returns blocks of more than 32 MB at once, which costs a sixth more CPU time in steps of ResNet-18 on 128 images
    of 32 pixels, and nothing on 16 pixels.
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


def accelerated(model: nn.Module, device: torch.device, compiled: bool | None) -> tuple[nn.Module, Callable[..., Tensor]]:
    """The model, changed in place, and `simclr.render`: in forms for several processes, and compiled.

    compiled: by torch.compile; None where there is a GPU or a C++ compiler.
    """
    render, on_gpu = simclr.render, device.type == "cuda"
    if simclr.world_size() > 1:  # batch norm takes its statistics over all processes, gradients are their means
        model = DistributedDataParallel(nn.SyncBatchNorm.convert_sync_batchnorm(model) if on_gpu else model)
    if compiled or (compiled is None and (on_gpu or shutil.which(os.environ.get("CXX", "g++")))):
        # Not dynamic: after a change of resolution, an unbroken training would have other kernels than a resumed one.
        model, render = torch.compile(model, dynamic=False), torch.compile(render, dynamic=False) if on_gpu else render
    return model, render


def decoded(images: simclr.Images, batches: Iterator[Tensor], device: torch.device) -> Iterator[Tensor]:
    """The images of each batch of rows, uint8 (n, 3, height, width), on the device; worker processes decode files."""
    workers, on_gpu = threads.cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) or 1, device.type == "cuda"
    loader = DataLoader(images, batch_sampler=batches, num_workers=workers, pin_memory=on_gpu)
    return (batch.to(device, non_blocking=on_gpu) for batch in loader)
