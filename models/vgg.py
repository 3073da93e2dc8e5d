"""Builds VGG-style stacks of convolutions from channel plans, at any width."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from fractions import Fraction

from torch import Tensor, nn
from torch.nn import functional as F

Plan = Sequence[int | str]


class ConvReLU(nn.Conv2d):
    """A 3x3 convolution that keeps the size, followed by ReLU: (B, C, H, W) -> (B, D, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1):
        super().__init__(in_channels, out_channels, 3, padding=dilation, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x), inplace=True)


def scale_plan(plan: Plan, width: float | Fraction) -> list[int | str]:
    """Multiplies every channel count of a VGG plan by `width`, rounded, at least 1.

    Raises:
        ValueError: `width` is not in (0, 1].
    """
    if not 0 < width <= 1:
        raise ValueError(f"width must be in (0, 1], got {width}")
    return [v if v == "M" else max(1, round(v * width)) for v in plan]


def build_vgg(plan: Plan, in_channels: int = 3) -> nn.Sequential:
    """Builds the stack of a plan, in which "M" is 2x2 max-pooling that rounds sizes up.

    Layers have VGG's names: conv1_1, conv1_2, pool1, conv2_1 and so on.
    Original: SKT's pooling rounds up, too; that of CSRNet-pytorch and BL rounds down.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    block, position = 1, 1
    for v in plan:
        if v == "M":
            layers[f"pool{block}"] = nn.MaxPool2d(2, 2, ceil_mode=True)
            block, position = block + 1, 1
        else:
            layers[f"conv{block}_{position}"] = ConvReLU(in_channels, v)
            in_channels, position = v, position + 1
    return nn.Sequential(layers)


def convolutions(network: nn.Module) -> dict[str, nn.Conv2d]:
    """Returns a network's convolutions by dotted name, in forward order."""
    return {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d)}


def vgg_indices(stack: nn.Sequential) -> dict[str, int]:
    """Returns the index of every convolution in a stack in which ReLUs count as layers.

    The checkpoints of torchvision and of the original codes number layers like that: 0, 2, 5, ...
    """
    indices, index = {}, 0
    for name, layer in stack.named_children():
        if isinstance(layer, nn.Conv2d):
            indices[name] = index
            index += 1  # its ReLU
        index += 1
    return indices


def fill_imagenet(network: nn.Module, vgg: Mapping[str, Tensor]) -> None:
    """Fills a network's `pretrained` part from torchvision's VGG, with names `features.N.weight`.

    Raises:
        ValueError: the weights are of another VGG, or of another width.
    """
    front = getattr(network, network.pretrained)
    state = {}
    for name, index in vgg_indices(front).items():
        for kind in ("weight", "bias"):
            source, target = f"features.{index}.{kind}", f"{name}.{kind}"
            wanted = front.get_parameter(target).shape
            if source not in vgg or vgg[source].shape != wanted:
                found = list(vgg[source].shape) if source in vgg else "none"
                raise ValueError(
                    f"{source} must have the shape {list(wanted)} for the ImageNet weights of "
                    f"{type(network).__name__}, found {found}"
                )
            state[target] = vgg[source]
    front.load_state_dict(state)


def numbered_names(network: nn.Module) -> list[str]:
    """Returns the names of a network's convolutions in codes that number layers as torchvision."""
    names = []
    for part, stack in network.named_children():
        if isinstance(stack, nn.Sequential):
            names += [f"{part}.{index}" for index in vgg_indices(stack).values()]
        else:
            names.append(part)
    return names
