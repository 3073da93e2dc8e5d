"""Sources of pixels and density: the files, or memory into which they were read once."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from datasets.files import read_density
from datasets.pictures import read_image
from datasets.sizes import Box
from datasets.splits import Sample
from utils.progress import Bar

Read = TypeVar("Read")


class Store(Protocol):
    """Gives the part of an image, or of its map, inside a box, by the image's number."""

    def image(self, number: int, box: Box) -> Tensor:
        """Returns (3, h, w) uint8 RGB, channels-last."""

    def density(self, number: int, box: Box) -> Tensor:
        """Returns (h, w) float32, heads per pixel."""


class FileStore:
    """A store that reads the files each time."""

    def __init__(self, samples: Sequence[Sample]):
        self._samples = samples

    def image(self, number: int, box: Box) -> Tensor:
        pixels = torch.from_numpy(read_image(self._samples[number].image))
        return _lie_in(pixels.permute(2, 0, 1), box)

    def density(self, number: int, box: Box) -> Tensor:
        path = self._samples[number].density
        return torch.zeros(box[2:]) if path is None else torch.from_numpy(read_density(path, box))


class MemoryStore:
    """A store that reads every file once, in threads, and holds all of it on a device.

    Processes forked later share what lies in RAM, as it is never written to.

    Args:
        files: the store to read from.
        boxes: of each whole image.
        density: whether maps are held, too.
        quiet: shows no progress bar.
    """

    def __init__(
        self,
        files: FileStore,
        boxes: Sequence[Box],
        density: bool,
        device: torch.device,
        quiet: bool = False,
    ):
        def read(number: int) -> tuple[Tensor, Tensor | None]:
            image = files.image(number, boxes[number]).to(device)
            return image, files.density(number, boxes[number]).to(device) if density else None

        held = read_in_threads(read, range(len(boxes)), "training images", quiet)
        self._images = [image for image, _ in held]
        self._maps = [density for _, density in held]

    def image(self, number: int, box: Box) -> Tensor:
        return _lie_in(self._images[number], box)

    def density(self, number: int, box: Box) -> Tensor:
        return _lie_in(self._maps[number], box)


def read_in_threads(
    read: Callable[[int], Read], numbers: Iterable[int], what: str, quiet: bool
) -> list[Read]:
    """Returns `read(number)` for every number, in order; threads suffice to decode pictures."""
    numbers = list(numbers)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(read, numbers)
        bar = Bar(results, f"reading {what}", len(numbers), leave=False, disable=quiet)
        return list(bar)


def _lie_in(array: Tensor, box: Box) -> Tensor:
    """Returns the part of a (..., H, W) array inside a box."""
    top, left, height, width = box
    return array[..., top : top + height, left : left + width]
