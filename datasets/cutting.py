"""Cuts crops from pictures and density maps as `Draw`s say, on any device."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from datasets.sizes import STRIDE, Size, grid
from datasets.transforms import Draw

MEAN_COLOUR = (124, 116, 104)  # of ImageNet, which normalises to about 0


def cut_images(parts: Sequence[Tensor], draws: Sequence[Draw]) -> Tensor:
    """Returns crops of one size as (B, 3, H, W) uint8, channels-last.

    Pictures that are too small are padded with the mean colour at the right and the bottom, even if
    mirrored. Resizing is bilinear with antialiasing.
    Original: BL enlarges small images beforehand, and asserts that none is smaller than a crop.

    Args:
        parts: (3, h, w) uint8 each: the part of the picture inside the draw's box.
        draws: all of one size.
    """
    height, width = draws[0].size
    crops = parts[0].new_empty(len(draws), height, width, 3).permute(0, 3, 1, 2)
    for crop, part, draw in zip(crops, parts, draws, strict=True):
        part = part.flip(-1) if draw.flip else part
        if part.shape[1:] != draw.box[2:]:
            part = _fill_up(part, draw.box[2:])
        part = _resize(part, draw.size) if draw.resized else part
        crop.copy_(draw.corruption.apply(part.to(crop.dtype)) if draw.corruption else part)
    return crops


def cut_maps(parts: Sequence[Tensor], draws: Sequence[Draw], shrinks: Sequence[str]) -> Tensor:
    """Returns crops of density maps at stride 8, (B, 1, ceil(H/8), ceil(W/8)) float32.

    Args:
        parts: (h, w) float32 each: the part of the map inside the draw's box.
        draws: all of one size.
        shrinks: how each map shrinks: "sum" keeps every head; "bicubic", the published way, keeps
            the sum roughly.
    """
    parts = [part.flip(-1) if draw.flip else part for part, draw in zip(parts, draws, strict=True)]
    if set(shrinks) == {"sum"} and not any(draw.resized for draw in draws):
        return sum_cells(_stack(parts, draws[0].size))[:, None]
    shrunk = [_shrink(*one) for one in zip(parts, draws, shrinks, strict=True)]
    return torch.stack(shrunk)[:, None]


def sum_cells(density: Tensor) -> Tensor:
    """Shrinks (B, H, W) to (B, ceil(H/8), ceil(W/8)), every head kept.

    The order of additions is fixed, so that all devices and batch sizes round alike.
    Original: resizes bicubically and multiplies by 64, which changes the sum.
    """
    height, width = density.shape[1:]
    if height % STRIDE or width % STRIDE:
        density = F.pad(density, (0, -width % STRIDE, 0, -height % STRIDE))
    while density.shape[2] > -(-width // STRIDE):
        density = density[..., ::2] + density[..., 1::2]
    first, *rest = density.unflatten(1, (-1, STRIDE)).unbind(2)
    for row in rest:
        first = first + row
    return first


def share_cells(density: Tensor, draw: Draw) -> Tensor:
    """Shrinks an (h, w) part of a resized map to the crop's cells, every head kept.

    Pixels in which cells meet are shared by area. The products are in float64, to which TF32 does
    not apply.
    """
    down, across = (
        overlaps(edges(side) / stretch, torch.arange(pixels + 1)).to(density.device)
        for side, pixels, stretch in zip(draw.size, density.shape, draw.stretch, strict=True)
    )
    return (down @ density.double() @ across.T).float()


def resize_bicubic(density: Tensor, draw: Draw) -> Tensor:
    """Shrinks an (h, w) map of a draw's box as the published code does, with OpenCV's kernel."""
    down, across = draw.stretch
    shrunk = F.interpolate(density[None, None].double(), grid(draw.size, STRIDE), mode="bicubic")
    return (shrunk[0, 0] * (STRIDE**2 / (down * across))).float()


def _shrink(part: Tensor, draw: Draw, shrink: str) -> Tensor:
    if shrink == "sum" and draw.resized:
        return share_cells(part, draw)
    (height, width), (rows, columns) = draw.box[2:], part.shape
    density = F.pad(part, (0, width - columns, 0, height - rows))
    return resize_bicubic(density, draw) if shrink == "bicubic" else sum_cells(density[None])[0]


def _stack(parts: Sequence[Tensor], size: Size) -> Tensor:
    """Stacks (h, w) maps to (B, *size), padded with zeros."""
    if len(parts) == 1 and parts[0].shape == size:
        return parts[0][None]
    density = parts[0].new_zeros(len(parts), *size)
    for crop, part in zip(density, parts, strict=True):
        crop[: part.shape[0], : part.shape[1]] = part
    return density


def edges(side: int) -> Tensor:
    """Returns where the cells of `side` pixels begin and end, (N + 1,) float64; the last is cut."""
    return torch.arange(0, side + STRIDE, STRIDE, dtype=torch.float64).clamp_(max=side)


def overlaps(cells: Tensor, parts: Tensor) -> Tensor:
    """Returns what length of each part lies in each cell, (C, P), from C + 1 and P + 1 edges."""
    begins, ends = cells[:-1, None], cells[1:, None]
    return (torch.minimum(ends, parts[1:]) - torch.maximum(begins, parts[:-1])).clamp_(min=0)


def _fill_up(part: Tensor, size: Size) -> Tensor:
    """Pads (3, h, w) pixels with the mean colour to (3, *size), channels-last."""
    filled = torch.stack([part.new_full(size, value) for value in MEAN_COLOUR], 2).permute(2, 0, 1)
    filled[:, : part.shape[1], : part.shape[2]] = part
    return filled


def _resize(part: Tensor, size: Size) -> Tensor:
    """Resizes (3, h, w) uint8 to (3, *size) float32, rounded to whole numbers."""
    resized = F.interpolate(part[None].float(), size, mode="bilinear", antialias=True)
    return resized[0].round_()
