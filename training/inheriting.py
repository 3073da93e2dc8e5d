"""--init teacher: a student starts with weights that are fitted to its teacher's."""

import argparse
import time
from collections.abc import Iterator
from itertools import count, islice

from torch import Tensor

from datasets.crowd import CrowdDataset
from datasets.sampler import CropSampler
from models.counter import Counter
from models.inheritance import inherit
from models.taps import Adapters
from models.vgg import convolutions
from utils import distributed, ranks
from utils.checkpoint import CheckpointError
from utils.pixels import normalise
from utils.precision import allow_tf32
from utils.progress import Bar

INHERITED_CROPS = 128  # at which --init teacher fits a student


def check_heir(args: argparse.Namespace, student: Counter, teacher: Counter) -> None:
    """Raises CheckpointError if the teacher is of another architecture or narrower."""
    if student.arch != teacher.arch:
        raise CheckpointError(
            f"--init teacher: {args.teacher_ckpt} is a {teacher.arch}, the student a "
            f"{student.arch}; it needs a teacher of the same architecture"
        )
    if student.width > teacher.width:
        raise CheckpointError(
            f"--init teacher: {args.teacher_ckpt} is {teacher.width} wide, the student "
            f"{student.width}; it needs a teacher as wide or wider"
        )


def inherit_weights(
    args: argparse.Namespace,
    student: Counter,
    adapters: Adapters | None,
    teacher: Counter,
    dataset: CrowdDataset,
) -> None:
    """Fits the student and its adapters to the teacher on the first crops, with unchanged colours.

    Every process does so, and all go on with the main one's result. Does nothing in a resumed run.

    Raises:
        CheckpointError: as `check_heir`; or the student cannot be fitted.
    """
    check_heir(args, student, teacher)
    if args.resume:
        return
    crops = list(islice(_first_crops(args, dataset), INHERITED_CROPS))
    ranks.say(f"fitting the student to {args.teacher_ckpt} at {len(crops)} crops")
    allow_tf32(False)  # until the training decides
    images, began = [crop.to(args.device) for crop in crops], time.perf_counter()
    passes = 1 + len(convolutions(student.network)) + (adapters is not None)
    bar = Bar(
        total=passes * len(images),
        desc="fitting",
        unit="crop",
        leave=False,
        disable=not ranks.is_main(),
    )

    def show() -> Iterator[Tensor]:
        for image in images:
            yield normalise(image)
            bar.update()

    try:
        with bar:
            inherit(student.network, adapters, teacher.network, show)
    except ValueError as error:
        raise CheckpointError(f"--init teacher: {error}") from None
    minutes = (time.perf_counter() - began) / 60
    ranks.say(f"fitted in {minutes:.1f} minutes, which --max-minutes does not count")
    for module in (student.network, *([adapters] if adapters else [])):
        own = {key: value.cpu() for key, value in module.state_dict().items()}
        module.load_state_dict(distributed.from_main(own))


def _first_crops(args: argparse.Namespace, dataset: CrowdDataset) -> Iterator[Tensor]:
    crowds = dataset.empty.count(False)  # which come first
    sampler = CropSampler(crowds, args.crops_per_image, args.batch_size, args.seed)
    for sampler.epoch in count():
        for indices in sampler:
            yield from dataset[indices]["image"].split(1)
