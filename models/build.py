"""Networks by name, and how their weights begin."""

from fractions import Fraction

from torch import Tensor, nn

from models.bl import BL
from models.csrnet import CSRNet
from models.vgg import convolutions

NETWORKS = {"csrnet": CSRNet, "bl": BL}


def build_network(arch: str, width: float | Fraction = 1) -> CSRNet | BL:
    """Builds the network called `arch` with every channel count multiplied by `width`.

    Raises:
        ValueError: there is no such network, or `width` is not in (0, 1].
    """
    if arch not in NETWORKS:
        raise ValueError(f"arch must be one of {', '.join(NETWORKS)}, got {arch!r}")
    return NETWORKS[arch](width)


def parse_width(text: str) -> Fraction:
    """Reads a width such as 1/4 or 0.25.

    Raises:
        ValueError: it is no number in (0, 1].
    """
    try:
        width = Fraction(text)
    except (ValueError, ZeroDivisionError):
        width = Fraction(0)
    if not 0 < width <= 1:
        raise ValueError(f"width must be a number in (0, 1] such as 1/4, got {text!r}")
    return width


def init_normal(network: nn.Module) -> None:
    """Normal(0, 0.01) weights, bias 0: what a teacher has where ImageNet fills nothing."""
    for convolution in convolutions(network).values():
        nn.init.normal_(convolution.weight, std=0.01)
        nn.init.zeros_(convolution.bias)


def init_kaiming(network: nn.Module) -> None:
    """Kaiming normal, fan-out, bias 0: a student's beginning."""
    for convolution in convolutions(network).values():
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(convolution.bias)


def init_imagenet(network: CSRNet | BL, vgg: dict[str, Tensor]) -> None:
    """Fills the front end from torchvision's VGG weights, whose names are `features.N.weight`.

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


def vgg_indices(stack: nn.Sequential) -> dict[str, int]:
    """A stack's convolutions by name -> their index where ReLUs count as layers, as torchvision's.

    With the index, 0, 2, 5, ..., a layer of ours is found in checkpoints of the original codes.
    """
    indices, index = {}, 0
    for name, layer in stack.named_children():
        if isinstance(layer, nn.Conv2d):
            indices[name] = index
            index += 1  # its ReLU
        index += 1
    return indices
