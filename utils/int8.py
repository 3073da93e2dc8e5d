"""Post-training quantisation to INT8 that keeps a counter's error within a budget."""

import copy
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from utils.exported import ExportError

LEVELS = 255  # steps of 8 bits
MOST_FLOAT = 0.5  # of the convolutions; with more of them INT8 is not worth its name


@dataclass(frozen=True)
class Quantised:
    """A quantised model, which convolutions stayed in float32, by number, and its MAE."""

    model: Any
    floats: tuple[int, ...]
    mae: float


@torch.no_grad()
def rank_layers(network: nn.Module, images: Sequence[Tensor]) -> list[int]:
    """Returns the numbers of a network's convolutions, the ones that INT8 hurts most first.

    Each alone is rounded to 8 bits, its weights channel by channel and what it takes; the mean
    change of counts, relative to the map's absolute sum, says how much it hurts.

    Args:
        images: (1, 3, H, W) normalised RGB each.
    """
    network = copy.deepcopy(network)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    harm = [0.0] * len(layers)
    for image in images:
        expected = network(image)
        for number, layer in enumerate(layers):
            weight = layer.weight.data
            layer.weight.data = _round(weight, weight.abs().amax((1, 2, 3), keepdim=True), True)
            hook = layer.register_forward_pre_hook(_round_input)
            harm[number] += ((network(image) - expected).sum() / expected.abs().sum()).abs().item()
            hook.remove()
            layer.weight.data = weight
    return sorted(range(len(layers)), key=lambda number: -harm[number])


def quantise_within(
    quantise: Callable[[Collection[int]], Any],
    measure: Callable[[Any], float],
    ranking: Sequence[int],
    baseline: float,
    rise: float,
) -> Quantised:
    """Quantises with as many of the worst layers in float32 as the budget needs.

    Args:
        quantise: the numbers of the layers that stay in float32 -> model.
        measure: model -> MAE.
        ranking: numbers of all layers, the worst first.
        baseline: MAE of the model in float32.
        rise: by how much INT8 may have a greater one.

    Raises:
        ExportError: with MOST_FLOAT of the layers in float32 it still has.
    """
    rises = []
    for kept in range(int(MOST_FLOAT * len(ranking)) + 1):
        floats = tuple(sorted(ranking[:kept]))
        model = quantise(floats)
        mae = measure(model)
        print(f"INT8 with {kept} of {len(ranking)} layers in float32: MAE {mae:.2f}", flush=True)
        if mae <= baseline + rise:
            return Quantised(model, floats, mae)
        rises.append(mae - baseline)
    raise ExportError(
        f"INT8 raises the MAE of {baseline:.2f} by {rises[0]:.2f}, and by at least {min(rises):.2f} "
        f"with up to {kept} of {len(ranking)} layers in float32; --max-mae-rise allows {rise:g}"
    )


def _round_input(layer: nn.Module, taken: tuple[Tensor]) -> tuple[Tensor]:
    low, high = taken[0].amin().clamp(max=0), taken[0].amax().clamp(min=0)
    return (low + _round(taken[0] - low, high - low, False),)


def _round(values: Tensor, peak: Tensor, signed: bool) -> Tensor:
    """Rounds to 8 bits, from 0, or the negative one if `signed`, to a peak."""
    step = (peak / (LEVELS // 2 if signed else LEVELS)).clamp(min=1e-12)
    return (values / step).round() * step
