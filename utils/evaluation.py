"""Counting images with a network: whole, or by the published cells."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from utils.metrics import CountResult

CELL = 512  # pixels, about, of a published cell's side

Predict = Callable[[nn.Module, Tensor], tuple[float, Tensor]]


def predict_whole(network: nn.Module, image: Tensor) -> tuple[float, Tensor]:
    """Returns the count of one (1, 3, H, W) image taken whole, and its (1, 1, h, w) density."""
    density = network(image)
    return density.sum().item(), density


def predict_cells(network: nn.Module, image: Tensor) -> tuple[float, Tensor]:
    """Returns the count of one (1, 3, H, W) image cut into cells, SKT's protocol of UCF-QNRF.

    There are int(W/512)+1 by int(H/512)+1 cells, which do not overlap, the last ones taking the
    rest. The (1, 1, H, W) density beside the count has each cell's map spread over its pixels.
    """
    count, density = 0.0, image.new_zeros(1, 1, *image.shape[-2:])
    for top, bottom in _cell_edges(image.shape[-2]):
        for left, right in _cell_edges(image.shape[-1]):
            part = network(image[..., top:bottom, left:right])
            count += part.sum().item()
            spread = F.interpolate(part, (bottom - top, right - left))
            density[..., top:bottom, left:right] = spread * part.numel() / spread.numel()
    return count, density


PROTOCOLS: dict[str, Predict] = {"whole": predict_whole, "cells": predict_cells}


@torch.no_grad()
def predict_each(
    network: nn.Module, loader: Iterable, device: torch.device, predict: Predict
) -> Iterator[tuple[dict[str, Any], Tensor, CountResult]]:
    """Yields, for every image of a loader, its batch of one, its density and its counts."""
    for batch in tqdm(loader, desc="counting", unit="image", leave=False):
        image = batch["image"].to(device, memory_format=torch.channels_last)
        count, density = predict(network, image)
        map_sum = batch["density"].sum(dtype=torch.float64).item()
        yield batch, density, CountResult(batch["name"][0], int(batch["heads"]), map_sum, count)


def evaluate(
    network: nn.Module, loader: Iterable, device: torch.device, protocol: str
) -> list[CountResult]:
    """Counts every image of a loader by one of PROTOCOLS."""
    each = predict_each(network, loader, device, PROTOCOLS[protocol])
    return [result for _, _, result in each]


def _cell_edges(length: int) -> Iterator[tuple[int, int]]:
    cells = length // CELL + 1
    side = length // cells
    for i in range(cells):
        yield i * side, length if i == cells - 1 else (i + 1) * side
