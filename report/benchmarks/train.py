"""Times distillation steps of CSRNet: the published loop against ours, on the same crops."""

import argparse
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from datasets.sampler import CropIndex
from datasets.sizes import Size, grid
from datasets.splits import Sample
from datasets.transforms import Augmentation, FixedCrop
from deploy.complexity import measure_cost
from deploy.latency import Latency, summarise
from report.benchmarks import report
from report.benchmarks.floors import floor_seconds, measure_rates
from report.benchmarks.loops import PARTS, Kept, KeptShort, Live, Loop, Published, write_pictures
from utils.processor import has_bfloat16_tiles

MOST_PICTURES, PICTURE = 4, (576, 768)  # that crops are cut from
PROFILED = 3  # passes
# Relative: sums over tens of thousands of positions, in another order or of rounded products.
SAME_TERM = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
PUBLISHED, LIVE, KEPT, SHORT = "published", "teacher live", "answers kept", "answers kept, bfloat16"
WAYS: dict[str, type[Loop]] = {PUBLISHED: Published, LIVE: Live, KEPT: Kept, SHORT: KeptShort}
COLUMNS = report.COLUMNS | {
    "baseline": "published (ms)",
    "over_live": "teacher live / this",
    "difference": "greatest difference of a loss term, relative",
}


@dataclass(frozen=True)
class Measured:
    """The measurements of one loop, for a batch."""

    taken: Latency
    floor: float  # seconds of a crop
    parts: dict[str, float]  # seconds of PARTS
    memory: int  # peak bytes beyond those at the start of a pass


def measure_train(args: argparse.Namespace) -> dict[str, Any]:
    """Distillation of CSRNet: the published loop's steps against ours, a batch on the device."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it warns where there is no GPU
    size, batch, gpu = args.size, args.batch_size, args.device.type == "cuda"
    draws = Augmentation(FixedCrop(*size), flip=0.5)
    kinds = dict(WAYS)
    if gpu or not has_bfloat16_tiles():
        del kinds[SHORT]
    with tempfile.TemporaryDirectory() as folder:
        samples = write_pictures(Path(folder, "crops"), min(batch, MOST_PICTURES), PICTURE)
        whole = write_pictures(Path(folder, "whole"), 1, size)
        differences = compare_terms(kinds, whole, draws, size, args.device)
        loops = {way: build(samples, draws, args.device, PICTURE) for way, build in kinds.items()}
        measured = measure_loops(loops, size, batch, args.rounds)
    suffix = ", GPU" if gpu else ""
    rows = [
        describe_step(way, measured, batch, suffix) | {"difference": differences[way]}
        for way in kinds
        if way != PUBLISHED
    ]
    rows += [
        report.compare_times(
            f"{part}, {way}{suffix}*",
            *(each.parts[part] / batch for each in (measured[PUBLISHED], measured[way])),
        )
        for way in kinds
        if way != PUBLISHED
        for part in PARTS
    ]
    rows += [] if gpu else [{"label": f"a step, {way}, GPU"} for way in WAYS if way != PUBLISHED]
    most = ", ".join(f"{way} {each.memory / 1e6:.0f} MB" for way, each in measured.items())
    notes = [
        f"Milliseconds of a crop; the published loop takes one a step, ours {batch}.",
        f"*Mean of {PROFILED} passes under PyTorch's profiler, which takes time itself.",
        f"Most memory of a step at a time, beyond networks, pictures and maps: {most}.",
        "Terms are compared on a crop that is a whole picture. Where answers are kept the teacher "
        "is asked about its first layer alone; on other crops it saw beyond their borders.",
        "Floor: multiply-accumulates of the student's and adapters' forward and backward, and of "
        "the teacher's forward where it is live; weights moved once a step, the pixels once, and "
        "what is kept of the teacher's features.",
    ]
    title = f"Distillation of 1/4-CSRNet, crops of {size[0]}x{size[1]}, {report.allocator()}"
    result = {"title": title, "columns": COLUMNS, "rows": rows, "notes": notes}
    return result | report.describe_run(args.device)


def measure_loops(
    loops: Mapping[str, Loop], size: Size, batch: int, rounds: int
) -> dict[str, Measured]:
    """Times the loops in turn, and measures their parts and memory."""
    device = loops[PUBLISHED].device
    types = {loop.precision for loop in loops.values()}
    before = {number: measure_rates(device, number) for number in types}
    seconds = measure_speed(loops, batch, rounds)
    rates = {number: before[number].best(measure_rates(device, number)) for number in types}
    return {
        way: Measured(
            summarise(seconds[way], device),
            floor_seconds(rates[loop.precision], *count_work(loop, size, batch)),
            measure_parts(loop, batch),
            measure_memory(loop, 1 if way == PUBLISHED else batch),
        )
        for way, loop in loops.items()
    }


def describe_step(
    way: str, measured: Mapping[str, Measured], batch: int, suffix: str
) -> dict[str, Any]:
    """Returns a row of the time per crop, compared with the published loop and the live teacher."""
    taken = measured[way].taken
    published, live = measured[PUBLISHED].taken.median, measured[LIVE].taken.median
    row = report.compare_times(f"a step, {way}{suffix}", published / batch, taken.median / batch)
    row |= {"low": 1000 * taken.low / batch, "high": 1000 * taken.high / batch}
    return row | {"floor": 1000 * measured[way].floor, "over_live": live / taken.median}


def compare_terms(
    kinds: Mapping[str, type[Loop]],
    pictures: Sequence[Sample],
    draws: Augmentation,
    size: Size,
    device: torch.device,
) -> dict[str, float]:
    """Takes a step of each kind of loop on the same whole picture.

    Returns:
        The greatest relative difference of each loop's terms from the published ones.

    Raises:
        ComparisonError: they differ by more than rounding.
    """
    published: dict[str, float] = {}
    differences = {}
    for way, build in kinds.items():
        loop = build(pictures, draws, device, size)
        terms = {name: term.item() for name, term in loop.take_step(_indices(1, 0)).items()}
        published = published or terms
        found = {name: abs(term / published[name] - 1) for name, term in terms.items()}
        differences[way] = max(found.values())
        rounded = torch.bfloat16 if isinstance(loop, Kept) else loop.precision
        if not differences[way] <= SAME_TERM[rounded]:
            raise report.ComparisonError(
                f"the loss terms of {way} differ by {found}, relative to the published"
            )
    return differences


def measure_speed(loops: Mapping[str, Loop], batch: int, rounds: int) -> dict[str, list[float]]:
    """Returns the seconds that each loop takes for `batch` crops, the loops in turn."""
    seconds: dict[str, list[float]] = {way: [] for way in loops}
    for number in range(rounds + 1):
        for way, loop in loops.items():
            began = time.perf_counter()
            loop.take_step(_indices(batch, number))["hard"].item()  # waits for the device
            if number:  # the first one warms up
                seconds[way].append(time.perf_counter() - began)
    return seconds


def measure_parts(loop: Loop, batch: int) -> dict[str, float]:
    """Returns the mean seconds of PARTS in passes of `batch` crops, from PyTorch's profiler."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for number in range(PROFILED):
            loop.take_step(_indices(batch, number))
    totals = {event.key: event.cpu_time_total / 1e6 for event in profiler.key_averages()}
    return {part: totals[part] / PROFILED for part in PARTS}


