"""How long a network takes for one image."""

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

WARM_UP = 2  # passes before any is timed
LEAST, MOST = 3, 50  # timed passes
BUDGET_S = 10.0  # no further pass is begun after this long


@dataclass(frozen=True)
class Latency:
    """Seconds of one pass: the median of `passes`, and the tenth and ninetieth percentile."""

    median: float
    low: float
    high: float
    passes: int
    device: str  # its name, threads and precision


@torch.inference_mode()
def measure_latency(network: nn.Module, size: tuple[int, int], device: torch.device) -> Latency:
    """Times a network's passes over one RGB image of (height, width) on a device.

    The network is moved there. Every pass is waited for, and the first ones do not count.
    """
    network = network.to(device, memory_format=torch.channels_last)
    image = torch.rand(1, 3, *size, device=device).to(memory_format=torch.channels_last)
    for _ in range(WARM_UP):
        _time_pass(lambda: network(image), device)
    seconds: list[float] = []
    while len(seconds) < LEAST or (len(seconds) < MOST and sum(seconds) < BUDGET_S):
        seconds.append(_time_pass(lambda: network(image), device))
    deciles = statistics.quantiles(seconds, n=10, method="inclusive")
    median = statistics.median(seconds)
    return Latency(median, deciles[0], deciles[-1], len(seconds), describe(device))


def describe(device: torch.device) -> str:
    """Returns a device's name, with its threads or TF32 setting, and the precision."""
    if device.type == "cuda":
        tf32 = ", TF32 convolutions" if torch.backends.cudnn.allow_tf32 else ""
        return f"{torch.cuda.get_device_name(device)}, float32{tf32}, channels-last"
    return f"{_processor_name()}, {torch.get_num_threads()} threads, float32, channels-last"


def _time_pass(run: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
