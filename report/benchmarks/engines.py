"""Times full networks and their students against each other, on every engine that runs here."""

import argparse
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from deploy.complexity import measure_cost
from deploy.engines import CPU_ENGINES, ENGINES, EngineError, build_cudagraph
from deploy.latency import Latency, measure_in_turn
from models.build import ARCHITECTURES, parse_width
from models.counter import Counter, new_student
from report.benchmarks.floors import Rates, floor_seconds, measure_rates
from report.benchmarks.report import COLUMNS, ComparisonError, allocator, describe_run

# Of a map's peak. A GPU computes float32 convolutions in TF32, and some engines in bfloat16.
TOLERANCE = {"cpu": 1e-4, "cuda": 5e-2}
GPU_BATCH = 16
PUBLISHED = "eager as published"


@dataclass(frozen=True)
class Candidate:
    """A way to run a network on a batch of images."""

    label: str
    network: nn.Module
    build: Callable[[nn.Module, torch.device], Callable[[Tensor], Tensor]]
    device: str = "cpu"  # type
    layout: torch.memory_format = torch.channels_last  # of the images
    batch: int = 1
    dtype: torch.dtype = torch.float32


def build_published(network: nn.Module, device: torch.device) -> nn.Module:
    """Returns the network in PyTorch's default layout, as the published code runs it."""
    return network.to(device, memory_format=torch.contiguous_format)


def list_candidates(networks: Mapping[str, nn.Module]) -> list[Candidate]:
    """Returns the candidates, on each device first the published ones of all networks.

    Args:
        networks: a full one, then its students, by their names.
    """
    found = []
    full, *students = networks
    for device in ("cpu", "cuda"):
        suffix = ", GPU" if device == "cuda" else ""
        for label, network in networks.items():
            layout = torch.contiguous_format
            name = f"{label}, {PUBLISHED}{suffix}"
            found.append(Candidate(name, network, build_published, device, layout))
        name = f"{full}, eager channels-last{suffix}"
        found.append(Candidate(name, networks[full], ENGINES["eager"], device))
        for label, engine in product(students, ENGINES):
            if engine in CPU_ENGINES if device == "cuda" else engine == "cudagraph":
                continue
            kind = "eager channels-last" if engine == "eager" else engine
            name = f"{label}, {kind}{suffix}"
            found.append(Candidate(name, networks[label], ENGINES[engine], device))
    build = partial(build_cudagraph, dtype=torch.bfloat16)
    for label, batch in product(students, (1, GPU_BATCH)):
        name = f"{label}, cudagraph bfloat16, batch {batch}, GPU"
        found.append(
            Candidate(name, networks[label], build, "cuda", batch=batch, dtype=torch.bfloat16)
        )
    return found


def measure_infer(args: argparse.Namespace) -> dict[str, Any]:
    """Passes of the full networks and of their students, by every engine that is installed."""
    rows = []
    rates = partial(measure_rates, args.device)
    for counters in _with_students():
        networks = {c.label: c.network.eval().requires_grad_(False) for c in counters}
        candidates = list_candidates(networks)
        rows += compare(candidates, args.size, args.device, args.rounds, rates)
    columns = {
        **COLUMNS,
        "baseline": "full network, eager as published (ms)",
        "ratio": "full network / ours",
        "difference": "greatest difference / peak of the map",
        "student_ratio": "student, eager as published / ours",
        "images_per_s": "images/s",
    }
    height, width = args.size
    title = f"Passes over {height}x{width} pixels, {allocator()}"
    notes = [
        "Float32 but where bfloat16 is said. As published: eager, NCHW. Times are an image's.",
        "Floor: the convolutions' operations, computed directly; weights, image, map moved once.",
    ]
    found = {"title": title, "columns": columns, "rows": rows, "notes": notes}
    return found | describe_run(args.device)


def compare(
    candidates: Sequence[Candidate],
    size: tuple[int, int],
    device: torch.device,
    rounds: int,
    rates: Callable[[torch.dtype], Rates],
) -> list[dict[str, Any]]:
    """Checks that all candidates of a device give the published map, and times them in turn.

    Args:
        candidates: the full network's published way first, then those of its students, per device.
        size: height and width of the images.
        rates: measures the device's peak rates for a type, before and after the timing.

    Returns:
        A row for every candidate, without times if it runs elsewhere or lacks a package.

    Raises:
        ComparisonError: a candidate gives a different map.
    """
    own = [candidate for candidate in candidates if candidate.device == device.type]
    types = {candidate.dtype for candidate in own}
    before = {dtype: rates(dtype) for dtype in types}
    runs, differences = {}, {}
    for candidate in own:
        try:
            runs[candidate.label], differences[candidate.label] = _prepare(candidate, size, device)
        except EngineError as error:
            print(f"{candidate.label}: not measured, {error}")
    latencies = measure_in_turn(runs, device, rounds)
    best = {dtype: before[dtype].best(rates(dtype)) for dtype in types}
    rows = []
    for candidate in candidates:
        row: dict[str, Any] = {"label": candidate.label}
        if candidate.label in latencies:
            first = next(one for one in own if one.network is candidate.network)
            full, published = (latencies[one.label].median for one in (own[0], first))
            row |= _times(candidate, latencies[candidate.label], full)
            if first is not own[0]:
                row["student_ratio"] = 1000 * published / row["ours"]
            row["floor"] = 1000 * _floor(candidate, size, best[candidate.dtype])
            row["difference"] = differences[candidate.label]
        rows.append(row)
    return rows


def _with_students() -> list[list[Counter]]:
    """Returns every teacher with its students, of random weights."""
    groups: dict[str, list[Counter]] = {}
    torch.manual_seed(0)
    for arch, entry in ARCHITECTURES.items():
        teacher = entry.teacher or arch
        group = groups.setdefault(teacher, [new_student(teacher, Fraction(1))])
        group.append(new_student(arch, parse_width(entry.student_width)))
    return list(groups.values())


@torch.inference_mode()
def _prepare(
    candidate: Candidate, size: tuple[int, int], device: torch.device
) -> tuple[Callable[[], Tensor], float]:
    """Builds a candidate; returns its pass, and its map's difference from the published one."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(candidate.batch, 3, *size, generator=generator).to(device)
    expected = build_published(copy.deepcopy(candidate.network), device)(images).cpu()
    run = candidate.build(copy.deepcopy(candidate.network), device)
    images = images.to(memory_format=candidate.layout)
    difference = (run(images).cpu() - expected).abs().max().item() / expected.abs().max().item()
    if not difference <= TOLERANCE[device.type]:
        raise ComparisonError(f"{candidate.label}: the map differs by {difference:.2g} of its peak")
    return lambda: run(images), difference


def _times(candidate: Candidate, latency: Latency, full: float) -> dict[str, float]:
    """Returns milliseconds per image, and the ratio to the full network's time in seconds."""
    ours, low, high = (
        1000 * seconds / candidate.batch for seconds in (latency.median, latency.low, latency.high)
    )
    return {
        "baseline": 1000 * full,
        "ours": ours,
        "low": low,
        "high": high,
        "images_per_s": 1000 / ours,
        "ratio": 1000 * full / ours,
    }


def _floor(candidate: Candidate, size: tuple[int, int], rates: Rates) -> float:
    """Returns the least seconds per image; weights, image and map are moved once."""
    cost = measure_cost(candidate.network, size)
    pixels = size[0] * size[1]
    moved = cost.parameters / candidate.batch + 3 * pixels + pixels / candidate.network.stride**2
    return floor_seconds(rates, 2 * cost.macs, moved * candidate.dtype.itemsize)
