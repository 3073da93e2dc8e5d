"""A student's beginning out of its teacher: chosen channels, and filters fitted to them.

As channel pruning does it (He et al., ICCV 2017), layer after layer from the image to the map. A
layer keeps as many of the teacher's channels as the student has, those that span the others best,
and its filters are fitted by least squares to what these channels give in the teacher, from what
the student's own earlier layers give: each makes up for what those before it have lost.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.bl import BL
from models.csrnet import CSRNet
from models.taps import Adapters, FeatureReader
from models.vgg import convolutions

POSITIONS = 512  # of an image, at which a layer is looked at
RIDGE = 1e-2  # penalty of a fit, as a part of its inputs' mean square


class _Seen(Exception):
    """A layer's input has been read: the layers behind it need not run."""


@torch.no_grad()
def inherit(
    student: CSRNet | BL,
    adapters: Adapters | None,
    teacher: CSRNet | BL,
    images: Sequence[Tensor],
) -> None:
    """Fills a student, and adapters from its features to its teacher's, out of the teacher.

    Args:
        images: (1, 3, H, W) normalised RGB crops of crowds, at which the networks are compared.

    Raises:
        ValueError: the two are of different architectures, or the student is the wider one.
    """
    layers, wide = convolutions(student), convolutions(teacher)
    if layers.keys() != wide.keys() or any(
        layer.out_channels > wide[name].out_channels for name, layer in layers.items()
    ):
        raise ValueError(
            "a student inherits from a teacher of its own architecture, as wide or wider"
        )
    taught = _read_outputs(teacher, images)
    for name, layer in layers.items():
        outputs = taught.pop(name)
        products = sum(_products(F.relu(rows), F.relu(rows)) for rows in outputs)
        chosen = choose_channels(products, layer.out_channels)
        _fit(layer, _read_inputs(student, layer, images), [rows[:, chosen] for rows in outputs])
    if adapters is not None:
        pairs = [[_read_taps(network, image) for network in (student, teacher)] for image in images]
        for i, adapter in enumerate(adapters.values()):
            _fit(adapter, [narrow[i] for narrow, _ in pairs], [wide[i] for _, wide in pairs])


def choose_channels(products: Tensor, count: int) -> Tensor:
    """Returns the numbers of `count` of the channels, which span the others best.

    One after the other: the one that those before it explain least (Cholesky with pivoting).

    Args:
        products: (C, C) sums of the products of every two channels' features.
    """
    left, chosen = products.clone(), []  # what is not explained yet
    for _ in range(count):
        unexplained = left.diagonal().clone()
        unexplained[chosen] = -1
        best = int(unexplained.argmax())
        chosen.append(best)
        if unexplained[best] > 0:
            left -= torch.outer(left[:, best], left[best]) / unexplained[best]
    return torch.tensor(sorted(chosen), device=products.device)


def _fit(layer: nn.Conv2d, inputs: Iterable[Tensor], outputs: Iterable[Tensor]) -> None:
    """Sets weights and bias so that all images' inputs (N, C * kernel) give outputs (N, D) best."""
    products, targets = 0, 0
    for seen, wanted in zip(inputs, outputs, strict=True):
        seen = torch.cat([seen, seen.new_ones(len(seen), 1)], 1)
        products = products + _products(seen, seen)
        targets = targets + _products(seen, wanted)
    penalised = products.diagonal()[:-1]  # the bias is free
    penalised += RIDGE * penalised.mean()
    solution = torch.linalg.solve(products, targets)
    layer.weight.copy_(solution[:-1].T.view_as(layer.weight))
    layer.bias.copy_(solution[-1])


def _products(first: Tensor, second: Tensor) -> Tensor:
    return first.double().T @ second.double()


def _read_inputs(
    network: nn.Module, layer: nn.Conv2d, images: Iterable[Tensor]
) -> Iterator[Tensor]:
    """What a layer's kernel covers, see `_patches`, image by image."""
    rows: list[Tensor] = []

    def read(_: nn.Module, inputs: tuple[Tensor]) -> None:
        rows.append(_patches(layer, inputs[0]))
        raise _Seen

    hook = layer.register_forward_pre_hook(read)
    for image in images:
        try:
            network(image)
        except _Seen:
            yield rows.pop()
    hook.remove()


def _read_outputs(network: nn.Module, images: Iterable[Tensor]) -> dict[str, list[Tensor]]:
    """What every layer gives at the same positions, before its ReLU: (N, D) of each image."""
    rows: dict[str, list[Tensor]] = {name: [] for name in convolutions(network)}

    def read_of(name: str) -> Callable[[nn.Conv2d, tuple[Tensor]], None]:
        def read(layer: nn.Conv2d, inputs: tuple[Tensor]) -> None:
            covered = _patches(layer, inputs[0])
            rows[name].append(F.linear(covered, layer.weight.flatten(1), layer.bias))

        return read

    hooks = [
        layer.register_forward_pre_hook(read_of(name))
        for name, layer in convolutions(network).items()
    ]
    for image in images:
        network(image)
    for hook in hooks:
        hook.remove()
    return rows


def _read_taps(network: CSRNet | BL, image: Tensor) -> list[Tensor]:
    """What every tap sees at the same positions: (N, C) each."""
    reader = FeatureReader(network, network.taps)
    _, features = reader(image)
    reader.remove()
    rows = [feature[0].flatten(1).T for feature in features]
    return [row[_choose_positions(len(row)).to(row.device)] for row in rows]


def _patches(layer: nn.Conv2d, image: Tensor) -> Tensor:
    """What a layer's kernel covers at some positions of a (1, C, H, W) input: (N, C * kernel)."""
    height, width = image.shape[-2:]
    (down, across), (padding, _) = layer.kernel_size, layer.padding
    places = _choose_positions(height * width).to(image.device)
    rows, columns = places // width, places % width
    offsets = layer.dilation[0] * torch.arange(max(down, across), device=image.device)
    padded = F.pad(image[0], [padding] * 4)
    covered = padded[
        :,
        rows[:, None, None] + offsets[:down, None],
        columns[:, None, None] + offsets[:across],
    ]  # (C, N, kernel, kernel)
    return covered.transpose(0, 1).flatten(1)


def _choose_positions(count: int) -> Tensor:
    """Up to POSITIONS of 0 ... count - 1, the same ones for the same count."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return order[:POSITIONS]
