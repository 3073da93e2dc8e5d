"""Runs a training, new or resumed, until its schedule ends."""

import argparse
import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from types import MappingProxyType

import torch
from torch.utils.data import DataLoader

from models.counter import MAX_SIDE
from models.distillation import Criterion
from training.clock import Clock
from training.runlog import RunFolder
from training.schedule import Schedule
from training.setup import build_optimizer, run_settings, share_step
from training.state import TrainingState
from utils import distributed, ranks
from utils.checkpoint import read_checkpoint, save_checkpoint
from utils.interrupt import StopRequest
from utils.metrics import Scores
from utils.precision import choose_precision
from utils.progress import Bar

SLOWER_EXACT = 4  # counting in float32 takes at most so many times as long as in 16 bits
VALIDATED = {"val": "validation", "val_ema": "validation of averaged weights"}


class TrainingError(Exception):
    """Training cannot go on; the message says why."""


class Training:
    """What is trained, its progress, its schedule and its folder.

    With --resume, it continues the run in --out. It is the context manager of its epochs.

    Args:
        args: everything that `add_training_options` adds, and `device`.
        criterion: on the device; its `model` is the network that counts.
        weights: of the criterion's terms.
        facts: what checkpoints record of the model: arch and width.
        loaders: of crops to train on, validation images and test images.
        settings: further settings that a resumed run must share.

    Raises:
        RunError: --resume does not fit what --out holds.
        CheckpointError: the run in --out had other settings.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        criterion: Criterion,
        weights: Mapping[str, float],
        facts: Mapping[str, str],
        loaders: tuple[DataLoader, Iterable, DataLoader],
        settings: Mapping[str, str] = MappingProxyType({}),
    ):
        train, val, test = loaders
        self.args, self.criterion, self.weights = args, criterion, weights
        self.device, self.precision = args.device, choose_precision(args.precision, args.device)
        self.folder = RunFolder(args.out, args.resume) if ranks.is_main() else None
        shared = run_settings(args, len(train.dataset))
        shared |= {"precision": str(self.precision).removeprefix("torch."), **settings}
        self.state = TrainingState(
            criterion.trained,
            build_optimizer(args, criterion),
            torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16),
            {**facts, MAX_SIDE: str(train.dataset.typical_side), "settings": shared},
            copy.deepcopy(criterion.model).requires_grad_(False) if args.ema else None,
            args.ema,
        )
        self.steps_per_epoch, self.heads = len(train), train.dataset.heads
        self.schedule = self._build_schedule(len(val), len(test))
        self.scored = args.resume and self._resume()
        self.progress = self.state.progress
        if self.folder and not self.scored:
            self.folder.result.unlink(missing_ok=True)  # a result of fewer epochs
        self.step = share_step(criterion, args)
        self.clock = Clock(self.progress, shared=self.device.type == "cpu")
        planned = self.progress.steps if self.scored else self._plan()
        self.planned, self.interval, self.stopped = planned, 1, False  # see `decide`
        self._stop, self._bar = StopRequest(), None

    @property
    def budget(self) -> dict[str, float | None]:
        """How long it may last, as the result has it."""
        minutes = self.args.max_minutes
        limit = minutes if math.isfinite(minutes) else None
        return {"max_epochs": self.args.epochs, "max_minutes": limit}

    @property
    def finished(self) -> bool:
        """Whether all steps are taken."""
        return self.progress.steps >= self.planned

    @property
    def validation_due(self) -> bool:
        return (self.progress.epoch + 1) % self.args.eval_every == 0 or self.finished

    def __enter__(self) -> "Training":
        self._stop.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        self._stop.__exit__()
        if self.folder:
            self.folder.draw()
        if kind is None and self._bar is not None and self.progress.uncounted >= 60:
            ranks.say(
                f"{self.progress.uncounted / 60:.1f} minutes are not counted, in which the "
                "training waited for other work or was stopped"
            )

    def epochs(self) -> Iterator[int]:
        """Yields the number of every remaining epoch; the first is 1.

        An epoch whose validation was interrupted comes again, without steps; so does the last one
        if there was no validation, as where a resumed run ends sooner than it would have.
        """
        progress = self.progress
        if self._goes_on():
            silent = not ranks.is_main()
            steps = {"total": self.planned, "initial": progress.steps, "unit": "step"}
            self._bar = Bar(**steps, disable=silent)
        while self._goes_on():
            self._bar.set_description(f"epoch {progress.epoch + 1}/{self.schedule.epochs}")
            yield progress.epoch + 1

    def _goes_on(self) -> bool:
        progress = self.progress
        lacks_best = math.isinf(progress.best_mae)
        return not self.finished or progress.kept < progress.steps or lacks_best

    def decide(self, interval: int) -> None:
        """Agrees with the other processes on the steps in all, the interval, and whether to stop.

        Args:
            interval: steps until the losses are read again; the main process's is taken.
        """
        decisions = [self._plan(), interval] if ranks.is_main() else [0, 0]
        planned, interval, stop = distributed.add_up([*decisions, self._stop.requested])
        self.planned, self.interval, self.stopped = int(planned), int(interval), bool(stop)

    def show(self, steps: int) -> None:
        """Advances the progress bar."""
        self._bar.total = self.planned
        self._bar.update(steps)
        sums, done = self.progress.sums, self.progress.step
        means = {name: f"{total / done:.3g}" for name, total in sums.items()}
        self._bar.set_postfix(means, refresh=False)

    def save_steps(self) -> None:
        """Saves a checkpoint if there is none, the training was stopped or a validation follows.

        Raises:
            SystemExit: it was stopped.
        """
        first = self.folder and not self.folder.last.exists()  # what holds a log can be resumed
        if self.folder and (self.validation_due or self.stopped or first):
            save_checkpoint(self.folder.last, self.state.checkpoint())
        if self.stopped:
            self._bar.close()
            epoch = self.progress.epochs
            ranks.say(f"stopped in epoch {epoch}; --resume continues from there")
            raise SystemExit(130)

    def keep(self, scores: Mapping[str, Scores]) -> None:
        """Logs an epoch, and saves checkpoints: the last one, and those with the best scores.

        Args:
            scores: of the state's `networks`; empty without a validation.
        """
        progress = self.progress
        record = {"epoch": progress.epochs, "seconds": round(progress.seconds, 1)}
        record |= {name: value / progress.step for name, value in progress.sums.items()}
        progress.kept = progress.steps
        if progress.step == self.steps_per_epoch:  # else a resumed run goes on within the epoch
            progress.epoch, progress.step, progress.sums = progress.epoch + 1, 0, {}
        better = {}
        for name, values in scores.items():
            record |= {f"{name}_{key}": value for key, value in asdict(values).items()}
            if values.mae < progress.best_mae:
                progress.best_mae, better["best_mae"] = values.mae, name
            if values.rmse < progress.best_rmse:
                progress.best_rmse, better["best_rmse"] = values.rmse, name
        if not self.folder:
            return
        self.folder.log(record)  # the log may be ahead of the last checkpoint
        for best, name in better.items():
            save_checkpoint(getattr(self.folder, best), self.state.checkpoint(name))
        save_checkpoint(self.folder.last, self.state.checkpoint())
        for name, values in scores.items():
            self._bar.write(
                f"epoch {progress.epochs}: {VALIDATED[name]} MAE {values.mae:.2f}, "
                f"RMSE {values.rmse:.2f} (best MAE {progress.best_mae:.2f})"
            )

    def _build_schedule(self, validated: int, tested: int) -> Schedule:
        args = self.args
        validated, tested = distributed.add_up([validated, tested])
        reduced = self.precision != torch.float32
        ended = SLOWER_EXACT * (validated + tested) if reduced else tested  # images at the end
        closing = 1 + ended / validated / len(self.state.networks)
        return Schedule(args.epochs, args.warmup, args.cosine, 60 * args.max_minutes, closing)

    def _resume(self) -> bool:
        """Restores the run in the folder, and returns whether it is finished and scored."""
        folder = self.folder
        last = (read_checkpoint(folder.last), folder.read_result()) if folder else None
        checkpoint, result = distributed.from_main(last)
        self.state.restore(checkpoint, self.args.out / "last.pth")
        kept_budget = self.budget.items() <= result.items()  # which time alone may have ended
        progress = self.state.progress
        ended = progress.steps >= self._plan()
        if result and (kept_budget or ended):
            return True
        if self.folder:  # an epoch that goes on is logged anew
            logged = ended and progress.kept == progress.steps
            self.folder.rewind(progress.epochs if logged else progress.epoch)
        return False

    def _plan(self) -> int:
        return self.schedule.plan(self.steps_per_epoch, self.state.progress)
