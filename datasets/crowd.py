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
from datasets.sizes import STRIDE, Size, grid, typical_side
from datasets.splits import DataError, Sample
from datasets.transforms import Augmentation, Draw


class Crowd(TypedDict, total=False):
    """A batch; what was not asked for is absent.

    Crops with fewer heads than the fullest are padded by points at infinity, with target 0.
    """

    image: Tensor  # (B, 3, H, W) uint8 RGB, channels-last
    heads: Tensor  # (B,) int64, annotated in the whole image, without those outside it
    name: list[str]  # the images' paths
    density: Tensor  # (B, 1, ceil(H/8), ceil(W/8)) float32, heads per cell
    points: Tensor  # (B, N, 2) float32 heads in the crop's pixels, x then y
    targets: Tensor  # (B, N) float32, what each counts
    side: Tensor  # (B,) float64, the shorter one of the whole image, in the crop's pixels
    colour: Tensor  # (B, 3) float32 factors of brightness, contrast and saturation, to be applied
    taught: Tensor  # (B, 1, ceil(H/8), ceil(W/8)) float32, heads per cell, mean of the teachers
    empty: Tensor  # (B,) bool, whether the picture is one without a map, which shows nobody
    features: list[Tensor]  # the first teacher's, (B, C, ceil(H/stride), ceil(W/stride)) bfloat16


class CrowdDataset(Dataset):
    """Batches of whole images by number or, with an augmentation, of crops by `CropIndex`.

    A batch needs images or crops of one size.

    Args:
        boxes: if given, batches have heads as points, by this rule.
        density: whether batches have maps.

    Raises:
        DataError: an image or a density map is damaged, or their sizes differ; or a file lacks the
            heads' distances, which `boxes` needs.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        augmentation: Augmentation | None = None,
        boxes: BoxRule | None = None,
        density: bool = True,
    ):
        self._heads = [read_heads(sample) for sample in samples]  # also finds damaged files
        self._samples, self._augmentation = samples, augmentation
        self._boxes, self._density = boxes, density
        self.empty = [sample.density is None for sample in samples]  # which show nobody
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
        """The number of annotated heads in every image that has a map."""
        both = zip(self._heads, self.empty, strict=True)
        return [len(heads.points) for heads, empty in both if not empty]

    @property
    def sizes(self) -> list[Size]:
        """Every image's height and width."""
        return [heads.size for heads in self._heads]

    @property
    def typical_side(self) -> int:
        """The median longer side of the images that have a map."""
        both = zip(self.sizes, self.empty, strict=True)
        return typical_side(size for size, empty in both if not empty)

    def hold(self, device: torch.device, quiet: bool = False) -> None:
        """Reads all files onto the device; images and maps of batches are cut there from now on."""
        boxes = [Draw.whole(size).box for size in self.sizes]
        files = FileStore(self._samples)
        self._store = MemoryStore(files, boxes, self._density, device, quiet)

    @cached_property
    def pictures(self) -> list[str]:
        """Every image's name among the teachers' answers."""
        return [hash_file(sample.image) for sample in self._samples]

    @property
    def mirrorings(self) -> list[bool]:
        """Whether crops are mirrored: [False], [True], or both."""
        flip = self._augmentation.flip
        return [mirrored for mirrored in (False, True) if flip != (not mirrored)]

    def image(self, number: int) -> Tensor:
        """Returns a whole image, (1, 3, H, W) uint8 RGB."""
        return self._store.image(number, Draw.whole(self.sizes[number]).box)[None]

    def teach(self, answers: Sequence[Answers]) -> None:
        """Adds the teachers' answers, which must be stored already, to crops from now on.

        Maps of empty pictures are not needed.
        With features, crops lie on the first teacher's grid and are not enlarged.
        """
        self._answers = answers
        if answers[0].strides:
            self._augmentation = replace(self._augmentation, grid=answers[0].grid, scale=None)

    def __getitem__(self, indices: Sequence[int] | Sequence[CropIndex]) -> Crowd:
        """Returns a batch; images and maps are on the device that holds them, the rest in RAM."""
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
        if self._density:  # before the picture: both of a large image do not fit
            maps = [self._store.density(n, d.box) for n, d in zip(numbers, draws, strict=True)]
            crowd["density"] = cut_maps(maps, draws, [head.shrink for head in heads])
            del maps
        crowd["image"] = self._cut_images(numbers, draws)
        if self._boxes:
            crowd |= _place_heads(heads, draws, self._boxes)
        if self._answers:
            crowd |= self._cut_answers(numbers, draws)
        if any(self.empty):
            crowd["empty"] = torch.tensor([self.empty[number] for number in numbers])
        if draws[0].colour:
            crowd["colour"] = torch.tensor([draw.colour for draw in draws])
        return crowd

    def _cut_answers(self, numbers: Sequence[int], draws: Sequence[Draw]) -> Crowd:
        asked = [(self.pictures[n], draw.flip) for n, draw in zip(numbers, draws, strict=True)]
        sizes = [self._heads[number].size for number in numbers]
        taught = torch.zeros(len(numbers), 1, *grid(draws[0].size, STRIDE))
        for i, one in enumerate(zip(asked, sizes, draws, strict=True)):
            if not self.empty[numbers[i]]:
                maps = [teacher.cut_map(*one) for teacher in self._answers]
                taught[i, 0] = torch.stack(maps).mean(0)
        return Crowd(
            taught=taught,
            features=self._answers[0].cut_features(asked, sizes, draws),
        )

    def _cut_images(self, numbers: Sequence[int], draws: Sequence[Draw]) -> Tensor:
        parts = [self._store.image(n, d.box) for n, d in zip(numbers, draws, strict=True)]
        if self._augmentation is None and len(parts) == 1:
            return parts[0][None]  # without a copy, for which a large image leaves no room
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
    """Returns a crop's points, targets and side, in pixels of the enlarged image."""
    (top, left, _, width), (down, across) = draw.box, draw.stretch
    points, targets = boxes(
        heads.points * np.float32([across, down]),
        heads.distances * draw.enlargement,
        (down * top, across * left, *draw.size),
    )
    if draw.flip:  # padding stays at the right: only the picture is mirrored
        points[:, 0] = across * min(width, heads.size[1] - left) - points[:, 0]
    side = draw.enlargement * min(heads.size)
    return torch.from_numpy(points), torch.from_numpy(targets), side
