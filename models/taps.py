"""Where features are read for distillation: places by name, hooks, and the 1x1 adapters."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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

    The taps stand in the order in which images pass them.

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
        self._tapped = [modules[tap.module] for tap in taps]

    def __call__(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Returns the (B, 1, h, w) density and every tap's (B, C, H/stride, W/stride) feature."""
        features: list[Tensor] = []
        hooks = [
            module.register_forward_hook(lambda _module, _images, seen: features.append(seen))
            for module in self._tapped
        ]
        try:
            return self._network(images), features
        finally:  # no hook stays behind: it would keep the features of every later image
            for hook in hooks:
                hook.remove()


class Adapters(nn.ModuleDict):
    """A 1x1 convolution and ReLU for every tap, from the student's channels to the teacher's."""

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

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Maps every tap's (B, C_student, h, w) to (B, C_teacher, h, w)."""
        return [
            F.relu(adapter(feature), inplace=True)
            for adapter, feature in zip(self.values(), features, strict=True)
        ]


def tap_channels(network: nn.Module) -> list[int]:
    """Returns the channels at every tap of a network of ours, seen on a small picture."""
    image = torch.zeros(1, 3, 32, 32, device=next(network.parameters()).device)
    with torch.no_grad():
        _, features = FeatureReader(network, network.taps)(image)
    return [feature.shape[1] for feature in features]
