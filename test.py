"""Measure a checkpoint: MAE, RMSE, parameters, FLOPs, GPU and CPU latency, in the paper's table."""

import utils.start  # noqa: F401

import argparse
import csv
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from counting.protocols import PROTOCOLS, Predict, evaluate, limited, predict_each
from datasets.catalogue import DATASETS
from datasets.loaders import build_evaluation_loader
from datasets.pictures import read_image
from datasets.splits import DataError, Sample, read_list
from deploy.complexity import measure_cost
from deploy.engines import (
    ENGINES,
    Engine,
    EngineError,
    build_engine,
    choose_device,
    parse_engine,
)
from deploy.latency import Latency, describe, measure_latency
from models.counter import Counter, read_counter
from report.cost import print_costs
from report.measured import print_measured, read_measured
from training.recipes import choose_protocol
from utils import distributed, ranks
from utils.checkpoint import CheckpointError, find_checkpoint
from utils.device import add_device_options, select_device
from utils.distributed import LostProcess
from utils.files import TEXT, Names, check_outputs, make_folder, write_json, written_whole
from utils.metrics import CountError, CountResult, score
from utils.options import WORKERS, Parser, checked, fail, parse_side, parse_size, whole_number
from utils.plots import draw_maps, draw_overlay
from utils.precision import allow_tf32
from utils.version import VERSION

SHOWN = 6  # images of a figure
WRITTEN = ("json", "per-image", "worst", "examples")  # options that name a file


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__, conflict_handler="resolve")
    add = parser.add_argument
    add("test_json", type=Path, nargs="?", help="list of images to count")
    add("--checkpoint", "-c", type=find_checkpoint, help="the network: a file, or shipped weights")
    add("--cost", action="store_true", help="only print all networks' parameters and FLOPs")
    add_device_options(parser)

    add = parser.add_argument_group("what is measured").add_argument
    add("--dataset", "-d", type=str.upper, choices=DATASETS, default="SHA", help="for the table")
    add("--protocol", choices=PROTOCOLS, help="default: whole; for QNRF the network's paper's")
    add(
        "--engine",
        type=checked(parse_engine),
        default="eager",
        help=f"what runs the network, compared to eager: {', '.join(ENGINES)}, or an exported file",
    )
    add(
        "--max-side",
        type=checked(parse_side),
        metavar="PIXELS",
        help="shrink larger images to a longer side of PIXELS first; auto: that of the training's",
    )
    add("--size", type=checked(parse_size), help="of FLOPs and latency (default: the data set's)")
    add(
        "--version",
        "-v",
        nargs="?",
        const=VERSION,
        help="what the checkpoint must be, such as csrnet or 1/4-csrnet; without one, print "
        "this program's own version",
    )
    add("--transform", "-t", action="store_true", help="the checkpoint must hold its adapters")
    add("--workers", type=whole_number(0), default=WORKERS, help="processes that read images")

    add = parser.add_argument_group("what is written").add_argument
    add("--json", type=Path, help="file for all results")
    add("--beside", type=Path, nargs="+", default=[], help="earlier --json files, as table rows")
    add("--per-image", type=Path, help="CSV file: name, heads, predicted")
    add("--save-maps", type=Path, help="folder for pictures with true and predicted density")
    add("--worst", type=Path, help="figure of the worst images' density, without the pictures")
    add("--examples", type=Path, help="the same of images from small errors to great ones")
    args = parser.parse_args()
    if args.version == VERSION:
        print(f"SKT {VERSION}")
        parser.exit()
    if args.cost == (args.test_json is not None) or not (args.cost or args.checkpoint):
        parser.error("a list of images and --checkpoint are needed, or --cost alone")
    if args.cost:
        options = ["--checkpoint", "--engine", "--json", "--beside", "--per-image"]
        options += ["--save-maps", "--worst", "--examples", "--dataset", "--protocol"]
        options += ["--max-side", "--transform", "--workers", "--version", "--gpu", "--cpu"]
        parser.refuse(args, options, "has no place beside --cost, which measures no checkpoint")
    for name in ("worst", "examples"):
        path = getattr(args, name)
        if path and path.suffix != ".png":
            parser.error(f"--{name} must be a .png, got {path}")
    if args.protocol == "tiled" and args.engine != "eager":
        parser.error(f"--engine {args.engine} has no place beside --protocol tiled, only eager has")
    if not args.cost:
        args.size = args.size or DATASETS[args.dataset].size
    args.device = choose_device(args.engine, select_device(args, parser))
    if args.engine == "cudagraph" and args.device.type != "cuda":
        parser.error("--engine cudagraph needs a GPU")
    return args


