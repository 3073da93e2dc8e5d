"""Measure a checkpoint: MAE, RMSE, parameters, FLOPs, GPU and CPU latency, in the paper's table."""

import argparse
import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from datasets.files import read_image
from datasets.loaders import build_evaluation_loader
from datasets.splits import DataError, read_list
from models.build import build_network
from models.naming import Counter, load_counter
from utils.checkpoint import CheckpointError, read_weights
from utils.complexity import measure_cost
from utils.evaluation import PROTOCOLS, predict_each
from utils.latency import describe, measure_latency
from utils.metrics import CountResult, score
from utils.options import (
    Parser,
    add_device_options,
    checked,
    fail,
    parse_size,
    select_device,
    whole_number,
)
from utils.plots import draw_overlay
from utils.recipes import DATASETS, choose_protocol

SIZES = {"SHA": (576, 864), "QNRF": (2032, 2912)}  # the cost columns' images, the paper's
COLUMNS = ("model", "MAE", "RMSE", "params (M)", "FLOPs (G)", "GPU (ms)", "CPU (s)")
PAPER = {  # Liu et al., ACM MM 2020; latency on a GTX 1080 and the authors' CPU
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


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("test_json", type=Path, nargs="?", help="list of images to count")
    add("--checkpoint", "-c", type=Path, help="the network to measure")
    add("--cost", action="store_true", help="only print the four networks' parameters and FLOPs")
    add_device_options(parser)

    add = parser.add_argument_group("what is measured").add_argument
    add("--dataset", "-d", type=str.upper, choices=DATASETS, default="SHA", help="for the table")
    add("--protocol", choices=PROTOCOLS, help="None: whole; for QNRF the network's paper's")
    add("--size", type=checked(parse_size), help="of FLOPs and latency (None: the data set's)")
    add("--version", "-v", help="what the checkpoint must be, such as csrnet or 1/4-csrnet")
    add("--transform", "-t", action="store_true", help="the checkpoint must hold its adapters")
    add("--workers", type=whole_number(0), default=2, help="processes that read images")

    add = parser.add_argument_group("what is written").add_argument
    add("--json", type=Path, help="file for all results")
    add("--beside", type=Path, nargs="+", default=[], help="earlier --json files, as table rows")
    add("--per-image", type=Path, help="CSV file: name, heads, predicted")
    add("--save-maps", type=Path, help="folder for pictures with true and predicted density")
    args = parser.parse_args()
    if args.cost == (args.test_json is not None) or not (args.cost or args.checkpoint):
        parser.error("a list of images and --checkpoint are needed, or --cost alone")
    if args.cost:
        options = ["--checkpoint", "--json", "--beside", "--per-image", "--save-maps"]
        parser.refuse(args, options, "has no place beside --cost, which measures no checkpoint")
    args.size = args.size or SIZES.get(args.dataset, SIZES["SHA"])
    args.device = select_device(args, parser)
    return args


def print_costs() -> None:
    """Prints the cost of the paper's networks, computed, with a remark where the paper differs."""
    for dataset, size in SIZES.items():
        print(
            f"{size[0]}x{size[1]}\n{'':12}{'parameters':>12}{'conv MACs (G)':>15}{'FLOPs (G)':>11}"
        )
        for name, _, _, params, flops, _, _ in PAPER[dataset]:
            label = name.removesuffix(" + SKT")
            part, _, arch = label.rpartition("-")
            cost = measure_cost(build_network(arch.lower(), Fraction(part or 1)), size)
            ours = f"{cost.parameters / 1e6:.2f}", f"{cost.flops / 1e9:.2f}"
            paper = f"{params:.2f}", f"{flops:.2f}"
            remark = "" if ours == paper else f"  the paper has {paper[0]} M and {paper[1]} G"
            macs = cost.macs / 1e9
            print(f"{label:12}{cost.parameters:12,}{macs:15.2f}{cost.flops / 1e9:11.2f}{remark}")
    print(
        "conv MACs: multiply-accumulates of the convolutions. FLOPs: the paper's count, which is "
        "these, + 1 per bias and ReLU output, + 4 per pooled output."
    )


def load_checked(args: argparse.Namespace) -> Counter:
    """Reads the checkpoint and sees that it is what --version and --transform say."""
    counter = read_weights(args.checkpoint, load_counter)
    if args.version and args.version.lower() != counter.label.lower():
        raise CheckpointError(f"{args.checkpoint} is a {counter.label}, not a {args.version}")
    if args.transform and not counter.adapters:
        raise CheckpointError(f"{args.checkpoint} holds no adapters (--transform)")
    counter.network.eval()
    return counter


def count_images(args: argparse.Namespace, counter: Counter, protocol: str) -> list[CountResult]:
    """Counts the images of the list, and draws them where --save-maps asks for it."""
    loader = build_evaluation_loader(read_list(args.test_json), args.workers)
    if args.save_maps:
        args.save_maps.mkdir(parents=True, exist_ok=True)
    predict, results = PROTOCOLS[protocol], []
    for batch, density, result in predict_each(
        counter.network.to(args.device, memory_format=torch.channels_last),
        loader,
        args.device,
        predict,
    ):
        results.append(result)
        if args.save_maps:
            draw_overlay(
                read_image(Path(result.name)),
                batch["density"][0, 0].numpy(),
                density[0, 0].cpu().numpy(),
                result,
                args.save_maps / f"{Path(result.name).stem}.png",
            )
    return results


def measure(args: argparse.Namespace, counter: Counter) -> dict[str, Any]:
    """Returns everything that is measured of a checkpoint, under the names of --json."""
    protocol = args.protocol or choose_protocol(counter.arch, args.dataset)
    results = count_images(args, counter, protocol)
    if args.per_image:
        with args.per_image.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["name", "heads", "predicted"])
            rows.writerows([Path(r.name).name, r.heads, f"{r.predicted:.4f}"] for r in results)
    cost = measure_cost(counter.network, args.size)
    gpu = args.device.type == "cuda"
    gpu_latency = measure_latency(counter.network, args.size, args.device) if gpu else None
    cpu_latency = measure_latency(counter.network, args.size, torch.device("cpu"))
    return {
        "model": counter.label,
        "checkpoint": str(args.checkpoint),
        "dataset": args.dataset,
        "protocol": protocol,
        **asdict(score(results)),
        "params": cost.parameters,
        "macs_g": cost.macs / 1e9,
        "flops_g": cost.flops / 1e9,
        "size": list(args.size),
        "gpu_ms": gpu_latency and 1000 * gpu_latency.median,
        "cpu_s": cpu_latency.median,
        "gpu_latency": gpu_latency and asdict(gpu_latency),
        "cpu_latency": asdict(cpu_latency),
        "counted_on": describe(args.device),
    }


