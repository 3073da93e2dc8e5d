"""Writes an .h5 for every annotated image, in worker processes, for all GT commands."""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np
from PIL import Image

from datasets.splits import DataError
from preprocess.density import (
    SIGMA_RULES,
    density_map,
    lie_inside,
    mean_distance,
    merge_heads,
)
from preprocess.layouts import AnnotatedImage
from utils.files import written_whole
from utils.progress import Bar

Image.MAX_IMAGE_PIXELS = None  # data sets have images of any size
PROJECT = Path(__file__).resolve().parents[1]
Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Recipe:
    """How the maps of one data set are made; stored in every .h5 to recognise stale ones."""

    sigma: str  # a key of SIGMA_RULES
    border: str = "renormalise"
    merge: bool = False  # heads on one pixel count once
    shrink: str = "sum"  # how a loader brings the map to stride 8: "sum" or "bicubic"

    @classmethod
    def original(cls, sigma: str, border: str) -> "Recipe":
        """Returns the published recipe: merged heads, mass lost or mirrored, bicubic shrinking."""
        return cls(sigma, border, merge=True, shrink="bicubic")


def add_options(parser: argparse.ArgumentParser, default_root: str | None) -> None:
    """Adds the options that the GT generation commands share.

    Args:
        default_root: None where it depends on other options.
    """
    root = default_root and Path(os.environ.get("ROOT", PROJECT / default_root))
    add = parser.add_argument
    default = default_root or "its own in data/"
    add("--root", type=Path, default=root, help=f"data set's folder, $ROOT or {default}")
    add("--out", type=Path, help="write the same tree of .h5 here (default: beside annotations)")
    add("--original", action="store_true", help="the published code's maps, heads merged and lost")
    add("--workers", type=positive, default=os.cpu_count(), help="processes (default: one a core)")


def generate(
    name: str,
    jobs: Sequence[tuple[AnnotatedImage, Path]],
    read_points: Callable[[Path], np.ndarray],
    recipe: Recipe,
    workers: int,
) -> None:
    """Brings the .h5 of every (annotated image, .h5 path) up to date, and prints a summary.

    Raises:
        DataError: an image or annotation is unreadable; files finished before it stay.
    """
    start = time.perf_counter()
    written = write_densities(jobs, read_points, recipe, workers)
    heads = sum(_count_heads(path) for _, path in jobs)
    print(
        f"{name}: {len(jobs)} images, {heads} heads; {written} density maps written, "
        f"{len(jobs) - written} up to date, {time.perf_counter() - start:.1f} s"
    )


def write_densities(
    jobs: Sequence[tuple[AnnotatedImage, Path]],
    read_points: Callable[[Path], np.ndarray],
    recipe: Recipe,
    workers: int,
) -> int:
    """Writes the missing or outdated .h5 of every (annotated image, .h5 path).

    Returns:
        How many files were written.

    Raises:
        DataError: an image or annotation is unreadable; files finished before it stay.
    """
    stale = [job for job in jobs if not _is_up_to_date(*job, recipe)]
    work = partial(_write_density, read_points=read_points, recipe=recipe)
    run_in_processes(work, stale, workers, "density maps")
    return len(stale)


def run_in_processes(
    work: Callable[[Job], Result], jobs: Sequence[Job], workers: int, description: str
) -> list[Result]:
    """Returns every job's result and shows progress; the first error cancels the rest."""
    if not jobs:
        return []
    with ProcessPoolExecutor(max_workers=min(workers, len(jobs))) as pool:
        try:
            return list(Bar(pool.map(work, jobs), total=len(jobs), desc=description, unit="image"))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def read_image_size(path: Path) -> tuple[int, int]:
    """Decodes an image and returns its (height, width).

    Raises:
        DataError: the file is no image, or is damaged or truncated.
    """
    try:
        with Image.open(path) as image:
            image.load()
            width, height = image.size
    except (OSError, SyntaxError) as error:
        raise DataError(f"{path} is not a readable image ({error})") from None
    return height, width


def positive(text: str) -> int:
    """Reads an option's whole number of at least 1.

    Raises:
        argparse.ArgumentTypeError: it is not one.
    """
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _write_density(
    job: tuple[AnnotatedImage, Path], read_points: Callable[[Path], np.ndarray], recipe: Recipe
) -> None:
    pair, path = job
    size = read_image_size(pair.image)
    points = read_points(pair.annotation)
    inside = lie_inside(points, size)
    heads = points[inside]
    distances = np.full(len(points), np.nan, np.float32)  # NaN for heads outside
    distances[inside] = mean_distance(heads, neighbours=3)
    if recipe.merge:
        heads = merge_heads(heads)
    density = density_map(heads, SIGMA_RULES[recipe.sigma](heads, size), size, recipe.border)

    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as begun, h5py.File(begun, "w") as file:
        file["density"] = density
        file["points"] = points
        file["distances"] = distances  # to the three nearest heads
        file.attrs.update(vars(recipe))


def _is_up_to_date(pair: AnnotatedImage, path: Path, recipe: Recipe) -> bool:
    try:
        written = path.stat().st_mtime
        with h5py.File(path) as file, Image.open(pair.image) as image:
            same = all(file.attrs.get(k) == v for k, v in vars(recipe).items())
            same = same and {"density", "points", "distances"} <= file.keys()
            same = same and file["density"].shape == (image.height, image.width)
    except OSError:  # missing, not HDF5, or no image, which writing will report
        return False
    return same and written >= max(p.stat().st_mtime for p in (pair.image, pair.annotation))


def _count_heads(path: Path) -> int:
    with h5py.File(path) as file:
        return len(file["points"])
