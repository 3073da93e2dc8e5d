"""Images with their density maps and heads, as a training step and an evaluation receive them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import h5py
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from datasets.points import BoxRule
from datasets.splits import DataError, Sample
from datasets.transforms import SHRINK, Box, Crop

Image.MAX_IMAGE_PIXELS = None  # pictures of any size are counted here
STRIDE = 8  # pixels per cell of every density map that leaves here
MEAN_COLOUR = (124, 116, 104)  # of ImageNet: what a network takes for nothing

CropIndex = tuple[int, tuple[int, ...]]  # which image, and the seed of everything random in it


class Crowd(TypedDict, total=False):
    """One item; a batch has one more dimension in front, and a list of names.

    The last three are there where points are asked for. A batch has as many points for every crop
    as the fullest has: infinitely far ones, with target 0, stand for those that a crop lacks.
    """

    image: Tensor  # (3, H, W) uint8 RGB
    density: Tensor  # (1, ceil(H/8), ceil(W/8)) float32, heads a cell
    heads: int  # annotated in the whole image, without those outside it
    name: str  # the image's path
    points: Tensor  # (N, 2) float32 heads in the image's pixels, x then y
    targets: Tensor  # (N,) float32, what each counts
    side: float  # the shorter one of the whole image, in pixels


@dataclass(frozen=True)
class Heads:
    """The annotated heads of one image, without those outside it."""

    points: np.ndarray  # (N, 2) float32, x then y
    distances: np.ndarray | None  # (N,) mean distance to the three nearest; old files lack it


class CrowdDataset(Dataset):
    """Whole images by number or, with a crop, what `CropSampler` draws by `CropIndex`.

    Small images are padded to the crop with the mean colour, at the right and the bottom.

    Args:
        crop: what a step sees of an image; flipped with the probability `flip`.
        boxes: gives every item its heads; without a rule there are density maps alone.

    Raises:
        DataError: an image or a density map is damaged, or of another size than the other; or
            the heads' distances, which `boxes` needs, are not in the file.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        crop: Crop | None = None,
        flip: float = 0.0,
        boxes: BoxRule | None = None,
    ):
        self._heads = [read_heads(sample) for sample in samples]  # finds what is damaged, too
        self._samples = samples
        self._crop, self._flip, self._boxes = crop, flip, boxes
        for sample, heads in zip(samples, self._heads, strict=True):
            if boxes and heads.distances is None:
                raise DataError(
                    f"{sample.density} has points without distances, which the Bayesian loss "
                    "needs; the GT generation commands bring it up to date"
                )

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def heads(self) -> list[int]:
        """How many are annotated in every image."""
        return [len(heads.points) for heads in self._heads]

    def __getitem__(self, index: int | CropIndex) -> Crowd:
        number, seed = (index, None) if self._crop is None else index
        sample, heads = self._samples[number], self._heads[number]
        image = read_image(sample.image)
        size = image.shape[:2]
        box, flip = (0, 0, *size), False
        if self._crop is not None:
            rng = np.random.default_rng(seed)
            box, flip = self._crop(rng, size), rng.random() < self._flip
        density = _read_density(sample.density, box, flip)
        image = _cut(image, box)[:, :: -1 if flip else 1]
        crowd = Crowd(
            image=torch.from_numpy(_pad(image, box)).permute(2, 0, 1),
            density=torch.from_numpy(density)[None],
            heads=len(heads.points),
            name=str(sample.image),
        )
        if self._boxes:
            points, targets = self._boxes(heads.points, heads.distances, box)
            if flip:  # where padding follows at the right, the picture alone is mirrored
                points[:, 0] = image.shape[1] - points[:, 0]
            crowd["points"], crowd["targets"] = map(torch.from_numpy, (points, targets))
            crowd["side"] = float(min(size))
        return crowd


class CropSampler(Sampler[CropIndex]):
    """Passes `crops_per_image` crops of every image, in an order that seed and epoch fix.

    What is drawn depends on nothing else, so the number of workers does not matter, and an epoch
    can be taken up at crop number `start` again.
    """

    def __init__(self, images: int, crops_per_image: int, seed: int):
        self._images, self._crops, self._seed = images, images * crops_per_image, seed
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        return self._crops - self.start

    def __iter__(self) -> Iterator[CropIndex]:
        order = np.random.default_rng((self._seed, self.epoch)).permutation(self._crops)
        for position in range(self.start, self._crops):
            yield int(order[position]) % self._images, (self._seed, self.epoch, position)


def read_image(path: Path) -> np.ndarray:
    """Returns an image file as (H, W, 3) uint8 RGB, whatever its colour space.

    Raises:
        DataError: the file is no image, or is damaged or truncated.
    """
    try:
        with Image.open(path) as image:
            # Converting RGB would copy it, which large pictures have no room for.
            return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise DataError(f"{path} is not a readable image ({error})") from None


def read_heads(sample: Sample) -> Heads:
    """Returns the heads annotated in a sample's image, without reading its pixels.

    Raises:
        DataError: the image or the .h5 cannot be opened, or their sizes differ.
    """
    try:
        with Image.open(sample.image) as image:
            width, height = image.size
    except OSError as error:
        raise DataError(f"{sample.image} is not a readable image ({error})") from None
    path = sample.density
    try:
        with h5py.File(path) as file:
            missing = {"density", "points"} - file.keys()
            if missing:
                raise DataError(
                    f"{path} has no dataset {min(missing)!r}; the GT generation commands write it"
                )
            if file["density"].shape != (height, width):
                found = "x".join(map(str, file["density"].shape))
                raise DataError(f"{path}: density is {found}, its image {height}x{width}")
            points = file["points"][:]
            distances = file["distances"][:] if "distances" in file else None
            if distances is not None and len(distances) != len(points):
                raise DataError(f"{path}: {len(points)} points have {len(distances)} distances")
    except OSError as error:
        raise DataError(f"{path} is not a readable density map ({error})") from None
    x, y = points.T
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return Heads(points[inside], None if distances is None else distances[inside])


def _read_density(path: Path, box: Box, flip: bool) -> np.ndarray:
    """Returns the part of a map in a box, of which nothing lies outside, at stride 8."""
    try:
        with h5py.File(path) as file:
            shrink = SHRINK[file.attrs.get("shrink", "sum")]
            density = _cut(file["density"], box)
    except OSError as error:
        raise DataError(f"{path} is not a readable density map ({error})") from None
    return shrink(_pad(density[:, :: -1 if flip else 1], box), STRIDE)


def _cut(array: np.ndarray | h5py.Dataset, box: Box) -> np.ndarray:
    top, left, height, width = box
    return array[top : top + height, left : left + width]


def _pad(array: np.ndarray, box: Box) -> np.ndarray:
    """Fills up to the size of a box: a map with nobody, a picture with the mean colour."""
    if array.shape[:2] == box[2:]:
        return np.ascontiguousarray(array)
    padded = np.zeros((*box[2:], *array.shape[2:]), array.dtype)
    if array.ndim == 3:
        padded[:] = MEAN_COLOUR
    padded[: array.shape[0], : array.shape[1]] = array
    return padded
