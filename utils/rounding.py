"""Networks with weights of 8 bits, rounded so that counts stay what they are."""

import copy
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from utils.pixels import normalise
from utils.processor import dot_products

STEPS = 255  # of 8 bits
ROUNDABLE = slice(None, -1)  # convolutions; steps of the last one's map would be of whole heads


def list_layers(network: nn.Module) -> list[nn.Conv2d]:
    """Returns a network's convolutions, which are numbered in the order that images pass them."""
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]


@torch.no_grad()
def measure_means(network: nn.Module, pictures: Sequence[Tensor]) -> list[Tensor]:
    """Returns the mean, channel by channel, of what each convolution takes.

    Args:
        pictures: (1, 3, H, W) uint8 RGB each.
    """
    layers = list_layers(network)
    means = [torch.zeros(layer.in_channels) for layer in layers]

    def add(layer: nn.Conv2d, taken: tuple[Tensor]) -> None:
        means[layers.index(layer)] += taken[0].mean((0, 2, 3)) / len(pictures)

    hooks = [layer.register_forward_pre_hook(add) for layer in layers]
    for picture in pictures:
        network(normalise(picture))
    for hook in hooks:
        hook.remove()
    return means


@torch.no_grad()
def round_layers(
    network: nn.Module, means: Sequence[Tensor], floats: Collection[int] = ()
) -> nn.Module:
    """Returns a copy of a network whose layers have weights that INT8 holds exactly.

    What activations share, being positive, must not meet errors that add up: the errors of a
    kernel cancel each other, and the bias takes what is left for the mean of the activations.

    Args:
        means: of `measure_means`.
        floats: numbers of layers to leave as they are.
    """
    network = copy.deepcopy(network)
    for number, layer in list(enumerate(list_layers(network)))[ROUNDABLE]:
        if number not in floats:
            rounded = _round_weight(layer.weight)
            error = (rounded - layer.weight).sum((2, 3))  # (out, in)
            layer.bias -= error @ means[number]
            layer.weight.copy_(rounded)
    return network


@torch.no_grad()
def rank_layers(
    network: nn.Module, pictures: Sequence[Tensor], means: Sequence[Tensor]
) -> list[int]:
    """Returns the numbers of the layers that INT8 may have, those that it hurts most first.

    Each alone gets weights and inputs of 8 bits. The mean change of counts, relative to the sum of
    the map's absolute cells, says how much it hurts.

    Args:
        pictures: (1, 3, H, W) uint8 RGB each.
        means: of `measure_means`.
    """
    numbers = range(len(list_layers(network)))
    harm = dict.fromkeys(numbers[ROUNDABLE], 0.0)
    images = [normalise(picture) for picture in pictures]
    expected = [network(image) for image in images]
    for number in harm:
        rounded = round_layers(network, means, set(numbers) - {number})
        list_layers(rounded)[number].register_forward_pre_hook(_round_input)
        for image, density in zip(images, expected, strict=True):
            change = (rounded(image) - density).sum() / density.abs().sum()
            harm[number] += change.abs().item()
    return sorted(harm, key=lambda number: -harm[number])


def _round_weight(weight: Tensor) -> Tensor:
    """Rounds each output channel to steps of its greatest weight, (out, in, 3, 3)."""
    steps = STEPS // 2 if dot_products() else STEPS // 4  # see onnx_format.quantise
    step = weight.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12) / steps
    exact = (weight / step).flatten(2)  # (out, in, 9)
    rounded = exact.round()
    error = rounded - exact
    surplus = error.sum(2, keepdim=True).round()  # steps that each kernel has too many
    place = error.argsort(2).argsort(2)  # 0 was rounded down most
    change = (place < -surplus).float() - (place >= error.shape[2] - surplus).float()
    rounded += change * (rounded.abs() < steps)  # the greatest sets the step, and stays
    return rounded.view_as(weight) * step


def _round_input(layer: nn.Module, taken: tuple[Tensor]) -> tuple[Tensor]:
    low, high = taken[0].amin().clamp(max=0), taken[0].amax().clamp(min=0)
    step = (high - low).clamp(min=1e-12) / STEPS
    return (((taken[0] - low) / step).round() * step + low,)
