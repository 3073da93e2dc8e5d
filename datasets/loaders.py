"""Builds loaders of crops to train on and of whole images to count."""

import argparse
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from multiprocessing.reduction import ForkingPickler
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import UntypedStorage
from torch.multiprocessing.reductions import reduce_storage
from torch.utils.data import DataLoader

from datasets.cache import read_in_threads
from datasets.crowd import Crowd, CrowdDataset
from datasets.memory import check_memory, crop_bytes, image_bytes
from datasets.points import BOX_RULES
from datasets.sampler import CropSampler, check_shares
from datasets.splits import DataError, Sample, check_disjoint, read_empty, read_splits
from datasets.transforms import Augmentation, FixedCrop
from utils import ranks
from utils.device import lacks_memory
from utils.interrupt import STOPPING

CACHES = ("none", "ram", "gpu")
FILES, FILES_A_WORKER = 32, 16  # that a training has open at most: pipes, and parts of batches


class ResidentLoader:
    """Replaces a DataLoader in training if the data set is held on the device.

    This process makes the batches there, when they are asked for.

    Raises:
        DataError: while it is iterated: a batch does not fit into the memory beside the data set.
    """

    def __init__(self, dataset: CrowdDataset, sampler: CropSampler):
        self.dataset, self.sampler = dataset, sampler

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Crowd]:
        for indices in self.sampler:
            try:
                crops = self.dataset[indices]
            except RuntimeError as error:
                if not lacks_memory(error):
                    raise
                raise DataError(
                    f"the GPU's memory is too small for {len(indices)} crops beside the pictures "
                    "of --cache gpu; --cache ram, or a smaller --crop or --batch-size, needs less"
                ) from None
            yield crops


def build_loaders(
    args: argparse.Namespace, truth: Collection[str]
) -> tuple[DataLoader | ResidentLoader, Iterable[Crowd], DataLoader]:
    """Returns the loaders of crops to train on, validation images and test images.

    The first one's `sampler` is a `CropSampler`. With a cache, the files of the first two are read
    now, and validation images are a list. Each of several processes gets its part of every batch of
    crops, and of the images to count.

    Args:
        args: a training's options.
        truth: the ground truth that crops carry, by the names of the losses: "density" maps, and
            for "bayesian" their heads, by the rule of --boxes.

    Raises:
        DataError: as `read_splits`, `CrowdDataset`, `CropSampler` and `check_memory`; crops of
            different sizes cannot make a batch; or workers cannot share the RAM, or open enough
            files.
    """
    train, val, test = read_splits(
        args.train_json, args.val_json, args.test_json, args.train_on_val
    )
    empty = check_options(args)
    check_disjoint("--empty", empty, "test", test)
    share = max(1, round(args.empty_share * args.batch_size))
    empty_crops = min(share, args.batch_size - 1) if empty else 0  # the rest are crowds
    rank, processes = ranks.rank(), ranks.processes()
    density, points = "density" in truth, "bayesian" in truth
    sampler = CropSampler(
        len(train),
        args.crops_per_image,
        args.batch_size,
        args.seed,
        rank,
        processes,
        len(empty),
        empty_crops,
    )
    augmentation = Augmentation(args.crop, args.flip, args.scale, args.colour, args.corrupt)
    crops = CrowdDataset(
        train + empty, augmentation, BOX_RULES[args.boxes] if points else None, density
    )
    pin = args.device.type == "cuda"
    test_loader = build_evaluation_loader(test[rank::processes], args.workers, pin)
    if args.cache == "none":
        val_loader = build_evaluation_loader(val[rank::processes], args.workers, pin)
        return _build_loader(crops, sampler, args.workers, pin), val_loader, test_loader
    validated = CrowdDataset(val[rank::processes])
    device = args.device if args.cache == "gpu" else torch.device("cpu")
    needed = crop_bytes(crops.sizes, density) + image_bytes(validated.sizes)
    check_memory(args.cache, needed, device, ranks.local_processes())
    crops.hold(device, quiet=rank > 0)
    val_images = _read_once(validated, device, quiet=rank > 0)
    if args.cache == "gpu":
        return ResidentLoader(crops, sampler), val_images, test_loader
    context = "fork" if args.workers else None
    return _build_loader(crops, sampler, args.workers, pin, context), val_images, test_loader


