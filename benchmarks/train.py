"""Distillation steps of CSRNet: the published loop against ours, on the same crops."""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import report
from benchmarks.floors import floor_seconds, measure_rates
from benchmarks.loops import PARTS, Loop, Ours, Published, write_pictures
from datasets.sampler import CropIndex
from datasets.transforms import Augmentation, FixedCrop
from utils.complexity import measure_cost
from utils.latency import summarise

MOST_PICTURES = 8  # that crops are cut from
PROFILED = 3  # passes
# Relative: sums over tens of thousands of positions, in another order or of rounded products.
SAME_TERM = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
COLUMNS = report.COLUMNS | {
    "baseline": "published (ms)",
    "difference": "greatest difference of a loss term, relative",
}


def measure_train(args: argparse.Namespace) -> dict[str, Any]:
    """Distillation of CSRNet: the published loop's steps against ours, a batch on the device."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it complains where no GPU is
    size, batch = args.size, args.batch_size
    draws = Augmentation(FixedCrop(*size), flip=0.5)
    with tempfile.TemporaryDirectory() as folder:
        samples = write_pictures(Path(folder), min(batch, MOST_PICTURES))
        loops = [build(samples, draws, args.device) for build in (Published, Ours)]
        difference = compare_terms(*loops)
        before = measure_rates(args.device, loops[1].precision)
        seconds = measure_speed(loops, batch, args.rounds)
        rates = before.best(measure_rates(args.device, loops[1].precision))
        parts = [measure_parts(loop, batch) for loop in loops]
        memory = measure_memory(loops[0], 1), measure_memory(loops[1], batch)
    floor = floor_seconds(rates, *count_work(loops[1], size, batch))
    taken = [summarise(each, args.device) for each in seconds]
    suffix = ", GPU" if args.device.type == "cuda" else ""
    rows = [report.compare_times(f"a step{suffix}", *(each.median / batch for each in taken))]
    rows[0] |= {"low": 1000 * taken[1].low / batch, "high": 1000 * taken[1].high / batch}
    rows[0] |= {"floor": 1000 * floor, "difference": difference}
    rows += [
        report.compare_times(f"{part}{suffix}*", *(each[part] / batch for each in parts))
        for part in PARTS
    ]
    rows += [] if suffix else [{"label": "a step, GPU"}]
    published, ours = (most / 1e6 for most in memory)
    notes = [
        f"Milliseconds of a crop; the published loop takes one a step, ours {batch}.",
        f"*Mean of {PROFILED} passes under PyTorch's profiler, which takes time itself.",
        f"Most memory at a time beyond networks, pictures and maps: published {published:.0f} MB "
        f"for its one crop, ours {ours:.0f} MB for {batch}, {ours / batch:.0f} MB a crop.",
        "Floor: multiply-accumulates of the teacher's forward and the student's and adapters' "
        "forward and backward; weights moved once a step, and the pixels once.",
    ]
    title = f"Distillation of 1/4-CSRNet, crops of {size[0]}x{size[1]}, {report.allocator()}"
    result = {"title": title, "columns": COLUMNS, "rows": rows, "notes": notes}
    return result | report.describe_run(args.device)


def compare_terms(published: Loop, ours: Loop) -> float:
    """Takes one step of each on the same crop, and returns how much their terms differ at most.

    Raises:
        ComparisonError: by more than rounding.
    """
    one, other = (loop.take_step(_indices(1, 0)) for loop in (published, ours))
    differences = {name: abs(other[name].item() / one[name].item() - 1) for name in one}
    if not max(differences.values()) <= SAME_TERM[ours.precision]:
        raise report.ComparisonError(
            f"the loss terms differ by {differences}, relative to the published"
        )
    return max(differences.values())


def measure_speed(loops: Sequence[Loop], batch: int, rounds: int) -> list[list[float]]:
    """Returns the seconds that each loop takes for `batch` crops, the loops in turn."""
    seconds: list[list[float]] = [[] for _ in loops]
    for number in range(rounds + 1):
        for loop, taken in zip(loops, seconds, strict=True):
            began = time.perf_counter()
            loop.take_step(_indices(batch, number))["hard"].item()  # waits for the device
            if number:  # the first one warms up
                taken.append(time.perf_counter() - began)
    return seconds


def measure_parts(loop: Loop, batch: int) -> dict[str, float]:
    """Returns the mean seconds of PARTS in passes of `batch` crops, from PyTorch's profiler."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for number in range(PROFILED):
            loop.take_step(_indices(batch, number))
    totals = {event.key: event.cpu_time_total / 1e6 for event in profiler.key_averages()}
    return {part: totals[part] / PROFILED for part in PARTS}


def measure_memory(loop: Loop, batch: int) -> int:
    """Returns the most bytes that a pass of `batch` crops holds beyond what it begins with."""
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

    The teacher runs forward; the student and its adapters forward, and backward, twice as much.
    """
    cells = [-(-size[0] // tap.stride) * -(-size[1] // tap.stride) for tap in loop.student.taps]
    adapting = sum(
        count * adapter.weight.numel()
        for count, adapter in zip(cells, loop.adapters.values(), strict=True)
    )
    teacher, student = (measure_cost(network, size) for network in (loop.teacher, loop.student))
    moved = (teacher.parameters + 3 * student.parameters) / batch + 3 * size[0] * size[1]
    operations = 2 * (teacher.macs + 3 * (student.macs + adapting))
    return operations, moved * loop.precision.itemsize


def _indices(batch: int, number: int) -> list[CropIndex]:
    return [(i % MOST_PICTURES, (0, number, i)) for i in range(batch)]
