"""Figures: learning curves, counts against counts, density on a picture, and ablations.

`python utils/plots.py FOLDER` draws the table and the figure of the distillations in a folder.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import matplotlib

matplotlib.use("Agg")  # before pyplot: servers have no screen
import numpy as np  # noqa: E402
from matplotlib import pyplot as plt  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from utils.metrics import CountResult  # noqa: E402

ALL_TERMS = "hard,soft,intra,inter"


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
    curves = {"val_mae": "MAE", "val_rmse": "RMSE"}
    if scored and "val_ema_mae" in scored[0]:
        curves |= {"val_ema_mae": "MAE, averaged", "val_ema_rmse": "RMSE, averaged"}
    for name, label in curves.items():
        right.plot([r["epoch"] for r in scored], [r[name] for r in scored], ".-", label=label)
    right.set(xlabel="epoch", ylabel="validation error (heads)", ylim=(0, None))
    right.legend()
    _save(figure, path)


def draw_timeline(
    seconds: Sequence[float], counts: Sequence[float], path: Path, title: str, alarm: float | None
) -> None:
    """Draws a video's count over time, and the count above which it is an alarm."""
    figure, axes = plt.subplots(figsize=(10, 4), layout="constrained")
    axes.plot(seconds, counts)
    if alarm is not None:
        axes.axhline(alarm, color="tab:red", linestyle="--", label="alarm")
        axes.legend()
    axes.set(xlabel="seconds", ylabel="count", title=title, ylim=(0, None))
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


@dataclass(frozen=True)
class Variant:
    """A distillation of an ablation, and its errors."""

    width: Fraction
    parameters: int
    terms: str  # of the loss, with commas
    intra: str  # distance
    budget: str  # what variants must share to be compared
    val_mae: float
    mae: float
    rmse: float

    @property
    def label(self) -> str:
        """Such as hard + soft + intra (l2)."""
        terms = self.terms.replace(",", " + ")
        return terms if self.intra == "cos" else terms.replace("intra", f"intra ({self.intra})")


def read_variants(folder: Path) -> list[Variant]:
    """Returns the finished runs in a folder, the widest and those of the fewest terms first.

    Raises:
        ValueError: there is none, a result is no distillation's, or they cannot be compared.
    """
    variants = [_read_variant(path) for path in sorted(folder.glob("*/result.json"))]
    if not variants:
        raise ValueError(f"{folder} holds no finished run (FOLDER/RUN/result.json)")
    budgets = sorted({variant.budget for variant in variants})
    if len(budgets) > 1:
        raise ValueError(f"{folder} mixes runs of {' and of '.join(budgets)}: name another folder")
    return sorted(variants, key=lambda v: (-v.width, v.terms.count(","), v.terms, v.intra))


def _read_variant(path: Path) -> Variant:
    try:
        result = json.loads(path.read_text())
        settings, test = result["settings"], result["test"]
        return Variant(
            Fraction(result["width"]),
            result["parameters"],
            settings["terms"],
            settings["intra"],
            f"{result['arch']} on {settings['dataset']} for {result['epochs']} epochs",
            result["val_mae"],
            test["mae"],
            test["rmse"],
        )
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is no distillation's result") from None


def format_table(variants: Sequence[Variant]) -> str:
    """Returns a Markdown table: what each variant was trained with, and its errors."""
    rows = [("width", "parameters", "loss terms", "val MAE", "MAE", "RMSE")]
    rows += [("---",) * len(rows[0])]
    for v in variants:
        errors = (f"{error:.2f}" for error in (v.val_mae, v.mae, v.rmse))
        rows.append((str(v.width), f"{v.parameters:,}", v.label, *errors))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def draw_ablation(variants: Sequence[Variant], path: Path) -> None:
    """Draws the error against the width, with and without SKT, and that of every variant."""
    size = (12, max(5, 0.4 * len(variants)))
    figure, (left, right) = plt.subplots(1, 2, figsize=size, layout="constrained")
    for terms, label in ((ALL_TERMS, "with SKT"), ("hard", "alone")):
        runs = [v for v in variants if v.terms == terms and v.intra == "cos"]
        left.plot([float(v.width) for v in runs], [v.mae for v in runs], ".-", label=label)
    widths = sorted({v.width for v in variants})
    left.set_xticks([float(width) for width in widths], [str(width) for width in widths])
    left.set(xlabel="channels, as a part of the plan's", ylabel="MAE", ylim=(0, None))
    left.legend()
    rows, errors = range(len(variants)), [v.mae for v in variants]
    right.bar_label(right.barh(rows, errors, color="0.7"), fmt="%.1f", padding=2)
    right.set_yticks(rows, [f"{v.width}  {v.label}" for v in variants])
    right.invert_yaxis()
    right.set(xlabel="MAE", xlim=(0, 1.1 * max(errors)), title=variants[0].budget)
    _save(figure, path)


def _per_pixel(density: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Brings a map to (height, width), in heads per pixel whatever its resolution was."""
    cells = density.size / (size[0] * size[1])
    return cells * cv2.resize(density, size[::-1], interpolation=cv2.INTER_LINEAR)


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(folder: Path) -> None:
    variants = read_variants(folder)
    table = format_table(variants)
    (folder / "ablation.md").write_text(table + "\n")
    draw_ablation(variants, folder / "ablation.png")
    print(f"{table}\n\n{variants[0].budget}; the figure is {folder / 'ablation.png'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Table and figure of an ablation's runs.")
    parser.add_argument("folder", type=Path, help="whose folders are the runs")
    try:
        main(parser.parse_args().folder)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
