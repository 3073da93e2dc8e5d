"""What the processor is, and whether it has 8-bit dot products."""

import platform
from pathlib import Path

# As Linux calls them: of x86 VNNI and AMX, of ARM the last two.
DOT_PRODUCTS = ("avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")


def dot_products() -> list[str]:
    """Returns which of DOT_PRODUCTS the processor has; none where the system does not tell."""
    flags = (_read_cpuinfo("flags") or _read_cpuinfo("Features") or "").split()
    return [name for name in DOT_PRODUCTS if name in flags]


def processor_name() -> str:
    return _read_cpuinfo("model name") or platform.processor() or platform.machine()


def _read_cpuinfo(key: str) -> str | None:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    values = [line.partition(":")[2].strip() for line in lines if line.startswith(key)]
    return values[0] if values else None
