"""A transcription of the published distillation step, with which training here is compared.

It takes one image at a time, in float32 and NCHW. It reads a JPEG and an .h5 from disk for every
crop, computes every pair of layers separately, and reads the losses after each step.
"""

from collections.abc import Sequence

import cv2
import h5py
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from datasets.splits import Sample
from utils.pixels import IMAGENET_MEAN, IMAGENET_STD

Box = tuple[int, int, int, int]  # top, left, height, width


def read_crop(sample: Sample, box: Box, flip: bool) -> tuple[Tensor, Tensor]:
    """Returns a crop as (1, 3, h, w) normalised RGB and its (1, 1, ceil(h/8), ceil(w/8)) map."""
    top, left, height, width = box
    image = Image.open(sample.image).convert("RGB")
    with h5py.File(sample.density) as file:
        density = np.asarray(file["density"])
    image = image.crop((left, top, left + width, top + height))
    density = density[top : top + height, left : left + width]
    if flip:
        image, density = image.transpose(Image.FLIP_LEFT_RIGHT), np.fliplr(density)
    grid = (-(-width // 8), -(-height // 8))
    density = cv2.resize(density, grid, interpolation=cv2.INTER_CUBIC) * 64
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return ((pixels - mean) / deviation).contiguous()[None], torch.from_numpy(density)[None, None]


def squared_error(predicted: Tensor, density: Tensor) -> Tensor:
    return F.mse_loss(predicted, density, reduction="sum")


def intra_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Returns the sum over layers, (1, C, H, W) each, and positions of 1 - cosine similarity."""
    similarities = [
        (1 - F.cosine_similarity(s, t, dim=1)).sum() for s, t in zip(student, teacher, strict=True)
    ]
    return sum(similarities)


def inter_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Returns the sum over pairs of groups of the squared difference of their relations."""
    pairs = zip(relations(student), relations(teacher), strict=True)
    return sum(squared_error(s, t) for s, t in pairs)


def relations(groups: Sequence[Tensor]) -> list[Tensor]:
    """Returns every pair's mean over positions of products of normalised channels, (1, C, D)."""
    matrices = []
    for i, first in enumerate(groups):
        for second in groups[i + 1 :]:
            normalised = [F.instance_norm(group).flatten(2) for group in (first, second)]
            product = torch.bmm(normalised[0], normalised[1].transpose(1, 2))
            matrices.append(product / normalised[0].shape[2])
    return matrices


def pool_groups(features: Sequence[Tensor], density: Tensor, pools: Sequence[int]) -> list[Tensor]:
    """Brings features and the map onto the map's grid, by max-pooling with `pools`."""
    return [
        F.max_pool2d(feature, pool, ceil_mode=True) if pool > 1 else feature
        for feature, pool in zip([*features, density], pools, strict=True)
    ]