def load_checked(args: argparse.Namespace) -> Counter:
    """Reads the checkpoint, and checks that it is what --version and --transform say."""
    counter = read_counter(args.checkpoint)
    if args.version and args.version.lower().replace("_", "") != counter.label.lower():
        raise CheckpointError(f"{args.checkpoint} is a {counter.label}, not a {args.version}")
    if args.transform and not counter.adapters:
        raise CheckpointError(f"{args.checkpoint} holds no adapters (--transform)")
    return counter


def name_maps(args: argparse.Namespace, samples: Sequence[Sample]) -> list[Path]:
    """Returns the file of --save-maps for every sample; none without that option.

    Raises:
        WriteError: an output is an input or another output, or has no folder.
    """
    names, maps = Names(), []
    if args.save_maps:
        maps = [args.save_maps / f"{names.take(s.image.stem)}.png" for s in samples]
    outputs = [(f"--{name}", getattr(args, name.replace("-", "_"))) for name in WRITTEN]
    engine = Path(args.engine) if args.engine not in ENGINES else None
    inputs = [args.test_json, args.checkpoint, engine, *args.beside]
    inputs += [path for sample in samples for path in (sample.image, sample.density)]
    check_outputs([*outputs, *(("--save-maps", path) for path in maps)], inputs)
    for path in filter(None, (path for _, path in outputs)):
        make_folder(path)
    return maps


def count_images(
    args: argparse.Namespace,
    engine: nn.Module | Engine,
    loader: DataLoader,
    predict: Predict,
    maps: Sequence[Path],
) -> list[CountResult]:
    """Counts a loader's images, and draws them into `maps`, if there are any."""
    results = []
    counted = predict_each(engine, loader, args.device, predict)
    for number, (batch, density, result) in enumerate(counted):
        results.append(result)
        if maps:
            draw_overlay(
                read_image(Path(result.name)),
                batch["density"][0, 0].numpy(),
                density[0, 0].cpu().numpy(),
                result,
                maps[number],
            )
    return results


