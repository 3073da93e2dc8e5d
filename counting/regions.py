"""Regions of interest: named polygons, and the part of every density cell that lies in one."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from datasets.sizes import STRIDE, Size

LARGEST = 1e6  # of a corner's coordinates


@dataclass(frozen=True)
class Region:
    """A polygon with corners in pixels or, if none is above 1, in parts of the picture's sides."""

    name: str
    corners: tuple[tuple[float, float], ...]  # x, y

    def scaled_to(self, size: Size, shown: Size) -> np.ndarray:
        """Returns the corners in a picture of `size` that is resized to `shown`: (N, 2), x then y.

        They are in pixels of the resized picture.
        """
        corners = np.array(self.corners)
        scale = shown if corners.max() <= 1 else np.divide(shown, size)
        return corners * scale[::-1]


class RegionError(ValueError):
    """A region encloses nothing of a picture; the message is for the user."""


def parse_region(text: str) -> Region:
    """Reads NAME:X,Y X,Y X,Y ..., the corners of a polygon.

    Raises:
        ValueError: it is not of that form, a coordinate is negative or above LARGEST, or corners
            are fewer than 3.
    """
    name, _, points = text.rpartition(":")
    name = " ".join(name.split())
    try:
        corners = tuple((float(x), float(y)) for x, y in (p.split(",") for p in points.split()))
    except ValueError:
        corners = ()
    if not name or len(corners) < 3 or not np.isfinite(corners).all():
        raise ValueError(
            f"must be NAME:X,Y X,Y X,Y with at least 3 corners, such as "
            f"'door:0,0.5 0.4,0.5 0.4,1', got {text!r}"
        )
    if max(map(max, corners)) > LARGEST:
        raise ValueError(f"region {name} must have corners of up to {LARGEST:g}, got {text!r}")
    if min(map(min, corners)) < 0:
        raise ValueError(f"region {name} must not lie left of or above the picture, got {text!r}")
    return Region(name, corners)


def count_regions(
    density: np.ndarray, regions: tuple[Region, ...], size: Size, counted: Size | None = None
) -> dict[str, float]:
    """Returns every region's count, at least 0, by its name.

    If regions divide up a picture, their counts add up to its map's sum.

    Args:
        density: (ceil(H/8), ceil(W/8)) heads per cell.
        size: H and W of the picture.
        counted: those that it was resized to before it was counted, if it was.

    Raises:
        RegionError: a region encloses no pixel of the picture.
    """
    parts = {region.name: density * region_weights(region, size, counted) for region in regions}
    return {name: max(0.0, float(part.sum(dtype=np.float64))) for name, part in parts.items()}


@lru_cache(maxsize=64)  # a video's frames and a camera's pictures are of one size
def region_weights(region: Region, size: Size, counted: Size | None = None) -> np.ndarray:
    """Returns the part of every cell's pixels that a region encloses, (ceil(H/8), ceil(W/8)).

    The sizes are those of `count_regions`; cells are of the counted picture.

    Raises:
        RegionError: it encloses no pixel.
    """
    counted = counted or size
    inside = _sum_cells(_pixels_inside(region.scaled_to(size, counted), counted))
    if not inside.any():
        height, width = size
        raise RegionError(f"region {region.name} encloses nothing of its {width}x{height} pixels")
    return (inside / _sum_cells(np.ones(counted, bool))).astype(np.float32)


def _pixels_inside(corners: np.ndarray, size: Size) -> np.ndarray:
    """Returns (H, W) bool: which pixels' centres lie in a polygon, by the even-odd rule.

    A centre on the border of two neighbours belongs to exactly one, unlike with cv2.fillPoly.
    """
    height, width = size
    crossed = np.zeros((height, width + 1), bool)  # left of a pixel's centre
    for edge in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        (x1, y1), (x2, y2) = sorted(map(tuple, edge), key=lambda corner: corner[::-1])
        first, last = (int(np.clip(np.ceil(y - 0.5), 0, height)) for y in (y1, y2))
        rows = np.arange(first, last)
        x = x1 + (rows + 0.5 - y1) * ((x2 - x1) / (y2 - y1 or 1))
        crossed[rows, np.clip(np.ceil(x - 0.5), 0, width).astype(int)] ^= True
    return np.logical_xor.accumulate(crossed, axis=1)[:, :width]


def _sum_cells(pixels: np.ndarray) -> np.ndarray:
    for axis in (0, 1):
        starts = np.arange(0, pixels.shape[axis], STRIDE)
        pixels = np.add.reduceat(pixels, starts, axis=axis, dtype=np.int32)
    return pixels
