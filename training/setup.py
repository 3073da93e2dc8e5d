"""Sets up a training's device, step, optimiser and settings from its options."""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from datasets.splits import read_images
from models.distillation import Criterion
from utils import ranks
from utils.precision import allow_tf32, choose_precision

# Options that may differ between a run and its continuation.
FREE_TO_CHANGE = {"out", "resume", "eval_every", "workers", "gpu", "cpu", "device", "check"}
FREE_TO_CHANGE |= {"cache", "compile", "max_minutes", "recipe", "teacher_cache"}


def prepare_device(args: argparse.Namespace) -> torch.dtype:
    """Prepares the device for --precision and --batch-size, and returns the precision.

    Original: float32, with TF32 at PyTorch's defaults.
    """
    allow_tf32(args.precision != "float32")
    torch.backends.cudnn.benchmark = args.batch_size > 1  # crops of one size
    return choose_precision(args.precision, args.device)


def share_step(criterion: Criterion, args: argparse.Namespace) -> nn.Module:
    """Returns the criterion, compiled if --compile is set, with gradients shared by all processes.

    Prints a line if torch.compile does not work.
    """
    if args.compile and (reason := why_not_compile(args.device)):
        if ranks.is_main():
            print(f"--compile: goes on without, {reason}", file=sys.stderr)
    elif args.compile:
        criterion.compile()
    if ranks.processes() == 1:
        return criterion
    devices = [args.device] if args.device.type == "cuda" else None
    return DistributedDataParallel(criterion, devices, gradient_as_bucket_view=True)


def why_not_compile(device: torch.device) -> str:
    """Returns why torch.compile does not work on a device, in one line; empty if it does."""
    try:
        x = torch.ones(8, device=device, requires_grad=True)
        torch.compile(lambda x: (x.sin() * x).sum())(x).backward()
    except Exception as error:  # compilers, or their absence, may raise anything
        lines = [line for line in str(error).splitlines() if line.strip()]
        return f"torch.compile failed: {(lines or [type(error).__name__])[0]}"
    return ""


def build_optimizer(args: argparse.Namespace, criterion: Criterion) -> torch.optim.Optimizer:
    """Builds the optimiser of --optimizer, --lr and --weight-decay."""
    options = {"lr": args.lr, "weight_decay": args.weight_decay, "fused": True}
    groups = split_parameters(criterion, args.trunk_lr)
    if args.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.95, **options)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[args.optimizer]
    return kind(groups, **options)


def split_parameters(criterion: Criterion, trunk_lr: float) -> list[dict[str, Any]]:
    """Returns groups of parameters, and the `part` of the learning rate that each takes."""
    everything = list(criterion.parameters())
    if trunk_lr == 1:
        return [{"params": everything, "part": 1.0}]
    trunk = set(getattr(criterion.model, criterion.model.pretrained).parameters())
    return [
        {"params": [p for p in everything if p not in trunk], "part": 1.0},
        {"params": [p for p in everything if p in trunk], "part": trunk_lr},
    ]


def run_settings(args: argparse.Namespace, images: int) -> dict[str, str]:
    """Returns what a resumed run must share, as text.

    These are options, the number of training images, and a hash of the names of those and of the
    validation images. Of paths only the name counts, as data sets and teachers may be moved.
    """
    values = {name: value for name, value in vars(args).items() if name not in FREE_TO_CHANGE}
    if not args.cosine:  # then more epochs only continue the training
        del values["epochs"]
    names = [[path.name for path in read_images(p)] for p in (args.train_json, args.val_json)]
    digest = hashlib.sha256(json.dumps(names).encode()).hexdigest()[:8]
    settings = {name: as_text(value) for name, value in values.items()}
    return settings | {"images": str(images), "lists": f"of images {digest}"}


def as_text(value: object) -> str:
    """Returns an option's value as a run's settings have it."""
    if isinstance(value, (tuple, list)):
        return ",".join(map(as_text, value))
    return value.name if isinstance(value, Path) else str(value)
