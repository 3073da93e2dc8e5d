"""Writes an .h5 for every annotated image, in worker processes, for all GT commands."""

from utils.start import PROJECT

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from datasets.catalogue import Dataset
from datasets.files import InUseError, open_map, read_map_heads
from datasets.pictures import read_image, read_size
from datasets.sizes import Size, lie_inside
from datasets.splits import DataError
from preprocess.density import (
    SIGMA_RULES,
    density_map,
    mean_distance,
    merge_heads,
)
from preprocess.importing import refuse_turned
from preprocess.layouts import AnnotatedImage
from preprocess.processes import Failed, run_in_processes
from utils.files import written_whole
from utils.options import whole_number


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


def choose_recipe(
    dataset: Dataset, paths: Iterable[Path], original: bool | None, sigma: str | None = None
) -> Recipe:
    """Returns how a data set's maps are made, and says so if they are the published code's.

    What is None is as in the first map that there is among `paths`, so that making maps again
    changes none; of published data sets the sigma is always theirs.
    """
    rules = SIGMA_RULES if dataset.layout == "own" else [dataset.sigma]
    ours = [Recipe(rule) for rule in rules]
    published = [Recipe.original(rule, dataset.original_border) for rule in rules]
    read = partial(_read_recipe, known=[*ours, *published])  # in a process that may crash
    (kept,) = run_in_processes(read, [list(paths)], 1, "recipe", name=lambda _: "maps")
    kept = kept if isinstance(kept, Recipe) else Recipe(dataset.sigma)
    if original is None and (original := kept in published):
        print("the maps stay the published code's; --no-original makes ours")
    sigma = sigma or kept.sigma
    return Recipe.original(sigma, dataset.original_border) if original else Recipe(sigma)


def _read_recipe(paths: Iterable[Path], known: Sequence[Recipe]) -> Recipe | None:
    """Returns how the first map was made that was made in one of the `known` ways."""
    for path in paths:
        with suppress(DataError), open_map(path) as file:  # missing, or damaged
            for recipe in known:
                if _has(file, vars(recipe)):
                    return recipe
    return None


def _has(file: h5py.File, attributes: Mapping[str, str | bool]) -> bool:
    return all(np.array_equal(file.attrs.get(name), value) for name, value in attributes.items())


def default_root(dataset: Dataset) -> Path:
    """Returns the folder of a data set unless --root names another."""
    return Path(os.environ.get("ROOT") or PROJECT / dataset.root)


def add_options(parser: argparse.ArgumentParser, dataset: Dataset | None) -> None:
    """Adds the options that the GT generation commands share.

    Args:
        dataset: None if another option chooses it; then --root has no default yet.
    """
    add = parser.add_argument
    where = "data set's folder, by default $ROOT or its own in data/"
    add("--root", type=Path, default=dataset and default_root(dataset), help=where)
    add("--out", type=Path, help="write the same tree of .h5 here (default: beside annotations)")
    add(
        "--original",
        action=argparse.BooleanOptionalAction,
        help="the published code's maps, heads merged and lost (default: as the maps that there "
        "are, else not)",
    )
    add("--workers", type=whole_number(1), default=os.cpu_count(), help="processes")


@dataclass(frozen=True)
class Made:
    """What is known of an image whose map is up to date."""

    image: Path
    written: bool  # in this run
    heads: int
    outside: int  # heads outside the image
    swapped: int  # heads that were outside if x were y


def generate(
    name: str,
    jobs: Sequence[tuple[AnnotatedImage, Path]],
    read_points: Callable[[Path], np.ndarray],
    recipe: Recipe,
    workers: int,
    upright: bool = False,
) -> list[Failed]:
    """Brings the .h5 of every (annotated image, .h5 path) up to date, and prints a summary.

    A map is up to date if it was made by this recipe of files with this content, whatever their
    dates are. A warning names images with most of their points outside.

    Args:
        upright: whether images that viewers turn are refused.

    Returns:
        The images that are not done: one of their files is unreadable or in use.
    """
    start = time.perf_counter()
    work = partial(_bring_up_to_date, read_points=read_points, recipe=recipe, upright=upright)
    outcomes = run_in_processes(work, jobs, workers, "density maps", name=lambda job: job[0])
    made = [outcome for outcome in outcomes if isinstance(outcome, Made)]
    failed = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    written = sum(one.written for one in made)
    print(
        f"{name}: {len(jobs)} images, {sum(one.heads for one in made)} heads; {written} density "
        f"maps written, {len(made) - written} up to date, "
        + (f"{len(failed)} failed, " if failed else "")
        + f"{time.perf_counter() - start:.1f} s"
    )
    strange = [one for one in made if 2 * one.outside > one.heads]
    if strange:
        one = strange[0]
        print(
            f"warning: {name}: most points lie outside in {len(strange)} images, such as "
            f"{one.image} ({one.outside} of {one.heads}; {one.swapped} if x and y were swapped)",
            file=sys.stderr,
        )
    return failed


def _bring_up_to_date(
    job: tuple[AnnotatedImage, Path],
    read_points: Callable[[Path], np.ndarray],
    recipe: Recipe,
    upright: bool,
) -> Made:
    pair, path = job
    wanted = vars(recipe) | {"source": pair.digest()}
    if upright:
        refuse_turned(pair.image)
    known = _read_points_and_size(pair.image, path, wanted)
    points, size = known or _write_density(pair, path, read_points, recipe, wanted)
    outside, swapped = ((~lie_inside(p, size)).sum().item() for p in (points, points[:, ::-1]))
    return Made(pair.image, known is None, len(points), outside, swapped)


def _write_density(
    pair: AnnotatedImage,
    path: Path,
    read_points: Callable[[Path], np.ndarray],
    recipe: Recipe,
    attributes: dict[str, str | bool],
) -> tuple[np.ndarray, Size]:
    size = read_image(pair.image).shape[:2]  # which also finds damage
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
        file.attrs.update(attributes)
    return points, size


def _read_points_and_size(
    image: Path, path: Path, attributes: dict[str, str | bool]
) -> tuple[np.ndarray, Size] | None:
    """Returns the points of a map and its size, or None if it is not the wanted one."""
    try:
        size = read_size(image)
        with open_map(path) as file:
            if not _has(file, attributes):
                return None
            points, distances, _ = read_map_heads(path, file, size)
    except InUseError:
        raise
    except (DataError, OSError):  # missing or damaged, or no image, which writing will report
        return None
    return None if distances is None else (points, size)
