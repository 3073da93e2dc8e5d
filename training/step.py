"""A training step's forward half, as one module that can be compiled and shared by processes."""

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training.trainer import Terms
from utils import distributed
from utils.precision import autocast


class Step(nn.Module):
    """Maps a batch to its unweighted loss terms.

    Args:
        modules: all that is trained, which `terms` calls.
        precision: of what autocast thinks can do with less than float32.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        terms: Terms,
        device: torch.device,
        precision: torch.dtype,
    ):
        super().__init__()
        self.trained = nn.ModuleDict(modules)
        self._terms, self._device, self._precision = terms, device, precision

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        with autocast(self._device, self._precision):
            return self._terms(batch)


def build_step(
    modules: Mapping[str, nn.Module],
    terms: Terms,
    device: torch.device,
    precision: torch.dtype,
    compiled: bool,
) -> nn.Module:
    """Returns a `Step`, whose gradients several processes average where there are several.

    Args:
        compiled: by torch.compile; where that does not work, a line says so.
    """
    step = Step(modules, terms, device, precision)
    if compiled and (reason := why_not_compile(device)):
        if distributed.is_main():
            print(f"--compile: goes on without, {reason}", file=sys.stderr)
    elif compiled:
        step.compile()
    if distributed.processes() == 1:
        return step
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(step, devices, gradient_as_bucket_view=True)


def why_not_compile(device: torch.device) -> str:
    """Returns why torch.compile does not work on a device, in one line, or nothing if it does."""
    try:
        x = torch.ones(8, device=device, requires_grad=True)
        torch.compile(lambda x: (x.sin() * x).sum())(x).backward()
    except Exception as error:  # whatever compilers, and their absence, lead to
        lines = [line for line in str(error).splitlines() if line.strip()]
        return f"torch.compile failed: {(lines or [type(error).__name__])[0]}"
    return ""
