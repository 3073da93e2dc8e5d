"""Draws figures: learning curves, counts, and density alone or on its picture."""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import matplotlib

matplotlib.use("Agg")  # before pyplot: servers have no screen
import numpy as np  # noqa: E402
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.transforms import Bbox  # noqa: E402

from utils.files import printable, written_whole  # noqa: E402
from utils.metrics import CountResult  # noqa: E402

warnings.filterwarnings("ignore", "Glyph .* missing from", module="utils.plots")


def draw_curves(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws a run's loss terms, each relative to its first epoch, and its validation errors."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    epochs, first = [r["epoch"] for r in records], records[0]
    for term in first:
        if term not in ("epoch", "seconds") and not term.startswith("val_"):
            values = [r.get(term, math.nan) / (first[term] or 1) for r in records]
            left.plot(epochs, values, ".-", label=term)
    left.set(xlabel="epoch", ylabel="loss term / its first value", yscale="log")
    left.legend()
    scored = [r for r in records if "val_mae" in r]
    curves = {"val_mae": "MAE", "val_rmse": "RMSE"}
    if scored and "val_ema_mae" in scored[0]:
        curves |= {"val_ema_mae": "MAE, averaged", "val_ema_rmse": "RMSE, averaged"}
    for name, label in curves.items():
        right.plot(
            [r["epoch"] for r in scored], [r.get(name, math.nan) for r in scored], ".-", label=label
        )
    right.set(xlabel="epoch", ylabel="validation error (heads)")
    begin_at_zero(right)
    right.legend()
    save_figure(figure, path)


def draw_timeline(
    seconds: Sequence[float], counts: Sequence[float], path: Path, title: str, alarm: float | None
) -> None:
    """Draws a video's count over time, and the count above which it is an alarm."""
    figure, axes = plt.subplots(figsize=(10, 4), layout="constrained")
    axes.plot(seconds, counts)
    if alarm is not None:
        axes.axhline(alarm, color="tab:red", linestyle="--", label="alarm")
        axes.legend()
    axes.set(xlabel="seconds", ylabel="count")
    set_title(axes, title)
    begin_at_zero(axes)
    save_figure(figure, path)


def set_title(axes: plt.Axes, title: str, **options: Any) -> None:
    """Writes a title as it is: in files' names a $ begins no formula."""
    axes.set_title(title, parse_math=False, **options)


def label_points(axes: plt.Axes, points: Sequence[tuple[str, float, float]]) -> None:
    """Writes each point's name beside it, or below what would cover it.

    Args:
        axes: with everything else drawn.
        points: of name, x and y each.
    """
    axes.figure.draw_without_rendering()  # so that places on the figure are known
    places = [axes.transData.transform((x, y)) for _, x, y in points]
    taken = [Bbox([place - 4, place + 4]) for place in places]  # by markers, in pixels
    for name, x, y in sorted(points, key=lambda point: -point[2]):
        label = axes.annotate(
            name, (x, y), (5, 4), textcoords="offset points", fontsize=7, parse_math=False
        )
        while any(label.get_window_extent().overlaps(box) for box in taken):
            right, up = label.get_position()
            label.set_position((right, up - 1))
        taken.append(label.get_window_extent())


def begin_at_zero(axes: plt.Axes) -> None:
    """Makes the vertical axis begin at 0 and end above everything drawn."""
    axes.set_ylim(0, 1.05 * axes.get_ylim()[1])


def draw_counts(results: Sequence[CountResult], path: Path, title: str) -> None:
    """Draws predicted against annotated counts, one dot per image."""
    figure, axes = plt.subplots(figsize=(5, 5), layout="constrained")
    heads, predicted = [r.heads for r in results], [r.predicted for r in results]
    limit = 1.05 * max(1, *heads, *predicted)
    axes.plot([0, limit], [0, limit], color="0.7")
    axes.plot(heads, predicted, ".", alpha=0.7)
    axes.set(xlabel="annotated heads", ylabel="predicted count")
    set_title(axes, title)
    axes.set(xlim=(0, limit), ylim=(min(0, *predicted), limit))
    save_figure(figure, path)


def draw_overlay(
    image: np.ndarray,
    truth: np.ndarray,
    predicted: np.ndarray,
    result: CountResult,
    path: Path,
) -> None:
    """Draws a picture, its true and its predicted density, side by side with their counts.

    Args:
        image: (H, W, 3) uint8 RGB.
        truth: (h, w) density, heads per cell.
        predicted: the same, at any resolution.
    """
    height, width = image.shape[:2]
    size = (15, 0.4 + 5 * height / width)
    figure, axes = plt.subplots(1, 3, figsize=size, layout="constrained")
    truth, predicted = (_per_pixel(d, (height, width)) for d in (truth, predicted))
    top = max(float(truth.max()), float(predicted.max()), 1e-9)
    titles = (
        printable(path.stem),
        f"annotated: {result.heads}",
        f"predicted: {result.predicted:.1f}",
    )
    for axis, title, density in zip(axes, titles, (None, truth, predicted), strict=True):
        axis.imshow(image)
        if density is not None:
            share = np.clip(density / top, 0, 1)
            axis.imshow(share, cmap="jet", vmin=0, vmax=1, alpha=0.8 * np.sqrt(share))
        set_title(axis, title)
        axis.axis("off")
    save_figure(figure, path)


def draw_maps(maps: Sequence[tuple[CountResult, np.ndarray, np.ndarray]], path: Path) -> None:
    """Draws true and predicted densities, (h, w) each, side by side with their counts.

    Both share one colour scale, the truth's unless that is empty; values below 0 are drawn as 0.
    """
    rows = -(-len(maps) // 2)  # of two images each
    figure, axes = plt.subplots(
        rows, 4, figsize=(12, 2.5 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.axis("off")
    pairs = axes.reshape(2 * rows, 2)
    for (result, truth, predicted), (left, right) in zip(maps, pairs, strict=False):
        top = float(truth.max()) or max(float(predicted.max()), 1e-9)
        name = printable(Path(result.name).stem)
        set_title(left, f"{name}: {result.heads} heads", fontsize=9)
        set_title(right, f"predicted: {result.predicted:.1f}", fontsize=9)
        for axis, density in ((left, truth), (right, predicted)):
            axis.imshow(density, cmap="magma", vmin=0, vmax=top)
    save_figure(figure, path)


def _per_pixel(density: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes a map of any resolution to (height, width), in heads per pixel."""
    cells = density.size / (size[0] * size[1])
    return cells * cv2.resize(density, size[::-1], interpolation=cv2.INTER_LINEAR)


def save_figure(figure: plt.Figure, path: Path, dpi: int = 100) -> None:
    """Writes a figure and closes it."""
    with written_whole(path) as begun:
        figure.savefig(begun, dpi=dpi)
    plt.close(figure)
