"""Taps: layers of a student and its teacher whose features are read for distillation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from models.vgg import convolutions

Batch = Mapping[str, Any]  # a datasets.crowd.Crowd on the device
Ask = Callable[[Tensor, Batch], tuple[Tensor, list[Tensor]]]  # images, batch -> map, features


@dataclass(frozen=True)
class Tap:
    module: str  # dotted name of a submodule
    stride: int  # input pixels per feature cell

    @property
    def name(self) -> str:
        """The layer's own name, such as conv1_1."""
        return self.module.rpartition(".")[2]


class FeatureReader:
    """Runs a network and returns its features at taps: reader(images) -> (density, features).

    The hooks stay registered, so that torch.compile sees none come and go. They keep nothing when
    the network is called without the reader.

    Raises:
        ValueError: a tap names no submodule of the network.
    """

    def __init__(self, network: nn.Module, taps: Sequence[Tap]):
        modules = dict(network.named_modules())
        for tap in taps:
            if tap.module not in modules:
                raise ValueError(
                    f"{type(network).__name__} has no layer {tap.module!r} to tap; "
                    f"it has {', '.join(name for name in modules if name)}"
                )
        self._network = network
        self._features: list[Tensor | None] | None = None  # during a call
        self._taps = len(taps)
        self._hooks = [
            modules[tap.module].register_forward_hook(partial(self._keep, number))
            for number, tap in enumerate(taps)
        ]

    def __call__(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Returns the (B, 1, h, w) density and every tap's (B, C, H/stride, W/stride) feature."""
        self._features = features = [None] * self._taps
        try:
            return self._network(images), features
        finally:
            self._features = None

    def remove(self) -> None:
        """Removes the hooks; the reader can read no features afterwards."""
        for hook in self._hooks:
            hook.remove()

    def _keep(self, number: int, _module: nn.Module, _images: tuple, feature: Tensor) -> None:
        if self._features is not None:
            self._features[number] = feature


class Adapters(nn.ModuleDict):
    """A 1x1 convolution for every tap, from the student's channels to the teacher's.

    Args:
        taps: the student's, whose names the adapters take.
    """

    def __init__(
        self,
        taps: Sequence[Tap],
        student_channels: Sequence[int],
        teacher_channels: Sequence[int],
    ):
        super().__init__(
            {
                tap.name: nn.Conv2d(narrow, wide, 1)
                for tap, narrow, wide in zip(taps, student_channels, teacher_channels, strict=True)
            }
        )


def match_taps(student: Sequence[Tap], teacher: Sequence[Tap]) -> list[tuple[Tap, Tap]]:
    """Returns each tap of a student with the teacher's tap that it imitates.

    Taps of the same stride are paired in order; those without a counterpart are left out. Two
    networks of one architecture are matched layer by layer.

    Raises:
        ValueError: no stride is common to both.
    """
    left = list(teacher)
    pairs = []
    for tap in student:
        found = next((other for other in left if other.stride == tap.stride), None)
        if found is not None:
            left.remove(found)
            pairs.append((tap, found))
    if not pairs:
        strides = [" ".join(str(tap.stride) for tap in taps) for taps in (student, teacher)]
        raise ValueError(
            f"no tap of the student (strides {strides[0]}) has a counterpart in the teacher "
            f"(strides {strides[1]})"
        )
    return pairs


@torch.no_grad()
def tap_channels(network: nn.Module, taps: Sequence[Tap] | None = None) -> list[int]:
    """Returns the number of channels at each of `taps`, by default the network's own."""
    taps = network.taps if taps is None else taps
    image = torch.zeros(1, 3, 32, 32, device=next(network.parameters()).device)
    was_training = network.training
    reader = FeatureReader(network.eval(), taps)  # keeps batch normalisation's statistics
    _, features = reader(image)
    reader.remove()
    network.train(was_training)
    return [feature.shape[1] for feature in features]


def live_tap(network: nn.Module) -> Tap | None:
    """Returns the tap at a network's first convolution; None if there is none.

    Its feature map is the largest and the cheapest: it is never stored, but always recomputed.
    """
    first = next(iter(convolutions(network)))
    return next((tap for tap in network.taps if tap.module == first), None)


def ask_live(teacher: nn.Module, taps: Sequence[Tap] = (), more: Sequence[nn.Module] = ()) -> Ask:
    """Returns a function that runs a frozen teacher for its map and its features at `taps`.

    The map is averaged with those of `more` networks.
    """
    read = FeatureReader(teacher, taps)

    def ask(images: Tensor, _: Batch) -> tuple[Tensor, list[Tensor]]:
        taught, features = read(images)
        if more:
            maps = [taught, *(other(images) for other in more)]
            taught = sum(density.float() for density in maps) / len(maps)
        return taught, features

    return ask


def ask_kept(teacher: nn.Module, taps: Sequence[Tap] = ()) -> Ask:
    """Returns a function like that of `ask_live`, which takes the stored answers from the batch.

    `CrowdDataset.teach` adds them: the map, and the features of all taps but `live_tap`.
    """
    live = live_tap(teacher)
    kept = [tap for tap in teacher.taps if tap != live]
    places = [None if tap == live else kept.index(tap) for tap in taps]
    first = teacher.get_submodule(live.module) if live else None

    def ask(images: Tensor, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        features = batch["features"]
        read = [first(images) if place is None else features[place] for place in places]
        return batch["taught"], read

    return ask
