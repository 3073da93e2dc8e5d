"""Heads as points: which ones a crop holds, and how much each counts."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class BoxRule:
    """A square around every head decides whether a crop holds it (Ma et al., ICCV 2019).

    Its side is `scale` times the mean distance to the three nearest heads, clipped to `low` and
    `high` pixels; a head alone in its image gets `high`. A head counts if at least the part `least`
    of its square lies in the crop: as that part if `partial`, else as 1.
    Original: BL's code fails on images with fewer than four heads.
    """

    scale: float
    low: float
    high: float
    least: float
    partial: bool

    def __call__(
        self, points: np.ndarray, distances: np.ndarray, crop: tuple[float, float, float, float]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns a crop's heads, in its own pixels, and what each counts.

        Args:
            points: (N, 2) in the image, x then y.
            distances: (N,) mean distances to the three nearest heads, in pixels.
            crop: top, left, height and width in the image.

        Returns:
            (M, 2) float32, x then y, of which some may lie just outside; and (M,) float32.
        """
        top, left, height, width = crop
        sides = np.clip(self.scale * distances, self.low, self.high)[:, None]
        points = points - np.float32([left, top])
        inside = np.minimum(points + sides / 2, [width, height]) - np.maximum(points - sides / 2, 0)
        parts = (np.maximum(inside, 0) / sides).prod(1)
        kept = parts >= self.least
        targets = parts[kept] if self.partial else np.ones(kept.sum())
        return points[kept], targets.astype(np.float32)


BOX_RULES = {  # by the data set that they were published for
    "SHA": BoxRule(scale=0.8, low=4, high=40, least=0.5, partial=False),
    "QNRF": BoxRule(scale=1, low=4, high=128, least=0.3, partial=True),
}
