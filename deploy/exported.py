"""Writes files of exported counters once they are verified, and opens them."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from deploy import onnx_format, openvino_format
from deploy.deployed import Deployed, EngineError, Infer, prepare
from utils.files import unfinished_folder

NEEDED = ("model", "architecture", "precision", "preprocessing", "checkpoint", "weights_sha256")
CHECKED = ((1, 96, 160), (1, 203, 317), (2, 331, 250))  # images, height and width
TOLERANCE = 1e-3  # of counts and unlikeness, and of a map's cells relative to its peak


class Format(Protocol):
    """The interface of a format's module; see its functions."""

    RUNTIME: str  # the name of what runs its models
    PACKAGES: Sequence[str]  # needed for exporting
    INT8_PACKAGES: Sequence[str]  # needed for quantising

    export: Callable[[Deployed], Any]  # network -> model
    open_model: Callable[[Any], tuple[Infer, dict[str, str]]]  # model or its path -> run, its facts
    save: Callable[[Any, Path, Mapping[str, str]], list[Path]]  # model, path, facts -> files
    quantise: Callable[[Any, Sequence[Tensor], bool, Collection[str]], Any]  # model, ... -> model


FORMATS: dict[str, Format] = {".onnx": onnx_format, ".xml": openvino_format}


class ExportError(RuntimeError):
    """A model cannot be exported as requested; the message has the numbers."""


@dataclass(frozen=True)
class Exported:
    """An exported counter that is ready to run.

    Attributes:
        run: takes images as `deploy.deployed.prepare` makes them with this `preprocess`.
        facts: the file's metadata.
        preprocess: whether it normalises pictures itself.
        size: bytes of its files.
    """

    run: Infer
    facts: dict[str, str]
    preprocess: bool
    size: int


def open_exported(path: Path) -> Exported:
    """Opens a file that export.py wrote.

    Raises:
        EngineError: it is missing, damaged or not from export.py, or a package is missing.
    """
    if not path.is_file():
        raise EngineError(f"exported counter {path} does not exist; export.py writes it")
    run, facts = FORMATS[path.suffix].open_model(path)
    if missing := [name for name in NEEDED if name not in facts]:
        raise EngineError(
            f"{path} is no counter that export.py wrote: its metadata lack {', '.join(missing)}"
        )
    if facts["preprocessing"] not in ("inside", "outside"):
        raise EngineError(f"{path} has the preprocessing {facts['preprocessing']!r}, unknown here")
    files = {path, path.with_suffix(".bin")} if path.suffix == ".xml" else {path}
    size = sum(file.stat().st_size for file in files)
    return Exported(run, facts, facts["preprocessing"] == "inside", size)


def write_exported(
    path: Path, model: Any, facts: Mapping[str, str], check: Callable[[Infer], object]
) -> list[Path]:
    """Writes a model in the format of the path's ending if it passes a check; returns its files.

    Args:
        check: raises an error to reject the written model; the path is then unchanged.
    """
    form = FORMATS[path.suffix]
    with unfinished_folder(path) as folder:
        files = form.save(model, folder / path.name, facts)
        check(form.open_model(files[-1])[0])
        if len(files) > 1:
            path.unlink(missing_ok=True)  # killed here, it leaves no pair that does not fit
        for file in files:
            os.replace(file, path.with_name(file.name))
    return [path.with_name(file.name) for file in files]


def check_parity(run: Infer, reference: Infer, preprocess: bool) -> float:
    """Compares all outputs at three sizes, two of them odd and one a batch of two.

    Returns the greatest difference of a count, relative to the count or, if that is below 1, to 1.

    Raises:
        ExportError: such a difference, from the reference's count or the map's sum, is more than
            TOLERANCE, or that of a cell relative to the map's peak, or that of the unlikeness as
            that of a count; or shapes differ, or the reference is not finite.
    """
    greatest = 0.0
    for count, height, width in CHECKED:
        images = prepare(draw_pictures(count, height, width), preprocess)
        (density, counts, *rated), (expected, numbers, *rates) = run(images), reference(images)
        where = f"on {count} of {height}x{width} pixels"
        if not np.isfinite(numbers).all():
            raise ExportError(f"{where} what it was made of counts {numbers}")
        if density.shape != expected.shape or counts.shape != numbers.shape:
            raise ExportError(
                f"{where} the exported map and count have the shapes {density.shape} and "
                f"{counts.shape}, not {expected.shape} and {numbers.shape}"
            )
        sums = density.sum((1, 2, 3))
        for found, wanted in zip((*counts, *counts), (*numbers, *sums), strict=True):
            difference = abs(found - wanted) / max(1, abs(wanted))
            greatest = max(greatest, float(difference))
            if not difference <= TOLERANCE:
                raise ExportError(f"{where} the exported model counts {found:g}, not {wanted:g}")
        for found, wanted in zip(np.ravel(rated), np.ravel(rates), strict=True):
            if not abs(found - wanted) <= TOLERANCE * max(1, wanted):
                raise ExportError(f"{where} the unlikeness is {found:g}, not {wanted:g}")
        difference, peak = abs(density - expected).max(), abs(expected).max()
        if not difference <= TOLERANCE * peak:
            raise ExportError(f"{where} the map differs by {difference / peak:.2g} of its peak")
    return greatest


def draw_pictures(count: int, height: int, width: int) -> torch.Tensor:
    """Returns (count, 3, height, width) uint8 pictures of random spots of several pixels."""
    generator = torch.Generator().manual_seed(0)
    spots = torch.rand(count, 3, -(-height // 6), -(-width // 6), generator=generator)
    return (255 * F.interpolate(spots, (height, width), mode="bilinear")).to(torch.uint8)
