"""Head points out of text: tables (CSV), and JSON as COCO, LabelMe, NWPU-Crowd or people write it.

A point is x, then y, in pixels of the upright picture, from the left and the upper edge.
"""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets.splits import DataError

IMAGE_KEYS = ("image", "filename", "file_name", "file", "image_name", "img_id", "name", "path")
# A person's keypoints that say where the head is, the best one first.
HEAD_KEYPOINTS = ("head", "nose", "left_eye", "right_eye", "left_ear", "right_ear", "head_top")
JSON_FORMS = '[[x, y], ...], {"points": [...]}, {"a.jpg": [[x, y], ...]}, LabelMe\'s or COCO\'s'


@dataclass(frozen=True)
class Annotation:
    """The heads of one image, and what its file tells about the image."""

    points: np.ndarray  # (N, 2) float32, x then y in pixels
    image: str | None = None  # name or path; None: the one that is called like the file
    size: tuple[int, int] | None = None  # height, width


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

    Columns are parted by tabs, semicolons, commas or blanks, and may have any order under a header.
    A row with an image but empty x and y names an image without heads.

    Raises:
        DataError: the file is no such table; the message has the line.
    """
    lines = [(n, line) for n, line in enumerate(_read_text(path).splitlines(), 1) if line.strip()]
    if not lines:
        return [Annotation(as_points([], path))]
    separator = next((s for s in "\t;," if s in lines[0][1]), None)
    rows = [(n, _cells(line, separator)) for n, line in lines]
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


def read_json(path: Path, labels: Iterable[str] | None = None) -> list[Annotation]:
    """Returns the annotations of a JSON file in any of the forms that this module knows.

    Args:
        labels: LabelMe labels or COCO categories that are heads; None: the only one there is.

    Raises:
        DataError: the file is not JSON or has none of the forms, or heads of it lack their place.
    """
    try:
        data = json.loads(_read_text(path))
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error})") from None
    if isinstance(data, list):
        if data and all(isinstance(entry, dict) and "points" in entry for entry in data):
            return [_read_entry(entry, f"{path}, entry {n}") for n, entry in enumerate(data, 1)]
        return [Annotation(_read_points(data, path))]
    if isinstance(data, dict) and data:
        if isinstance(data.get("shapes"), list):
            return [_read_labelme(data, path, labels)]
        if isinstance(data.get("images"), list) and isinstance(data.get("annotations"), list):
            return _read_coco(data, path, labels)
        if "points" in data:
            return [Annotation(_read_entry(data, str(path)).points)]
        if all(isinstance(points, list) for points in data.values()):
            return [
                Annotation(_read_points(points, f"{path}, {image}"), image)
                for image, points in data.items()
            ]
    raise DataError(f"{path}: must be of the form {JSON_FORMS}")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path} is not text in UTF-8") from None


def _cells(line: str, separator: str | None) -> list[str]:
    cells = line.split() if separator is None else next(csv.reader([line], delimiter=separator))
    return [cell.strip() for cell in cells]


def _numbers(place: Sequence[str], where: str) -> list[float]:
    try:
        return as_points([[float(value) for value in place]], where)[0].tolist()
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where}: x and y must be numbers, got {', '.join(place)}") from None


def _read_points(items: object, where: object) -> np.ndarray:
    try:
        places = [(i["x"], i["y"]) if isinstance(i, dict) else tuple(i) for i in items]
        if any(len(place) != 2 for place in places):
            raise ValueError
        return as_points(np.array(places, float), where)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f'{where}: a point must be [x, y] or {{"x": ..., "y": ...}}') from None


def _read_entry(entry: Mapping[str, Any], where: str) -> Annotation:
    """One image's, as NWPU-Crowd has it: its name, points, and how many these are."""
    points = _read_points(entry["points"], where)
    if entry.get("human_num", len(points)) != len(points):
        raise DataError(f"{where}: human_num is {entry['human_num']}, of {len(points)} points")
    image = next((entry[key] for key in IMAGE_KEYS if isinstance(entry.get(key), str)), None)
    return Annotation(points, image)


def _read_labelme(data: Mapping[str, Any], path: Path, labels: Iterable[str] | None) -> Annotation:
    wanted = _choose({str(shape.get("label")) for shape in data["shapes"]}, labels, path)
    points = []
    for number, shape in enumerate(data["shapes"], 1):
        if str(shape.get("label")) not in wanted:
            continue
        where, kind = f"{path}, shape {number}", shape.get("shape_type", "point")
        corners = _read_points(shape.get("points"), where)
        if (kind, len(corners)) not in (("point", 1), ("rectangle", 2)):
            raise DataError(f"{where}: must be a point or a rectangle, got a {kind}")
        points.append(corners.mean(axis=0))
    return Annotation(as_points(points, path), size=_size(data, "imageHeight", "imageWidth"))


def _read_coco(
    data: Mapping[str, Any], path: Path, labels: Iterable[str] | None
) -> list[Annotation]:
    try:
        categories = {c["id"]: c for c in data.get("categories", [])}
        label = {n: str(categories.get(n, {}).get("name", n)) for n in _category_ids(data)}
        wanted = _choose(set(label.values()), labels, path)
        heads: dict[Any, list] = {image["id"]: [] for image in data["images"]}
        for entry in data["annotations"]:
            if label[entry.get("category_id")] in wanted:
                names = categories.get(entry.get("category_id"), {}).get("keypoints", [])
                where = f"{path}, annotation {entry.get('id')}"
                heads[entry["image_id"]].append(_find_head(entry, names, where))
        return [
            Annotation(
                as_points(heads[image["id"]], f"{path}, {image['file_name']}"),
                str(image["file_name"]),
                _size(image, "height", "width"),
            )
            for image in data["images"]
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not COCO: what is missing or wrong is {error}") from None


def _category_ids(data: Mapping[str, Any]) -> set:
    return {entry.get("category_id") for entry in data["annotations"]}


def _find_head(entry: Mapping[str, Any], names: Sequence[str], where: str) -> Sequence[float]:
    """A person's labelled keypoint on the head, else the centre of the box."""
    if entry.get("iscrowd"):
        raise DataError(f"{where} is a region of many (iscrowd); annotate its people one by one")
    keypoints = np.array(entry.get("keypoints", []), float).reshape(-1, 3)
    known = [names.index(name) for name in HEAD_KEYPOINTS if name in names]
    if len(keypoints) > 1 and not known:
        raise DataError(f"{where}: its category must name a keypoint {' or '.join(HEAD_KEYPOINTS)}")
    for x, y, visible in keypoints[known or slice(1)]:
        if visible:
            return x, y
    if len(entry.get("bbox", [])) != 4:
        raise DataError(f"{where} has neither a keypoint on the head nor a bbox [x, y, w, h]")
    x, y, width, height = entry["bbox"]
    return x + width / 2, y + height / 2


def _choose(found: set[str], labels: Iterable[str] | None, path: Path) -> set[str]:
    if labels is None and len(found) > 1:
        raise DataError(f"{path} has labels {', '.join(sorted(found))}; --labels says which count")
    return found if labels is None else set(labels)


def _size(data: Mapping[str, Any], height: str, width: str) -> tuple[int, int] | None:
    return (data[height], data[width]) if data.get(height) and data.get(width) else None
