"""CSRNet (Li et al., CVPR 2018): VGG-16 to conv4_3, then six dilated convolutions."""

from collections import OrderedDict
from fractions import Fraction
from typing import Any

from torch import Tensor, nn

from models.architecture import Architecture
from models.taps import Tap
from models.vgg import ConvReLU, build_vgg, fill_imagenet, numbered_names, scale_plan, vgg_indices

CSRNET_FRONTEND = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512)  # VGG-16's
CSRNET_BACKEND = (512, 512, 512, 256, 128, 64)  # dilated by 2

CSRNET_TAPS = (
    Tap("frontend.conv1_1", 1),
    Tap("frontend.pool1", 2),
    Tap("frontend.pool2", 4),
    Tap("frontend.pool3", 8),
    Tap("backend.dilated1", 8),
    Tap("backend.dilated4", 8),
)


class CSRNet(nn.Module):
    """Crowd counter of output stride 8; `width` scales all channel counts (1/4 for a student)."""

    stride = 8
    margin = 144  # pixels, a multiple of 16; what lies further away cannot change a cell's density
    taps = CSRNET_TAPS
    pretrained = "frontend"  # the part that ImageNet weights of VGG-16 fill

    def __init__(self, width: float | Fraction = 1):
        super().__init__()
        backend = scale_plan(CSRNET_BACKEND, width)
        self.frontend = build_vgg(scale_plan(CSRNET_FRONTEND, width))
        in_channels = [self.frontend[-1].out_channels, *backend]
        self.backend = nn.Sequential(
            OrderedDict(
                (f"dilated{i + 1}", ConvReLU(in_channels[i], v, dilation=2))
                for i, v in enumerate(backend)
            )
        )
        self.output_layer = nn.Conv2d(backend[-1], 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Maps (B, 3, H, W) normalised RGB to (B, 1, ceil(H/8), ceil(W/8)) heads per cell."""
        return self.output_layer(self.backend(self.frontend(images)))

    def forward_part(
        self, images: Tensor, corner: tuple[int, int], size: tuple[int, int]
    ) -> Tensor:
        """Maps a part of images, see `BL.forward_part`; here its position does not matter."""
        return self(images)


def recipe(role: str, dataset: str) -> dict[str, Any]:
    """Returns the options of a training: Li et al., 2018, for a teacher, SKT's for a student."""
    shared = {"hard": "density", "flip": 0.2, "weight_decay": 5e-4, "crops_per_image": 4}
    if role == "teacher":
        return shared | {"epochs": 400, "crop": "0.5", "optimizer": "sgd", "lr": 1e-7}
    return shared | {"epochs": 1000, "crop": "0.5:1", "optimizer": "adam", "lr": 1e-4}


def foreign_names(network: CSRNet) -> list[list[str]]:
    """Returns CSRNet-pytorch's names, and those of the published students.

    The latter call conv1_1 conv0_0.0, the back end conv4_*, and the output layer conv5_0.
    """
    blocks = [name.removeprefix("conv").split("_") for name in vgg_indices(network.frontend)]
    frontend = [f"conv{int(block) - 1}_{int(i) - 1}.0" for block, i in blocks]
    backend = [f"conv4_{i}.0" for i in range(len(network.backend))]
    return [numbered_names(network), [*frontend, *backend, "conv5_0"]]


SKT_ADAPTERS = dict(
    zip(
        ("transform0_0.0", "transform1_0.0", "transform2_0.0")
        + ("transform3_0.0", "transform4_0.0", "transform4_3.0"),
        (tap.name for tap in CSRNET_TAPS),
        strict=True,
    )
)

ARCHITECTURE = Architecture(
    CSRNet,
    imagenet="VGG16_Weights.IMAGENET1K_V1",
    fill_imagenet=fill_imagenet,
    recipe=recipe,
    fast_teacher={"lr": 1e-4},
    demo_teacher={"lr": 5e-4},
    protocols={"QNRF": "cells"},
    foreign_names=foreign_names,
    foreign_adapters=SKT_ADAPTERS,
)
