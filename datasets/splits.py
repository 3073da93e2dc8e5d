"""Reads and writes lists of images, finds their density maps, and checks for shared images."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.pictures import list_pictures
from utils.files import write_json
from utils.inputs import DataError, closest_names, read_json_file

# The numbers n of the 59 training images IMG_n.jpg that CSRNet and SKT validate on.
# Original: they are trained on as well, and every new best is scored on the test images.
PART_A_VALIDATION = frozenset(
    [3, 8, 9, 20, 24, 28, 31, 34, 35, 39, 44, 56, 58, 61, 63, 66, 67, 76, 78, 81, 89, 95, 97]
    + [100, 109, 121, 122, 124, 125, 129, 132, 137, 143, 151, 152, 166, 176, 179, 182, 183, 187]
    + [188, 199, 203, 208, 221, 233, 238, 243, 245, 246, 253, 258, 259, 273, 276, 282, 289, 299]
)


@dataclass(frozen=True)
class Sample:
    """One image and its density map's .h5, or none if it shows nobody."""

    image: Path
    density: Path | None


def read_list(path: Path) -> list[Sample]:
    """Reads a JSON list whose entries are image paths or {"image": ..., "density": ...}.

    Relative paths start at the list's folder. A name that no file bears may be spelled with other
    code points or in other case, if that leaves one file. Without "density", the map is looked
    for beside the image and in the ground truth folders next to the image's folder.

    Raises:
        DataError: the list is missing, empty or malformed, or a file that it names is missing.
    """
    return [_find_entry(entry, path) for entry in _read_entries(path)]


def read_images(path: Path) -> list[Path]:
    """Reads the images of a JSON list as `read_list` does, but looks for no file.

    Raises:
        DataError: the list is missing, empty or malformed.
    """
    return [path.parent / entry["image"] for entry in _read_entries(path)]


def read_empty(folder: Path) -> list[Sample]:
    """Returns the pictures of a folder and its subfolders, which show nobody.

    Raises:
        DataError: there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise DataError(f"--empty {folder} is not a folder")
    files = list_pictures(folder, recursive=True).files
    if not files:
        raise DataError(f"--empty {folder} holds no pictures; preprocess/make_empty.py draws some")
    return [Sample(path, None) for path in files]


def read_splits(
    train: Path, val: Path, test: Path, train_on_val: bool
) -> tuple[list[Sample], list[Sample], list[Sample]]:
    """Reads the three lists of a training.

    Raises:
        DataError: as `read_list`; or the test list shares an image with another; or training and
            validation share images without `train_on_val`, or share none with it.
    """
    trained, validated, tested = (read_list(path) for path in (train, val, test))
    check_disjoint("training", trained, "test", tested)
    check_disjoint("validation", validated, "test", tested)
    try:
        check_disjoint("training", trained, "validation", validated)
    except DataError as error:
        if not train_on_val:
            raise DataError(f"{error}; --train-on-val allows it") from None
    else:
        if train_on_val:
            raise DataError(f"--train-on-val: no image of {val} stands in {train}")
    return trained, validated, tested


def write_list(path: Path, samples: Sequence[Sample]) -> None:
    """Writes a list for `read_list`, which has plain paths where these suffice to find the maps."""
    entries = [
        str(s.image)
        if s.density == _find_density(s.image)
        else {"image": str(s.image), "density": str(s.density)}
        for s in samples
    ]
    write_json(path, entries)


def split_validation(samples: Sequence[Sample], share: float, seed: int) -> list[Sample]:
    """Returns a seeded random `share` of the samples, at least one and not all, in their order."""
    count = min(max(1, round(share * len(samples))), len(samples) - 1)
    chosen = random.Random(seed).sample(range(len(samples)), count)
    return [samples[i] for i in sorted(chosen)]


def check_disjoint(
    name: str, samples: Sequence[Sample], other: str, others: Sequence[Sample]
) -> None:
    """Raises DataError if an image is in both lists."""
    shared = {s.image.resolve() for s in samples} & {s.image.resolve() for s in others}
    if shared:
        raise DataError(
            f"{len(shared)} images stand in both the {name} and the {other} list, "
            f"such as {min(shared)}"
        )


def _read_entries(path: Path) -> list[dict[str, str]]:
    try:
        entries = read_json_file(path)
    except FileNotFoundError:
        raise DataError(f"list {path} does not exist; preprocess/make_json.py makes it") from None
    except DataError as error:
        raise DataError(f"list {error}; preprocess/make_json.py makes lists") from None
    if not isinstance(entries, list) or not entries:
        raise DataError(f"list {path} must be a JSON list of at least one image")
    return [_check_entry(entry, path) for entry in entries]


def _check_entry(entry: object, path: Path) -> dict[str, str]:
    if isinstance(entry, str):
        entry = {"image": entry}
    keys = entry.keys() if isinstance(entry, dict) else set()
    if not {"image"} <= keys <= {"image", "density"} or not all(
        isinstance(value, str) for value in entry.values()
    ):
        raise DataError(f'{path}: an entry must be a path or {{"image": ..., "density": ...}}')
    return entry


def _find_entry(entry: Mapping[str, str], path: Path) -> Sample:
    try:
        return _find_sample(entry, path)
    except OSError as error:  # a name that is too long, or in a folder that is not ours to read
        raise DataError(f"{path}: {error.strerror}: {str(error.filename)[:99]}") from None


def _find_sample(entry: Mapping[str, str], path: Path) -> Sample:
    image = _find_file(path.parent / entry["image"])
    if not image.is_file():
        lacks = "is no file" if image.exists() else "does not exist"
        raise DataError(f"{path}: image {image} {lacks}")
    if "density" in entry:
        density = _find_file(path.parent / entry["density"])
    else:
        density = _find_density(image)
    if density is None or not density.is_file():
        looked = density or " or ".join(map(str, _density_candidates(image)))
        raise DataError(f"{image} has no density map {looked}; the GT generation commands make it")
    return Sample(image, density)


def _find_file(path: Path) -> Path:
    """Returns `path`, or the one file beside it whose name is the same in another spelling."""
    if path.exists() or not path.parent.is_dir():
        return path
    found = closest_names(path.name, ((p.name, p) for p in path.parent.iterdir()))
    return found[0] if len(found) == 1 else path


def _find_density(image: Path) -> Path | None:
    return next((path for path in _density_candidates(image) if path.is_file()), None)


def _density_candidates(image: Path) -> list[Path]:
    beside, dataset = image.with_suffix(".h5"), image.parent.parent
    return [beside] + [dataset / f / beside.name for f in ("ground_truth", "ground-truth")]
