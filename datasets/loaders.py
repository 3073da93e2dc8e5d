"""Loaders of crops to train on and of whole images to count."""

import signal
from collections.abc import Sequence

import cv2
from torch.utils.data import DataLoader

from datasets.crowd import CropSampler, CrowdDataset
from datasets.splits import DataError, Sample
from datasets.transforms import Crop, FixedCrop


def build_training_loader(
    samples: Sequence[Sample],
    crop: Crop,
    crops_per_image: int,
    batch_size: int,
    seed: int,
    workers: int,
) -> DataLoader:
    """Returns a loader of crops whose `sampler` is a `CropSampler`.

    Raises:
        DataError: crops of different sizes cannot make a batch.
    """
    if batch_size > 1 and not isinstance(crop, FixedCrop):
        raise DataError(
            f"--batch-size {batch_size} needs crops of one size; give --crop as HEIGHTxWIDTH"
        )
    return DataLoader(
        CrowdDataset(samples, crop),
        batch_size,
        sampler=CropSampler(len(samples), crops_per_image, seed),
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=_quiet_worker,
    )


def build_evaluation_loader(samples: Sequence[Sample], workers: int) -> DataLoader:
    """Returns a loader of whole images, one by one and in order."""
    return DataLoader(CrowdDataset(samples), num_workers=workers, worker_init_fn=_quiet_worker)


def _quiet_worker(_: int) -> None:
    """Leaves Ctrl-C to the main process, and the cores to the other workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
