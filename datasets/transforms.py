"""Draws at random what a crop shows of an image, before any pixel is read."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from datasets.corruption import Corruption
from datasets.sizes import Box, Size

LEAST_SIDE = 32  # of a crop, in pixels: two cells of the coarsest grid that relations average over

Crop = Callable[[np.random.Generator, Size, float], tuple[Box, Size]]


@dataclass(frozen=True)
class ScaledCrop:
    """Crops anywhere in the image, their sides a uniformly random `low` to `high` of its own."""

    low: float
    high: float

    def __call__(
        self, rng: np.random.Generator, size: Size, enlargement: float = 1.0
    ) -> tuple[Box, Size]:
        """Returns a box of an image of `size`, and the size of the crop that it becomes."""
        part = rng.uniform(self.low, self.high)
        least = math.ceil(LEAST_SIDE / enlargement)
        height, width = (max(least, int(part * side)) for side in size)
        crop = tuple(max(LEAST_SIDE, round(enlargement * side)) for side in (height, width))
        return (*_random_corner(rng, size, (height, width)), height, width), crop


@dataclass(frozen=True)
class FixedCrop:
    """Crops of one size, anywhere in the image; they contain all of a smaller image."""

    height: int
    width: int

    def __call__(
        self, rng: np.random.Generator, size: Size, enlargement: float = 1.0
    ) -> tuple[Box, Size]:
        """Returns a box of an image of `size`, and the size of the crop that it becomes."""
        crop = (self.height, self.width)
        height, width = (max(1, round(side / enlargement)) for side in crop)
        return (*_random_corner(rng, size, (height, width)), height, width), crop


def parse_crop(text: str) -> Crop:
    """Reads a crop option: "512x512" is FixedCrop(height, width), "0.5:1" ScaledCrop(low, high).

    Raises:
        ValueError: it is neither, or out of range.
    """
    try:
        if "x" in text:
            height, width = map(int, text.split("x"))
            if min(height, width) >= LEAST_SIDE:
                return FixedCrop(height, width)
        else:
            low, _, high = text.partition(":")
            if 0 < float(low) <= float(high or low) <= 1:
                return ScaledCrop(float(low), float(high or low))
    except ValueError:
        pass
    raise ValueError(
        f"crop must be HEIGHTxWIDTH of at least {LEAST_SIDE}x{LEAST_SIDE}, or LOW:HIGH of the "
        f"image's sides with 0 < LOW <= HIGH <= 1, got {text!r}"
    )


@dataclass(frozen=True)
class Draw:
    """All random choices of a crop; `whole` gives the unchanged image."""

    box: Box  # in the image's pixels
    size: Size  # of the crop, in pixels: the box is resized to it
    enlargement: float = 1.0  # of the image; the box's differs by rounding to `size`
    flip: bool = False
    colour: Sequence[float] | None = None  # factors of brightness, contrast and saturation
    corruption: Corruption | None = None

    @classmethod
    def whole(cls, size: Size) -> "Draw":
        return cls((0, 0, *size), size)

    @property
    def resized(self) -> bool:
        return self.box[2:] != self.size

    def corner(self, size: Size) -> Size:
        """Returns the box's top and left in an image of `size`, mirrored if the crop is."""
        top, left, _, width = self.box
        return top, max(0, size[1] - left - width) if self.flip else left

    @property
    def stretch(self) -> tuple[float, float]:
        """Pixels of the crop per pixel of the box, vertically and horizontally."""
        return self.size[0] / self.box[2], self.size[1] / self.box[3]


@dataclass(frozen=True)
class Augmentation:
    """How crops are drawn; options that are off do not change the others' random numbers.

    Args:
        crop: the part of the image.
        flip: the probability that a crop is mirrored.
        scale: least and greatest factor by which the image is enlarged, drawn log-uniformly.
        colour: brightness, contrast and saturation change by factors within 1 +- this.
        corrupt: the probability of each kind of `Corruption`.
        grid: a crop's `corner` is a multiple of this many pixels.
    """

    crop: Crop
    flip: float = 0.0
    scale: tuple[float, float] | None = None
    colour: float = 0.0
    corrupt: float = 0.0
    grid: int = 1

    def draw(self, seed: Sequence[int], size: Size) -> Draw:
        """Returns the draw of this seed from an image of `size`."""
        rng = np.random.default_rng(seed)
        enlargement = math.exp(rng.uniform(*np.log(self.scale))) if self.scale else 1.0
        box, crop = self.crop(rng, size, enlargement)
        flip = bool(rng.random() < self.flip)
        colour = rng.uniform(1 - self.colour, 1 + self.colour, 3).tolist() if self.colour else None
        corruption = Corruption.draw(rng, self.corrupt) if self.corrupt else None
        draw = Draw(box, crop, enlargement, flip, colour, corruption)
        return _snap(draw, size, self.grid) if self.grid > 1 else draw


def _snap(draw: Draw, size: Size, grid: int) -> Draw:
    """Moves a draw's `corner` up and left to multiples of `grid`."""
    top, left = (side // grid * grid for side in draw.corner(size))
    height, width = draw.box[2:]
    return replace(
        draw, box=(top, max(0, size[1] - left - width) if draw.flip else left, height, width)
    )


def _random_corner(rng: np.random.Generator, size: Size, box: Size) -> Size:
    top, left = (int(rng.integers(max(0, s - b) + 1)) for s, b in zip(size, box, strict=True))
    return top, left
