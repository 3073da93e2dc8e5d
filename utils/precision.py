"""Which number types a training computes with."""

from contextlib import AbstractContextManager

import torch

from utils.processor import has_bfloat16_tiles

PRECISIONS = ("float32", "bfloat16", "float16", "auto")


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Returns the type of a training's convolutions and products.

    Whatever needs more, such as sums over positions, stays in float32.

    Args:
        name: of PRECISIONS; "auto" is what is fast on the device: bfloat16 on GPUs that have it and
            on CPUs with AMX, float16 on other GPUs, float32 on other CPUs.
    """
    if name != "auto":
        return getattr(torch, name)
    if device.type != "cuda":
        return torch.bfloat16 if has_bfloat16_tiles() else torch.float32
    ampere = torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if ampere else torch.float16


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager:
    """Computes in `precision` what can do with less than float32."""
    return torch.autocast(device.type, precision, enabled=precision != torch.float32)


def allow_tf32(allowed: bool) -> None:
    """Lets what stays in float32 use TF32, with 10 bits of mantissa, on GPUs that have it."""
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = allowed
