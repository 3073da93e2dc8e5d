"""CSRNet (Li et al., CVPR 2018): VGG-16 to conv4_3, then six dilated convolutions."""

from collections import OrderedDict
from fractions import Fraction

from torch import Tensor, nn

from models.taps import Tap
from models.vgg import ConvReLU, build_vgg, scale_plan

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
    """Crowd counter of output stride 8; `width` scales every channel count (1/4 is a student's)."""

    stride = 8
    margin = 144  # pixels, a multiple of 16, beyond which an image cannot change a cell's density
    taps = CSRNET_TAPS
    pretrained = "frontend"  # the part that a VGG-16 of ImageNet fills

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
        """Maps a part of images, see BL.forward_part. Its place does not matter to convolutions."""
        return self(images)
