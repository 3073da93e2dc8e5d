"""Steps, and when to look at them: losses stay on the device until they are read."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from training.clock import Clock
from training.schedule import Schedule
from training.state import Training
from utils import distributed
from utils.interrupt import StopRequest
from utils.metrics import Scores

READ_EVERY_S = 1.0  # seconds between two readings of the losses: each waits for the device
MOST_STEPS = 50  # between them

Terms = Callable[[dict[str, Any]], dict[str, Tensor]]  # a batch -> its unweighted loss terms


class TrainingError(Exception):
    """Training cannot go on; the message says why."""


class Losses:
    """The loss terms of the last steps, which stay on the device until they are read."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.images: list[list[str]] = []  # of every step
        self._terms: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._terms)

    def add(self, losses: Mapping[str, Tensor], share: float, images: list[str]) -> None:
        """Keeps a step's terms, of which this process's batch weighs `share`."""
        self.names = list(losses)
        self.images.append(images)
        self._terms.append(share * torch.stack([v.detach().float() for v in losses.values()]))

    def values(self) -> list[float]:
        """Returns what is kept, step by step and term by term. Waits for the device."""
        return torch.stack(self._terms).flatten().tolist() if self._terms else []

    def clear(self) -> None:
        self.images.clear()
        self._terms.clear()


class Trainer:
    """Takes a training's steps, and knows when to look at them and when to end.

    Args:
        step: a batch -> its unweighted loss terms, as a module of all that is trained.
        weights: of the terms.
        steps: of an epoch.
        stop: whether to end early.
    """

    def __init__(
        self,
        training: Training,
        step: nn.Module,
        weights: Mapping[str, float],
        schedule: Schedule,
        device: torch.device,
        steps: int,
        stop: StopRequest,
    ):
        self.training, self.step, self.weights = training, step, weights
        self.schedule, self.device, self.steps = schedule, device, steps
        self.stop, self.stopped = stop, False
        self.planned = self._plan()
        self._losses, self._interval = Losses(), 1  # steps from one reading to the next
        self._clock = Clock(training.progress, shared=device.type == "cpu")

    @property
    def finished(self) -> bool:
        return self.training.progress.steps >= self.planned

    def train_one_epoch(self, loader: DataLoader, bar: tqdm) -> None:
        """Takes an optimiser step for every batch that is left of the epoch, or of the schedule.

        Raises:
            TrainingError: the loss is not finite.
        """
        self._clock.count_rest()
        progress = self.training.progress
        loader.sampler.epoch, loader.sampler.start = progress.epoch, progress.step
        for batch in loader:
            share = loader.sampler.share(progress.step)
            images = batch["name"]
            moved = {name: _move(value, self.device) for name, value in batch.items()}
            self._losses.add(self._take_step(moved, share), share, images)
            progress.step += 1
            progress.steps += 1
            if len(self._losses) >= self._interval or progress.steps >= self.planned:
                self.read(bar)
            if self.stopped or self.finished:
                break
        if len(self._losses):
            self.read(bar)

    def _take_step(self, batch: dict[str, Any], share: float) -> dict[str, Tensor]:
        training, progress = self.training, self.training.progress
        optimizer, scaler = training.optimizer, training.scaler
        losses = self.step(batch)
        loss = sum(self.weights[name] * value for name, value in losses.items())
        rate = self.schedule.rate(progress.steps, self.planned)
        for group in optimizer.param_groups:
            group["lr"] = rate * optimizer.defaults["lr"]
        optimizer.zero_grad()
        scaler.scale(share * loss if share != 1 else loss).backward()
        scaler.step(optimizer)
        scaler.update()
        training.update_average()
        return losses

    def read(self, bar: tqdm) -> None:
        """Reads the losses of the last steps, and decides with the other processes how to go on.

        Raises:
            TrainingError: a loss was not finite.
        """
        count, progress = len(self._losses), self.training.progress
        seconds = self._clock.count_steps(count)
        interval = min(MOST_STEPS, max(1, int(READ_EVERY_S * count / seconds)))
        decisions = [self._plan(), interval] if distributed.is_main() else [0, 0]
        # Before the device is waited for, as it may be for ever where another process is gone.
        planned, interval, stop = distributed.add_up([*decisions, bool(self.stop)])
        self.planned, self._interval, self.stopped = int(planned), int(interval), bool(stop)
        values = distributed.add_up(self._losses.values())
        self._record([value / distributed.processes() for value in values])
        bar.total = self.planned
        bar.update(count)
        means = {name: f"{total / progress.step:.3g}" for name, total in progress.sums.items()}
        bar.set_postfix(means, refresh=False)

    def _record(self, values: list[float]) -> None:
        """Adds steps' terms, one after the other, to the epoch's sums."""
        progress, losses = self.training.progress, self._losses
        count = len(losses)
        for i in range(count):
            terms = dict(zip(losses.names, values[i * len(losses.names) :], strict=False))
            if not all(map(math.isfinite, terms.values())):
                listed = ", ".join(f"{name} {value:.4g}" for name, value in terms.items())
                images = ", ".join(distributed.gather(losses.images[i]))
                raise TrainingError(
                    f"the loss is not finite in epoch {progress.epoch + 1}, step "
                    f"{progress.step - count + i + 1}: {listed}; images: {images}; "
                    "a lower --lr may help"
                )
            for name, value in terms.items():
                progress.sums[name] = progress.sums.get(name, 0.0) + value
        losses.clear()

    def validate(self, score: Callable[[nn.Module], Scores]) -> dict[str, Scores]:
        """Scores the model, and its averaged weights where there are any."""
        self._clock.count_rest()
        scores = {name: score(network) for name, network in self.training.networks.items()}
        self._clock.count_validation()
        return scores

    def _plan(self) -> int:
        return self.schedule.plan(self.steps, self.training.progress)


def _move(value: Any, device: torch.device) -> Any:
    """Moves a tensor, or the tensors of a list; anything else stays."""
    if isinstance(value, list):
        return [_move(part, device) for part in value]
    return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
