"""Exported counters beside their teachers: size on disk, error on a list, time on the CPU."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from counting.protocols import evaluate
from datasets.loaders import build_evaluation_loader
from datasets.splits import read_list
from deploy.deployed import prepare
from deploy.engines import Engine, build_eager, exported_engine
from deploy.exported import FORMATS, draw_pictures, open_exported
from deploy.latency import measure_in_turn
from models.build import ARCHITECTURES
from models.counter import read_counter
from report.benchmarks.report import allocator, describe_run
from utils.metrics import score
from utils.pixels import normalise
from utils.processor import dot_products

CPU = torch.device("cpu")
COLUMNS = {
    "label": "",
    "mb": "MB on disk",
    "mae": "MAE",
    "rmse": "RMSE",
    "ours": "CPU (ms)",
    "low": "lowest decile",
    "high": "highest decile",
    "baseline": "the first row's (ms)",
    "ratio": "ratio",
    "floats": "layers in float32",
}


def measure_int8(args: argparse.Namespace) -> dict[str, Any]:
    """Checkpoints in PyTorch and exported files: size, MAE and CPU time, the first the baseline."""
    samples = read_list(args.list)
    rows, notes, runs = [], [], {}
    names = [path.name for path in args.counters]
    if len(set(names)) < len(names):
        names = [str(path) for path in args.counters]
    opened = [_open(path, name, args.size) for path, name in zip(args.counters, names, strict=True)]
    for path, (row, note, engine, run) in zip(args.counters, opened, strict=True):
        notes += note
        runs[str(path)] = run
        loader = build_evaluation_loader(samples, workers=0)
        scores = score(evaluate(engine, loader, CPU, "whole"))
        rows.append(row | {"mae": scores.mae, "rmse": scores.rmse})
        print(f"{row['label']}: MAE {scores.mae:.2f}", flush=True)
    latencies = measure_in_turn(runs, CPU, args.rounds)
    first = latencies[str(args.counters[0])].median
    for row, path in zip(rows, args.counters, strict=True):
        latency = latencies[str(path)]
        row["ours"], row["low"], row["high"] = (
            1000 * seconds for seconds in (latency.median, latency.low, latency.high)
        )
        row["baseline"], row["ratio"] = 1000 * first, first / latency.median
    height, width = args.size
    found = ", ".join(dot_products()) or "none: INT8 may be no faster here"
    return {
        "title": f"{args.list.stem}: error, and time at {height}x{width} pixels, {allocator()}",
        "columns": COLUMNS,
        "rows": rows,
        "notes": [
            f"Errors over the {len(samples)} images of {args.list.name}, against annotated heads.",
            f"The processor's 8-bit dot products: {found}.",
            *notes,
        ],
    } | describe_run(CPU)


def _open(
    path: Path, name: str, size: tuple[int, int]
) -> tuple[dict[str, Any], list[str], nn.Module | Engine, Callable[[], object]]:
    """Returns a counter's table row, its notes, the counter, and its pass over a picture."""
    pixels = draw_pictures(1, *size)
    if path.suffix not in FORMATS:
        counter = read_counter(path)
        eager = build_eager(counter.network, CPU)
        label = f"{name}: {counter.label}, PyTorch"
        row = {"label": label, "mb": path.stat().st_size / 1e6}
        images = normalise(pixels)
        return row, [], eager, lambda: eager(images)
    exported = open_exported(path)
    facts, images = exported.facts, prepare(pixels, exported.preprocess)
    inside = ", from uint8" if exported.preprocess else ""
    runtime, precision = FORMATS[path.suffix].RUNTIME, facts["precision"]
    label = f"{name}: {facts['model']}, {runtime}, {precision}{inside}"
    row = {"label": label, "mb": exported.size / 1e6}
    if "float32_layers" in facts:
        row["floats"] = str(len(facts["float32_layers"].split()))
    network = ARCHITECTURES[facts["architecture"]].network
    engine = exported_engine(network, exported.run, exported.preprocess)
    return row, [_describe(name, facts)], engine, lambda: exported.run(images)


def _describe(name: str, facts: dict[str, str]) -> str:
    """Returns a note on an exported counter's origin and on its layers in float32."""
    made = f"{name} is of {facts['checkpoint']} (weights {facts['weights_sha256'][:8]})"
    if facts["precision"] == "float32":
        return f"{made}."
    kept = facts["float32_layers"]
    return f"{made}, its ranges of {facts['calibration']}, its layers in float32: {kept}."
