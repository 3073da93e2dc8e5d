"""Measures the peak rates of a device, and computes the least time that work takes with them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

SIDES = (512, 1024, 2048)  # of the square matrices that a CPU multiplies
GPU_SIDES = (4096, 8192)
COPIED = 2**28  # bytes, more than caches hold
REPEATS = 10  # of which the fastest counts


@dataclass(frozen=True)
class Rates:
    """The highest rates measured on a device."""

    operations: float  # per second, of matrix products; a multiply-accumulate is two
    bytes: float  # per second, read and written, of copies

    def best(self, other: "Rates") -> "Rates":
        """Returns the higher of two measurements of each rate."""
        return Rates(max(self.operations, other.operations), max(self.bytes, other.bytes))


def measure_rates(
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    sides: Sequence[int] = (),
    copied: int = COPIED,
) -> Rates:
    """Measures a device's rate of matrix products of a type, and of copies.

    On a GPU float32 products may use TF32 where convolutions may.

    Args:
        sides: of the square matrices; the fastest size counts. (): the device's default.
        copied: bytes to copy.
    """
    gpu = device.type == "cuda"
    sides = sides or (GPU_SIDES if gpu else SIDES)
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    try:
        operations = max(_product_rate(side, device, dtype) for side in sides)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
    source = torch.ones(copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Rates(operations, 2 * copied / _fastest(lambda: target.copy_(source), device))


def floor_seconds(rates: Rates, operations: float, moved: float) -> float:
    """Returns the longer of the times for the operations and for the moved bytes."""
    return max(operations / rates.operations, moved / rates.bytes)


def _product_rate(side: int, device: torch.device, dtype: torch.dtype) -> float:
    first, second = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(first)
    return 2 * side**3 / _fastest(lambda: torch.mm(first, second, out=product), device)


def _fastest(run: Callable[[], object], device: torch.device) -> float:
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return min(seconds)
