"""Which crops a training passes, in which order, and which of them a process takes."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from datasets.splits import DataError

CropIndex = tuple[int, tuple[int, ...]]  # which image, and the seed of everything random in it


class CropSampler(Sampler[list[CropIndex]]):
    """Passes batches of `crops_per_image` crops of every image, in an order that the seed fixes.

    Several processes share each batch between them: what is drawn depends neither on their number
    nor on that of workers. An epoch can be taken up at any step again.

    Args:
        batch_size: crops of a step, of all processes together; an epoch's last step may have fewer.
        rank: which of the `processes` this one is.

    Attributes:
        epoch: the one that is passed; every epoch has an order and crops of its own.
        start: steps of it that are left out.

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
    ):
        if batch_size % processes:
            raise DataError(
                f"--batch-size {batch_size} cannot be shared evenly by {processes} processes; "
                "take a multiple"
            )
        self._images, self._crops = images, images * crops_per_image
        self._batch_size, self._seed = batch_size, seed
        self._rank, self._processes = rank, processes
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        """Returns how many steps of the epoch are left."""
        return -(-self._crops // self._batch_size) - self.start

    def __iter__(self) -> Iterator[list[CropIndex]]:
        order = np.random.default_rng((self._seed, self.epoch)).permutation(self._crops)
        for step in range(self.start, self.start + len(self)):
            joined = self._positions(step)
            # A process that is left without a crop passes one nevertheless, of weight 0.
            own = joined[self._rank :: self._processes] or joined[:1]
            yield [
                (int(order[position]) % self._images, (self._seed, self.epoch, position))
                for position in own
            ]

    def share(self, step: int) -> float:
        """Returns how much this process's mean loss counts in the mean over processes.

        The mean over processes of share times mean loss is the mean over the joined batch: 1 but
        for an epoch's last step, whose crops may not go round.
        """
        joined = self._positions(step)
        return len(joined[self._rank :: self._processes]) * self._processes / len(joined)

    def _positions(self, step: int) -> range:
        return range(step * self._batch_size, min((step + 1) * self._batch_size, self._crops))
