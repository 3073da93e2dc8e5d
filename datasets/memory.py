"""Checks whether cached data fits into the free memory."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from datasets.cutting import STRIDE
from datasets.transforms import Size
from utils.inputs import DataError

USABLE = {"cpu": 0.8, "cuda": 0.6}  # part of the free memory; training needs the rest
GIGABYTE = 1e9

MEMINFO = Path("/proc/meminfo")
OWN_CGROUPS = Path("/proc/self/cgroup")
CGROUPS = {  # by controllers: folder, limit, usage, and the reclaimable entry of memory.stat
    "": ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    "memory": (
        "/sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
}


def crop_bytes(sizes: Iterable[Size], density: bool) -> int:
    """Returns the bytes of whole images, with maps of full size if `density`."""
    return sum(height * width * (7 if density else 3) for height, width in sizes)


def image_bytes(sizes: Iterable[Size]) -> int:
    """Returns the bytes of whole images with maps at stride 8."""
    return sum(
        3 * height * width + 4 * -(-height // STRIDE) * -(-width // STRIDE)
        for height, width in sizes
    )


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
    return min(_free_ram(), *_cgroup_rooms())


def _free_ram() -> int:
    try:
        fields = dict(line.split(":") for line in MEMINFO.read_text().splitlines())
        return 1024 * int(fields["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):  # not Linux: all of the machine's
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cgroup_rooms() -> Iterator[int]:
    """Yields 2**63, then the bytes that each cgroup limit leaves to this process."""
    yield 2**63
    lines = OWN_CGROUPS.read_text().splitlines() if OWN_CGROUPS.exists() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in CGROUPS:
            root, *names = CGROUPS[controllers]
            folder = Path(root, path.lstrip("/"))
            while folder.is_relative_to(root):
                yield _cgroup_room(folder, *names)
                folder = folder.parent


def _cgroup_room(folder: Path, limit: str, usage: str, cached: str) -> int:
    try:
        most = int((folder / limit).read_text())
        used = int((folder / usage).read_text())
        lines = (folder / "memory.stat").read_text().splitlines()
        return most - used + int(dict(line.split() for line in lines).get(cached, 0))
    except (OSError, ValueError):  # no such folder here, or no limit: "max"
        return 2**63
