"""Matches annotations to images, and images to splits."""

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from datasets.splits import DataError
from preprocess.annotations import ANNOTATION_ENDINGS, read_annotations
from preprocess.formats import Annotation
from preprocess.layouts import IMAGE_ENDINGS, annotation_stems, natural_order
from preprocess.processes import raise_failed, run_in_processes
from utils.inputs import check_regular, closest_names, fold_name

SPLITS = ("train", "val", "test")
TEST_SHARE = 0.2  # of the images, unless folders decide or another one is wanted
OTHER_NAMES = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
SPLIT = r"(train|training|val|valid|validation|test|testing)([_-]?(data|set|images|\d+))?"
NOT_ANNOTATIONS = ("readme", "license")  # which annotation tools add to their exports


@dataclass(frozen=True)
class Source:
    """Images and annotations that are to become a data set.

    Attributes:
        images: a folder, searched with its subfolders.
        annotations: a file, or a folder of files.
        labels: LabelMe labels or COCO categories that are heads; None: the only one in the files.
        allow_empty: whether a COCO file may have images but no annotations.
    """

    images: Path
    annotations: Path
    labels: Sequence[str] | None = None
    allow_empty: bool = False


def match(source: Source, workers: int = 1) -> dict[Path, Annotation]:
    """Returns the annotation of every image, by its path within the folder of images, in order.

    Raises:
        DataError: there are no images or annotations, some are unreadable (a line for each), or
            they do not match one to one.
    """
    images, strange = _list_files(source.images, IMAGE_ENDINGS, "images")
    strange = [file for file in strange if file.suffix.lower() not in ANNOTATION_ENDINGS]
    if strange:
        known = " ".join(sorted(IMAGE_ENDINGS))
        print(f"left out, as no images known here ({known}): {len(strange)}, such as {strange[0]}")
    if source.annotations.is_file():
        files = [Path(source.annotations.name)]
        folder = source.annotations.parent
    else:
        files, _ = _list_files(source.annotations, ANNOTATION_ENDINGS, "annotations")
        files = [file for file in files if not file.name.lower().startswith(NOT_ANNOTATIONS)]
        folder = source.annotations
    read = partial(read_annotations, labels=source.labels, allow_empty=source.allow_empty)
    paths = [folder / file for file in files]
    contents = run_in_processes(read, paths, workers, "annotations", name=str, unit="file")
    raise_failed(contents)
    by_stem = defaultdict(list)
    for image in images:
        for stem in annotation_stems(image.stem):
            by_stem[fold_name(stem)].append(image)
    found: dict[Path, tuple[Annotation, Path]] = {}
    for file, annotations in zip(files, contents, strict=True):
        for annotation in annotations:
            image = _find_image(annotation, file, folder, by_stem)
            if image in found:
                raise DataError(f"{folder / file} and {found[image][1]} both annotate {image}")
            found[image] = annotation, folder / file
    _check_labels([annotation for annotation, _ in found.values()], source)
    missing = [image for image in images if image not in found]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(images)} images have no annotation, such as {missing[0]}; "
            "one without people needs an empty one"
        )
    return {image: found[image][0] for image in images}


def choose_splits(
    images: Sequence[Path], test_share: float | None, seed: int | None
) -> dict[Path, str]:
    """Returns "train", "val" or "test" for every image.

    Folders with these names decide. Without them, a seeded choice is for testing: of TEST_SHARE,
    unless another one is given.

    Raises:
        DataError: only some images lie in such folders, or all do and a choice is asked for, or
            there are too few to train or test on.
    """
    splits = {image: split_of(image) for image in images}
    if not any(splits.values()):
        if len(images) < 3:
            raise DataError(f"{len(images)} images are too few to train, validate and test on")
        count = min(max(1, round((test_share or TEST_SHARE) * len(images))), len(images) - 2)
        chosen = set(random.Random(seed or 0).sample(images, count))
        return {image: "test" if image in chosen else "train" for image in images}
    for option, value in (("--test-share", test_share), ("--seed", seed)):
        if value is not None:
            raise DataError(f"{option} chooses nothing: folders called train and test decide")
    stray = [image for image, split in splits.items() if split is None]
    if stray:
        raise DataError(f"{stray[0]} lies in no folder train, val or test, but other images do")
    for split in ("train", "test"):
        if split not in splits.values():
            raise DataError(
                f"there is no folder of {split} images, but of {' and '.join(set(splits.values()))}"
                "; for a random split choose a folder of images without any"
            )
    return splits


