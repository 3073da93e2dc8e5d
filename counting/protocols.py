"""Counts images with a network: whole, by the published protocols, or in tiles."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils import ranks
from utils.device import lacks_memory
from utils.metrics import CountError, CountResult
from utils.pixels import as_batch, limit_side, normalise
from utils.precision import autocast, untuned
from utils.progress import Bar

CELL = 512  # pixels, about the side of a published cell
SHORT_SIDE = (512, 2048)  # pixels, within which BL brings the short side
WINDOW = 1024  # pixels, side of the windows of a tiled image
ALIGNMENT = 16  # pixels, the networks' coarsest stride; tiles begin at multiples of it

Predict = Callable[[nn.Module, Tensor], tuple[float, Tensor]]


def predict_whole(network: nn.Module, image: Tensor) -> tuple[float, Tensor]:
    """Returns the count of one (1, 3, H, W) uint8 image taken whole, and (1, 1, h, w) density."""
    density = network(normalise(image)).float()
    return density.sum().item(), density


def predict_cells(network: nn.Module, image: Tensor) -> tuple[float, Tensor]:
    """Returns the count of an image cut into cells, SKT's protocol of UCF-QNRF.

    There are int(W/512)+1 by int(H/512)+1 cells, which do not overlap; the last ones take the rest.
    In the returned (1, 1, H, W) density, each cell's map is spread over its pixels.
    """
    count, density = 0.0, torch.zeros(1, 1, *image.shape[-2:], device=image.device)
    for top, bottom in _cell_edges(image.shape[-2]):
        for left, right in _cell_edges(image.shape[-1]):
            part = network(normalise(image[..., top:bottom, left:right])).float()
            count += part.sum().item()
            spread = F.interpolate(part, (bottom - top, right - left))
            density[..., top:bottom, left:right] = spread * part.numel() / spread.numel()
    return count, density


def predict_rescaled(network: nn.Module, image: Tensor) -> tuple[float, Tensor]:
    """Returns the count of an image whose short side is brought within 512..2048, BL's protocol.

    The resizing is bicubic; images within the limits stay as they are.
    Original: BL's code resizes bilinearly, see preprocess/rescaling.py.
    """
    short = min(image.shape[-2:])
    scale = min(max(short, SHORT_SIDE[0]), SHORT_SIDE[1]) / short
    if scale != 1:
        size = [round(scale * side) for side in image.shape[-2:]]
        image = F.interpolate(image.float(), size, mode="bicubic").round_().clamp_(0, 255)
    return predict_whole(network, image)


def predict_tiled(network: nn.Module, image: Tensor) -> tuple[float, Tensor]:
    """Returns what `predict_whole` does; the network's memory does not grow with the image.

    The network sees windows of at most 1024x1024 pixels, which overlap by twice its `margin`. Of
    each map, only the part is used that does not depend on anything outside the window.
    """
    height, width = image.shape[-2:]
    stride = network.stride
    density = torch.zeros(1, 1, -(-height // stride), -(-width // stride), device=image.device)
    for top, bottom, above, below in _tiles(height, network.margin):
        for left, right, before, behind in _tiles(width, network.margin):
            window = normalise(image[..., above:below, before:behind])
            part = network.forward_part(window, (above, before), (height, width))
            rows, columns = (
                slice(first // stride, -(-last // stride))
                for first, last in ((top - above, bottom - above), (left - before, right - before))
            )
            density[
                ..., top // stride : -(-bottom // stride), left // stride : -(-right // stride)
            ] = part[..., rows, columns]
    return density.sum().item(), density


PROTOCOLS: dict[str, Predict] = {
    "whole": predict_whole,
    "cells": predict_cells,
    "rescaled": predict_rescaled,
    "tiled": predict_tiled,
}


def limited(predict: Predict, side: int | None) -> Predict:
    """Returns `predict` of images whose longer side is first shrunk by area to `side` pixels."""

    def predict_limited(network: nn.Module, image: Tensor) -> tuple[float, Tensor]:
        pixels = limit_side(image[0].permute(1, 2, 0).cpu().numpy(), side)
        return predict(network, as_batch(pixels).to(image.device))

    return predict if side is None else predict_limited


def count_image(
    network: nn.Module, image: Tensor, predict: Predict, device: torch.device
) -> tuple[float, Tensor]:
    """Returns the count of one (1, 3, H, W) uint8 image, at least 0, and its density, on a device.

    The density is that of `predict`, one of PROTOCOLS.
    Original: a map whose sum is negative, as a CSRNet's may be, has a negative count.

    Raises:
        CountError: the memory is too small.
    """
    try:
        count, density = predict(network, image.to(device))
    except (RuntimeError, MemoryError) as error:
        if not lacks_memory(error):
            raise
        height, width = image.shape[-2:]
        raise CountError(f"{height}x{width} pixels need more memory than is free") from None
    return (0.0 if count < 0 else count), density  # NaN stays NaN


@torch.no_grad()
def predict_each(
    network: nn.Module, loader: Iterable, device: torch.device, predict: Predict
) -> Iterator[tuple[dict[str, Any], Tensor, CountResult]]:
    """Yields, for every image of a loader, its batch of one, its density and its counts.

    Raises:
        CountError: as `count_image`; it names the image.
    """
    silent = not ranks.is_main()
    for batch in Bar(loader, desc="counting", unit="image", leave=False, disable=silent):
        try:
            count, density = count_image(network, batch["image"], predict, device)
        except CountError as error:
            raise CountError(f"{batch['name'][0]}: {error}") from None
        map_sum = batch["density"].sum(dtype=torch.float64).item()
        yield batch, density, CountResult(batch["name"][0], int(batch["heads"]), map_sum, count)


def evaluate(
    network: nn.Module,
    loader: Iterable,
    device: torch.device,
    predict: Predict | str,
    precision: torch.dtype = torch.float32,
) -> list[CountResult]:
    """Counts every image of a loader, by one of PROTOCOLS or its name."""
    predict = PROTOCOLS[predict] if isinstance(predict, str) else predict
    with untuned(), autocast(device, precision):
        return [result for _, _, result in predict_each(network, loader, device, predict)]


def _cell_edges(length: int) -> Iterator[tuple[int, int]]:
    cells = length // CELL + 1
    side = length // cells
    for i in range(cells):
        yield i * side, length if i == cells - 1 else (i + 1) * side


def _tiles(length: int, margin: int) -> Iterator[tuple[int, int, int, int]]:
    """Yields start and end of each tile along a side, and of the window around it."""
    if length <= WINDOW:
        yield 0, length, 0, length
        return
    step = (WINDOW - 2 * margin) // ALIGNMENT * ALIGNMENT
    for first in range(0, length, step):
        last = min(first + step, length)
        yield first, last, max(0, first - margin), min(last + margin, length)
