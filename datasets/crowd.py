"""Images with their density maps, as a training step and an evaluation receive them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypedDict

import h5py
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset, Sampler

from datasets.splits import DataError, Sample
from datasets.transforms import FLIP_PROBABILITY, SHRINK, Box, Crop, normalise

STRIDE = 8  # pixels per cell of every density map that leaves here

CropIndex = tuple[int, tuple[int, ...]]  # which image, and the seed of everything random in it


class Crowd(TypedDict):
    """One item; a batch has one more dimension in front, and a list of names."""

    image: Tensor  # (3, H, W) normalised RGB
    density: Tensor  # (1, ceil(H/8), ceil(W/8)) float32, heads a cell
    heads: int  # annotated in the whole image, without those outside it
    name: str  # the image's path


class CrowdDataset(Dataset):
    """Whole images by number or, with a crop, what `CropSampler` draws by `CropIndex`.

    Small images are padded to the crop with the mean colour, at the right and the bottom.

    Raises:
        DataError: an image or a density map is damaged, or of another size than the other.
    """

    def __init__(self, samples: Sequence[Sample], crop: Crop | None = None):
        self.heads = [count_heads(sample) for sample in samples]  # finds what is damaged, too
        self._samples = samples
        self._crop = crop

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int | CropIndex) -> Crowd:
        number, seed = (index, None) if self._crop is None else index
        sample = self._samples[number]
        image = read_image(sample.image)
        box, flip = (0, 0, *image.shape[:2]), False
        if self._crop is not None:
            rng = np.random.default_rng(seed)
            box, flip = self._crop(rng, image.shape[:2]), rng.random() < FLIP_PROBABILITY
        density, heads, shrink = _read_density(sample.density, box, image.shape[:2])
        image = _cut(image, box)
        if flip:
            image, density = image[:, ::-1], density[:, ::-1]
        below, right = box[2] - image.shape[0], box[3] - image.shape[1]
        density = np.pad(density, ((0, below), (0, right)))
        return Crowd(
            image=F.pad(normalise(image), (0, right, 0, below)),
            density=torch.from_numpy(SHRINK[shrink](density, STRIDE))[None],
            heads=heads,
            name=str(sample.image),
        )


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
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise DataError(f"{path} is not a readable image ({error})") from None


def count_heads(sample: Sample) -> int:
    """Returns the heads annotated in a sample's image, without reading its pixels.

    Raises:
        DataError: the image or the .h5 cannot be opened, or their sizes differ.
    """
    try:
        with Image.open(sample.image) as image:
            width, height = image.size
    except OSError as error:
        raise DataError(f"{sample.image} is not a readable image ({error})") from None
    _, heads, _ = _read_density(sample.density, (0, 0, 1, 1), (height, width))
    return heads


def _read_density(path: Path, box: Box, size: tuple[int, int]) -> tuple[np.ndarray, int, str]:
    """Returns the part of a map in a box, the heads in the image, and how the map shrinks."""
    try:
        with h5py.File(path) as file:
            missing = {"density", "points"} - file.keys()
            if missing:
                raise DataError(
                    f"{path} has no dataset {min(missing)!r}; the GT generation commands write it"
                )
            if file["density"].shape != size:
                found = "x".join(map(str, file["density"].shape))
                raise DataError(f"{path}: density is {found}, its image {size[0]}x{size[1]}")
            x, y = file["points"][:].T
            heads = int(((x >= 0) & (x < size[1]) & (y >= 0) & (y < size[0])).sum())
            shrink = file.attrs.get("shrink", "sum")
            return _cut(file["density"], box), heads, shrink
    except OSError as error:
        raise DataError(f"{path} is not a readable density map ({error})") from None


def _cut(array: np.ndarray | h5py.Dataset, box: Box) -> np.ndarray:
    top, left, height, width = box
    return array[top : top + height, left : left + width]