def split_of(path: Path) -> str | None:
    """Returns the one of SPLITS that a folder of `path` names, in one of many spellings."""
    for part in path.parts[:-1]:
        named = re.fullmatch(SPLIT, part.lower())
        if named:
            return OTHER_NAMES.get(named[1], named[1])
    return None


def _list_files(folder: Path, endings: Iterable[str], what: str) -> tuple[list[Path], list[Path]]:
    """Returns all files below a folder with these endings, and the others, without hidden ones."""
    if not folder.is_dir():
        kind = "neither a file nor a folder" if folder.exists() else "not a folder"
        raise DataError(f"{folder} is {kind} of {what}")
    files = [path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()]
    files = [path for path in files if not any(part.startswith(".") for part in path.parts)]
    for path in files:
        check_regular(folder / path)
    files.sort(key=lambda path: [natural_order(Path(part)) for part in path.parts])
    wanted = [path for path in files if path.suffix.lower() in endings]
    if not wanted:
        raise DataError(f"{folder} holds no {what} ({' '.join(sorted(endings))})")
    return wanted, [path for path in files if path not in set(wanted)]


def _check_labels(annotations: Sequence[Annotation], source: Source) -> None:
    """Raises DataError if the files mix labels and none was chosen, or lack a chosen one."""
    found = sorted(set().union(*(annotation.labels for annotation in annotations)))
    if source.labels is None and len(found) > 1:
        raise DataError(f"{source.annotations} has labels {', '.join(found)}; --labels says which")
    missing = [label for label in source.labels or () if label not in found]
    if missing:
        raise DataError(f"{source.annotations} has no label {' or '.join(missing)}")


def _find_image(
    annotation: Annotation, file: Path, folder: Path, by_stem: dict[str, list[Path]]
) -> Path:
    """Returns the image with the annotation's name or, if it has none, with its file's name."""
    name = annotation.image or file.with_suffix("").as_posix()
    wanted = PurePosixPath(name.replace("\\", "/"))  # annotation tools run on Windows, too
    is_image = annotation.image is not None and wanted.suffix.lower() in IMAGE_ENDINGS
    candidates = by_stem.get(fold_name(wanted.stem if is_image else wanted.name), [])
    if is_image:
        candidates = [c for c in candidates if fold_name(c.name) == fold_name(wanted.name)]
    if not candidates:
        raise DataError(f"{folder / file} annotates {wanted.name}, which is not among the images")
    best = max(_common_end(c, wanted) for c in candidates)
    candidates = [c for c in candidates if _common_end(c, wanted) == best]
    names = [
        (n, c) for c in candidates for n in ([c.name] if is_image else annotation_stems(c.stem))
    ]
    candidates = closest_names(wanted.name, names)
    same = [c for c in candidates if split_of(c) == _split_of_file(file)]
    candidates = same if len(candidates) > 1 and same else candidates
    if len(candidates) > 1:
        raise DataError(
            f"{folder / file} annotates {wanted.name}, which may be {candidates[0]} or "
            f"{candidates[1]}; it must name the folder, too"
        )
    return candidates[0]


def _common_end(image: Path, wanted: PurePosixPath) -> int:
    """Returns how many folders of both, counted from the file upwards, have the same name."""
    count = 0
    for a, b in zip(image.parts[-2::-1], wanted.parts[-2::-1], strict=False):
        if fold_name(a) != fold_name(b):
            break
        count += 1
    return count


def _split_of_file(file: Path) -> str | None:
    """Returns the split that an annotation file names, such as instances_train2017.json."""
    words = re.findall("[a-z]+", file.stem.lower())
    words = [OTHER_NAMES.get(word, word) for word in words]
    return split_of(file) or next((word for word in words if word in SPLITS), None)
