"""Measures how long a network's pass over one image takes, or several things in turn."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from utils.device import device_name

WARM_UP = 2  # passes before any is timed
LEAST, MOST = 3, 50  # timed passes
BUDGET_S = 10.0  # no further pass is started after this time


@dataclass(frozen=True)
class Latency:
    """Seconds of one pass: the median of `passes`, and the tenth and ninetieth percentile."""

    median: float
    low: float
    high: float
    passes: int
    device: str  # its name, threads and precision


@torch.inference_mode()
def measure_latency(
    network: Callable[[Tensor], Tensor], size: tuple[int, int], device: torch.device
) -> Latency:
    """Times a network's, or an engine's, passes over one RGB image of (height, width).

    The network must be on the device, where a channels-last image is made. Every pass is
    synchronised, and the first ones do not count.
    """
    image = torch.rand(1, 3, *size, device=device).to(memory_format=torch.channels_last)
    for _ in range(WARM_UP):
        _time_pass(lambda: network(image), device)
    seconds: list[float] = []
    while len(seconds) < LEAST or (len(seconds) < MOST and sum(seconds) < BUDGET_S):
        seconds.append(_time_pass(lambda: network(image), device))
    return summarise(seconds, device)


@torch.inference_mode()
def measure_in_turn(
    runs: Mapping[str, Callable[[], object]], device: torch.device, rounds: int
) -> dict[str, Latency]:
    """Times several things in turn, A, B, A, B, ..., so that the machine's noise affects all alike.

    Each timed pass follows an untimed one of the same thing, as the previous thing's threads may
    still be waiting for work, and its data fills the caches.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            _time_pass(run, device)
            seconds[name].append(_time_pass(run, device))
    return {name: summarise(times, device) for name, times in seconds.items()}


def summarise(seconds: Sequence[float], device: torch.device) -> Latency:
    """Returns the median and deciles of passes' times."""
    deciles = [seconds[0]] * 9
    if len(seconds) > 1:
        deciles = statistics.quantiles(seconds, n=10, method="inclusive")
    median = statistics.median(seconds)
    return Latency(median, deciles[0], deciles[-1], len(seconds), describe(device))


def describe(device: torch.device) -> str:
    """Returns a device's name, with its threads or TF32 setting, and the precision."""
    narrowed = device.type == "cuda" and torch.backends.cudnn.allow_tf32
    return f"{device_name(device)}, float32{', TF32 convolutions' if narrowed else ''}"


def _time_pass(run: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
