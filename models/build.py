"""Networks by name."""

from fractions import Fraction

from torch import nn

from models.architecture import Architecture
from models.bl import ARCHITECTURE as BL
from models.csrnet import ARCHITECTURE as CSRNET
from models.mobile import LITE_S, MOBILE_L, MOBILE_S

ARCHITECTURES = {
    "csrnet": CSRNET,
    "bl": BL,
    "mobile_s": MOBILE_S,
    "mobile_l": MOBILE_L,
    "lite_s": LITE_S,
}


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


LONGEST_WIDTH = 20  # characters; Fraction would compute with what any number of them says


def parse_width(text: str) -> Fraction:
    """Reads a width such as 1/4 or 0.25.

    Raises:
        ValueError: it is not a number in (0, 1].
    """
    try:
        width = Fraction(text if len(text) <= LONGEST_WIDTH and "e" not in text.lower() else 0)
    except (ValueError, ZeroDivisionError):
        width = Fraction(0)
    if not 0 < width <= 1:
        raise ValueError(f"width must be a number in (0, 1] such as 1/4, got {text[:40]!r}")
    return width
