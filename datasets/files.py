"""The files of an image: its pixels, its heads and its density map."""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from datasets.splits import DataError, Sample
from datasets.transforms import SHRINK, STRIDE, Box, cut, pad

Image.MAX_IMAGE_PIXELS = None  # pictures of any size are counted here


@dataclass(frozen=True)
class Heads:
    """The annotated heads of one image, without those outside it."""

    points: np.ndarray  # (N, 2) float32, x then y
    distances: np.ndarray | None  # (N,) mean distance to the three nearest; old files lack it


def read_image(path: Path) -> np.ndarray:
    """Returns an image file as (H, W, 3) uint8 RGB, whatever its colour space.

    Raises:
        DataError: the file is no image, or is damaged or truncated.
    """
    try:
        with Image.open(path) as image:
            # Converting RGB would copy it, which large pictures have no room for.
            return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise DataError(f"{path} is not a readable image ({error})") from None


def read_heads(sample: Sample) -> Heads:
    """Returns the heads annotated in a sample's image, without reading its pixels.

    Raises:
        DataError: the image or the .h5 cannot be opened, or their sizes differ.
    """
    try:
        with Image.open(sample.image) as image:
            width, height = image.size
    except OSError as error:
        raise DataError(f"{sample.image} is not a readable image ({error})") from None
    path = sample.density
    try:
        with h5py.File(path) as file:
            missing = {"density", "points"} - file.keys()
            if missing:
                raise DataError(
                    f"{path} has no dataset {min(missing)!r}; the GT generation commands write it"
                )
            if file["density"].shape != (height, width):
                found = "x".join(map(str, file["density"].shape))
                raise DataError(f"{path}: density is {found}, its image {height}x{width}")
            points = file["points"][:]
            distances = file["distances"][:] if "distances" in file else None
            if distances is not None and len(distances) != len(points):
                raise DataError(f"{path}: {len(points)} points have {len(distances)} distances")
    except OSError as error:
        raise DataError(f"{path} is not a readable density map ({error})") from None
    x, y = points.T
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return Heads(points[inside], None if distances is None else distances[inside])


def read_density(path: Path, box: Box, flip: bool) -> np.ndarray:
    """Returns the part of a map in a box, of which nothing lies outside, at stride 8."""
    try:
        with h5py.File(path) as file:
            shrink = SHRINK[file.attrs.get("shrink", "sum")]
            density = cut(file["density"], box)
    except OSError as error:
        raise DataError(f"{path} is not a readable density map ({error})") from None
    return shrink(pad(density[:, :: -1 if flip else 1], box), STRIDE)
