"""Counts what the kernels of a pass compute and move, from shapes, to explain GPU times."""

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from deploy.deployed import copy_for_inference
from models.build import ARCHITECTURES, parse_width
from models.counter import new_student
from report.benchmarks.floors import Rates, floor_seconds
from report.benchmarks.report import describe_run

aten = torch.ops.aten
DTYPE = torch.bfloat16
# An H100's (SXM): dense bfloat16 tensor cores and HBM3 as published, NVIDIA H100 datasheet.
H100 = Rates(operations=989e12, bytes=3.35e12)
COLUMNS = {
    "label": "network, stride of what is computed",
    "kernels": "kernels",
    "macs": "multiply-accumulates (G)",
    "moved": "moved (MB)",
    "operations": "operations (ms)",
    "bytes": "bytes (ms)",
    "longer": "longer of the two, kernel by kernel (ms)",
}


class _Kernels(TorchDispatchMode):
    """Lists every kernel's cells, multiply-accumulates and bytes, each tensor moved once.

    A biased convolution is two kernels: PyTorch adds the bias after cuDNN's convolution.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, int, int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        outputs = output if isinstance(output, tuple) else (output,)  # a pool's maxima and indices
        first, size = outputs[0], sum(map(_bytes, outputs))
        cells = first.shape[-2] * first.shape[-1]
        if func.overloadpacket is aten.convolution:
            macs = first.numel() * args[1][0].numel()
            self.found.append((cells, macs, _bytes(args[0]) + _bytes(args[1]) + size))
            if args[2] is not None:
                self.found.append((cells, 0, 2 * size))
        elif func.overloadpacket is not aten.detach:
            self.found.append((cells, 0, _bytes(args[0]) + size))
        return output


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def list_kernels(network: nn.Module, size: tuple[int, int]) -> list[tuple[int, int, int]]:
    """Returns cells, multiply-accumulates and bytes of each kernel, in order, in bfloat16."""
    weights = {k: v.to("meta", DTYPE) for k, v in network.state_dict().items()}
    image = torch.empty(1, 3, *size, device="meta", dtype=DTYPE)
    with torch.no_grad(), _Kernels() as kernels:
        torch.func.functional_call(network, weights, image)
    return kernels.found


def measure_layers(args: argparse.Namespace) -> dict[str, Any]:
    """What a student's kernels compute and move in bfloat16, and how long an H100 needs for it."""
    rows = []
    for arch, entry in ARCHITECTURES.items():
        student = new_student(arch, parse_width(entry.student_width))
        network = copy_for_inference(student.network, torch.device("cpu"))
        kernels = list_kernels(network, args.size)
        name = student.label
        sizes = sorted({cells for cells, *_ in kernels}, reverse=True)
        pixels = args.size[0] * args.size[1]
        for cells in sizes:
            stride = round((pixels / cells) ** 0.5)
            own = [kernel for kernel in kernels if kernel[0] == cells]
            rows.append({"label": f"{name}, stride {stride}"} | _add_up(own))
        rows.append({"label": f"{name}, all"} | _add_up(kernels))
    height, width = args.size
    notes = [
        f"Batch 1, counted on shapes; rates as published for an H100: {H100.operations / 1e12:.0f} "
        f"T operations and {H100.bytes / 1e12:.2f} TB a second. Every kernel reads and writes its "
        "tensors once: a convolution, its bias, its ReLU each do. An engine's copies are left out.",
        "No profile was taken of what a measured pass takes beyond the last column. By reasoning: "
        "what batches of 16 spare a picture is the launching of so many kernels, and grids too "
        "small for the GPU; what they still take beyond it are kernels that reach neither rate, as "
        "convolutions to few channels leave most of a tensor core's tile empty. Tensors that stay "
        "in the cache of 50 MB move faster: the last column is no floor.",
    ]
    found = {"title": f"Kernels of a pass over {height}x{width} pixels in bfloat16"}
    found |= {"columns": COLUMNS, "rows": rows, "notes": notes}
    return found | describe_run(torch.device("cpu"))


def _add_up(kernels: Sequence[tuple[int, int, int]]) -> dict[str, float]:
    macs, moved = (sum(kernel[i] for kernel in kernels) for i in (1, 2))
    longer = sum(floor_seconds(H100, 2 * macs, moved) for _, macs, moved in kernels)
    return {
        "kernels": str(len(kernels)),
        "macs": macs / 1e9,
        "moved": moved / 1e6,
        "operations": 1000 * 2 * macs / H100.operations,
        "bytes": 1000 * moved / H100.bytes,
        "longer": 1000 * longer,
    }
