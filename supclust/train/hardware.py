"""How training uses the hardware: precision, memory layout, threads, freed memory, compiled steps, several processes."""

import atexit
import ctypes
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from supclust import simclr
from supclust.engine import threads
from supclust.profiles import FSL, SimCLR

SMALL = 256  # width times side of the digits' networks, which train faster than they compile
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
    with repeating, threadpool_limits(1 if width * side <= SMALL else None):  # PyTorch keeps to the limit, too
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


def accelerated(
    model: nn.Module, device: torch.device, config: SimCLR, compiled: bool | None
) -> tuple[nn.Module, Callable[..., Tensor]]:
    """The model, changed in place, and `simclr.render`: in forms for several processes, and compiled.

    compiled: by torch.compile; None where there is a GPU or a C++ compiler, and the network is not as small as the digits'.
    """
    render, on_gpu = simclr.render, device.type == "cuda"
    if simclr.world_size() > 1:  # batch norm takes its statistics over all processes, gradients are their means
        model = DistributedDataParallel(nn.SyncBatchNorm.convert_sync_batchnorm(model) if on_gpu else model)
    if compiled is None:
        compiled = config.width * config.side > SMALL and (on_gpu or shutil.which(os.environ.get("CXX", "g++")))
    if compiled:
        # Not dynamic: after a change of resolution, an unbroken training would have other kernels than a resumed one.
        model, render = torch.compile(model, dynamic=False), torch.compile(render, dynamic=False) if on_gpu else render
    return model, render


def loaded(images: simclr.Images, batches: Iterator[Tensor], device: torch.device) -> Iterator[Tensor]:
    """The images of each batch of rows, uint8 (n, 3, height, width), on the device; worker processes decode files."""
    if isinstance(images, np.ndarray):
        resident = torch.from_numpy(images).to(device)
        return (resident[batch.to(device)] for batch in batches)
    workers, on_gpu = threads.cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) or 1, device.type == "cuda"
    loader = DataLoader(images, batch_sampler=batches, num_workers=workers, pin_memory=on_gpu)
    return (batch.to(device, non_blocking=on_gpu) for batch in loader)


# -- several processes ---------------------------------------------------------------------------------------------------------
def join() -> None:
    """Be one of torchrun's processes from now on: NCCL with a GPU for each, gloo on CPUs. Without torchrun, nothing happens.

    Each has its part of every batch, and all have the same weights and negatives. On GPUs, batch norm takes its statistics over the
    batches of all. PyTorch has no such batch norm for CPUs: there, each normalises its own part, so the loss differs a little.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(dist.destroy_process_group)


def mean(value: Tensor) -> Tensor:
    """The mean of a tensor over the processes, in all of them."""
    total = value.detach().clone()
    if simclr.world_size() > 1:
        dist.all_reduce(total)
    return total / simclr.world_size()


def of_first(value: Any) -> Any:
    """The first process's value, in all of them."""
    values = [value]
    if simclr.world_size() > 1:
        dist.broadcast_object_list(values)
    return values[0]
