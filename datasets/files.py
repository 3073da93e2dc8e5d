"""Reads what belongs to an image: its heads and its density map."""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from datasets.pictures import read_size
from datasets.splits import DataError, Sample
from datasets.transforms import Box, Size

SHRINKS = ("sum", "bicubic")  # ways to bring a map to stride 8, an attribute of its file


@dataclass(frozen=True)
class Heads:
    """An image's heads, without those outside it, and its size."""

    points: np.ndarray  # (N, 2) float32, x then y
    distances: np.ndarray | None  # (N,) mean distance to the three nearest; None in old files
    size: Size  # of the image, in pixels
    shrink: str  # one of SHRINKS


def read_heads(sample: Sample) -> Heads:
    """Returns the heads annotated in a sample's image, without reading its pixels.

    A sample without a map has none.

    Raises:
        DataError: the image or the .h5 cannot be opened, or their sizes differ.
    """
    height, width = read_size(sample.image)
    if (path := sample.density) is None:
        return Heads(np.zeros((0, 2), np.float32), np.zeros(0), (height, width), "sum")
    try:
        with h5py.File(path) as file:
            _check_density(path, file, (height, width))
            shrink = file.attrs.get("shrink", "sum")
            points = file["points"][:]
            distances = file["distances"][:] if "distances" in file else None
    except OSError as error:
        raise DataError(f"{path} is not a readable density map ({error})") from None
    if distances is not None and len(distances) != len(points):
        raise DataError(f"{path}: {len(points)} points have {len(distances)} distances")
    x, y = points.T
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    distances = None if distances is None else distances[inside]
    return Heads(points[inside], distances, (height, width), shrink)


def read_density(path: Path, box: Box) -> np.ndarray:
    """Returns the part of a map inside a box, (h, w) float32.

    Raises:
        DataError: the .h5 cannot be read.
    """
    top, left, height, width = box
    try:
        with h5py.File(path) as file:
            density = file["density"][top : top + height, left : left + width]
    except OSError as error:
        raise DataError(f"{path} is not a readable density map ({error})") from None
    return density.astype(np.float32, copy=False)


def _check_density(path: Path, file: h5py.File, size: Size) -> None:
    missing = {"density", "points"} - file.keys()
    if missing:
        raise DataError(
            f"{path} has no dataset {min(missing)!r}; the GT generation commands write it"
        )
    if file["density"].shape != size:
        found, expected = ("x".join(map(str, sides)) for sides in (file["density"].shape, size))
        raise DataError(f"{path}: density is {found}, its image {expected}")
    shrink = file.attrs.get("shrink", "sum")
    if shrink not in SHRINKS:
        raise DataError(f"{path}: shrink must be one of {', '.join(SHRINKS)}, got {shrink!r}")
