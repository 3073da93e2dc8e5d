"""Draws density on a picture, with a count, a colour bar and regions, fast enough for video."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from counting.regions import Region
from datasets.sizes import STRIDE, Size

LONG_SIDE = (640, 2560)  # pixels, limits of the longer side of a drawn picture
BAR_UNIT = 64  # the bar counts people per 64x64 pixels of the picture
STRENGTH = 0.75  # opacity of the densest colour
WHITE, BACKGROUND, YELLOW = (255, 255, 255), (30, 30, 30), (255, 220, 0)
FONT = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")  # not only ASCII letters
COLOURS = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_JET)[:, 0, ::-1]


def draw_density(
    image: np.ndarray,
    density: np.ndarray,
    densest: float,
    caption: tuple[str, str],
    regions: Sequence[Region],
    counts: Mapping[str, float],
    counted: Size,
) -> np.ndarray:
    """Returns a picture with its density on it, below a caption and beside a colour bar.

    Args:
        image: (H, W, 3) uint8 RGB.
        density: heads per cell of 8x8 pixels, of the picture resized to `counted`.
        densest: heads per cell at the end of the colour scale.
        caption: its text at the left, and that in yellow at the right.
        regions: to be outlined.
        counts: of every region, by name.
        counted: height and width.

    Returns:
        (H', W', 3) uint8 RGB; both sides are even, as MP4 needs, and depend on H and W alone.
    """
    size, picture = image.shape[:2], _bring_within(image)
    height, width = picture.shape[:2]
    text = max(14, max(height, width) // 50)  # height in pixels
    top = 2 * text
    picture = _blend(picture, _spread(density, counted, (height, width)), densest)
    outlines = [region.scaled_to(size, (height, width)) for region in regions]
    for corners in outlines:
        cv2.polylines(picture, [np.rint(corners).astype(int)], True, YELLOW, 1 + text // 12)
    sheet = Image.fromarray(_mount(picture, text, top))
    pen = ImageDraw.Draw(sheet)
    _write(pen, (text // 2, text), caption[0], text)
    _write(pen, (sheet.width - text // 2, text), caption[1], text, YELLOW, "rm")
    for region, corners in zip(regions, outlines, strict=True):
        words = f"{region.name}: {counts[region.name]:.1f}"
        spare = min(width, pen.textlength(words, _font(text))) / 2, text / 2
        at = np.clip(corners.mean(axis=0), spare, np.subtract((width, height), spare)) + (0, top)
        _write(pen, at, words, text, YELLOW, "mm")
    most = densest * (BAR_UNIT / STRIDE) ** 2 * np.prod(counted) / np.prod(size)
    for part in (0, 0.25, 0.5, 0.75, 1):
        at = (width + 1.8 * text, top + (1 - part) * height)
        _write(pen, at, f"{part * most:.{0 if most >= 20 else 1}f}", 0.8 * text)
    unit = f"people per {BAR_UNIT}x{BAR_UNIT} pixels"
    _write(pen, (sheet.width - text // 2, sheet.height), unit, 0.7 * text, anchor="rd")
    return np.asarray(sheet)


def _mount(picture: np.ndarray, text: int, top: int) -> np.ndarray:
    """Returns a picture, `top` pixels down on a sheet with the colour bar at its right."""
    height, width = picture.shape[:2]
    sides = _even(height + top + 3 * text // 2), _even(width + 5 * text)
    sheet = np.full((*sides, 3), BACKGROUND, np.uint8)
    sheet[top : top + height, :width] = picture
    shades = COLOURS[np.linspace(255, 0, height).astype(int)]
    sheet[top : top + height, width + text // 2 : width + 3 * text // 2] = shades[:, None]
    return sheet


def _bring_within(image: np.ndarray) -> np.ndarray:
    low, high = LONG_SIDE
    long = max(image.shape[:2])
    scale = min(max(long, low), high) / long
    size = [max(1, round(scale * side)) for side in image.shape[1::-1]]
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return image if scale == 1 else cv2.resize(image, size, interpolation=way)


def _spread(density: np.ndarray, size: Size, drawn: Size) -> np.ndarray:
    """Resizes the map of a picture of `size` to its drawn size; the last cells may be cut."""
    reach = [
        max(round(STRIDE * cells * to / side), to)
        for cells, to, side in zip(density.shape, drawn, size, strict=True)
    ]
    spread = cv2.resize(density, reach[::-1], interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(spread[: drawn[0], : drawn[1]])


def _blend(picture: np.ndarray, density: np.ndarray, densest: float) -> np.ndarray:
    """Returns a picture with density colours on it, more opaque where it is denser."""
    share = np.clip(density / max(densest, 1e-9), 0, 1)
    alpha = STRENGTH * np.sqrt(share)
    return cv2.blendLinear(COLOURS[(255 * share).astype(np.uint8)], picture, alpha, 1 - alpha)


def _write(
    pen: ImageDraw.ImageDraw,
    at: Sequence[float],
    words: str,
    size: float,
    colour: tuple[int, int, int] = WHITE,
    anchor: str = "lm",
) -> None:
    font = _font(round(size))
    pen.text(tuple(at), words, colour, font, anchor, stroke_width=1, stroke_fill=BACKGROUND)


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(FONT, size)


def _even(length: int) -> int:
    return length + length % 2
