"""Lets several processes, started by torchrun, train or count together; or one alone."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed, nn

from utils.ranks import is_main, processes, rank

PATIENCE = timedelta(minutes=10)  # with a process that does not respond


class LostProcess(RuntimeError):
    """Another process of the run ended, or did not respond; the message says what to do."""


@contextmanager
def together(device: torch.device) -> Iterator[None]:
    """Selects the device, and connects to other processes, if any, by NCCL or, on CPUs, gloo.

    Raises:
        LostProcess: another one ended, or did not respond.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if processes() == 1:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        distributed.init_process_group(backend, timeout=PATIENCE)
        yield
    except RuntimeError as error:
        if not re.search("gloo|nccl|connection", str(error), re.IGNORECASE):
            raise
        raise LostProcess(
            f"process {rank()} lost another of the {processes()} ({str(error).split('. ')[0]}); "
            "what a training saved last is whole, and --resume continues from there"
        ) from None
    distributed.destroy_process_group()


def add_up(values: Sequence[float]) -> list[float]:
    """Returns the sum of each value over all processes."""
    if not distributed.is_initialized():
        return list(values)
    total = torch.tensor(values, dtype=torch.float64)  # on the CPU: through gloo
    distributed.all_reduce(total)
    return total.tolist()


def from_main(value: Any) -> Any:
    """Returns the main process's value, in every process."""
    if not distributed.is_initialized():
        return value
    values = [value if is_main() else None]
    distributed.broadcast_object_list(values)
    return values[0]


def share_buffers(network: nn.Module) -> None:
    """Gives every process the main one's buffers, such as batch normalisation's statistics."""
    if distributed.is_initialized():
        for buffer in network.buffers():
            distributed.broadcast(buffer, 0)


def gather(items: Sequence[Any]) -> list[Any]:
    """Returns the items of all n processes in order, each process having every n-th one."""
    if not distributed.is_initialized():
        return list(items)
    parts: list[Any] = [None] * processes()
    distributed.all_gather_object(parts, list(items))
    whole: list[Any] = [None] * sum(map(len, parts))
    for first, part in enumerate(parts):
        whole[first :: len(parts)] = part
    return whole