def measure_memory(loop: Loop, batch: int) -> int:
    """Returns the peak bytes of a pass of `batch` crops, beyond those at its start."""
    indices = _indices(batch, 0)
    if loop.device.type == "cuda":
        before = torch.cuda.memory_allocated(loop.device)
        torch.cuda.reset_peak_memory_stats(loop.device)
        loop.take_step(indices)
        return torch.cuda.max_memory_allocated(loop.device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        loop.take_step(indices)
    events = profiler.profiler.kineto_results.events()
    changes = [event.nbytes() for event in events if event.name() == "[memory]"]
    return max(accumulate(changes))


def count_work(loop: Loop, size: tuple[int, int], batch: int) -> tuple[int, float]:
    """Returns a crop's operations, where a multiply-accumulate is two, and the bytes it moves.

    A live teacher runs forward. The student and its adapters run forward and backward, which takes
    twice as much again.
    """
    cells = [prod(grid(size, tap.stride)) for tap in loop.student.taps]
    adapters = list(loop.adapters.values())
    adapting = sum(n * adapter.weight.numel() for n, adapter in zip(cells, adapters, strict=True))
    teacher, student = (measure_cost(network, size) for network in (loop.teacher, loop.student))
    operations = 2 * 3 * (student.macs + adapting)
    moved = 3 * student.parameters / batch + 3 * size[0] * size[1]
    if isinstance(loop, Kept):
        moved += sum(
            n * adapter.out_channels for n, adapter in zip(cells[1:], adapters[1:], strict=True)
        )
    else:
        operations += 2 * teacher.macs
        moved += teacher.parameters / batch
    return operations, moved * loop.precision.itemsize


def _indices(batch: int, number: int) -> list[CropIndex]:
    return [(i % MOST_PICTURES, (0, number, i)) for i in range(batch)]
