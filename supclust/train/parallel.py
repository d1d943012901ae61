"""Several processes, one training: what torchrun started joins its process group, and the batch norm of all is one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@contextmanager
def joined() -> Iterator[None]:
    """Be one of torchrun's processes for the length of the block; alone, without torchrun, nothing happens.

    NCCL with a GPU for each process, gloo on CPUs.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait until all processes are here."""
    if size() > 1:
        dist.barrier()


def first_decides(decision: bool, device: torch.device) -> bool:
    """What the first process decided, in all of them."""
    if size() == 1:
        return decision
    flag = torch.tensor([decision], dtype=torch.uint8, device=device)
    dist.broadcast(flag, src=0)
    return bool(flag.item())


def of_first(function: Callable[[], Any]) -> Any:
    """What the function returns, or raises, in the first process: in all of them. Only there it is called."""
    if size() == 1:
        return function()
    outcome: list[Any] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = function()
        except Exception as error:  # the others would wait for ever
            outcome[1] = error
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def workers() -> int:
    """Worker processes that each process of this machine can have to itself."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def mean(value: Tensor) -> Tensor:
    """The mean over the processes."""
    if size() > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value / size()


def synchronise(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with batch norms that take their statistics over the batches of all processes. State and parameters are the same.

    PyTorch's SyncBatchNorm knows GPUs only; on CPUs, `GlobalBatchNorm` takes its place.
    """
    if size() == 1:
        return model
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.__class__ = GlobalBatchNorm
    return model


def wrap(model: nn.Module) -> nn.Module:
    """The model in PyTorch's DistributedDataParallel, which averages gradients over the processes; alone, the model itself."""
    return DistributedDataParallel(model) if size() > 1 else model


class _Sum(torch.autograd.Function):
    """The sum over the processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, value: Tensor) -> Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)


class GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the equal batches of all processes, by two differentiable sums; for training, with running statistics."""

    def forward(self, batch: Tensor) -> Tensor:
        if not self.training:
            return super().forward(batch)
        given, batch = batch.dtype, batch.float() if batch.dtype.itemsize < 4 else batch  # sums need more than 16 bits
        dims = [d for d in range(batch.ndim) if d != 1]
        count = size() * batch.numel() // batch.shape[1]
        mean = _Sum.apply(batch.sum(dims)) / count
        centred = batch - self._along_channels(mean, batch)
        variance = _Sum.apply(centred.square().sum(dims)) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * self._along_channels(scale, batch) + self._along_channels(self.bias, batch)).to(given)

    def _check_input_dim(self, batch: Tensor) -> None:
        """Any number of dimensions."""

    @staticmethod
    def _along_channels(values: Tensor, batch: Tensor) -> Tensor:
        return values.view(1, -1, *[1] * (batch.ndim - 2))
