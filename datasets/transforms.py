"""What is cut out of an image for a training step, and how density maps shrink."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

STRIDE = 8  # pixels per cell of every density map that is trained on
LEAST_SIDE = 32  # of a crop: two cells of the coarsest relations, which are between positions
MEAN_COLOUR = (124, 116, 104)  # of ImageNet: what a network takes for nothing

Box = tuple[int, int, int, int]  # top, left, height, width; may reach beyond the image
Crop = Callable[[np.random.Generator, tuple[int, int]], Box]


@dataclass(frozen=True)
class ScaledCrop:
    """Crops whose sides are a uniform `low` to `high` of the image's, anywhere in it."""

    low: float
    high: float

    def __call__(self, rng: np.random.Generator, size: tuple[int, int]) -> Box:
        scale = rng.uniform(self.low, self.high)
        height, width = (max(LEAST_SIDE, int(scale * side)) for side in size)
        return *_random_corner(rng, size, (height, width)), height, width


@dataclass(frozen=True)
class FixedCrop:
    """Crops of one size, anywhere in the image; where the image is smaller, it is all inside."""

    height: int
    width: int

    def __call__(self, rng: np.random.Generator, size: tuple[int, int]) -> Box:
        crop = (self.height, self.width)
        return *_random_corner(rng, size, crop), *crop


def parse_crop(text: str) -> Crop:
    """Reads a crop option: "512x512" is FixedCrop(height, width), "0.5:1" ScaledCrop(low, high).

    Raises:
        ValueError: it is neither, or out of range.
    """
    try:
        if "x" in text:
            height, width = map(int, text.split("x"))
            if min(height, width) >= LEAST_SIDE:
                return FixedCrop(height, width)
        else:
            low, _, high = text.partition(":")
            if 0 < float(low) <= float(high or low) <= 1:
                return ScaledCrop(float(low), float(high or low))
    except ValueError:
        pass
    raise ValueError(
        f"crop must be HEIGHTxWIDTH of at least {LEAST_SIDE}x{LEAST_SIDE}, or LOW:HIGH of the "
        f"image's sides with 0 < LOW <= HIGH <= 1, got {text!r}"
    )


def _random_corner(
    rng: np.random.Generator, size: tuple[int, int], crop: tuple[int, int]
) -> tuple[int, int]:
    top, left = (int(rng.integers(max(0, s - c) + 1)) for s, c in zip(size, crop, strict=True))
    return top, left


def cut(array: np.ndarray, box: Box) -> np.ndarray:
    """Returns what of an (H, W, ...) array, or of an h5py dataset, lies in a box."""
    top, left, height, width = box
    return array[top : top + height, left : left + width]


def pad(array: np.ndarray, box: Box) -> np.ndarray:
    """Fills an array up to a box's size: a map with nobody, a picture with the mean colour."""
    if array.shape[:2] == box[2:]:
        return np.ascontiguousarray(array)
    padded = np.zeros((*box[2:], *array.shape[2:]), array.dtype)
    if array.ndim == 3:
        padded[:] = MEAN_COLOUR
    padded[: array.shape[0], : array.shape[1]] = array
    return padded


def sum_cells(density: np.ndarray, stride: int) -> np.ndarray:
    """Shrinks (H, W) to (ceil(H/stride), ceil(W/stride)), every head kept."""
    height, width = density.shape
    rows, columns = -(-height // stride), -(-width // stride)
    if (rows * stride, columns * stride) != (height, width):
        density = np.pad(density, ((0, rows * stride - height), (0, columns * stride - width)))
    return density.reshape(rows, stride, columns, stride).sum((1, 3))


def resize_bicubic(density: np.ndarray, stride: int) -> np.ndarray:
    """Shrinks (H, W) as the published code does; the sum is kept roughly."""
    height, width = density.shape
    grid = (-(-width // stride), -(-height // stride))  # OpenCV's order
    return cv2.resize(density, grid, interpolation=cv2.INTER_CUBIC) * stride**2


SHRINK = {"sum": sum_cells, "bicubic": resize_bicubic}
