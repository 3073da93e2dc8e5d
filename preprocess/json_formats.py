"""Reads head points from JSON: COCO, LabelMe, NWPU-Crowd, or plain points."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.splits import DataError
from preprocess.formats import IMAGE_KEYS, Annotation, as_points
from utils.inputs import read_json_file

# The keypoints of a person that locate the head, in order of preference.
HEAD_KEYPOINTS = ("head", "nose", "left_eye", "right_eye", "left_ear", "right_ear", "head_top")
LONGEST_SIDE = 1_000_000  # pixels; JPEG ends at 65,535
JSON_FORMS = '[[x, y], ...], {"points": [...]}, {"a.jpg": [[x, y], ...]}, LabelMe\'s or COCO\'s'


def read_json(
    path: Path, labels: Iterable[str] | None = None, allow_empty: bool = False
) -> list[Annotation]:
    """Returns the annotations of a JSON file in any of the forms that this module knows.

    Args:
        labels: LabelMe labels or COCO categories that are heads; None: the only one in the file.
        allow_empty: whether a COCO file may have images but no annotations.

    Raises:
        DataError: the file is not JSON, has none of the forms, or lacks the place of a head.
    """
    data = read_json_file(path)
    try:
        return _read_forms(data, path, labels, allow_empty)
    except DataError:
        raise
    # malformed inside
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise DataError(f"{path} is incomplete or damaged: {error!r:.99}") from None


def _read_forms(
    data: Any, path: Path, labels: Iterable[str] | None, allow_empty: bool
) -> list[Annotation]:
    if isinstance(data, list):
        if data and all(isinstance(entry, dict) and "points" in entry for entry in data):
            return [_read_entry(entry, f"{path}, entry {n}") for n, entry in enumerate(data, 1)]
        return [Annotation(_read_points(data, path))]
    if isinstance(data, dict) and data:
        if isinstance(data.get("shapes"), list):
            return [_read_labelme(data, path, labels)]
        if isinstance(data.get("images"), list) and isinstance(data.get("annotations"), list):
            if data["images"] and not data["annotations"] and not allow_empty:
                raise DataError(
                    f"{path} names {len(data['images'])} images but annotates none; "
                    "--allow-empty takes them as images without heads"
                )
            return _read_coco(data, path, labels)
        if "points" in data:
            return [Annotation(_read_entry(data, str(path)).points)]
        if all(isinstance(points, list) for points in data.values()):
            return [
                Annotation(_read_points(points, f"{path}, {image}"), image)
                for image, points in data.items()
            ]
    raise DataError(f"{path}: must be of the form {JSON_FORMS}")


def _read_points(items: object, where: object) -> np.ndarray:
    try:
        places = [(i["x"], i["y"]) if isinstance(i, dict) else tuple(i) for i in items]
        if any(len(place) != 2 for place in places):
            raise ValueError
        return as_points(np.array(places, float), where)
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f'{where}: a point must be [x, y] or {{"x": ..., "y": ...}}') from None


def _read_entry(entry: Mapping[str, Any], where: str) -> Annotation:
    """Returns the annotation in an entry like NWPU-Crowd's: image name, points, their number."""
    points = _read_points(entry["points"], where)
    if entry.get("human_num", len(points)) != len(points):
        raise DataError(
            f"{where}: human_num is {entry['human_num']!r:.20}, of {len(points)} points"
        )
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
        if (kind, len(corners)) not in (("point", 1), ("rectangle", 2), ("rectangle", 4)):
            raise DataError(f"{where}: must be a point or a rectangle, got a {kind}")
        points.append(corners.mean(axis=0))
    size = _size(data, "imageHeight", "imageWidth", str(path))
    return Annotation(as_points(points, path), size=size, labels=frozenset(wanted))


def _read_coco(
    data: Mapping[str, Any], path: Path, labels: Iterable[str] | None
) -> list[Annotation]:
    categories = {c["id"]: c for c in data.get("categories", [])}
    used = {entry.get("category_id") for entry in data["annotations"]}
    label = {number: str(categories.get(number, {}).get("name", number)) for number in used}
    wanted = _choose(set(label.values()), labels, path)
    heads: dict[Any, list] = {image["id"]: [] for image in data["images"]}
    for entry in data["annotations"]:
        if label[entry.get("category_id")] in wanted:
            names = categories.get(entry.get("category_id"), {}).get("keypoints", [])
            head = _find_head(entry, names, f"{path}, annotation {entry.get('id')}")
            heads[entry["image_id"]].append(head)
    return [
        Annotation(
            as_points(heads[image["id"]], f"{path}, {image['file_name']}"),
            str(image["file_name"]),
            _size(image, "height", "width", f"{path}, {image['file_name']}"),
            frozenset(wanted),
        )
        for image in data["images"]
    ]


def _find_head(entry: Mapping[str, Any], names: Sequence[str], where: str) -> Sequence[float]:
    """Returns a person's first labelled keypoint on the head, or else the centre of the box."""
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
    return found if labels is None else found & set(labels)


def _size(data: Mapping[str, Any], height: str, width: str, where: str) -> tuple[int, int] | None:
    sides = data.get(height), data.get(width)
    if not all(sides):
        return None
    if not all(isinstance(s, int | float) and 1 <= s <= LONGEST_SIDE for s in sides):
        stated = " x ".join(repr(side)[:20] for side in sides)
        raise DataError(f"{where}: an image cannot be {stated} pixels (height x width)")
    return int(sides[0]), int(sides[1])
