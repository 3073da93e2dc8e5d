"""The options that say where a program computes."""

import argparse

import torch

from utils import ranks
from utils.options import whole_number
from utils.processor import processor_name


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """Adds --gpu and --cpu, which `select_device` reads."""
    group = parser.add_argument_group("device").add_mutually_exclusive_group()
    which = "number of the GPU (default: the first, or the CPU where there is none)"
    group.add_argument("--gpu", type=whole_number(0), help=which)
    group.add_argument("--cpu", action="store_true", help="keep everything on the CPU")


def select_device(args: argparse.Namespace, parser: argparse.ArgumentParser) -> torch.device:
    """Returns the requested device, or ends with an error if there is no such device.

    Each of several processes on a machine gets its own GPU.
    """
    available, processes = torch.cuda.device_count(), ranks.local_processes()
    if args.gpu is not None and processes > 1:
        parser.error(f"--gpu {args.gpu}: each of the {processes} processes takes one of its own")
    if args.gpu is not None and args.gpu >= available:
        parser.error(f"--gpu {args.gpu}: this machine has {available} GPUs; --cpu runs without")
    if args.cpu or not available:
        return torch.device("cpu")
    if processes > available:
        parser.error(f"{processes} processes need as many GPUs, this machine has {available}")
    return torch.device("cuda", args.gpu or ranks.local_rank())


def device_name(device: torch.device) -> str:
    """Returns the name of a GPU, or of the processor with the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor_name()}, {torch.get_num_threads()} threads"


def lacks_memory(error: Exception) -> bool:
    """Returns whether an exception means that a GPU's or the machine's memory is too small."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)  # of a CPU