def check_options(args: argparse.Namespace) -> list[Sample]:
    """Returns the pictures of --empty.

    Raises:
        DataError: they cannot be found, a training's options exclude each other, or its processes
            cannot share a batch.
    """
    check_shares(args.batch_size, ranks.processes())
    if args.batch_size > 1 and not isinstance(args.crop, FixedCrop):
        raise DataError(
            f"--batch-size {args.batch_size} needs crops of one size; give --crop as HEIGHTxWIDTH"
        )
    methods = multiprocessing.get_all_start_methods()
    if args.cache == "ram" and args.workers and "fork" not in methods:
        raise DataError(
            f"--cache ram: --workers {args.workers} would share the RAM by fork, which this system "
            "lacks; --workers 0 needs none"
        )
    if args.empty and args.batch_size == 1:
        raise DataError("--empty needs a --batch-size of at least 2: its pictures take a share")
    return read_empty(args.empty) if args.empty else []


def build_evaluation_loader(
    samples: Sequence[Sample], workers: int, pin_memory: bool = False
) -> DataLoader:
    """Returns a loader of whole images, one by one and in order.

    Raises:
        DataError: as `CrowdDataset`; or workers cannot open enough files.
    """
    numbers = [[number] for number in range(len(samples))]
    return _build_loader(CrowdDataset(samples), numbers, workers, pin_memory)


class _Loader(DataLoader):
    """A loader whose workers are born with the signals blocked that `_begin_worker` sees to."""

    def __iter__(self) -> Iterator[Crowd]:
        if not hasattr(signal, "sigwaitinfo"):
            return super().__iter__()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _build_loader(
    dataset: CrowdDataset,
    batches: Iterable[list],
    workers: int,
    pin_memory: bool,
    context: str | None = None,
) -> DataLoader:
    _check_files(workers)
    return _Loader(
        dataset,
        batch_size=None,  # the data set makes whole batches
        sampler=batches,
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        worker_init_fn=_begin_worker,
        multiprocessing_context=context,
    )


def _check_files(workers: int) -> None:
    """Raises DataError if fewer files may be open than training with workers needs."""
    most = os.sysconf("SC_OPEN_MAX") if hasattr(os, "sysconf") else -1  # -1: any number
    needed = FILES + FILES_A_WORKER * workers
    if workers and 0 <= most < needed:
        raise DataError(
            f"--workers {workers} needs {needed} open files, `ulimit -n` allows {most}: raise it, "
            "or give --workers 0"
        )


def _read_once(dataset: CrowdDataset, device: torch.device, quiet: bool) -> list[Crowd]:
    """Returns every image on the device, with its ground truth on the CPU, where it is used."""

    def read(number: int) -> Crowd:
        crowd = dataset[[number]]
        crowd["image"] = crowd["image"].to(device)
        return crowd

    return read_in_threads(read, range(len(dataset)), "validation images", quiet)


def _begin_worker(_: int) -> None:
    """Leaves to the main process what a batch system or a terminal sends to all processes.

    Batches reach it whatever their size.
    """
    ForkingPickler.register(UntypedStorage, _share_or_copy)
    sys.excepthook = _report_unless_left
    for number in set(STOPPING) - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        threading.Thread(target=_obey_main_process, daemon=True).start()


def _report_unless_left(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Prints an exception, unless it is that the main process was killed while it was answered."""
    if not issubclass(kind, ConnectionError):
        sys.__excepthook__(kind, error, trace)


def _obey_main_process() -> None:
    """Ends this process on a SIGTERM of its parent's, by which PyTorch ends workers."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _share_or_copy(
    storage: UntypedStorage,
) -> tuple[Callable[..., UntypedStorage], tuple[Any, ...]]:
    """Pickles a tensor's memory: shares it as PyTorch does or, where that fails, copies the bytes.

    It fails where /dev/shm is small, as Docker's 64 MB, or no more files may be opened. PyTorch's
    error would come up in a thread, and the main process would wait for the batch for ever.
    """
    try:
        return reduce_storage(storage)
    except (RuntimeError, OSError):
        values = torch.empty(0, dtype=torch.uint8).set_(storage)
        return _restore, (values.numpy(),)


def _restore(values: np.ndarray) -> UntypedStorage:
    return torch.from_numpy(values).untyped_storage()
