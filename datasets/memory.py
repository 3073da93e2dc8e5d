"""Checks whether cached data fits into the free memory."""

from collections.abc import Iterable
from math import prod

import torch

from datasets.sizes import STRIDE, Size, grid
from utils.inputs import DataError
from utils.ram import GIGABYTE, free_ram

USABLE = {"cpu": 0.8, "cuda": 0.6}  # part of the free memory; training needs the rest


def crop_bytes(sizes: Iterable[Size], density: bool) -> int:
    """Returns the bytes of whole images, with maps of full size if `density`."""
    return sum(height * width * (7 if density else 3) for height, width in sizes)


def image_bytes(sizes: Iterable[Size]) -> int:
    """Returns the bytes of whole images with maps at stride 8."""
    return sum(3 * prod(size) + 4 * prod(grid(size, STRIDE)) for size in sizes)


def check_memory(cache: str, needed: int, device: torch.device, processes: int) -> None:
    """Refuses a cache that leaves too little memory to train with.

    Args:
        cache: the option's value, for the message.
        needed: bytes per process.
        device: where they are held; the processes share the RAM, but each has a GPU of its own.

    Raises:
        DataError: they do not fit.
    """
    free = available_memory(device)
    room, shared = USABLE[device.type] * free, device.type == "cpu"
    total = needed * processes if shared else needed
    if total > room:
        others = "--cache none" if shared else "--cache ram or none"
        of = f" for {processes} processes" if shared and processes > 1 else ""
        raise DataError(
            f"--cache {cache} needs {total / GIGABYTE:.3g} GB{of}, and may take "
            f"{room / GIGABYTE:.3g} of the {free / GIGABYTE:.3g} GB that are free on {device}; "
            f"{others} needs less"
        )


def available_memory(device: torch.device) -> int:
    """Returns the free bytes of a GPU, or of the RAM that this process may use."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_ram()
