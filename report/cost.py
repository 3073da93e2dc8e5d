"""Parameters and FLOPs of all networks, beside the paper's."""

from fractions import Fraction

from torch import nn

from datasets.catalogue import DATASETS
from deploy.complexity import measure_cost
from models.build import ARCHITECTURES, build_network, parse_width
from report.paper import PAPER


def _print_cost(
    label: str, network: nn.Module, size: tuple[int, int], paper: tuple[str, str] | None = None
) -> None:
    """Prints a row of `print_costs`.

    Args:
        paper: millions of parameters and G FLOPs, where it has them.
    """
    cost = measure_cost(network, size)
    ours = f"{cost.parameters / 1e6:.2f}", f"{cost.flops / 1e9:.2f}"
    remark = ""
    if paper not in (None, ours):
        remark = f"  the paper has {paper[0]} M and {paper[1]} G"
    macs = cost.macs / 1e9
    print(f"{label:12}{cost.parameters:12,}{macs:15.2f}{cost.flops / 1e9:11.2f}{remark}")


def print_costs(wanted: tuple[int, int] | None) -> None:
    """Prints the computed cost of the paper's networks and of students that it does not have.

    A remark says where the paper differs.

    Args:
        wanted: height and width of an image; None: the two that the paper has.
    """
    for dataset, rows in PAPER.items():
        size = wanted or DATASETS[dataset].size
        print(
            f"{size[0]}x{size[1]}\n{'':12}{'parameters':>12}{'conv MACs (G)':>15}{'FLOPs (G)':>11}"
        )
        listed = set()
        for name, _, _, params, flops, _, _ in rows:
            label = name.removesuffix(" + SKT")
            part, _, arch = label.rpartition("-")
            listed.add(arch.lower())
            paper = None if wanted else (f"{params:.2f}", f"{flops:.2f}")
            _print_cost(label, build_network(arch.lower(), Fraction(part or 1)), size, paper)
        for arch, entry in ARCHITECTURES.items():
            if arch not in listed:
                network = build_network(arch, parse_width(entry.student_width))
                _print_cost(type(network).__name__, network, size)
        if wanted:
            break
    print(
        "conv MACs: multiply-accumulates of the convolutions. FLOPs: the paper's count, which is "
        "these, + 1 per bias and ReLU output, + 4 per pooled output."
    )
