"""Teachers: asked at every step, or once about every picture of a training."""

import argparse
import shutil
from collections.abc import Sequence
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from counting.protocols import ALIGNMENT
from datasets.answers import BLANK, KEPT_AS, Answers, Asked
from datasets.crowd import CrowdDataset
from datasets.cutting import MEAN_COLOUR
from datasets.memory import GIGABYTE
from datasets.sizes import STRIDE, Size, grid
from datasets.splits import DataError
from models.counter import Counter
from models.distillation import need_teacher
from models.taps import Ask, FeatureReader, Tap, ask_kept, ask_live, live_tap, tap_channels
from training.runlog import LAST
from utils import distributed, ranks
from utils.checkpoint import read_checkpoint
from utils.device import lacks_memory
from utils.pixels import normalise
from utils.precision import autocast, untuned
from utils.progress import Bar

USABLE = 0.9  # part of a disk's free space that answers may take


def choose_asking(
    args: argparse.Namespace,
    teachers: Sequence[Counter],
    taps: Sequence[Tap],
    dataset: CrowdDataset,
    precision: torch.dtype,
) -> tuple[Ask | None, str]:
    """Chooses by --teacher-cache whether the teacher is asked at every step or beforehand.

    "auto" asks beforehand where that pays: a GPU computes features faster than it reads them. A
    resumed run goes on as it began. Kept features set --scale to None.

    Args:
        taps: the first teacher's taps that are imitated.

    Returns:
        The function that asks, or None if no term needs a teacher; and "live" or "kept".
    """
    if not need_teacher(args.terms):
        return None, "live"
    teacher, *more = (counter.network for counter in teachers)
    auto = args.teacher_cache == "auto"
    before = _answers_before(args) if auto else None
    live = args.teacher_cache == "none" or before == "live"
    live = live or (auto and before is None and taps and args.device.type != "cpu")
    folder = args.out.parent / "teacher_cache" if auto else Path(args.teacher_cache)
    optional = auto and before is None
    options = {"precision": precision, "device": args.device, "optional": optional}
    if live or not teach_crops(dataset, teachers, bool(taps), folder, **options):
        return ask_live(teacher, taps, more), "live"
    if taps and args.scale not in (None, (1.0, 1.0)):
        ranks.say("the teacher's features are kept at the pictures' size: --scale has no effect")
        args.scale = None  # is what the run's settings say
    return ask_kept(teacher, taps), "kept"


def _answers_before(args: argparse.Namespace) -> str | None:
    """Returns "live" or "kept", as a run that is resumed had it; None for a new one."""
    if not args.resume:
        return None
    last = read_checkpoint(args.out / LAST) if ranks.is_main() else {}
    settings = distributed.from_main(last.get("settings"))  # which `TrainingState` checks
    return settings.get("answers") if isinstance(settings, dict) else None


def teach_crops(
    dataset: CrowdDataset,
    teachers: Sequence[Counter],
    features: bool,
    folder: Path,
    precision: torch.dtype,
    device: torch.device,
    optional: bool = False,
) -> bool:
    """Stores the teachers' answers to every picture of `dataset`, and adds them to its crops.

    Answers already in the folder are reused. Processes of a machine share the work.

    Args:
        features: whether the first teacher's are needed, too.
        precision: of the teachers' forward passes.
        optional: do nothing if the disk has no room, or the memory.

    Returns:
        Whether the crops have the answers.

    Raises:
        DataError: the disk or the memory is too small, and this is not `optional`.
        WriteError: the disk cannot be written.
    """
    asking = [
        _Asking(teacher, folder, features and not number, precision, dataset)
        for number, teacher in enumerate(teachers)
    ]
    if not _has_room(folder, sum(asked.needed for asked in asking), optional):
        return False
    if not all(asked.fill(device) for asked in asking):
        reason = "the memory is too small to ask the teacher about whole pictures"
        if not optional:
            raise DataError(f"--teacher-cache: {reason}; none asks about crops, at every step")
        ranks.say(f"{reason}: it is asked about crops, at every step")
        return False
    dataset.teach([asked.answers for asked in asking])
    return True


