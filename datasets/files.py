"""Reads what belongs to an image: its heads and its density map."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from datasets.pictures import read_size
from datasets.sizes import Box, Size, lie_inside
from datasets.splits import DataError, Sample
from utils.inputs import check_regular

SHRINKS = ("sum", "bicubic")  # ways to bring a map to stride 8, an attribute of its file
MOST_HEADS = 1_000_000  # of an image with fewer pixels than that


@dataclass(frozen=True)
class Heads:
    """An image's heads, without those outside it, and its size."""

    points: np.ndarray  # (N, 2) float32, x then y
    distances: np.ndarray | None  # (N,) mean distance to the three nearest; None in old files
    size: Size  # of the image, in pixels
    shrink: str  # one of SHRINKS


class InUseError(DataError):
    """A density map is open in another program, which may be writing it."""


def read_heads(sample: Sample) -> Heads:
    """Returns the heads annotated in a sample's image, without reading its pixels.

    A sample without a map has none.

    Raises:
        DataError: the image or the .h5 cannot be opened, or their sizes differ.
    """
    height, width = read_size(sample.image)
    if (path := sample.density) is None:
        return Heads(np.zeros((0, 2), np.float32), np.zeros(0), (height, width), "sum")
    with open_map(path) as file:
        points, distances, shrink = read_map_heads(path, file, (height, width))
    inside = lie_inside(points, (height, width))
    distances = None if distances is None else distances[inside]
    if distances is not None and not (distances >= 0).all():
        raise DataError(f"{path}: a head's distance to the nearest ones is not a positive number")
    return Heads(points[inside], distances, (height, width), shrink)


def read_density(path: Path, box: Box) -> np.ndarray:
    """Returns the part of a map inside a box, (h, w) float32.

    Raises:
        DataError: the .h5 cannot be read, or a value is no density.
    """
    top, left, height, width = box
    with open_map(path) as file:
        density = _numbers_in(path, file, "density", 2)[top : top + height, left : left + width]
    if density.size and not -MOST_HEADS <= density.min() <= density.max() <= MOST_HEADS:  # or NaN
        raise DataError(
            f"{path} is damaged: it has {density.min():g} to {density.max():g} heads in a pixel; "
            "remove it, and the GT generation commands make it again"
        )
    return density.astype(np.float32, copy=False)


@contextmanager
def open_map(path: Path) -> Iterator[h5py.File]:
    """Opens a density map for reading.

    Raises:
        InUseError: another program has it open for writing.
        DataError: the file, or what is read from it, is missing or damaged.
    """
    try:
        check_regular(path)
        with h5py.File(path) as file:
            yield file
    except DataError:
        raise
    except BlockingIOError:  # HDF5 found a lock
        raise InUseError(
            f"{path} is open in another program; run this again when that has ended"
        ) from None
    except Exception as error:  # damaged bytes can make h5py raise anything
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is not a readable density map ({reason})") from None


def read_map_heads(
    path: Path, file: h5py.File, size: Size
) -> tuple[np.ndarray, np.ndarray | None, str]:
    """Returns the heads of an open map, also those outside: (N, 2) points, (N,) distances, shrink.

    Sizes and types are checked before anything is read.

    Raises:
        DataError: the file is not the map of an image of this size.
    """
    missing = {"density", "points"} - file.keys()
    if missing:
        raise DataError(
            f"{path} has no dataset {min(missing)!r}; the GT generation commands write it"
        )
    density = _numbers_in(path, file, "density", 2)
    if density.shape != size:
        found, expected = ("x".join(map(str, sides)) for sides in (density.shape, size))
        raise DataError(f"{path}: density is {found}, its image {expected}")
    shrink = file.attrs.get("shrink", "sum")
    if not isinstance(shrink, str) or shrink not in SHRINKS:
        raise DataError(f"{path}: shrink must be one of {', '.join(SHRINKS)}, got {shrink!r}")
    points = _numbers_in(path, file, "points", 2)
    if points.shape[1] != 2 or len(points) > max(MOST_HEADS, size[0] * size[1]):
        raise DataError(f"{path}: points must be an N x 2 array, got {points.shape}")
    distances = _numbers_in(path, file, "distances", 1) if "distances" in file.keys() else None
    if distances is not None and len(distances) != len(points):
        raise DataError(f"{path}: {len(points)} points have {len(distances)} distances")
    points = points[:].astype(np.float32, copy=False)
    if not np.isfinite(points).all():
        raise DataError(f"{path}: a point is not a finite number")
    return points, None if distances is None else distances[:], shrink


def _numbers_in(path: Path, file: h5py.File, name: str, axes: int) -> h5py.Dataset:
    # Links may dangle or loop, and other files be pipes.
    own = isinstance(file.get(name, getlink=True), h5py.HardLink)
    data = file[name] if own else None
    if not isinstance(data, h5py.Dataset) or data.external or data.is_virtual:
        raise DataError(f"{path}: {name} is no array in this file")
    if data.dtype.kind not in "fiu" or data.ndim != axes:
        raise DataError(f"{path}: {name} must have {axes} axes of numbers")
    return data
