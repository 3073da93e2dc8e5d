"""Images with their density maps and heads, as a training step and an evaluation receive them."""

from collections.abc import Iterator, Sequence
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from datasets.files import read_density, read_heads, read_image
from datasets.points import BoxRule
from datasets.splits import DataError, Sample
from datasets.transforms import Crop, cut, pad

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
        density = read_density(sample.density, box, flip)
        image = cut(image, box)[:, :: -1 if flip else 1]
        crowd = Crowd(
            image=torch.from_numpy(pad(image, box)).permute(2, 0, 1),
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
