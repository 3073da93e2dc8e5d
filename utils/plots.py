"""Figures: learning curves, counts against counts, density on a picture, and ablations.

`python -m utils.plots FOLDER` draws the table and the figure of the runs in a folder.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import matplotlib

matplotlib.use("Agg")  # before pyplot: servers have no screen
import numpy as np  # noqa: E402
from matplotlib import pyplot as plt  # noqa: E402

from utils.metrics import CountResult  # noqa: E402


def draw_curves(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws a run's loss terms, each relative to its first epoch, and its validation errors."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    epochs, first = [r["epoch"] for r in records], records[0]
    for term in first:
        if term not in ("epoch", "seconds") and not term.startswith("val_"):
            left.plot(epochs, [r[term] / (first[term] or 1) for r in records], label=term)
    left.set(xlabel="epoch", ylabel="loss term / its first value", yscale="log")
    left.legend()
    scored = [r for r in records if "val_mae" in r]
    for name, label in (("val_mae", "MAE"), ("val_rmse", "RMSE")):
        right.plot([r["epoch"] for r in scored], [r[name] for r in scored], ".-", label=label)
    right.set(xlabel="epoch", ylabel="validation error (heads)", ylim=(0, None))
    right.legend()
    _save(figure, path)


def draw_counts(results: Sequence[CountResult], path: Path, title: str) -> None:
    """Draws predicted against annotated counts, one dot an image."""
    figure, axes = plt.subplots(figsize=(5, 5), layout="constrained")
    heads, predicted = [r.heads for r in results], [r.predicted for r in results]
    limit = 1.05 * max(1, *heads, *predicted)
    axes.plot([0, limit], [0, limit], color="0.7")
    axes.plot(heads, predicted, ".", alpha=0.7)
    axes.set(xlabel="annotated heads", ylabel="predicted count", title=title)
    axes.set(xlim=(0, limit), ylim=(min(0, *predicted), limit))
    _save(figure, path)


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
    titles = (path.stem, f"annotated: {result.heads}", f"predicted: {result.predicted:.1f}")
    for axis, title, density in zip(axes, titles, (None, truth, predicted), strict=True):
        axis.imshow(image)
        if density is not None:
            share = np.clip(density / top, 0, 1)
            axis.imshow(share, cmap="jet", vmin=0, vmax=1, alpha=0.8 * np.sqrt(share))
        axis.set_title(title)
        axis.axis("off")
    _save(figure, path)


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Returns the result.json of every run in a folder, the widest and plainest ones first.

    Raises:
        ValueError: no run in it is finished, or a result has no loss terms.
    """
    results = [json.loads(path.read_text()) for path in folder.glob("*/result.json")]
    if not results:
        raise ValueError(f"{folder} holds no run that is finished (FOLDER/*/result.json)")
    for result in results:
        if "terms" not in result["settings"]:
            raise ValueError(f"{folder} holds runs that are no distillations")
    return sorted(results, key=lambda r: (-Fraction(r["width"]), len(_terms(r)), _terms(r)))


def format_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Returns a Markdown table of runs: what each was trained with, and its errors."""
    rows = [("width", "parameters", "loss terms", "epochs", "val MAE", "MAE", "RMSE")]
    rows += [("---",) * len(rows[0])]
    for result in results:
        errors = (result["val_mae"], result["test"]["mae"], result["test"]["rmse"])
        rows.append(
            (
                result["width"],
                f"{result['parameters']:,}",
                _terms(result),
                str(result["epochs"]),
                *(f"{error:.2f}" for error in errors),
            )
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def draw_ablation(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws the error against the width, with and without SKT, and that of every variant."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    for terms, label in ((FULL, "with SKT"), ("hard", "alone")):
        runs = [r for r in results if _terms(r) == terms]
        widths = [float(Fraction(r["width"])) for r in runs]
        left.plot(widths, [r["test"]["mae"] for r in runs], ".-", label=label)
    ticks = sorted({Fraction(r["width"]) for r in results})
    left.set_xticks([float(tick) for tick in ticks], [str(tick) for tick in ticks])
    left.set(xlabel="channels, as a part of the plan's", ylabel="MAE", ylim=(0, None))
    left.legend()
    names = [f"{r['width']}  {_terms(r)}" for r in results]
    errors = [r["test"]["mae"] for r in results]
    bars = right.barh(names, errors, color="0.7")
    right.bar_label(bars, fmt="%.1f", padding=2)
    right.invert_yaxis()
    right.set(xlabel="MAE", xlim=(0, 1.1 * max(errors)))
    _save(figure, path)


FULL = "hard + soft + intra + inter"


def _terms(result: Mapping[str, Any]) -> str:
    """Such as hard + soft + intra (l2)."""
    settings = result["settings"]
    terms = settings["terms"].replace(",", " + ")
    return terms if settings["intra"] == "cos" else terms.replace("intra", "intra (l2)")


def main(folder: Path) -> None:
    results = read_results(folder)
    table = format_table(results)
    (folder / "ablation.md").write_text(table + "\n")
    draw_ablation(results, folder / "ablation.png")
    print(table)


def _per_pixel(density: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Brings a map to (height, width), in heads per pixel whatever its resolution was."""
    cells = density.size / (size[0] * size[1])
    return cells * cv2.resize(density, size[::-1], interpolation=cv2.INTER_LINEAR)


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m utils.plots FOLDER")
    try:
        main(Path(sys.argv[1]))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
