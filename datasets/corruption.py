"""Makes crops look like poor pictures: grey, blurred, noisy, compressed."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

BLUR = (0.5, 1.5)  # pixels, standard deviation of the Gaussian
NOISE = (2.0, 12.0)  # grey levels, standard deviation
QUALITY = (30, 80)  # of JPEG


@dataclass(frozen=True)
class Corruption:
    """What happens to a crop, in this order, as in a camera; None leaves it out."""

    grey: bool = False
    blur: float | None = None  # pixels, see BLUR
    noise: float | None = None  # grey levels, see NOISE
    seed: int = 0  # of the noise
    quality: int | None = None  # of JPEG

    @classmethod
    def draw(cls, rng: np.random.Generator, probability: float) -> "Corruption":
        """Draws each kind with this probability, whatever becomes of the others."""
        grey, blurred, noisy, compressed = rng.random(4) < probability
        blur, noise = rng.uniform(*BLUR), rng.uniform(*NOISE)
        seed, quality = (int(rng.integers(*limits)) for limits in ((0, 2**32), QUALITY))
        return cls(
            bool(grey),
            blur if blurred else None,
            noise if noisy else None,
            seed,
            quality if compressed else None,
        )

    def apply(self, crop: Tensor) -> Tensor:
        """Returns a (3, H, W) uint8 RGB crop, corrupted on the CPU, on its device."""
        if self == Corruption(seed=self.seed):
            return crop
        pixels = np.ascontiguousarray(crop.permute(1, 2, 0).cpu().numpy())
        if self.grey:
            pixels = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        if self.blur is not None:
            pixels = cv2.GaussianBlur(pixels, (0, 0), self.blur)
        if self.noise is not None:
            rng = np.random.default_rng(self.seed)
            noise = self.noise * rng.standard_normal(pixels.shape, np.float32)
            pixels = (pixels + noise).round().clip(0, 255).astype(np.uint8)
        if self.quality is not None:
            blue_first = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
            _, file = cv2.imencode(".jpg", blue_first, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
            pixels = cv2.cvtColor(cv2.imdecode(file, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        return torch.from_numpy(pixels).permute(2, 0, 1).to(crop.device)
