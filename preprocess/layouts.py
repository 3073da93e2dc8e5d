"""Pairs images with annotations in the folder layouts of the data sets."""

import hashlib
import re
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from datasets.catalogue import Dataset
from datasets.pictures import list_pictures
from datasets.splits import DataError
from preprocess.annotations import ANNOTATION_ENDINGS
from utils.inputs import check_regular, closest_names, fold_name

IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


@dataclass(frozen=True)
class AnnotatedImage:
    image: Path
    annotation: Path

    def density_path(self, root: Path, gt_root: Path | None) -> Path:
        """Returns the image's .h5: beside its annotation, or in the same folder under `gt_root`."""
        folder = self.annotation.parent
        if gt_root is not None:
            folder = gt_root / folder.relative_to(root)
        return folder / f"{self.image.stem}.h5"

    def digest(self) -> str:
        """Returns a hash of the content of both files, by which what was made of them is known.

        Raises:
            DataError: one is no regular file.
        """
        digest = hashlib.sha256()
        for path in (self.image, self.annotation):
            check_regular(path)
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()[:32]

    def __str__(self) -> str:
        return f"{self.annotation}, or its image {self.image.name}"


@dataclass(frozen=True)
class Split:
    """The folders of a split, and how to pair its images with annotations."""

    images: Path
    annotations: Path
    names: Callable[[str], list[str]]  # an image's stem -> possible names of its annotation
    endings: tuple[str, ...] = (".mat",)  # of annotations


@dataclass(frozen=True)
class Pairing:
    """The files of a split, in order; a complete one has only pairs."""

    pairs: list[AnnotatedImage]
    images: list[Path]  # without an annotation
    annotations: list[Path]  # without an image
    below: list[Path]  # images in subfolders, which are left out


def shanghaitech_split(root: Path, part: str, split: str) -> Split:
    """Returns the folders of `split` ("train" or "test") of part "A" or "B".

    `root` holds `part_A`, `part_A_final` or the like, or is such a folder itself.

    Raises:
        DataError: the layout is not ShanghaiTech's.
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
    return Split(images, annotations, lambda stem: [f"GT_{stem}.mat"])


def ucf_split(root: Path, split: str) -> Split:
    """Returns the folders of `split` ("train" or "test") of a UCF-QNRF layout.

    Raises:
        DataError: the layout is not UCF-QNRF's.
    """
    folder = _only(_subfolders(root, split), split.capitalize(), root)
    return Split(folder, folder, lambda stem: [f"{stem}_ann.mat"])


def own_split(root: Path, split: str) -> Split:
    """Returns the folders of `split` ("train", "val" or "test") of the user's own data set.

    Images and annotations lie together, or in folders `images` and `annotations`.

    Raises:
        DataError: the layout is different.
    """
    folders = _subfolders(root, split)
    if len(folders) != 1:
        found = ", ".join(p.name for p in _subfolders(root, ".*")) or "none"
        raise DataError(
            f"{root} must hold one folder {split}, found {found}; make_dataset.py --images FOLDER "
            "makes such a data set"
        )
    images, annotations = (_subfolders(folders[0], name) for name in ("images", "annotations"))
    return Split(
        images[0] if images else folders[0],
        annotations[0] if annotations else images[0] if images else folders[0],
        lambda stem: [name + e for name in annotation_stems(stem) for e in ANNOTATION_ENDINGS],
        ANNOTATION_ENDINGS,
    )


LAYOUTS: dict[str, Callable[..., Split]] = {  # (root, split, and part where there are several)
    "shanghaitech": shanghaitech_split,
    "ucf": ucf_split,
    "own": own_split,
}


def find_split(dataset: Dataset, root: Path, split: str) -> Split:
    """Returns the folders of a data set's `split`: "train", "test" or, of own data, "val".

    Raises:
        DataError: the layout is different.
    """
    parts = {} if dataset.part is None else {"part": dataset.part}
    return LAYOUTS[dataset.layout](root, split=split, **parts)


def find_images(dataset: Dataset, root: Path, split: str) -> list[AnnotatedImage]:
    """Returns the annotated images of a data set's `split`, in order.

    Raises:
        DataError: the layout is different, or images and annotations do not pair up.
    """
    return find_pairs(find_split(dataset, root, split))


def splits_of(dataset: Dataset, root: Path) -> list[str]:
    """Returns the splits that a data set's folder holds; own data may have validation images."""
    own = dataset.layout == "own"
    return ["train", *(["val"] if own and _subfolders(root, "val") else []), "test"]


def annotation_stems(stem: str) -> tuple[str, ...]:
    """Returns the possible names, without endings, of an annotation of the image `stem`."""
    return stem, f"GT_{stem}", f"{stem}_ann"


def find_pairs(split: Split) -> list[AnnotatedImage]:
    """Returns the annotated images of a split, in order.

    Raises:
        DataError: there are none, images and annotations do not pair up, or two images have one
            stem, by which their maps are named.
    """
    pairing = pair_up(split)
    if pairing.images:
        image = pairing.images[0]
        name = split.names(image.stem)[0]
        raise DataError(f"{image} has no annotation {name} in {split.annotations}")
    if pairing.annotations:
        raise DataError(f"{pairing.annotations[0]} has no image in {split.images}")
    if not pairing.pairs:
        raise DataError(f"{split.images} holds no images ({' '.join(sorted(IMAGE_ENDINGS))})")
    if pairing.below:
        print(
            f"{len(pairing.below)} pictures in subfolders of {split.images} are left out, such as "
            f"{pairing.below[0]}; make_dataset.py --images takes subfolders",
            file=sys.stderr,
        )
    stems = {}
    for pair in pairing.pairs:
        if (other := stems.setdefault(pair.image.stem, pair.image)) is not pair.image:
            raise DataError(f"{other} and {pair.image.name} would share a density map; rename one")
    return pairing.pairs


def pair_up(split: Split) -> Pairing:
    """Finds the annotation of every image of a split."""
    annotations = [p for p in _files(split.annotations) if p.suffix.lower() in split.endings]
    images = [p for p in _files(split.images) if p.suffix.lower() in IMAGE_ENDINGS]
    images.sort(key=natural_order)
    exact, folded = {p.name: p for p in annotations}, defaultdict(list)
    for path in annotations:
        folded[fold_name(path.name)].append(path)
    chosen, taken = {}, set()
    for spelled_alike in (True, False):  # the first come first: names may differ in case only
        for image in [image for image in images if image not in chosen]:
            for name in split.names(image.stem):
                found = [exact[name]] if name in exact else []
                if not spelled_alike:
                    free = [p for p in folded[fold_name(name)] if p not in taken]
                    found = closest_names(name, ((p.name, p) for p in free))
                if len(found) == 1 and found[0] not in taken:
                    chosen[image] = found[0]
                    taken.add(found[0])
                    break
    pairs = [AnnotatedImage(image, chosen[image]) for image in images if image in chosen]
    lonely = [image for image in images if image not in chosen]
    others = [path for path in annotations if path not in taken]
    below = [p for p in list_pictures(split.images, True).files if p.parent != split.images]
    return Pairing(pairs, lonely, sorted(others, key=natural_order), below)


def natural_order(path: Path) -> list[int | str]:
    """Returns a sort key that puts IMG_2 before IMG_10."""
    return [int(t) if t.isdecimal() else t.lower() for t in re.split(r"(\d+)", path.name)]


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
    """Returns a folder's files, except hidden ones, which systems and killed writers leave."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
