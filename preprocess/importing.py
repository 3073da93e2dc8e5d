"""Imports images and annotations of any known format into a data set of our own layout."""

import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from datasets.pictures import is_turned, read_image
from datasets.splits import DataError
from preprocess.annotations import write_ucf_points
from preprocess.formats import Annotation
from preprocess.layouts import AnnotatedImage
from preprocess.matching import Source, choose_splits, match, split_of
from preprocess.processes import raise_failed, run_in_processes
from utils.files import unfinished_folder

QUALITY = 95  # of JPEGs that are re-encoded upright


@dataclass(frozen=True)
class Placing:
    """An image to be placed in a data set."""

    source: Path
    annotation: Annotation
    target: AnnotatedImage
    copied: bool  # rather than linked


def import_dataset(
    source: Source,
    root: Path,
    test_share: float | None,
    seed: int | None,
    copied: bool,
    workers: int,
) -> None:
    """Writes `root`/SPLIT/images and `root`/SPLIT/annotations, completely or not at all.

    Images are links to the originals, or copies; those with an EXIF orientation are always copied,
    upright. Annotations are .mat files.

    Raises:
        DataError: `root` is not empty; images are unreadable or differ in size from their
            annotations (a line for each); or as `match` and `choose_splits`.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(
            f"{root} exists already; without --images its maps and lists are made; to import "
            "again, remove it or choose another --root"
        )
    annotations = match(source, workers)
    splits = choose_splits(list(annotations), test_share, seed)
    root = root.resolve()
    with unfinished_folder(root) as begun:
        placings = {}
        for image, annotation in annotations.items():
            name = _flat_name(image)
            folder = begun / splits[image]
            target = folder / "annotations" / f"{Path(name).stem}.mat"
            if target in placings:
                other = placings[target].source
                raise DataError(f"{image} and {other} would share {target.name}; rename one")
            pair = AnnotatedImage(folder / "images" / name, target)
            placings[target] = Placing((source.images / image).resolve(), annotation, pair, copied)
        for split in set(splits.values()):
            for kind in ("images", "annotations"):
                (begun / split / kind).mkdir(parents=True)
        jobs = list(placings.values())
        raise_failed(run_in_processes(_place, jobs, workers, "images", lambda job: job.source))
        os.replace(begun, root)
    counts = Counter(splits.values())
    print(f"{root}: " + ", ".join(f"{n} {split} images" for split, n in sorted(counts.items())))


def refuse_turned(path: Path) -> None:
    """Raises DataError if viewers turn an image, since networks receive it as it is stored."""
    if is_turned(path):
        raise DataError(
            f"{path} is stored turned (EXIF orientation); make_dataset.py --images makes a "
            "data set with upright copies"
        )


def _flat_name(image: Path) -> str:
    """Returns the image's path below its split as one name: train/a/1.jpg becomes a_1.jpg."""
    parts = list(image.parts)
    while split_of(Path(*parts)):
        parts = parts[1:]
    return "_".join(part for part in parts if part.lower() != "images")


def _place(placing: Placing) -> None:
    size = _write_upright(placing.source, placing.target.image, placing.copied)
    stated = placing.annotation.size
    if stated and stated != size:
        shown, expected = ("x".join(map(str, sides)) for sides in (size, stated))
        raise DataError(f"{placing.source} is {shown} (height x width), its annotation {expected}")
    write_ucf_points(placing.target.annotation, placing.annotation.points)


def _write_upright(source: Path, target: Path, copied: bool) -> tuple[int, int]:
    """Links or copies an image that can be decoded; returns the upright (height, width)."""
    pixels = read_image(source, upright=True)
    if is_turned(source):
        Image.fromarray(pixels).save(target, quality=QUALITY)
    elif copied:
        shutil.copyfile(source, target)
    else:
        target.symlink_to(source)
    return pixels.shape[:2]
