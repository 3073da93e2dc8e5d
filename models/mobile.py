"""Mobile: a counter on MobileNetV2 (Sandler et al., CVPR 2018), whose trunk ImageNet has taught.

The trunk's feature maps of strides 8 and 16, and in the large one 32, are joined at stride 8.
"""

from collections import OrderedDict
from collections.abc import Mapping
from fractions import Fraction
from itertools import islice
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from models.architecture import Architecture
from models.initial import init_output
from models.mobilenet import build_blocks, depthwise, normalised
from models.taps import Tap

JOINED, NARROW = 96, 64  # channels of the joined map, and of the map before the last layer
STEEPNESS = 10  # softplus(0) / 10 is about a crowd's mean heads a cell

MOBILE_TAPS = (
    Tap("trunk.block1", 2),
    Tap("trunk.block3", 4),
    Tap("trunk.block6", 8),
    Tap("trunk.block13", 16),
    Tap("head.narrow", 8),
)


class _Mobile(nn.Module):
    stride = 8
    taps = MOBILE_TAPS
    pretrained = "trunk"  # the part that a MobileNetV2 of ImageNet fills
    joined: Mapping[str, int]  # blocks of the trunk whose outputs are joined -> their strides

    def __init__(self, width: float | Fraction = 1):
        if not 0 < width <= 1:
            raise ValueError(f"width must be in (0, 1], got {width}")
        super().__init__()
        channels, narrow = (max(1, round(width * full)) for full in (JOINED, NARROW))
        named = OrderedDict((f"block{i}", block) for i, block in enumerate(build_blocks(width)))
        last = list(named).index(list(self.joined)[-1])
        self.trunk = nn.Sequential(OrderedDict(islice(named.items(), last + 1)))
        self.laterals = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Conv2d(named[name].out_channels, channels, 1, bias=False),
                    nn.BatchNorm2d(channels),
                )
                for name in self.joined
            }
        )
        self.head = nn.Sequential(
            OrderedDict(
                spread=normalised(depthwise(channels)),
                narrow=normalised(nn.Conv2d(channels, narrow, 1, bias=False)),
                spread2=normalised(depthwise(narrow)),
                output=nn.Conv2d(narrow, 1, 1),
            )
        )
        init_output(self)

    def forward(self, images: Tensor) -> Tensor:
        """Maps (B, 3, H, W) normalised RGB to (B, 1, ceil(H/8), ceil(W/8)) heads per cell.

        Raises:
            ValueError: in training, a single crop has one cell of the coarsest stride.
        """
        coarsest = max(self.joined.values())
        if self.training and len(images) == 1 and max(images.shape[2:]) <= coarsest:
            raise ValueError(
                f"batch normalisation cannot train on one crop of at most {coarsest}x{coarsest}; "
                "take a larger --crop or --batch-size"
            )
        x, seen = images, {}
        for name, block in self.trunk.named_children():
            seen[name] = x = block(x)
        joined, *coarse = (self.laterals[name](seen[name]) for name in self.joined)
        height, width = joined.shape[-2:]
        for stride, side in zip(list(self.joined.values())[1:], coarse, strict=True):
            # By a whole factor, so that a part of an image gives a part of its map.
            side = F.interpolate(side, scale_factor=stride // self.stride, mode="bilinear")
            joined = joined + side[..., :height, :width]
        return F.softplus(self.head(F.relu6(joined))) / STEEPNESS

    def forward_part(
        self, images: Tensor, corner: tuple[int, int], size: tuple[int, int]
    ) -> Tensor:
        """Maps a part of images, see BL.forward_part. Its place does not matter to this network."""
        return self(images)


class MobileS(_Mobile):
    """Crowd counter of 0.56 million parameters, MobileNetV2 to stride 16; `width` scales it."""

    margin = 176  # pixels, a multiple of 16, beyond which an image cannot change a cell's density
    joined = {"block6": 8, "block13": 16}


class MobileL(_Mobile):
    """Crowd counter of 1.9 million parameters, MobileNetV2 to stride 32; `width` scales it."""

    margin = 320  # pixels, a multiple of 32, beyond which an image cannot change a cell's density
    joined = {"block6": 8, "block13": 16, "block17": 32}


def fill_imagenet(network: _Mobile, state: Mapping[str, Tensor]) -> None:
    """Fills the trunk from torchvision's MobileNetV2, whose names are `features.N...`.

    Raises:
        ValueError: the weights are of another network, or of another width.
    """
    filled = {}
    for name, tensor in network.trunk.state_dict().items():
        block, _, rest = name.partition(".")
        source = f"features.{block.removeprefix('block')}.{rest}"
        if source not in state or state[source].shape != tensor.shape:
            found = list(state[source].shape) if source in state else "none"
            raise ValueError(
                f"{source} must have the shape {list(tensor.shape)} for the ImageNet weights of "
                f"{type(network).__name__}, found {found}"
            )
        filled[name] = state[source].to(tensor.dtype)
    network.trunk.load_state_dict(filled)


def recipe(role: str, dataset: str) -> dict[str, Any]:
    """This project's own, of teacher and student alike: there is none to be published."""
    return {
        "hard": "bayesian",
        "init": "imagenet",
        "crop": "384x384",
        "crops_per_image": 1,
        "batch_size": 8,
        "flip": 0.5,
        "colour": 0.2,
        "optimizer": "adamw",
        "lr": 1e-3,
        "trunk_lr": 0.3,
        "weight_decay": 1e-4,
        "cosine": True,
        "warmup": 100,
        "ema": 0.999,
        "epochs": 200,
    }


def _entry(network: type[_Mobile]) -> Architecture:
    return Architecture(
        network,
        imagenet="MobileNet_V2_Weights.IMAGENET1K_V1",
        fill_imagenet=fill_imagenet,
        recipe=recipe,
        init_student=init_output,
        fast_teacher={"lr": 1e-3},
        demo_teacher={"lr": 2e-3, "width": "1"},
        student_width="1",
        teacher="csrnet",
    )


MOBILE_S, MOBILE_L = _entry(MobileS), _entry(MobileL)
