"""Sizes and boxes of pictures, in pixels."""

from collections.abc import Iterable
from statistics import median_high

import numpy as np

STRIDE = 8  # pixels of a side of all density maps' cells
Size = tuple[int, int]  # height, width
Box = tuple[int, int, int, int]  # top, left, height, width; may reach beyond the image


def grid(size: Size, stride: int) -> Size:
    """Returns the rows and columns of the map of a picture, or of features, at a stride."""
    height, width = size
    return -(-height // stride), -(-width // stride)


def typical_side(sizes: Iterable[Size]) -> int:
    """Returns the median of the pictures' longer sides."""
    return median_high(map(max, sizes))


def lie_inside(points: np.ndarray, size: Size) -> np.ndarray:
    """Returns which of the (N, 2) points, x then y, lie in an image of `size`: (N,) bool.

    Original: a negative coordinate wraps round to the opposite side of the image.
    """
    height, width = size
    x, y = points[:, 0], points[:, 1]
    return (x >= 0) & (x < width) & (y >= 0) & (y < height)
