"""The paper's results (Liu et al., ACM MM 2020), and a table that compares others with them."""

from collections.abc import Sequence
from typing import Any

COLUMNS = ("model", "MAE", "RMSE", "params (M)", "FLOPs (G)", "GPU (ms)", "CPU (s)")
PAPER = {  # latency on a GTX 1080 and the authors' CPU
    "SHA": (
        ("CSRNet", 68.43, 105.99, 16.26, 205.88, 66.58, 7.85),
        ("1/4-CSRNet + SKT", 71.55, 114.40, 1.02, 13.09, 8.88, 0.87),
        ("BL", 61.46, 103.17, 21.50, 205.32, 47.89, 8.84),
        ("1/4-BL + SKT", 62.73, 102.33, 1.35, 13.06, 7.40, 0.88),
    ),
    "QNRF": (
        ("CSRNet", 145.54, 233.32, 16.26, 2447.91, 823.84, 119.67),
        ("1/4-CSRNet + SKT", 144.36, 234.64, 1.02, 155.69, 106.08, 9.71),
        ("BL", 87.70, 158.09, 21.50, 2441.23, 595.72, 130.76),
        ("1/4-BL + SKT", 96.24, 156.82, 1.35, 155.30, 90.96, 9.78),
    ),
}
# Published light counters without distillation: MAE, RMSE, parameters (M), ms on a CPU
LIGHT_SOURCE = "https://arxiv.org/abs/2506.19955v1"
LIGHT = {
    "SHA": (
        ("EBC-ZIP P", 71.18, 109.60, 0.81, 43),
        ("EBC-ZIP N", 58.86, 94.63, 3.36, 100),
        ("EBC-ZIP T", 56.36, 86.09, 10.5, 213),
    ),
}
REFERENCE = "1/4-CSRNet"  # others' latency is compared with its latency on the same machine
LIGHT_REFERENCE_MS = 168  # its latency where LIGHT was measured: ONNX Runtime, two threads


def print_table(rows: Sequence[Sequence[Any]]) -> None:
    """Prints a table of COLUMNS; what was not measured stays empty."""
    cells = [COLUMNS] + [
        [str(row[0]), *("" if v is None else f"{v:.2f}" for v in row[1:])] for row in rows
    ]
    widths = [max(len(row[i]) for row in cells) for i in range(len(COLUMNS))]
    for row in cells:
        rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        print("  ".join([row[0].ljust(widths[0]), *rest]))
