"""Loaders of crops to train on and of whole images to count."""

import argparse
import math
import signal
from collections.abc import Sequence

import cv2
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, default_collate

from datasets.crowd import CropSampler, Crowd, CrowdDataset
from datasets.points import BOX_RULES, BoxRule
from datasets.splits import DataError, Sample, read_splits
from datasets.transforms import Crop, FixedCrop

NOWHERE = {"points": math.inf, "targets": 0.0}  # what stands for heads that a crop lacks


def build_loaders(
    args: argparse.Namespace, points: bool
) -> tuple[DataLoader, DataLoader, DataLoader]:
    """Returns the loaders of training crops, validation images and test images.

    Args:
        args: a training's options.
        points: whether crops carry their heads, by the rule of --boxes.

    Raises:
        DataError: as `read_splits`, `build_training_loader` and `CrowdDataset`.
    """
    train, val, test = read_splits(
        args.train_json, args.val_json, args.test_json, args.train_on_val
    )
    crops = build_training_loader(
        train,
        args.crop,
        args.flip,
        BOX_RULES[args.boxes] if points else None,
        args.crops_per_image,
        args.batch_size,
        args.seed,
        args.workers,
    )
    return crops, *(build_evaluation_loader(samples, args.workers) for samples in (val, test))


def build_training_loader(
    samples: Sequence[Sample],
    crop: Crop,
    flip: float,
    boxes: BoxRule | None,
    crops_per_image: int,
    batch_size: int,
    seed: int,
    workers: int,
) -> DataLoader:
    """Returns a loader of crops whose `sampler` is a `CropSampler`.

    Args:
        flip: the probability that a crop is mirrored.
        boxes: gives the crops their heads, for losses on points.

    Raises:
        DataError: crops of different sizes cannot make a batch; or as `CrowdDataset`.
    """
    if batch_size > 1 and not isinstance(crop, FixedCrop):
        raise DataError(
            f"--batch-size {batch_size} needs crops of one size; give --crop as HEIGHTxWIDTH"
        )
    return DataLoader(
        CrowdDataset(samples, crop, flip, boxes),
        batch_size,
        sampler=CropSampler(len(samples), crops_per_image, seed),
        num_workers=workers,
        collate_fn=_collate,
        persistent_workers=workers > 0,
        worker_init_fn=_quiet_worker,
    )


def build_evaluation_loader(samples: Sequence[Sample], workers: int) -> DataLoader:
    """Returns a loader of whole images, one by one and in order."""
    return DataLoader(CrowdDataset(samples), num_workers=workers, worker_init_fn=_quiet_worker)


def _collate(crops: list[Crowd]) -> dict:
    batch = default_collate([{k: v for k, v in c.items() if k not in NOWHERE} for c in crops])
    for name, filler in NOWHERE.items():
        if name in crops[0]:
            batch[name] = pad_sequence(
                [crop[name] for crop in crops], batch_first=True, padding_value=filler
            )
    return batch


def _quiet_worker(_: int) -> None:
    """Leaves Ctrl-C to the main process, and the cores to the other workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
