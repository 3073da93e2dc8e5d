"""Counts the people in a picture, and notes what is unusual about it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from counting.protocols import count_image, predict_tiled, predict_whole
from counting.readings import Reading
from counting.regions import Region, count_regions
from datasets.sizes import STRIDE, grid
from utils.metrics import CountError
from utils.pixels import (
    as_batch,
    is_flat,
    limit_side,
    limited_size,
    shrink_image,
)
from utils.progress import say_once

# A 4K frame is the largest picture that is counted whole. It takes 1.1 GB with a quarter-wide
# network; memory grows with the pixels. Tiles take 0.3 GB, but nearly twice the time: they overlap.
TILED_PIXELS = 3840 * 2160
GLANCE_PIXELS = 160 * 240  # of the small copy that is judged, not counted


@dataclass(frozen=True)
class Predictor:
    """Counts pictures as `test.py` does, and notes what is unusual about them."""

    engine: Callable[[Tensor], Tensor]  # a network, or what deploy.engines builds from it
    network: nn.Module  # what the engine was built from; only it can run tiles
    device: torch.device
    regions: tuple[Region, ...] = ()
    alarm: float | None = None  # people in the picture or, if there are regions, in one of them
    rate: Callable[[np.ndarray], float] | None = None  # of a small copy, see Reading.unlikeness
    max_side: int | None = None  # pixels, to which a picture's longer side is shrunk

    @torch.no_grad()
    def read(
        self,
        image: np.ndarray,
        name: str,
        frame: int | None = None,
        seconds: float | None = None,
    ) -> tuple[Reading, np.ndarray]:
        """Returns a picture's reading, and its map of heads per cell of 8x8 pixels.

        Cells are of the picture as it was counted, so if that has H' by W' pixels, the map is
        (ceil(H'/8), ceil(W'/8)).

        A picture without structure, such as a black one, counts 0 without asking the network.

        Args:
            image: (H, W, 3) uint8 RGB.

        Raises:
            RegionError: a region encloses nothing of it.
            EngineError: the engine cannot run on it.
            CountError: the count is not finite, or the memory is too small.
        """
        size, glance = image.shape[:2], shrink_image(image, GLANCE_PIXELS)
        counted = limited_size(size, self.max_side)
        if counted != size:
            say_once(
                f"larger pictures are counted at a longer side of {self.max_side} pixels; "
                "--max-side none counts them as they are"
            )
        if flat := is_flat(glance):
            count, density = 0.0, np.zeros(grid(counted, STRIDE), np.float32)
        else:
            count, density = self._count(limit_side(image, self.max_side))
            if not math.isfinite(count):
                raise CountError("the count is not finite; the weights overflow")
        regions = count_regions(density, self.regions, size, counted) if self.regions else {}
        unlikeness = self.rate(glance) if self.rate else None
        found = {
            "alarm": self.alarm is not None and max(regions.values(), default=count) > self.alarm,
            "flat": flat,
            "unlike": not flat and unlikeness is not None and unlikeness > 1,
        }
        notes = tuple(note for note, is_so in found.items() if is_so)
        return Reading(name, frame, seconds, count, unlikeness, notes, regions), density

    def _count(self, image: np.ndarray) -> tuple[float, np.ndarray]:
        batch, device = as_batch(image), self.device
        try:
            if image.shape[0] * image.shape[1] > TILED_PIXELS:
                count, density = count_image(self.network, batch, predict_tiled, device)
            else:
                count, density = count_image(self.engine, batch, predict_whole, device)
        except CountError as error:
            raise CountError(f"{error}; a smaller --max-side needs less") from None
        return count, density[0, 0].cpu().numpy()
