"""Folder layouts of the data sets -> pairs of image and annotation."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from datasets.splits import DataError

IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp"}


@dataclass(frozen=True)
class AnnotatedImage:
    image: Path
    annotation: Path

    def density_path(self, root: Path, gt_root: Path | None) -> Path:
        """The image's .h5: beside its annotation, or at the same place under `gt_root`."""
        folder = self.annotation.parent
        if gt_root is not None:
            folder = gt_root / folder.relative_to(root)
        return folder / f"{self.image.stem}.h5"


def find_shanghaitech(root: Path, part: str, split: str) -> list[AnnotatedImage]:
    """Returns the annotated images of `split` ("train" or "test") of part "A" or "B", in order.

    `root` holds `part_A`, `part_A_final` or the like, or is such a folder itself.

    Raises:
        DataError: the layout is not ShanghaiTech's, or image and annotation do not pair up.
    """
    pattern = rf"part_?{part}(_final)?"
    parts = _subfolders(root, pattern)
    if not parts and _subfolders(root, r"train_data|test_data"):
        named = re.fullmatch(r"part_?([ab])(_final)?", root.resolve().name, re.IGNORECASE)
        parts = [root] if named is None or named[1].upper() == part else []
    if len(parts) != 1:
        found = ", ".join(p.name for p in parts) or "none"
        raise DataError(
            f"{root} must hold one of part_{part} and part_{part}_final, with train_data and "
            f"test_data inside; found {found}"
        )
    folder = _only(_subfolders(parts[0], f"{split}_data"), f"{split}_data", parts[0])
    images = _only(_subfolders(folder, "images"), "images", folder)
    annotations = _only(_subfolders(folder, "ground[_-]truth"), "ground_truth", folder)
    return _pair(images, annotations, lambda image: f"GT_{image.stem}.mat")


def find_ucf(root: Path, split: str) -> list[AnnotatedImage]:
    """Returns the annotated images of `split` ("train" or "test") of a UCF-QNRF layout, in order.

    Raises:
        DataError: the layout is not UCF-QNRF's, or image and annotation do not pair up.
    """
    folder = _only(_subfolders(root, split), split.capitalize(), root)
    return _pair(folder, folder, lambda image: f"{image.stem}_ann.mat")


def natural_order(path: Path) -> list[int | str]:
    """Sort key under which IMG_2 comes before IMG_10."""
    return [int(t) if t.isdigit() else t.lower() for t in re.split(r"(\d+)", path.name)]


def _subfolders(root: Path, pattern: str) -> list[Path]:
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; --root must name the data set")
    return sorted(
        p for p in root.iterdir() if p.is_dir() and re.fullmatch(pattern, p.name, re.IGNORECASE)
    )


def _only(folders: list[Path], name: str, parent: Path) -> Path:
    if len(folders) != 1:
        found = ", ".join(f.name for f in folders) or "none"
        raise DataError(f"{parent} must hold one folder {name}, found {found}")
    return folders[0]


def _files(folder: Path) -> list[Path]:
    """Hidden ones apart, which systems, and writers that were killed, leave behind."""
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _pair(
    images: Path, annotations: Path, annotation_name: Callable[[Path], str]
) -> list[AnnotatedImage]:
    by_name = {p.name.lower(): p for p in _files(annotations) if p.suffix.lower() == ".mat"}
    pairs = []
    for image in sorted(_files(images), key=natural_order):
        if image.suffix.lower() not in IMAGE_ENDINGS:
            continue
        annotation = by_name.pop(annotation_name(image).lower(), None)
        if annotation is None:
            raise DataError(f"{image} has no annotation {annotation_name(image)} in {annotations}")
        pairs.append(AnnotatedImage(image, annotation))
    if by_name:
        raise DataError(f"{next(iter(by_name.values()))} has no image in {images}")
    if not pairs:
        raise DataError(f"{images} holds no images ({' '.join(sorted(IMAGE_ENDINGS))})")
    return pairs
