"""Initialises a student from its teacher: selected channels, and filters fitted to them.

This is channel pruning (He et al., ICCV 2017), layer by layer from the image to the map. A layer
keeps as many of the teacher's channels as the student has: those that span the others best. Its
filters are fitted by least squares to these channels' values in the teacher, given the outputs of
the student's own earlier layers. So each layer corrects errors of those before it.
"""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.taps import Adapters, FeatureReader
from models.vgg import convolutions

POSITIONS = 512  # sampled from an image, for every layer
RIDGE = 1e-2  # penalty of ridge regression, relative to the inputs' mean square

Images = Callable[[], Iterable[Tensor]]  # gives the same (1, 3, H, W) normalised RGB at each call


class _Seen(Exception):
    """Ends a forward pass once a layer's input has been read."""


@torch.no_grad()
def inherit(
    student: nn.Module, adapters: Adapters | None, teacher: nn.Module, images: Images
) -> None:
    """Initialises a student, and the adapters from its features to its teacher's, by the teacher.

    Args:
        images: crops of crowds, to which the layers are fitted; only one is held at a time.

    Raises:
        ValueError: the architectures differ, the student is the wider one, or the networks have
            other weights than plain convolutions with biases.
    """
    layers, wider = convolutions(student), convolutions(teacher)
    if layers.keys() != wider.keys() or any(
        layer.out_channels > wider[name].out_channels for name, layer in layers.items()
    ):
        raise ValueError(
            "a student inherits from a teacher of its own architecture, as wide or wider"
        )
    fitted = {f"{name}.{kind}" for name in layers for kind in ("weight", "bias")}
    if student.state_dict().keys() != fitted or any(c.groups > 1 for c in layers.values()):
        raise ValueError(
            f"{type(student).__name__} has layers other than plain convolutions, which cannot be "
            "fitted to a teacher"
        )
    taught, taught_features = _read_teacher(teacher, images)
    for name, layer in layers.items():
        outputs = taught.pop(name)
        products = sum(_products(F.relu(samples), F.relu(samples)) for samples in outputs)
        chosen = choose_channels(products, layer.out_channels)
        inputs = _read_inputs(student, layer, images)
        _fit(layer, inputs, [samples[:, chosen] for samples in outputs])
    if adapters is not None:
        features = _read_taps(student, images)
        for i, adapter in enumerate(adapters.values()):
            _fit(adapter, [f[i] for f in features], [f[i] for f in taught_features])


def choose_channels(products: Tensor, count: int) -> Tensor:
    """Returns the indices of the `count` channels that span the others best: (count,), ascending.

    The choice is greedy: each is the one that those before it explain least (pivoted Cholesky).

    Args:
        products: (C, C) Gram matrix of the channels.
    """
    left, chosen = products.clone(), []  # the part not explained yet
    for _ in range(count):
        unexplained = left.diagonal().clone()
        unexplained[chosen] = -1
        best = int(unexplained.argmax())
        chosen.append(best)
        if unexplained[best] > 0:
            left -= torch.outer(left[:, best], left[best]) / unexplained[best]
    return torch.tensor(sorted(chosen), device=products.device)


def _fit(layer: nn.Conv2d, inputs: Iterable[Tensor], outputs: Iterable[Tensor]) -> None:
    """Fits weights and bias to every image's inputs, (N, C * kernel), and outputs, (N, D)."""
    products, targets = 0, 0
    for seen, wanted in zip(inputs, outputs, strict=True):
        seen = torch.cat([seen, seen.new_ones(len(seen), 1)], 1)
        products = products + _products(seen, seen)
        targets = targets + _products(seen, wanted)
    penalised = products.diagonal()[:-1]  # the bias has no penalty
    penalised += (RIDGE * penalised.mean()).clamp(min=1e-12)  # if all inputs are 0
    solution = torch.linalg.solve(products, targets)
    layer.weight.copy_(solution[:-1].T.view_as(layer.weight))
    layer.bias.copy_(solution[-1])


def _products(first: Tensor, second: Tensor) -> Tensor:
    return first.double().T @ second.double()


def _read_inputs(network: nn.Module, layer: nn.Conv2d, images: Images) -> Iterator[Tensor]:
    """Yields `_sample_patches` of a layer's input, image by image."""
    read: list[Tensor] = []

    def stop(_: nn.Module, inputs: tuple[Tensor]) -> None:
        read.append(_sample_patches(layer, inputs[0]))
        raise _Seen

    hook = layer.register_forward_pre_hook(stop)
    try:
        for image in images():
            try:
                network(image)
            except _Seen:
                yield read.pop()
    finally:
        hook.remove()


def _read_teacher(
    network: nn.Module, images: Images
) -> tuple[dict[str, list[Tensor]], list[list[Tensor]]]:
    """Returns every layer's outputs before ReLU, (N, D) per image; and `_read_taps`."""
    outputs: dict[str, list[Tensor]] = {name: [] for name in convolutions(network)}

    def read_of(name: str) -> Callable[[nn.Conv2d, tuple[Tensor]], None]:
        def read(layer: nn.Conv2d, inputs: tuple[Tensor]) -> None:
            covered = _sample_patches(layer, inputs[0])
            outputs[name].append(F.linear(covered, layer.weight.flatten(1), layer.bias))

        return read

    hooks = [
        layer.register_forward_pre_hook(read_of(name))
        for name, layer in convolutions(network).items()
    ]
    features = _read_taps(network, images)
    for hook in hooks:
        hook.remove()
    return outputs, features


def _read_taps(network: nn.Module, images: Images) -> list[list[Tensor]]:
    """Returns for every image the taps' vectors at the same positions, (N, C) each."""
    reader = FeatureReader(network, network.taps)
    features = []
    for image in images():
        vectors = [feature[0].flatten(1).T for feature in reader(image)[1]]
        features.append([v[_choose_positions(len(v)).to(v.device)] for v in vectors])
    reader.remove()
    return features


def _sample_patches(layer: nn.Conv2d, feature: Tensor) -> Tensor:
    """Returns a layer's patches at some positions of its (1, C, H, W) input: (N, C * kernel)."""
    height, width = feature.shape[-2:]
    (down, across), (padding, _) = layer.kernel_size, layer.padding
    positions = _choose_positions(height * width).to(feature.device)
    rows, columns = positions // width, positions % width
    offsets = layer.dilation[0] * torch.arange(max(down, across), device=feature.device)
    padded = F.pad(feature[0], [padding] * 4)
    covered = padded[
        :,
        rows[:, None, None] + offsets[:down, None],
        columns[:, None, None] + offsets[:across],
    ]  # (C, N, kernel, kernel)
    return covered.transpose(0, 1).flatten(1)


def _choose_positions(count: int) -> Tensor:
    """Returns up to POSITIONS random numbers below `count`, the same ones for the same count."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return order[:POSITIONS]
