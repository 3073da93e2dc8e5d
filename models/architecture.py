"""Describes an architecture by one entry of `models.build.ARCHITECTURES`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from models.initial import init_kaiming


def _no_names(_: nn.Module) -> list[list[str]]:
    return []


@dataclass(frozen=True)
class Architecture:
    """A network, and what the programs need to know about it.

    Args:
        network: builds the network of a width. It maps (B, 3, H, W) normalised RGB to
            (B, 1, ceil(H/8), ceil(W/8)) heads per cell, and has `stride`, `margin`, `taps`,
            `pretrained` and `forward_part`.
        imagenet: torchvision's name of the ImageNet weights for its trunk, or a package that has
            them in a file models/*.pth.
        fill_imagenet: fills a network's trunk from their state dict; ValueError if they do not fit.
        recipe: ("teacher" or "student", "SHA" or "QNRF") -> the options of its published training.
        fast_teacher: a teacher's options in addition to the fast recipe's.
        demo_teacher: a teacher's options in addition to the demonstration's.
        student_width: a student's width where none is given.
        init_student: sets a new student's random initial weights.
        teacher: the architecture that scripts train to teach it; its own where this is empty.
        protocols: how its paper counts images, by "SHA" or "QNRF"; "whole" where not listed.
        foreign_names: a network -> the names of its convolutions in checkpoints in circulation: one
            list, in forward order, for every naming scheme.
        foreign_adapters: names of adapters in such checkpoints -> names of their taps.
    """

    network: Callable[..., nn.Module]
    imagenet: str
    fill_imagenet: Callable[[Any, Mapping[str, Tensor]], None]
    recipe: Callable[[str, str], dict[str, Any]]
    fast_teacher: Mapping[str, Any]
    demo_teacher: Mapping[str, Any]
    student_width: str = "1/4"
    init_student: Callable[[nn.Module], None] = init_kaiming
    teacher: str = ""
    protocols: Mapping[str, str] = field(default_factory=dict)
    foreign_names: Callable[[nn.Module], Sequence[Sequence[str]]] = _no_names
    foreign_adapters: Mapping[str, str] = field(default_factory=dict)
