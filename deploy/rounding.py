"""Rounds the weights of networks to few steps so that counts are preserved."""

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from models.vgg import convolutions

# From 0 to an output channel's greatest weight. These 7 bits work on every processor. With 8 bits,
# sums of two products overflow 16 bits on processors without 8-bit dot products (VNNI, AMX), and
# counts are wrong.
WEIGHT_STEPS = 64
ACTIVATION_STEPS = 255  # of 8 bits
TINY = 1e-12  # the least range, for values that are all 0


@torch.no_grad()
def measure_means(network: nn.Module, images: Iterable[Tensor]) -> dict[str, Tensor]:
    """Returns the mean input of each convolution, channel by channel, by the layer's name.

    Args:
        images: (1, 3, H, W) normalised RGB each.
    """
    layers = convolutions(network)
    rows: dict[nn.Module, list[Tensor]] = {layer: [] for layer in layers.values()}

    def read(layer: nn.Conv2d, taken: tuple[Tensor]) -> None:
        rows[layer].append(taken[0].mean((0, 2, 3)))

    hooks = [layer.register_forward_pre_hook(read) for layer in layers.values()]
    for image in images:
        network(image)
    for hook in hooks:
        hook.remove()
    return {name: torch.stack(rows[layer]).mean(0) for name, layer in layers.items()}


@torch.no_grad()
def round_layers(
    network: nn.Module, means: Mapping[str, Tensor], floats: Collection[str]
) -> nn.Module:
    """Returns a copy of a network whose layers have weights that INT8 holds exactly.

    Most activations are positive, so rounding errors of weights would add up. The errors of a
    kernel therefore cancel each other, and the bias corrects the rest for the mean activations.

    Args:
        means: from `measure_means`.
        floats: names of the layers to leave as they are.
    """
    network = copy.deepcopy(network)
    for name, layer in convolutions(network).items():
        if name not in floats:
            rounded = _round_weight(layer.weight)
            error = (rounded - layer.weight).sum((2, 3))  # (out, in / groups)
            taken = means[name].view(layer.groups, -1, 1)
            shift = (error.view(layer.groups, -1, error.shape[1]) @ taken).flatten()  # (out,)
            layer.weight.copy_(rounded)
            bias = -shift if layer.bias is None else layer.bias - shift
            layer.bias = nn.Parameter(bias, requires_grad=False)
    return network


@torch.no_grad()
def rank_layers(
    network: nn.Module,
    images: Sequence[Tensor],
    means: Mapping[str, Tensor],
    floats: Collection[str],
) -> list[str]:
    """Returns the names of all layers but `floats`, those that INT8 harms most first.

    Weights and inputs are rounded in one layer at a time. The harm is the mean change of the count,
    relative to the sum of the map's absolute values.

    Args:
        images: (1, 3, H, W) normalised RGB each.
        means: from `measure_means`.
    """
    names = convolutions(network).keys()
    harm = dict.fromkeys([name for name in names if name not in floats], 0.0)
    expected = [network(image) for image in images]
    for name in harm:
        rounded = round_layers(network, means, names - {name})
        rounded.get_submodule(name).register_forward_pre_hook(_round_input)
        for image, density in zip(images, expected, strict=True):
            change = (rounded(image) - density).sum() / density.abs().sum()
            harm[name] += change.abs().item()
    return sorted(harm, key=lambda name: -harm[name])


def _round_weight(weight: Tensor) -> Tensor:
    """Rounds each output channel to steps of its greatest weight, (out, in, 3, 3)."""
    step = weight.abs().amax((1, 2, 3), keepdim=True).clamp(min=TINY) / WEIGHT_STEPS
    exact = (weight / step).flatten(2)  # (out, in, 9)
    rounded = exact.round()
    error = rounded - exact
    surplus = error.sum(2, keepdim=True).round()  # steps that each kernel has too many
    place = error.argsort(2).argsort(2)  # 0 was rounded down most
    change = (place < -surplus).float() - (place >= error.shape[2] - surplus).float()
    rounded += change * (rounded.abs() < WEIGHT_STEPS)  # the greatest sets the step, and stays
    return rounded.view_as(weight) * step


def _round_input(layer: nn.Module, taken: tuple[Tensor]) -> tuple[Tensor]:
    low, high = taken[0].amin().clamp(max=0), taken[0].amax().clamp(min=0)
    step = (high - low).clamp(min=TINY) / ACTIVATION_STEPS
    return (((taken[0] - low) / step).round() * step + low,)
