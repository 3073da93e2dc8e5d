"""Networks by name, and their random initial weights."""

from fractions import Fraction

from torch import nn

from models.architecture import Architecture
from models.bl import ARCHITECTURE as BL
from models.csrnet import ARCHITECTURE as CSRNET
from models.vgg import convolutions

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
        ValueError: it is not a number in (0, 1].
    """
    try:
        width = Fraction(text)
    except (ValueError, ZeroDivisionError):
        width = Fraction(0)
    if not 0 < width <= 1:
        raise ValueError(f"width must be a number in (0, 1] such as 1/4, got {text!r}")
    return width


def init_normal(network: nn.Module) -> None:
    """Sets convolutions to normal(0, 0.01), bias 0: a teacher's, except its ImageNet trunk."""
    for convolution in convolutions(network).values():
        nn.init.normal_(convolution.weight, std=0.01)
        _zero_bias(convolution)


def init_kaiming(network: nn.Module) -> None:
    """Sets convolutions to Kaiming normal, fan-out, bias 0: a student's initial weights."""
    for convolution in convolutions(network).values():
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        _zero_bias(convolution)


def _zero_bias(convolution: nn.Conv2d) -> None:
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
