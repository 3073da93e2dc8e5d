"""The content of an annotation file, and reading tables such as CSV; json_formats.py has JSON.

A point is x, then y, in pixels of the upright picture, from the left and the upper edge.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.splits import DataError

IMAGE_KEYS = ("image", "filename", "file_name", "file", "image_name", "img_id", "name", "path")


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
        DataError: they are not such rows, or not finite; the message begins with `where`.
    """
    values = np.asarray(values)
    if values.size == 0:
        return np.zeros((0, 2), np.float32)
    if values.ndim != 2 or values.shape[1] < 2 or not np.issubdtype(values.dtype, np.number):
        raise DataError(f"{where}: points must be an N x 2 array, got {values.shape}")
    points = values[:, :2].astype(np.float32)
    if not np.isfinite(points).all():
        raise DataError(f"{where}: a point is not a finite number")
    return points


def read_table(path: Path) -> list[Annotation]:
    """Returns the annotations of rows `x,y` of one image, or `image,x,y` of many.

    Columns are separated by tabs, semicolons, commas or spaces; a header allows any order.
    A row with an image but empty x and y names an image without heads.

    Raises:
        DataError: the file is not such a table; the message names the line.
    """
    lines = [(n, line) for n, line in enumerate(read_text(path).splitlines(), 1) if line.strip()]
    if not lines:
        return [Annotation(as_points([], path))]
    separator = next((s for s in "\t;," if s in lines[0][1]), None)
    rows = [(n, _cells(line, separator, f"{path}, line {n}")) for n, line in lines]
    columns = [cell.lower() for cell in rows[0][1]]
    if {"x", "y"} <= set(columns):
        rows = rows[1:]
    elif len(columns) in (2, 3):
        columns = ["image", "x", "y"][-len(columns) :]
    else:
        raise DataError(f"{path}, line {lines[0][0]}: must be a header with x and y, or a point")
    named = next((columns.index(key) for key in IMAGE_KEYS if key in columns), None)
    heads: dict[str | None, list] = {None: []} if named is None else {}
    for number, cells in rows:
        if len(cells) != len(columns):
            raise DataError(
                f"{path}, line {number}: {len(cells)} columns, but the first line has "
                f"{len(columns)}"
            )
        points = heads.setdefault(None if named is None else cells[named], [])
        place = [cells[columns.index(axis)] for axis in "xy"]
        if named is None or any(place):
            points.append(_numbers(place, f"{path}, line {number}"))
    return [Annotation(as_points(points, path), image) for image, points in heads.items()]


def read_text(path: Path) -> str:
    """Returns the content of a text file.

    Raises:
        DataError: it is not in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path} is not text in UTF-8") from None


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
