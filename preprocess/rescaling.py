"""Resizes annotated images until the short side is within limits, as BL does for UCF-QNRF."""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from datasets.catalogue import Dataset
from datasets.pictures import read_image, read_size
from datasets.splits import DataError
from preprocess.annotations import read_source, write_ucf_points
from preprocess.layouts import IMAGE_ENDINGS, AnnotatedImage
from preprocess.processes import Failed, run_in_processes
from utils.files import copy_whole, written_whole

Size = tuple[int, int]  # height, width
# Original: BL's code saves all images again, with Pillow's default quality for JPEG, 75.
QUALITY = 95


def parse_limits(text: str) -> tuple[int, int]:
    """Reads LOW:HIGH in pixels.

    Raises:
        argparse.ArgumentTypeError: it is not of that form.
    """
    low, _, high = text.partition(":")
    if not (low.isdecimal() and high.isdecimal() and 0 < int(low) <= int(high)):
        raise argparse.ArgumentTypeError(
            f"must be LOW:HIGH in pixels, such as 512:2048, got {text!r}"
        )
    return int(low), int(high)


def add_short_side(parser: argparse.ArgumentParser) -> None:
    """Adds --short-side, which `check_short_side` checks."""
    parser.add_argument(
        "--short-side",
        type=parse_limits,
        metavar="LOW:HIGH",
        help="write images whose short side is within these pixels into --out, too; BL: 512:2048",
    )


def check_short_side(
    args: argparse.Namespace, parser: argparse.ArgumentParser, dataset: Dataset
) -> None:
    """Ends with an error if --short-side has no folder of its own, or is for another layout."""
    if args.short_side and dataset.layout != "ucf":  # whose annotations `rescale` writes
        parser.error("--short-side is for data sets in UCF-QNRF's layout alone")
    if args.short_side and (args.out is None or args.out.resolve() == args.root.resolve()):
        parser.error("--short-side needs --out, another folder than --root, for rescaled images")


def rescaled_size(size: Size, limits: tuple[int, int]) -> Size:
    """Returns the (height, width) that brings the short side within limits, proportions kept."""
    scale = min(max(min(size), limits[0]), limits[1]) / min(size)
    height, width = (round(scale * side) for side in size)
    return height, width


def rescale(
    pairs: Sequence[AnnotatedImage],
    root: Path,
    out: Path,
    limits: tuple[int, int],
    read_points: Callable[[Path], np.ndarray],
    workers: int,
) -> tuple[list[AnnotatedImage], list[Failed]]:
    """Writes images and annotations from `root` to the same relative paths under `out`.

    Files that were made of the same content stay. Images within the limits are copied.

    Returns:
        The annotated images under `out`, and those of which a file is unreadable.

    Raises:
        DataError: `out` holds other images, which would be taken for this data set's.
    """
    moved = [
        AnnotatedImage(*(out / path.relative_to(root) for path in (pair.image, pair.annotation)))
        for pair in pairs
    ]
    _refuse_others(out, [pair.image for pair in moved])
    work = partial(_rescale, limits=limits, read_points=read_points)
    jobs = list(zip(pairs, moved, strict=True))
    outcomes = run_in_processes(work, jobs, workers, "rescaling", name=lambda job: job[0])
    failed = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    return [outcome for outcome in outcomes if isinstance(outcome, AnnotatedImage)], failed


def _refuse_others(out: Path, images: Sequence[Path]) -> None:
    folders = {image.parent for image in images}
    found = {path for folder in folders if folder.is_dir() for path in folder.iterdir()}
    others = [path for path in found - set(images) if path.suffix.lower() in IMAGE_ENDINGS]
    if others := [path for path in others if not path.name.startswith(".")]:
        raise DataError(
            f"{out} holds {len(others)} images that --root does not, such as {min(others)}: "
            "remove it, or name another --out"
        )


def _rescale(
    job: tuple[AnnotatedImage, AnnotatedImage],
    limits: tuple[int, int],
    read_points: Callable[[Path], np.ndarray],
) -> AnnotatedImage:
    pair, moved = job
    source = pair.digest()
    size = read_size(pair.image)
    wanted = rescaled_size(size, limits)
    if _is_up_to_date(moved, source, wanted):
        return moved
    points = read_points(pair.annotation) * (np.array(wanted[::-1]) / size[::-1])
    moved.image.parent.mkdir(parents=True, exist_ok=True)
    _write_image(pair.image, moved.image, wanted if wanted != size else None)
    with written_whole(moved.annotation) as path:
        write_ucf_points(path, points, source)
    return moved


def _write_image(source: Path, target: Path, size: Size | None) -> None:
    if size is None:
        copy_whole(source, target)
        return
    pixels = read_image(source)
    # Original: bilinear, as BL's code passes INTER_CUBIC in the place of cv2.resize's `dst`.
    pixels = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_CUBIC)
    with written_whole(target) as path:
        Image.fromarray(pixels).save(path, quality=QUALITY)


def _is_up_to_date(moved: AnnotatedImage, source: str, size: Size) -> bool:
    try:  # the annotation is written last
        return read_source(moved.annotation) == source and read_size(moved.image) == size
    except (OSError, DataError):
        return False
