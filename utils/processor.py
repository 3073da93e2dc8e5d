"""Finds the processor's name, and which fast products of short numbers it has."""

import platform
from pathlib import Path

# In Linux's names: VNNI and AMX of x86; the last two are of ARM.
DOT_PRODUCTS = ("avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")


def dot_products() -> list[str]:
    """Returns which of DOT_PRODUCTS the processor has; none if the system does not say."""
    return [name for name in DOT_PRODUCTS if name in _flags()]


def has_bfloat16_tiles() -> bool:
    """Returns whether x86's AMX makes products in bfloat16 several times as fast as in float32.

    The bfloat16 of AVX-512 alone did not pay, as layers must be converted to it and back.
    """
    return "amx_bf16" in _flags()


def _flags() -> list[str]:
    return (_read_cpuinfo("flags") or _read_cpuinfo("Features") or "").split()


def processor_name() -> str:
    return _read_cpuinfo("model name") or platform.processor() or platform.machine()


def _read_cpuinfo(key: str) -> str | None:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    values = [line.partition(":")[2].strip() for line in lines if line.startswith(key)]
    return values[0] if values else None
