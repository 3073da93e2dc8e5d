"""Chooses the number types of a training."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from utils.processor import has_bfloat16_tiles

PRECISIONS = ("float32", "bfloat16", "float16", "auto")


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Returns the type of a training's convolutions and products.

    Operations that need more, such as sums over positions, stay in float32.

    Args:
        name: of PRECISIONS; "auto" takes the fastest for the device: bfloat16 on GPUs that have it
            and on CPUs with AMX, float16 on other GPUs, float32 on other CPUs.
    """
    if name != "auto":
        return getattr(torch, name)
    if device.type != "cuda":
        return torch.bfloat16 if has_bfloat16_tiles() else torch.float32
    ampere = torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if ampere else torch.float16


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager:
    """Returns a context in which operations run in `precision` if it suffices for them."""
    return torch.autocast(device.type, precision, enabled=precision != torch.float32)


@contextmanager
def untuned() -> Iterator[None]:
    """Keeps cuDNN from trying all its ways for each new size, where sizes vary."""
    tuned, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = tuned


def allow_tf32(allowed: bool) -> None:
    """Lets float32 operations use TF32, with 10 bits of mantissa, on GPUs that have it.

    Original: leaves TF32 at PyTorch's defaults.
    """
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = allowed