def print_table(rows: Sequence[Sequence[Any]]) -> None:
    """Prints rows of COLUMNS; what was not measured stays empty."""
    cells = [COLUMNS] + [
        [str(row[0]), *("" if v is None else f"{v:.2f}" for v in row[1:])] for row in rows
    ]
    widths = [max(len(row[i]) for row in cells) for i in range(len(COLUMNS))]
    for row in cells:
        rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        print("  ".join([row[0].ljust(widths[0]), *rest]))


def report(args: argparse.Namespace, measured: dict[str, Any]) -> None:
    """Prints how things were measured, and the table: the paper's rows, earlier ones, this one."""
    rows = list(PAPER.get(args.dataset, ()))
    rows += [_row(result) for result in [*args.beside, measured]]
    print_table(rows)
    height, width = args.size
    print(
        f"MAE and RMSE of {measured['model']} ({args.checkpoint}) over {measured['images']} images "
        f"({measured['protocol']}), against annotated heads; against map sums "
        f"{measured['mae_map']:.2f} and {measured['rmse_map']:.2f}"
    )
    for latency in (measured["gpu_latency"], measured["cpu_latency"]):
        if latency:
            print(
                f"{height}x{width} on {latency['device']}: {1000 * latency['median']:.1f} ms, "
                f"{1000 * latency['low']:.1f} to {1000 * latency['high']:.1f} "
                f"(median and deciles of {latency['passes']} passes)"
            )
    if args.dataset in PAPER:
        print("paper's rows: Liu et al., ACM MM 2020, latency on a GTX 1080 and the authors' CPU")


def read_result(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text())
        _row(result)
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path} is no result that --json wrote") from None
    return result


def _row(measured: dict[str, Any]) -> tuple[Any, ...]:
    keys = ("mae", "rmse", "params", "flops_g", "gpu_ms", "cpu_s")
    values = [measured[key] for key in keys]
    values[2] /= 1e6
    return (f"ours: {measured['model']}", *values)


def main(args: argparse.Namespace) -> None:
    if args.cost:
        print_costs()
        return
    for path in (args.json, args.per_image):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
    args.beside = [read_result(path) for path in args.beside]
    measured = measure(args, load_checked(args))
    if args.json:
        args.json.write_text(json.dumps(measured, indent=1) + "\n")
    report(args, measured)


if __name__ == "__main__":
    try:
        main(parse_args())
    except (DataError, CheckpointError, OSError) as error:
        fail(error)
