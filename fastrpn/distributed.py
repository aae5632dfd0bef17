"""One run in several processes, as torchrun starts them; without it, everything here is a no-op.

    torchrun --nproc-per-node=2 -m fastrpn train ...

Each process computes its share of every batch. The main process (rank 0) alone writes and prints.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastrpn._library import core

__all__ = ["all_gather", "any_process", "barrier", "broadcast", "exchange_gradients", "gather"]
__all__ += [
    "is_main",
    "local_device",
    "mean",
    "process_group",
    "rank",
    "same_buffers",
    "share_gradients",
]
__all__ += ["size"]


@contextmanager
def process_group(
    device: str | torch.device = "cpu", patience: timedelta = timedelta(hours=2)
) -> Iterator[None]:
    """Joins the processes that torchrun started; leaves them at the end.

    Gradients travel through nccl on GPUs and gloo on CPUs; Python objects always through gloo.

    Args:
        device: "auto", "cpu" or "cuda".
        patience: how long a process waits for the others, which may have a longer share or a large
            file to write. One that has died is noticed at once.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        yield
        return
    device = local_device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=patience)
    try:
        yield
    finally:
        dist.destroy_process_group()
        # The group lives on in cycles of DistributedDataParallel. Its threads drop tensors, for
        # which they want Python, and abort the process if that is being shut down: end them now.
        gc.collect()


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process that writes and prints."""
    return rank() == 0


def local_device(device: str | torch.device) -> torch.device:
    """ "cuda" becomes this process's own GPU of the machine; "auto" that or, where torch or our
    kernels can use none, the CPU.

    Raises:
        ValueError: a device that is unknown or cannot be used.
    """
    if device == "auto":
        usable = torch.cuda.is_available() and core().build_info()["cuda_version"]
        device = "cuda" if usable else "cpu"
    try:
        found = torch.device(device)
        if str(found) == "cuda":
            found = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(
            f"device {str(device)!r} cannot be used ({reason}); `fastrpn info` tells what is there"
        ) from error
    return found


def barrier() -> None:
    """Waits until every process is here."""
    if size() > 1:
        all_gather(None)  # through gloo: a barrier of nccl would occupy the GPU


def mean(values: Tensor) -> Tensor:
    """The mean over the processes, on each of them."""
    if size() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / size()


def any_process(holds: bool) -> bool:
    """Whether it holds in one of the processes, on each of them."""
    if size() == 1:
        return holds
    found = torch.tensor(int(holds))  # on the CPU, through gloo: a GPU is not waited for
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return bool(found)


def all_gather(value: Any) -> list[Any]:
    """The values of all processes, in the order of their ranks, on each of them."""
    if size() == 1:
        return [value]
    values = [None] * size()
    dist.all_gather_object(values, value)
    return values


def gather(value: Any) -> list[Any] | None:
    """The values of all processes in the main one, None in the others: for what is large."""
    if size() == 1:
        return [value]
    values = [None] * size() if is_main() else None
    dist.gather_object(value, values)
    return values


def broadcast(value: Any) -> Any:
    """The main process's value, on each process."""
    if size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def same_buffers(model: nn.Module) -> None:
    """Gives every process the main one's buffers: each has normalised by its own batches."""
    if size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def share_gradients(module: nn.Module, some_unused: bool) -> nn.Module:
    """Wraps a module so that its backward pass averages gradients over the processes.

    Args:
        some_unused: whether its losses may leave parameters that require a gradient without one.
    """
    if size() == 1:
        return module
    # Without its list of devices it leaves the arguments where they are, see `Trainer.update`.
    return DistributedDataParallel(module, find_unused_parameters=some_unused)


def exchange_gradients(network: nn.Module, now: bool) -> AbstractContextManager[None]:
    """Within it, the backward pass of what `share_gradients` gave exchanges gradients, or leaves
    them to accumulate in this process."""
    if now or not isinstance(network, DistributedDataParallel):
        return nullcontext()
    return network.no_sync()
