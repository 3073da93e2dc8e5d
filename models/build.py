"""Networks by name, and how their weights begin."""

from fractions import Fraction

from torch import Tensor, nn

from models.architecture import Architecture
from models.bl import ARCHITECTURE as BL
from models.csrnet import ARCHITECTURE as CSRNET
from models.vgg import convolutions, vgg_indices

ARCHITECTURES = {"csrnet": CSRNET, "bl": BL}


def find_architecture(name: str) -> Architecture:
    """Returns an entry of ARCHITECTURES.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"arch must be one of {', '.join(ARCHITECTURES)}, got {name!r}")
    return ARCHITECTURES[name]


def build_network(arch: str, width: float | Fraction = 1) -> nn.Module:
    """Builds the network called `arch` with every channel count multiplied by `width`.

    Raises:
        ValueError: there is no such network, or `width` is not in (0, 1].
    """
    return find_architecture(arch).network(width)


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


def init_imagenet(network: nn.Module, vgg: dict[str, Tensor]) -> None:
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
