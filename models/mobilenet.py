"""The trunk of MobileNetV2 (Sandler et al., CVPR 2018), with torchvision's names of its tensors.

torchvision has it, too, but takes seconds to import, for which every count would have to wait.
"""

from fractions import Fraction

import torch
from torch import Tensor, nn

FIRST = 32  # channels
PLAN = (  # expansion, channels, blocks, and the stride of the first block (Table 2)
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
MULTIPLE = 8  # of which all channel counts are


class InvertedResidual(nn.Module):
    """Widens a map by 1x1, filters each of its channels, and narrows it; adds it to what came in.

    Nothing is added where size or channels change.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int):
        super().__init__()
        hidden = expansion * in_channels
        widen = [normalised(nn.Conv2d(in_channels, hidden, 1, bias=False))] if expansion > 1 else []
        self.conv = nn.Sequential(
            *widen,
            normalised(depthwise(hidden, stride)),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.out_channels = out_channels
        self.adds = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, D, ceil(H / stride), ceil(W / stride))."""
        return x + self.conv(x) if self.adds else self.conv(x)


class _StridedDepthwise(nn.Conv2d):
    """A convolution that stays float32 under a CPU's autocast.

    In bfloat16, oneDNN takes 30 times as long for its gradient: a third of a training step.
    """

    def forward(self, images: Tensor) -> Tensor:
        """As `nn.Conv2d`'s, in the dtype of what came in."""
        if not (images.device.type == "cpu" and torch.is_autocast_enabled("cpu")):
            return super().forward(images)
        with torch.autocast("cpu", enabled=False):
            return super().forward(images.float()).to(images.dtype)


def build_blocks(width: float | Fraction) -> list[nn.Module]:
    """Returns the first 18 layers, to stride 32, their channel counts multiplied by `width`.

    The weights are random (Kaiming's normal distribution, by the number of outputs).
    """
    channels = scale_channels(FIRST, width)
    blocks: list[nn.Module] = [
        normalised(nn.Conv2d(3, channels, 3, stride=2, padding=1, bias=False))
    ]
    for expansion, full, number, first_stride in PLAN:
        for stride in (first_stride, *[1] * (number - 1)):
            wanted = scale_channels(full, width)
            blocks.append(InvertedResidual(channels, wanted, stride, expansion))
            channels = wanted
    for module in nn.ModuleList(blocks).modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    return blocks


def normalised(convolution: nn.Conv2d) -> nn.Sequential:
    """Returns a convolution with batch normalisation and ReLU6 behind it."""
    return nn.Sequential(
        convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU6(inplace=True)
    )


def depthwise(channels: int, stride: int = 1) -> nn.Conv2d:
    """Returns a 3x3 convolution of every channel by itself."""
    kind = nn.Conv2d if stride == 1 else _StridedDepthwise
    return kind(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False)


def scale_channels(channels: int, width: float | Fraction) -> int:
    """Returns `width` times the channels, as the nearest multiple that is not 10 % below."""
    wanted = float(channels * width)
    nearest = max(MULTIPLE, int(wanted + MULTIPLE / 2) // MULTIPLE * MULTIPLE)
    return nearest + MULTIPLE if nearest < 0.9 * wanted else nearest
