"""Makes the density maps of a data set in the catalogue."""

from collections.abc import Sequence
from pathlib import Path

from datasets.catalogue import Dataset
from preprocess.annotations import READERS
from preprocess.generation import choose_recipe, generate
from preprocess.layouts import find_images
from preprocess.processes import raise_failed
from preprocess.rescaling import rescale


def make_maps(
    dataset: Dataset,
    splits: Sequence[str],
    label: str,
    root: Path,
    out: Path | None,
    original: bool | None,
    workers: int,
    short_side: tuple[int, int] | None = None,
    sigma: str | None = None,
) -> None:
    """Brings the .h5 of every image up to date, and prints what was done.

    Args:
        splits: such as "train" and "test".
        label: the data set's, for what is printed.
        out: root of the same tree of .h5 files; None: beside the annotations.
        original: whether to make the published code's maps; for None see `choose_recipe`.
        short_side: limits of the images' short sides, in pixels. Images and annotations are then
            written into `out`, too, rescaled if necessary.
        sigma: name of SIGMA_RULES; for None see `choose_recipe`.

    Raises:
        DataError: the layout is different, or files are unreadable (a line for each); the maps of
            all others are made.
    """
    read_points = READERS[dataset.layout]
    found, failed = {split: find_images(dataset, root, split) for split in splits}, []
    pairs = [pair for pairs in found.values() for pair in pairs]
    folders = (out, None) if out else (None,)  # maps beside the annotations may be the first ones
    paths = (pair.density_path(root, folder) for folder in folders for pair in pairs)
    recipe = choose_recipe(dataset, paths, original, sigma)
    for split, pairs in found.items():
        maps = out
        if short_side is not None:
            pairs, failures = rescale(pairs, root, out, short_side, read_points, workers)
            failed += failures
            maps = None  # beside the rescaled images
        jobs = [(pair, pair.density_path(root, maps)) for pair in pairs]
        upright = dataset.layout == "own"
        failed += generate(f"{label} {split}", jobs, read_points, recipe, workers, upright)
    raise_failed(failed)
