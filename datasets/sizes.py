"""Sizes and boxes of pictures, in pixels."""

from collections.abc import Iterable
from statistics import median_high

Size = tuple[int, int]  # height, width
Box = tuple[int, int, int, int]  # top, left, height, width; may reach beyond the image


def typical_side(sizes: Iterable[Size]) -> int:
    """Returns the median of the pictures' longer sides."""
    return median_high(map(max, sizes))