def draw_densities(
    args: argparse.Namespace,
    engine: nn.Module | Engine,
    samples: Sequence[Sample],
    results: Sequence[CountResult],
    predict: Predict,
) -> None:
    """Counts some images again, and draws their true and predicted maps.

    The images of --worst have the largest errors. Those of --examples represent all: each has the
    middle error of an equal part of the ranking.
    """
    errors = {result.name: abs(result.predicted - result.heads) for result in results}
    ranked = sorted(samples, key=lambda sample: -errors[str(sample.image)])
    shown = min(SHOWN, len(ranked))
    middles = [(2 * part + 1) * len(ranked) // (2 * shown) for part in range(shown)]
    figures = {args.worst: ranked[:shown], args.examples: [ranked[i] for i in reversed(middles)]}
    for path, chosen in figures.items():
        if path:
            loader = build_evaluation_loader(chosen, args.workers)
            counted = predict_each(engine, loader, args.device, predict)
            maps = [
                (result, batch["density"][0, 0].numpy(), density[0, 0].cpu().numpy())
                for batch, density, result in counted
            ]
            draw_maps(maps, path)


def compare_counts(
    args: argparse.Namespace,
    network: nn.Module,
    loader: DataLoader,
    results: list[CountResult],
    predict: Predict,
) -> float | None:
    """Returns the largest difference of all processes' counts from eager float32's.

    None if the engine is eager.
    """
    if args.engine == "eager":
        return None
    expected = evaluate(ENGINES["eager"](network, args.device), loader, args.device, predict)
    differences = [abs(r.predicted - e.predicted) for r, e in zip(results, expected, strict=True)]
    return max(distributed.gather(differences))


def write_counts(path: Path, results: list[CountResult]) -> None:
    with written_whole(path) as begun, begun.open("w", newline="", **TEXT) as file:
        rows = csv.writer(file)
        rows.writerow(["name", "heads", "predicted"])
        rows.writerows([Path(r.name).name, r.heads, f"{r.predicted:.4f}"] for r in results)


def measure_latencies(
    args: argparse.Namespace, network: nn.Module, engine: nn.Module | Engine
) -> dict[str, Latency | None]:
    """Returns the engine's latency by type of device; for eager on a GPU, the CPU's as well."""
    latencies = {"cuda": None, "cpu": None}
    latencies[args.device.type] = measure_latency(engine, args.size, args.device)
    if args.engine == "eager" and args.device.type != "cpu":
        cpu = torch.device("cpu")
        latencies["cpu"] = measure_latency(ENGINES["eager"](network, cpu), args.size, cpu)
    return latencies


def measure(args: argparse.Namespace, counter: Counter) -> dict[str, Any] | None:
    """Returns all measurements of a checkpoint, under the names of --json.

    Several processes share the images. The main one measures the rest; the others return None.
    """
    protocol = args.protocol or choose_protocol(counter.arch, args.dataset)
    max_side = counter.limit(args.max_side)
    predict = limited(PROTOCOLS[protocol], max_side)
    engine = build_engine(args.engine, counter.network, counter.fingerprint, args.device)
    samples = read_list(args.test_json)
    maps = name_maps(args, samples)
    own = slice(ranks.rank(), None, ranks.processes())
    loader = build_evaluation_loader(samples[own], args.workers)
    results = count_images(args, engine, loader, predict, maps[own])
    difference = compare_counts(args, counter.network, loader, results, predict)
    results = distributed.gather(results)
    if not ranks.is_main():
        return None
    if args.per_image:
        write_counts(args.per_image, results)
    draw_densities(args, engine, samples, results, predict)
    cost = measure_cost(counter.network, args.size)
    latencies = measure_latencies(args, counter.network, engine)
    gpu, cpu = latencies["cuda"], latencies["cpu"]
    return {
        "model": counter.label,
        "checkpoint": str(args.checkpoint),
        "engine": args.engine,
        "count_difference": difference,
        "dataset": args.dataset,
        "protocol": protocol,
        "max_side": max_side,
        **asdict(score(results)),
        "params": cost.parameters,
        "macs_g": cost.macs / 1e9,
        "flops_g": cost.flops / 1e9,
        "size": list(args.size),
        "gpu_ms": gpu and 1000 * gpu.median,
        "cpu_s": cpu and cpu.median,
        "gpu_latency": gpu and asdict(gpu),
        "cpu_latency": cpu and asdict(cpu),
        "counted_on": describe(args.device),
    }


def main(args: argparse.Namespace) -> None:
    if args.cost:
        print_costs(args.size)
        return
    earlier = [read_measured(path) for path in args.beside]
    allow_tf32(False)
    measured = measure(args, load_checked(args))
    if measured is None:
        return
    print_measured(measured, earlier)
    if args.json:
        write_json(args.json, measured)


if __name__ == "__main__":
    try:
        options = parse_args()
        with distributed.together(options.device):
            main(options)
    except (CheckpointError, CountError, DataError, EngineError, LostProcess, OSError) as error:
        fail(error)
