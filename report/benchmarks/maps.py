"""Times a transcription of the published density maps against preprocess/density.py."""

import argparse
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from deploy.latency import measure_in_turn
from preprocess.density import density_map, merge_heads, sigmas_by_three_nearest
from report.benchmarks.floors import floor_seconds, measure_rates
from report.benchmarks.report import COLUMNS, ComparisonError, compare_times, describe_run

SAME_MAP = 1e-6  # heads per pixel: float32 maps that sum their heads in another order


def measure_preprocess(args: argparse.Namespace) -> dict[str, Any]:
    """Density maps: a filter of the whole image for every head, against preprocess/density.py."""
    rng = np.random.default_rng(0)
    points = merge_heads(rng.random((args.heads, 2)) * args.size[::-1])
    sigmas = sigmas_by_three_nearest(points, args.size)
    ours = partial(density_map, points, sigmas, args.size, "constant")
    published = partial(published_density_map, points, sigmas, args.size)
    difference = float(np.abs(ours() - published()).max())
    if not difference <= SAME_MAP:
        raise ComparisonError(f"the maps differ by {difference:.2g} heads per pixel")
    cpu = torch.device("cpu")
    timed = measure_in_turn({"published": published, "ours": ours}, cpu, args.rounds)
    windows = (2 * (4 * sigmas + 0.5).astype(int) + 1) ** 2  # pixels that a head reaches
    floor = floor_seconds(measure_rates(cpu), 2 * windows.sum(), 4 * np.prod(args.size))
    height, width = args.size
    taken = timed["ours"]
    row = compare_times(f"{len(points)} heads", timed["published"].median, taken.median)
    row |= {"low": 1000 * taken.low, "high": 1000 * taken.high}
    row |= {"floor": 1000 * floor, "difference": difference}
    columns = COLUMNS | {"difference": "greatest difference (heads per pixel)"}
    title = f"Density maps of {height}x{width} pixels"
    notes = [
        "Floor: a product and a sum for every pixel of every head's window; the map moved once."
    ]
    return {"title": title, "columns": columns, "rows": [row], "notes": notes} | describe_run(cpu)


def published_density_map(
    points: np.ndarray, sigmas: np.ndarray, size: tuple[int, int], mode: str = "constant"
) -> np.ndarray:
    """Returns the (H, W) float32 map of CSRNet's code, which filters a whole image per head.

    Args:
        points: (N, 2), x then y, all inside the image.
        sigmas: (N,) in pixels.
        mode: how scipy continues the image beyond its border.
    """
    density = np.zeros(size, np.float32)
    for (x, y), sigma in zip(points.astype(int), sigmas, strict=True):
        head = np.zeros(size, np.float32)
        head[y, x] = 1
        density += gaussian_filter(head, sigma, mode=mode)
    return density
