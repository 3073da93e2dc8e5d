"""Pictures as networks take them."""

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(pixels: Tensor) -> Tensor:
    """Maps (B, 3, H, W) uint8 RGB to float32 with ImageNet's mean and deviation, channels-last."""
    mean, std = (
        torch.tensor(values, device=pixels.device).view(3, 1, 1)
        for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    values = pixels.contiguous(memory_format=torch.channels_last) / 255
    return values.sub_(mean).div_(std)
