"""What a training is set up with, as its options ask for it."""

import argparse
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from models.distillation import Criterion
from utils import distributed
from utils.precision import allow_tf32, choose_precision

# Options that may differ between a run and its continuation.
FREE_TO_CHANGE = {"out", "resume", "eval_every", "workers", "gpu", "cpu", "device", "check"}
FREE_TO_CHANGE |= {"cache", "compile", "max_minutes", "recipe", "teacher_cache"}


def prepare_device(args: argparse.Namespace) -> torch.dtype:
    """Makes the device ready for --precision and crops of one size, and returns the precision."""
    allow_tf32(args.precision != "float32")
    torch.backends.cudnn.benchmark = args.batch_size > 1  # crops of one size
    return choose_precision(args.precision, args.device)


def share_step(criterion: Criterion, args: argparse.Namespace) -> nn.Module:
    """Returns the criterion, compiled if --compile says so, its gradients shared by processes.

    Where torch.compile does not work, a line says so.
    """
    if args.compile and (reason := why_not_compile(args.device)):
        if distributed.is_main():
            print(f"--compile: goes on without, {reason}", file=sys.stderr)
    elif args.compile:
        criterion.compile()
    if distributed.processes() == 1:
        return criterion
    devices = [args.device] if args.device.type == "cuda" else None
    return DistributedDataParallel(criterion, devices, gradient_as_bucket_view=True)


def why_not_compile(device: torch.device) -> str:
    """Returns why torch.compile does not work on a device, in one line; empty if it does."""
    try:
        x = torch.ones(8, device=device, requires_grad=True)
        torch.compile(lambda x: (x.sin() * x).sum())(x).backward()
    except Exception as error:  # whatever compilers, and their absence, lead to
        lines = [line for line in str(error).splitlines() if line.strip()]
        return f"torch.compile failed: {(lines or [type(error).__name__])[0]}"
    return ""


def build_optimizer(args: argparse.Namespace, trained: nn.Module) -> torch.optim.Optimizer:
    """Builds the optimiser that --optimizer, --lr and --weight-decay ask for."""
    options = {"lr": args.lr, "weight_decay": args.weight_decay, "fused": True}
    if args.optimizer == "adam":
        return torch.optim.Adam(trained.parameters(), **options)
    return torch.optim.SGD(trained.parameters(), momentum=0.95, **options)


def run_settings(args: argparse.Namespace, images: int) -> dict[str, str]:
    """Returns what a resumed run must share, as text: options, and the number of training images.

    Of a file only the name counts: data sets and teachers are moved.
    """
    values = {name: value for name, value in vars(args).items() if name not in FREE_TO_CHANGE}
    if not args.cosine:  # then more epochs continue the same training
        del values["epochs"]
    return {name: _as_text(value) for name, value in values.items()} | {"images": str(images)}


def _as_text(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return ",".join(map(_as_text, value))
    return value.name if isinstance(value, Path) else str(value)
