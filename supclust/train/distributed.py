"""Several processes, one training, as torchrun starts them: each has its part of every batch, and all have the same weights.

On GPUs, batch norm takes its statistics over the batches of all processes. PyTorch has no such batch norm for CPUs: there, each
process normalises its own part, so the loss differs a little from that of one process. Negatives are shared in both cases.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn


@contextmanager
def joined() -> Iterator[None]:
    """Be one of torchrun's processes for the length of the block. Without torchrun, nothing happens.

    NCCL with a GPU for each process, gloo on CPUs.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def mean(value: Tensor) -> Tensor:
    """The mean of a tensor over the processes, in all of them."""
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def first_decides(decision: bool, device: torch.device) -> bool:
    """The first process's decision, in all processes."""
    flag = torch.tensor(float(decision), device=device)
    dist.broadcast(flag, src=0)
    return bool(flag)


def share_buffers(model: nn.Module) -> None:
    """Give all processes the first one's running statistics, where each has its own."""
    for buffer in model.buffers():
        dist.broadcast(buffer, src=0)
