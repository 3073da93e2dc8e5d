"""Several processes that train or count together, as torchrun starts them; or one alone."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

PATIENCE = timedelta(minutes=10)  # with a process that does not answer


class LostProcess(RuntimeError):
    """Another process of the run ended, or did not answer; the message says what to do."""


def rank() -> int:
    """The number of this process; number 0 writes and prints."""
    return int(os.environ.get("RANK", 0))


def processes() -> int:
    """How many there are, on all machines together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local_rank() -> int:
    """The number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", 0))


def local_processes() -> int:
    """How many there are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def is_main() -> bool:
    return rank() == 0


@contextmanager
def together(device: torch.device) -> Iterator[None]:
    """Takes the device, and meets the other processes, if any: by NCCL or, on CPUs, gloo.

    Raises:
        LostProcess: another one ended, or did not answer.
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
            "what was saved last is whole, and --resume continues from there"
        ) from None
    distributed.destroy_process_group()


def say(line: str) -> None:
    """Prints a line, once."""
    if is_main():
        print(line)


def add_up(values: Sequence[float]) -> list[float]:
    """Returns the sums over all processes of as many numbers from each."""
    if not distributed.is_initialized():
        return list(values)
    total = torch.tensor(values, dtype=torch.float64)  # on the CPU: through gloo
    distributed.all_reduce(total)
    return total.tolist()


def from_main(value: Any) -> Any:
    """Returns what the main process has."""
    if not distributed.is_initialized():
        return value
    values = [value if is_main() else None]
    distributed.broadcast_object_list(values)
    return values[0]


def gather(items: Sequence[Any]) -> list[Any]:
    """Returns the items of all processes, where each has every n-th one, in their whole order."""
    if not distributed.is_initialized():
        return list(items)
    parts: list[Any] = [None] * processes()
    distributed.all_gather_object(parts, list(items))
    whole: list[Any] = [None] * sum(map(len, parts))
    for first, part in enumerate(parts):
        whole[first :: len(parts)] = part
    return whole
