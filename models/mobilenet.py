"""The trunks of MobileNetV2 (Sandler et al., CVPR 2018) and of EfficientNet-Lite0 (Tan, 2020).

The second is EfficientNet-B0 (Tan and Le, ICML 2019) with ReLU6 and without squeeze-and-excitation.
Tensors have torchvision's names of MobileNetV2. torchvision takes seconds to import, for which
every count would have to wait.
"""

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn

FIRST = 32  # channels

# Of every stage: expansion, channels, blocks, stride of the first block, sides of the kernels.
Plan = Sequence[tuple[int, int, int, int, int]]
MOBILENET_V2: Plan = (  # Table 2
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 32, 3, 2, 3),
    (6, 64, 4, 2, 3),
    (6, 96, 3, 1, 3),
    (6, 160, 3, 2, 3),
    (6, 320, 1, 1, 3),
)
EFFICIENTNET_LITE0: Plan = (  # EfficientNet's Table 1
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
MULTIPLE = 8  # of which all channel counts are


class InvertedResidual(nn.Module):
    """Widens a map by 1x1, filters each of its channels, and narrows it; adds it to what came in.

    Nothing is added where size or channels change.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, expansion: int, kernel: int
    ):
        super().__init__()
        hidden = expansion * in_channels
        widen = [normalised(nn.Conv2d(in_channels, hidden, 1, bias=False))] if expansion > 1 else []
        self.conv = nn.Sequential(
            *widen,
            normalised(depthwise(hidden, stride, kernel)),
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


def build_blocks(plan: Plan, width: float | Fraction) -> list[nn.Module]:
    """Returns the layers up to stride 32, their channel counts multiplied by `width`.

    The weights are random (Kaiming's normal distribution, by the number of outputs).
    """
    channels = scale_channels(FIRST, width)
    blocks: list[nn.Module] = [
        normalised(nn.Conv2d(3, channels, 3, stride=2, padding=1, bias=False))
    ]
    for expansion, full, number, first_stride, kernel in plan:
        for stride in (first_stride, *[1] * (number - 1)):
            wanted = scale_channels(full, width)
            blocks.append(InvertedResidual(channels, wanted, stride, expansion, kernel))
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


def depthwise(channels: int, stride: int = 1, kernel: int = 3) -> nn.Conv2d:
    """Returns a convolution of every channel by itself, which keeps the size but for the stride."""
    kind = nn.Conv2d if stride == 1 else _StridedDepthwise
    sides = {"kernel_size": kernel, "stride": stride, "padding": kernel // 2}
    return kind(channels, channels, **sides, groups=channels, bias=False)


def scale_channels(channels: int, width: float | Fraction) -> int:
    """Returns `width` times the channels, as the nearest multiple that is not 10 % below."""
    wanted = float(channels * width)
    nearest = max(MULTIPLE, int(wanted + MULTIPLE / 2) // MULTIPLE * MULTIPLE)
    return nearest + MULTIPLE if nearest < 0.9 * wanted else nearest
