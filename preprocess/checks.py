"""Finds defects in a data set: in single images, and between images."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from datasets.files import InUseError, open_map, read_map_heads
from datasets.pictures import is_turned, read_image
from datasets.sizes import lie_inside
from datasets.splits import DataError
from preprocess.annotations import read_annotation
from preprocess.formats import Annotation
from preprocess.layouts import AnnotatedImage, Pairing

Found = tuple[str, str]  # kind of defect, detail
SMALLEST_SIDE = 64  # pixels; below this, the map at stride 8 has too few cells
ERRORS = (
    "image without annotation",
    "annotation without image",
    "unreadable image",
    "unreadable annotation",
    "image stored turned",
    "annotated at another size",
    "x and y swapped",
    "coordinates are shares of the sides",
    "image in two splits",
    "density map of something else",
)
WARNINGS = (
    "points outside the image",
    "same point twice",
    "image without heads",
    "image twice in a split",
    "image of one colour",
    "image is tiny",
    "density map open elsewhere",
    "image in a subfolder, left out",
)


@dataclass(frozen=True)
class Defect:
    kind: str  # one of ERRORS or WARNINGS
    name: str  # of the file, from the data set's folder
    detail: str = ""


@dataclass(frozen=True)
class Job:
    """An image to be checked."""

    name: str
    split: str
    pair: AnnotatedImage
    density: Path  # its map, which may be missing


@dataclass
class Checked:
    """The findings on one image."""

    job: Job
    size: tuple[int, int] | None = None  # height, width; None where it is unreadable
    heads: int | None = None  # inside the image
    digest: bytes = b""  # of the pixels
    defects: list[Defect] = field(default_factory=list)


def check_image(job: Job) -> Checked:
    """Reads an image, its annotation and, if there is one, its density map, and compares them."""
    checked = Checked(job)
    found = _check_pixels(checked) + _check_heads(checked)
    checked.defects += [Defect(kind, job.name, detail) for kind, detail in found]
    return checked


def check_pairing(pairing: Pairing, root: Path) -> list[Defect]:
    """Returns a defect for every image or annotation of a split that is in no pair."""
    return [
        Defect(kind, str(path.relative_to(root)))
        for kind, paths in (
            ("image without annotation", pairing.images),
            ("annotation without image", pairing.annotations),
            ("image in a subfolder, left out", pairing.below),
        )
        for path in paths
    ]


def check_repetition(images: Sequence[Checked]) -> None:
    """Adds a defect to every image with the pixels of an earlier one, in its split or another."""
    groups = defaultdict(list)
    for image in images:
        if image.digest:
            groups[image.digest].append(image)
    for first, *others in groups.values():
        for other in others:
            same = other.job.split == first.job.split
            kind = "image twice in a split" if same else "image in two splits"
            other.defects.append(Defect(kind, other.job.name, f"the same as {first.job.name}"))


def _check_pixels(checked: Checked) -> list[Found]:
    """Sets size and digest of an image that can be read."""
    found, path = [], checked.job.pair.image
    try:
        pixels, turned = read_image(path, upright=True), is_turned(path)
    except DataError as error:
        return [("unreadable image", str(error))]
    if turned:
        found.append(("image stored turned", "by its EXIF orientation"))
    checked.size = pixels.shape[:2]
    salt = b"%d" % pixels.shape[1]
    checked.digest = hashlib.blake2b(pixels, digest_size=16, salt=salt).digest()
    if (pixels == pixels[0, 0]).all():
        found.append(("image of one colour", ""))
    if min(checked.size) < SMALLEST_SIDE:
        found.append(("image is tiny", _sides(checked.size)))
    return found


def _check_heads(checked: Checked) -> list[Found]:
    """Sets the number of heads of an image and an annotation that can be read."""
    try:
        annotation = read_annotation(checked.job.pair.annotation)
    except (DataError, OSError) as error:
        return [("unreadable annotation", str(error))]
    size, density = checked.size, checked.job.density
    if size is None:
        return []
    checked.heads = int(lie_inside(annotation.points, size).sum())
    found = list(_compare(annotation, size))
    if density.exists():
        found += _check_map(density, annotation, size)
    return found


def _compare(annotation: Annotation, size: tuple[int, int]) -> Iterator[Found]:
    points = annotation.points
    if annotation.size and annotation.size != size:
        yield "annotated at another size", f"{_sides(annotation.size)}, image {_sides(size)}"
    if not len(points):
        yield "image without heads", ""
        return
    outside = ~lie_inside(points, size)
    if outside.any() and lie_inside(points[:, ::-1], size).all():
        yield "x and y swapped", f"{outside.sum()} of {len(points)} outside, swapped none"
    elif outside.any():
        x, y = points[outside][0]
        yield "points outside the image", f"{outside.sum()} of {len(points)}, such as {x:g}, {y:g}"
    if outside.all():
        yield "image without heads", "all are outside"
    if len(points) > 2 and (points >= 0).all() and (points <= 1).all():
        yield "coordinates are shares of the sides", f"{len(points)} points within one pixel"
    repeated = len(points) - len(np.unique(points, axis=0))
    if repeated:
        yield "same point twice", f"{repeated} of {len(points)}"


def _check_map(path: Path, annotation: Annotation, size: tuple[int, int]) -> list[Found]:
    try:
        with open_map(path) as file:
            points, _, _ = read_map_heads(path, file, size)
    except InUseError:
        return [("density map open elsewhere", path.name)]
    except DataError as error:
        return [("density map of something else", str(error))]
    same = np.array_equal(points, annotation.points)
    return [] if same else [("density map of something else", path.name)]


def _sides(size: Sequence[int]) -> str:
    return "x".join(map(str, size))
