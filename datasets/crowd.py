"""Images with their density maps and heads, as a training step and an evaluation receive them."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from datasets.answers import Answers, hash_file
from datasets.cache import FileStore, MemoryStore, Store
from datasets.cutting import cut_images, cut_maps
from datasets.files import Heads, read_heads
from datasets.points import BoxRule
from datasets.sampler import CropIndex
from datasets.splits import DataError, Sample
from datasets.transforms import Augmentation, Draw, Size


class Crowd(TypedDict, total=False):
    """A batch; what nobody asked for is absent.

    It has as many points for every crop as the fullest has: infinitely far ones, with target 0,
    stand for those that a crop lacks.
    """

    image: Tensor  # (B, 3, H, W) uint8 RGB, channels-last
    heads: Tensor  # (B,) int64, annotated in the whole image, without those outside it
    name: list[str]  # the images' paths
    density: Tensor  # (B, 1, ceil(H/8), ceil(W/8)) float32, heads a cell
    points: Tensor  # (B, N, 2) float32 heads in the crop's pixels, x then y
    targets: Tensor  # (B, N) float32, what each counts
    side: Tensor  # (B,) float64, the shorter one of the whole image, in the crop's pixels
    colour: Tensor  # (B, 3) float32 factors of brightness, contrast and saturation, to be applied
    taught: Tensor  # (B, 1, ceil(H/8), ceil(W/8)) float32, heads a cell, of teachers on the mean
    features: list[Tensor]  # the first teacher's, (B, C, ceil(H/stride), ceil(W/stride)) bfloat16


class CrowdDataset(Dataset):
    """Batches of whole images by number or, with an augmentation, of crops by `CropIndex`.

    A batch needs images or crops of one size.

    Args:
        boxes: gives every batch its heads as points.
        density: whether batches have maps.

    Raises:
        DataError: an image or a density map is damaged, or of another size than the other; or
            the heads' distances, which `boxes` needs, are not in the file.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        augmentation: Augmentation | None = None,
        boxes: BoxRule | None = None,
        density: bool = True,
    ):
        self._heads = [read_heads(sample) for sample in samples]  # finds what is damaged, too
        self._samples, self._augmentation = samples, augmentation
        self._boxes, self._density = boxes, density
        self._store: Store = FileStore(samples)
        self._answers: Sequence[Answers] = ()
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

    @property
    def sizes(self) -> list[Size]:
        """Every image's height and width."""
        return [heads.size for heads in self._heads]

    def hold(self, device: torch.device, quiet: bool = False) -> None:
        """Reads all files now; images and maps of batches are made on the device from then on."""
        boxes = [Draw.whole(size).box for size in self.sizes]
        files = FileStore(self._samples)
        self._store = MemoryStore(files, boxes, self._density, device, quiet)

    @cached_property
    def pictures(self) -> list[str]:
        """Every image's name among teachers' answers."""
        return [hash_file(sample.image) for sample in self._samples]

    @property
    def mirrorings(self) -> list[bool]:
        """Whether crops show an image mirrored: never, always, or both."""
        flip = self._augmentation.flip
        return [mirrored for mirrored in (False, True) if flip != (not mirrored)]

    def image(self, number: int) -> Tensor:
        """Returns a whole image, (1, 3, H, W) uint8 RGB."""
        return self._store.image(number, Draw.whole(self.sizes[number]).box)[None]

    def teach(self, answers: Sequence[Answers]) -> None:
        """Gives crops the teachers' answers from now on, which must be there.

        Crops stand on the first one's grid then and, where there are features, are not enlarged.
        """
        self._answers = answers
        if answers[0].strides:
            self._augmentation = replace(self._augmentation, grid=answers[0].grid, scale=None)

    def __getitem__(self, indices: Sequence[int] | Sequence[CropIndex]) -> Crowd:
        """Returns the batch of these; images and maps are where they are held, the rest in RAM."""
        if self._augmentation is None:
            numbers = indices
            draws = [Draw.whole(self._heads[number].size) for number in numbers]
        else:
            numbers = [number for number, _ in indices]
            draws = [self._augmentation.draw(seed, self._heads[n].size) for n, seed in indices]
        heads = [self._heads[number] for number in numbers]
        crowd = Crowd(
            heads=torch.tensor([len(head.points) for head in heads]),
            name=[str(self._samples[number].image) for number in numbers],
        )
        if self._density:  # before the picture, as a large image has no room for both
            maps = [self._store.density(n, d.box) for n, d in zip(numbers, draws, strict=True)]
            crowd["density"] = cut_maps(maps, draws, [head.shrink for head in heads])
            del maps
        crowd["image"] = self._cut_images(numbers, draws)
        if self._boxes:
            crowd |= _place_heads(heads, draws, self._boxes)
        if self._answers:
            crowd |= self._cut_answers(numbers, draws)
        if draws[0].colour:
            crowd["colour"] = torch.tensor([draw.colour for draw in draws])
        return crowd

    def _cut_answers(self, numbers: Sequence[int], draws: Sequence[Draw]) -> Crowd:
        asked = [(self.pictures[n], draw.flip) for n, draw in zip(numbers, draws, strict=True)]
        sizes = [self._heads[number].size for number in numbers]
        maps = [
            torch.stack([teacher.cut_map(*one) for one in zip(asked, sizes, draws, strict=True)])
            for teacher in self._answers
        ]
        return Crowd(
            taught=torch.stack(maps).mean(0)[:, None],
            features=self._answers[0].cut_features(asked, sizes, draws),
        )

    def _cut_images(self, numbers: Sequence[int], draws: Sequence[Draw]) -> Tensor:
        parts = [self._store.image(n, d.box) for n, d in zip(numbers, draws, strict=True)]
        if self._augmentation is None and len(parts) == 1:
            return parts[0][None]  # a large image has no room for a copy
        return cut_images(parts, draws)


def _place_heads(heads: Sequence[Heads], draws: Sequence[Draw], boxes: BoxRule) -> Crowd:
    placed = [_place(head, draw, boxes) for head, draw in zip(heads, draws, strict=True)]
    points, targets, sides = zip(*placed, strict=True)
    return Crowd(
        points=pad_sequence(points, batch_first=True, padding_value=math.inf),
        targets=pad_sequence(targets, batch_first=True),
        side=torch.tensor(sides, dtype=torch.float64),
    )


def _place(heads: Heads, draw: Draw, boxes: BoxRule) -> tuple[Tensor, Tensor, float]:
    """Returns a crop's points, targets and side, all of them of the enlarged image."""
    (top, left, _, width), (down, across) = draw.box, draw.stretch
    points, targets = boxes(
        heads.points * np.float32([across, down]),
        heads.distances * draw.enlargement,
        (down * top, across * left, *draw.size),
    )
    if draw.flip:  # where padding follows at the right, the picture alone is mirrored
        points[:, 0] = across * min(width, heads.size[1] - left) - points[:, 0]
    side = draw.enlargement * min(heads.size)
    return torch.from_numpy(points), torch.from_numpy(targets), side
