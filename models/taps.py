"""Where features are read for distillation: places by name, hooks, and the 1x1 adapters."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Tap:
    module: str  # dotted name of a submodule, the same in teacher and student
    stride: int  # input pixels per feature cell

    @property
    def name(self) -> str:
        """The layer's own name, such as conv1_1."""
        return self.module.rpartition(".")[2]


class FeatureReader:
    """Runs a network and hands out what its taps saw: reader(images) -> (density, features).

    The taps stand in the order in which images pass them. The hooks stay, so that torch.compile
    sees none come and go, but keep nothing of images that the network gets from elsewhere.

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
        self._features: list[Tensor] | None = None  # while a reading goes on
        self._hooks = [modules[tap.module].register_forward_hook(self._keep) for tap in taps]

    def __call__(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Returns the (B, 1, h, w) density and every tap's (B, C, H/stride, W/stride) feature."""
        self._features = features = []
        try:
            return self._network(images), features
        finally:
            self._features = None

    def remove(self) -> None:
        """Takes the hooks off the network; the reader reads no more features."""
        for hook in self._hooks:
            hook.remove()

    def _keep(self, _module: nn.Module, _images: tuple[Tensor], feature: Tensor) -> None:
        if self._features is not None:
            self._features.append(feature)


class Adapters(nn.ModuleDict):
    """A 1x1 convolution for every tap, from the student's channels to the teacher's."""

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


def tap_channels(network: nn.Module) -> list[int]:
    """Returns the channels at every tap of a network of ours, seen on a small picture."""
    image = torch.zeros(1, 3, 32, 32, device=next(network.parameters()).device)
    reader = FeatureReader(network, network.taps)
    with torch.no_grad():
        _, features = reader(image)
    reader.remove()
    return [feature.shape[1] for feature in features]
