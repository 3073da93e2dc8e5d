"""How much memory is free, by the machine and by the limits of containers."""

import os
from collections.abc import Iterator
from pathlib import Path

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


def free_ram() -> int:
    """Returns the bytes of RAM that this process may still use."""
    return min(_machines_ram(), *_cgroup_rooms())


def _machines_ram() -> int:
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
