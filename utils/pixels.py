"""Converts pictures to the input of networks."""

import cv2
import numpy as np
import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
FLAT = 4.0  # grey levels of deviation; the flattest picture of ShanghaiTech Part A has 28
GREY = (0.299, 0.587, 0.114)  # of red, green and blue in ITU-R 601 luma


def normalise(pixels: Tensor, colour: Tensor | None = None) -> Tensor:
    """Maps (B, 3, H, W) uint8 RGB to float32 with ImageNet's mean and deviation, channels-last.

    Args:
        colour: (B, 3) factors by which the images' colours are changed first, see `change_colour`.
    """
    mean, std = (_channels(values, pixels.device) for values in (IMAGENET_MEAN, IMAGENET_STD))
    values = pixels.contiguous(memory_format=torch.channels_last) / 255
    if colour is not None:
        values = change_colour(values, colour)
    return values.sub_(mean).div_(std)


def restore(images: Tensor) -> Tensor:
    """Returns the (B, 3, H, W) uint8 RGB pixels from which `normalise` made `images`."""
    mean, std = (_channels(values, images.device) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((images * std + mean) * 255).round_().clamp_(0, 255).to(torch.uint8)


def as_batch(image: np.ndarray) -> Tensor:
    """Returns an (H, W, 3) picture as (1, 3, H, W), without copying it."""
    return torch.from_numpy(image).permute(2, 0, 1)[None]


def shrink_image(image: np.ndarray, pixels: int) -> np.ndarray:
    """Returns an (H, W, 3) uint8 picture, shrunk by area to at most about so many pixels."""
    return _shrink(image, (pixels / (image.shape[0] * image.shape[1])) ** 0.5)


def limit_side(image: np.ndarray, side: int | None) -> np.ndarray:
    """Returns an (H, W, 3) uint8 picture, its longer side shrunk by area to `side` if it is more.

    Args:
        side: pixels; None: any.
    """
    return image if side is None else _shrink(image, side / max(image.shape[:2]))


def limited_size(size: tuple[int, int], side: int | None) -> tuple[int, int]:
    """Returns the height and width of what `limit_side` makes of a picture of `size`."""
    return size if side is None else _shrunk_size(size, side / max(size))


def is_flat(image: np.ndarray) -> bool:
    """Returns whether all channels of an (H, W, 3) uint8 picture deviate by less than FLAT."""
    return bool(image.std(axis=(0, 1), dtype=np.float64).max() < FLAT)


def change_colour(values: Tensor, colour: Tensor) -> Tensor:
    """Changes brightness, then contrast about an image's mean grey, then saturation.

    This is one weighted sum of the pixel, its grey and the mean grey, clamped to 0..1 at the end.

    Args:
        values: (B, 3, H, W) RGB in 0..1.
        colour: (B, 3), a factor for each; 1 leaves it as it is.

    Returns:
        (B, 3, H, W).
    """
    brightness, contrast, saturation = colour.view(-1, 3, 1, 1, 1).unbind(1)  # (B, 1, 1, 1)
    grey = (values * _channels(GREY, values.device)).sum(1, keepdim=True)  # (B, 1, H, W)
    mean = grey.mean((2, 3), keepdim=True)
    strength = brightness * contrast
    shared = strength * (1 - saturation) * grey + brightness * (1 - contrast) * mean
    return (strength * saturation * values).add_(shared).clamp_(0, 1)


def _shrink(image: np.ndarray, scale: float) -> np.ndarray:
    """Returns an (H, W, 3) picture, resized by area if `scale` is below 1."""
    size = _shrunk_size(image.shape[:2], scale)
    if size == image.shape[:2]:
        return image
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


def _shrunk_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    height, width = (max(1, round(min(scale, 1) * side)) for side in size)
    return height, width


def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Returns (C, 1, 1) values, filled on the device, as copying them would synchronise a GPU."""
    return torch.stack([torch.full((1, 1), value, device=device) for value in values])
