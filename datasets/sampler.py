"""Chooses the crops of a training and their order, and shares them between processes."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from datasets.splits import DataError

CropIndex = tuple[int, tuple[int, ...]]  # the image's number, and the seed of the crop


class CropSampler(Sampler[list[CropIndex]]):
    """Yields batches of `crops_per_image` crops of every image, in an order that the seed fixes.

    Pictures that show nobody, whose numbers follow the images', get the same share of every batch.

    Several processes share each batch. The crops depend neither on the number of processes nor on
    that of workers. An epoch can be resumed at any step.
    Original: batches of one crop.

    Args:
        batch_size: crops per step, of all processes together; an epoch's last step may have fewer.
        rank: the number of this process among `processes`.
        empty: the number of pictures that show nobody.
        empty_crops: crops of them in every batch, less than `batch_size`.

    Attributes:
        epoch: the current one; every epoch has an order and crops of its own.
        start: how many of its steps are skipped.

    Raises:
        DataError: the processes cannot share a batch evenly.
    """

    def __init__(
        self,
        images: int,
        crops_per_image: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        processes: int = 1,
        empty: int = 0,
        empty_crops: int = 0,
    ):
        check_shares(batch_size, processes)
        self._images, self._crops = images, images * crops_per_image
        self._batch_size, self._seed = batch_size - empty_crops, seed
        self._empty, self._empty_crops = empty, empty_crops
        self._rank, self._processes = rank, processes
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        """Returns how many steps of the epoch are left."""
        return -(-self._crops // self._batch_size) - self.start

    def __iter__(self) -> Iterator[list[CropIndex]]:
        rng = np.random.default_rng((self._seed, self.epoch))
        order = rng.permutation(self._crops) % self._images
        empty = self._images + rng.permutation(self._empty)
        for step in range(self.start, self.start + len(self)):
            first = step * self._empty_crops
            drawn = range(first, first + self._empty_crops)
            joined = [(int(order[p]), p) for p in self._positions(step)]
            joined += [(int(empty[i % self._empty]), self._crops + i) for i in drawn]
            # A process without a crop of its own still takes one, with weight 0.
            own = joined[self._rank :: self._processes] or joined[:1]
            yield [(number, (self._seed, self.epoch, seed)) for number, seed in own]

    def share(self, step: int) -> float:
        """Returns the weight of this process's mean loss in the mean over processes.

        With it, that mean equals the mean over the joined batch. It is 1, except at an epoch's last
        step, whose crops may not divide evenly.
        """
        joined = range(len(self._positions(step)) + self._empty_crops)
        return len(joined[self._rank :: self._processes]) * self._processes / len(joined)

    def _positions(self, step: int) -> range:
        return range(step * self._batch_size, min((step + 1) * self._batch_size, self._crops))


def check_shares(batch_size: int, processes: int) -> None:
    """Raises DataError if the processes cannot share a batch evenly."""
    if batch_size % processes:
        raise DataError(
            f"--batch-size {batch_size} cannot be shared evenly by {processes} processes; "
            "take a multiple"
        )