class _Asking:
    """A teacher's missing answers to the pictures of a data set."""

    def __init__(
        self,
        teacher: Counter,
        folder: Path,
        features: bool,
        precision: torch.dtype,
        dataset: CrowdDataset,
    ):
        self._network, self._precision, self._dataset = teacher.network, precision, dataset
        live = live_tap(teacher.network)
        taps = [tap for tap in teacher.network.taps if features and tap != live]
        self._kept = dict(zip(taps, tap_channels(teacher.network, taps), strict=True))
        self.answers = Answers(
            folder / f"{teacher.fingerprint()[:16]}-{str(precision).removeprefix('torch.')}",
            {tap.name: tap.stride for tap in self._kept},
        )
        pictures = {  # each once; of empty ones the maps are known
            name: number
            for number, name in enumerate(dataset.pictures)
            if features or not dataset.empty[number]
        }
        self.missing: dict[Asked, int] = {
            (name, mirrored): number
            for mirrored in dataset.mirrorings
            for name, number in pictures.items()
            if not self.answers.has((name, mirrored))
        }
        self.needed = sum(self._bytes(dataset.sizes[number]) for number in self.missing.values())

    def _bytes(self, size: Size) -> int:
        """Returns the size on disk of the answer to a picture."""
        features = sum(w * prod(grid(size, tap.stride)) for tap, w in self._kept.items())
        return torch.float32.itemsize * prod(grid(size, STRIDE)) + KEPT_AS.itemsize * features

    def fill(self, device: torch.device) -> bool:
        """Stores the missing answers; each process of the machine does its share.

        Returns:
            Whether the memory sufficed, in all processes.
        """
        self.answers.folder.mkdir(parents=True, exist_ok=True)
        read = FeatureReader(self._network, list(self._kept))
        share = list(self.missing.items())[ranks.local_rank() :: ranks.local_processes()]
        lacking = False
        try:
            with untuned():
                self._ask(read, share, device)
        except (RuntimeError, MemoryError) as error:
            if not lacks_memory(error):
                raise
            lacking = True
        read.remove()
        (processes,) = distributed.add_up([lacking])  # also waits for the others
        return not processes

    def _ask(
        self, read: FeatureReader, share: Sequence[tuple[Asked, int]], device: torch.device
    ) -> None:
        if not self.answers.has((BLANK, False)):
            side = 2 * self._network.margin + 2 * ALIGNMENT
            blank = torch.tensor(MEAN_COLOUR, dtype=torch.uint8).view(1, 3, 1, 1)
            blank = blank.expand(-1, -1, side, side)
            self._keep(read, (BLANK, False), blank, device, middle=True)
        for asked, number in Bar(share, "asking the teacher", disable=not ranks.is_main()):
            self._keep(read, asked, self._dataset.image(number), device)

    @torch.no_grad()
    def _keep(
        self,
        read: FeatureReader,
        asked: Asked,
        image: Tensor,
        device: torch.device,
        middle: bool = False,
    ) -> None:
        _, mirrored = asked
        image = normalise((image.flip(-1) if mirrored else image).to(device))
        with autocast(device, self._precision):
            density, features = read(image)
        answer = [part.cpu() for part in (density, *features)]
        if middle:
            answer = [_middle(part) for part in answer]
        self.answers.keep(asked, answer[0], answer[1:])


def _middle(answer: Tensor) -> Tensor:
    """Returns the middle cell of (1, C, h, w): (1, C, 1, 1)."""
    return answer[..., answer.shape[2] // 2, answer.shape[3] // 2, None, None]


def _has_room(folder: Path, needed: int, optional: bool) -> bool:
    """Returns whether the disk has room for `needed` bytes of answers, and prints their size.

    Raises:
        DataError: it has none, and they are not `optional`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    (lacking,) = distributed.add_up([needed > USABLE * free])
    room = f"{needed / GIGABYTE:.3g} GB in {folder}, where {free / GIGABYTE:.3g} are free"
    if not lacking:
        if needed:
            ranks.say(f"the teacher's answers are kept: {room}")
        return True
    if not optional:
        raise DataError(f"--teacher-cache needs {room}; none asks the teacher at every step")
    ranks.say(f"the teacher is asked at every step: its answers need {room}")
    return False
