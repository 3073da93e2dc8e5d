"""What differs from one architecture to another: an entry of `models.build.ARCHITECTURES` each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


def _no_names(_: nn.Module) -> list[list[str]]:
    return []


@dataclass(frozen=True)
class Architecture:
    """A network, and what the programs have to know of it.

    Args:
        network: called with a width, returns the network, which maps (B, 3, H, W) normalised RGB to
            (B, 1, ceil(H/8), ceil(W/8)) heads per cell. It has `stride`, `margin`, `taps` and
            `forward_part`.
        imagenet: torchvision's name of the ImageNet weights that its trunk begins with.
        fill_imagenet: fills the trunk of a network from their state dict; ValueError if they do not
            fit.
        recipe: ("teacher" or "student", "SHA" or "QNRF") -> the options of its published training.
        fast_teacher: a teacher's options beside the fast recipe's own.
        demo_teacher: the same beside the demonstration's.
        protocols: how images are counted in its paper, by "SHA" or "QNRF"; "whole" where none is
            named.
        foreign_names: a network -> what checkpoints in circulation call its convolutions, in their
            order, a list for each naming.
        foreign_adapters: what such checkpoints call the adapter of a tap: that name -> the tap's.
    """

    network: Callable[..., nn.Module]
    imagenet: str
    fill_imagenet: Callable[[Any, Mapping[str, Tensor]], None]
    recipe: Callable[[str, str], dict[str, Any]]
    fast_teacher: Mapping[str, Any]
    demo_teacher: Mapping[str, Any]
    protocols: Mapping[str, str] = field(default_factory=dict)
    foreign_names: Callable[[nn.Module], Sequence[Sequence[str]]] = _no_names
    foreign_adapters: Mapping[str, str] = field(default_factory=dict)
