"""BL, the network of Bayesian Loss (Ma et al., ICCV 2019): VGG-19, upsampling, regression."""

from collections import OrderedDict
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.architecture import Architecture
from models.taps import Tap
from models.vgg import ConvReLU, build_vgg, fill_imagenet, numbered_names, scale_plan

BL_FEATURES = (
    *(64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M"),
    *(512, 512, 512, 512, "M", 512, 512, 512, 512),
)  # VGG-19 to conv5_4
BL_REGRESSION = (256, 128)

Size = tuple[int, int]  # height, width

# This project's reading of the paper: code that distils BL was never published.
BL_TAPS = (
    Tap("features.conv1_1", 1),
    Tap("features.pool1", 2),
    Tap("features.pool2", 4),
    Tap("features.pool3", 8),
    Tap("features.pool4", 16),
    Tap("reg_layer.conv1", 8),
)


class BL(nn.Module):
    """Crowd counter of output stride 8; `width` scales all channel counts (1/4 for a student)."""

    stride = 8
    margin = 160  # pixels, a multiple of 16; what lies further away cannot change a cell's density
    taps = BL_TAPS
    pretrained = "features"  # the part that ImageNet weights of VGG-19 fill

    def __init__(self, width: float | Fraction = 1):
        super().__init__()
        features = scale_plan(BL_FEATURES, width)
        first, second = scale_plan(BL_REGRESSION, width)
        self.features = build_vgg(features)
        self.reg_layer = nn.Sequential(
            OrderedDict(
                conv1=ConvReLU(features[-1], first),
                conv2=ConvReLU(first, second),
                output=nn.Conv2d(second, 1, 1),
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """Maps (B, 3, H, W) normalised RGB to (B, 1, ceil(H/8), ceil(W/8)) heads per cell."""
        # align_corners as in the original, because released checkpoints need it.
        features = F.interpolate(
            self.features(images), scale_factor=2, mode="bilinear", align_corners=True
        )
        grid = tuple((side + self.stride - 1) // self.stride for side in images.shape[-2:])
        # ceil(ceil(H/8)/2)*2 may be one row too many. A graph for all sizes has no branches: it
        # always resizes, which changes nothing if the sizes agree.
        compiling = torch.compiler.is_compiling() and not self.training
        if compiling or torch.jit.is_tracing() or features.shape[-2:] != grid:
            features = F.interpolate(features, size=grid, mode="bilinear", align_corners=True)
        return self.reg_layer(features).abs()

    def forward_part(self, images: Tensor, corner: Size, size: Size) -> Tensor:
        """Maps a part of images of `size` to its part of their density.

        The upsampling depends on the position in the image, and is computed as `forward` does for
        the whole image. The map equals the whole image's, except within `margin` of those edges
        that are not the image's own.

        Args:
            images: (B, 3, H, W) normalised RGB.
            corner: top and left of the part in the images, multiples of 16 pixels.
            size: height and width of the images, pixels.

        Returns:
            (B, 1, ceil(H/8), ceil(W/8)) heads per cell.
        """
        features = self.features(images)
        rows, columns = (
            _upsampling(whole, first // 16, cells, first // 8, -(-extent // 8)).to(features)
            for whole, first, cells, extent in zip(
                size, corner, features.shape[-2:], images.shape[-2:], strict=True
            )
        )
        return self.reg_layer(rows @ features @ columns.T).abs()


def _upsampling(length: int, source: int, sources: int, target: int, targets: int) -> Tensor:
    """Returns the weights of `forward`'s upsampling along a side of `length` pixels.

    The (targets, sources) matrix holds the weight of each stride-16 cell, from number `source` on,
    in each stride-8 cell, from number `target` on.
    """
    coarse, fine = -(-length // 16), -(-length // 8)
    doubled = _linear(2 * coarse, coarse, target, targets + 1, source, sources)
    return _linear(fine, 2 * coarse, target, targets, target, targets + 1) @ doubled


def _linear(
    targets: int, sources: int, target: int, rows: int, source: int, columns: int
) -> Tensor:
    """Returns a (rows, columns) block of linear interpolation's weights, from (target, source)."""
    scale = (sources - 1) / max(1, targets - 1)  # align_corners
    positions = scale * torch.arange(target, target + rows, dtype=torch.float64)
    places = torch.arange(source, source + columns)
    return (1 - (positions[:, None] - places).abs()).clamp(min=0)


def recipe(role: str, dataset: str) -> dict[str, Any]:
    """Returns the options of BL's training (Ma et al., ICCV 2019).

    Code that distils BL was never published: a student's learning rate is SKT's.
    Original: validates every 5 epochs from epoch 600 on, and selects by MAE + 2 RMSE.
    """
    crop, lr = ("512x512", 1e-5) if dataset == "QNRF" else ("256x256", 1e-6)
    return {
        "hard": "bayesian",
        "flip": 0.5,
        "weight_decay": 1e-4,
        "crops_per_image": 1,
        "epochs": 1000,
        "optimizer": "adam",
        "crop": crop,
        "lr": lr if role == "teacher" else 1e-4,
    }


ARCHITECTURE = Architecture(
    BL,
    imagenet="VGG19_Weights.IMAGENET1K_V1",
    fill_imagenet=fill_imagenet,
    recipe=recipe,
    fast_teacher={"lr": 3e-5},
    demo_teacher={"lr": 2e-4},
    protocols={"QNRF": "rescaled"},
    foreign_names=lambda network: [numbered_names(network)],
)
