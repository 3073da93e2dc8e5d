"""The content of an annotation file, and reading tables such as CSV; json_formats.py has JSON.

A point is x, then y, in pixels of the upright picture, from the left and the upper edge.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np

from datasets.pictures import PICTURES
from datasets.splits import DataError
from utils.inputs import read_text_file

IMAGE_KEYS = ("image", "filename", "file_name", "file", "image_name", "img_id", "name", "path")
IMAGE_KEYS += ("img", "img_name", "image_id", "picture", "photo")
BOX_SIDES = ("width", "height", "w", "h")


@dataclass(frozen=True)
class Annotation:
    """The heads of one image, and what its file says about the image."""

    points: np.ndarray  # (N, 2) float32, x then y in pixels
    image: str | None = None  # name or path; None: the image with the file's name
    size: tuple[int, int] | None = None  # height, width
    labels: frozenset[str] = frozenset()  # of the heads


def as_points(values: object, where: object) -> np.ndarray:
    """Returns rows of two or more numbers, of which the first two are x and y, as (N, 2) float32.

    Raises:
        DataError: they are not such rows, or stand in columns, or are not finite; the message
            begins with `where`.
    """
    values = np.asarray(values)
    if values.size == 0:
        return np.zeros((0, 2), np.float32)
    if values.ndim != 2 or values.shape[1] < 2 or values.dtype.kind not in "fiu":
        of = "" if values.dtype.kind in "fiu" else f" of {values.dtype}"
        raise DataError(f"{where}: points must be an N x 2 array, got {values.shape}{of}")
    if len(values) == 2 < values.shape[1]:
        raise DataError(f"{where}: points of shape {values.shape} look transposed; N x 2 is right")
    with np.errstate(all="ignore"):
        points = values[:, :2].astype(np.float32)
    if not np.isfinite(points).all():
        raise DataError(f"{where}: a point is not a finite number")
    return points


def read_table(path: Path) -> list[Annotation]:
    """Returns the annotations of rows `x,y` of one image, or `image,x,y` of many.

    Columns are separated by tabs, semicolons, commas or spaces; a header allows any order.
    A row with an image but empty x and y names an image without heads. Rows of empty cells, which
    spreadsheets leave at the end, are nothing.

    Raises:
        DataError: the file is not such a table; the message names the line.
    """
    lines = [
        (n, line) for n, line in enumerate(read_text_file(path).splitlines(), 1) if line.strip()
    ]
    if not lines:
        return [Annotation(as_points([], path))]
    separator = next((s for s in "\t;," if s in lines[0][1]), None)
    rows = [(n, _cells(line, separator, f"{path}, line {n}")) for n, line in lines]
    columns = [cell.lower() for cell in rows[0][1]]
    if {"x", "y"} <= set(columns):
        if boxed := [name for name in columns if name in BOX_SIDES]:
            raise DataError(
                f"{path}: columns x and y of boxes ({', '.join(boxed)}) are corners, not heads; "
                "give the middles, and leave those columns out"
            )
        rows = rows[1:]
    elif len(columns) in (2, 3):
        columns = ["image", "x", "y"][-len(columns) :]
    else:
        raise DataError(f"{path}, line {lines[0][0]}: must be a header with x and y, or a point")
    rows = [(number, cells) for number, cells in rows if any(cells)]
    named = _find_names(columns, [cells for _, cells in rows])
    heads: dict[str | None, list] = {None: []} if named is None else {}
    for number, cells in rows:
        if len(cells) != len(columns):
            raise DataError(
                f"{path}, line {number}: {len(cells)} columns, but the first line has "
                f"{len(columns)}"
            )
        if named is not None and not cells[named]:
            raise DataError(f"{path}, line {number}: no image is named")
        points = heads.setdefault(None if named is None else cells[named], [])
        place = [cells[columns.index(axis)] for axis in "xy"]
        if named is None or any(place):
            points.append(_numbers(place, f"{path}, line {number}"))
    return [Annotation(as_points(points, path), image) for image, points in heads.items()]


def _find_names(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> int | None:
    """Returns the number of the column that names images: by its header, or by its first cell."""
    known = [columns.index(key) for key in IMAGE_KEYS if key in columns]
    first = rows[0] if rows else []
    known += [n for n, cell in enumerate(first) if PurePath(cell).suffix.lower() in PICTURES]
    return known[0] if known else None


def _cells(line: str, separator: str | None, where: str) -> list[str]:
    try:
        cells = line.split() if separator is None else next(csv.reader([line], delimiter=separator))
    except csv.Error as error:
        raise DataError(f"{where} is no row of a table ({error})") from None
    return [cell.strip() for cell in cells]


def _numbers(place: Sequence[str], where: str) -> list[float]:
    try:
        numbers = [float(value) for value in place]
    except ValueError:
        raise DataError(f"{where}: x and y must be numbers, got {', '.join(place)}") from None
    if not np.isfinite(numbers).all():
        raise DataError(f"{where}: a point is not a finite number")
    return numbers
