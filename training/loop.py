"""A training's epochs and steps; losses stay on the device until they are read."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from counting.protocols import evaluate
from training.experiment import Training, TrainingError
from training.schedule import Schedule
from utils import distributed, ranks
from utils.device import lacks_memory
from utils.metrics import CountError, Scores, score

READ_EVERY_S = 1.0  # seconds between two readings of the losses: each waits for the device
MOST_STEPS = 50  # between two readings


def train_one_epoch(training: Training, loader: DataLoader) -> None:
    """Takes an optimiser step for every remaining batch of the epoch, until the schedule ends.

    Raises:
        TrainingError: the loss is not finite.
        SystemExit: a signal stopped the training, and the last checkpoint is of that step.
    """
    training.clock.count_rest()
    training.criterion.train()
    progress, losses = training.progress, Losses()
    loader.sampler.epoch, loader.sampler.start = progress.epoch, progress.step
    for batch in loader if not training.finished else ():
        share = loader.sampler.share(progress.step)
        losses.add(take_step(training, batch, share), share, batch["name"])
        if len(losses) >= training.interval or progress.steps >= training.planned:
            read_losses(training, losses)
        if training.stopped or progress.steps >= training.planned:
            break
    if len(losses):
        read_losses(training, losses)
    training.save_steps()


def take_step(training: Training, batch: dict[str, Any], share: float) -> dict[str, Tensor]:
    """Takes an optimiser step, and returns its unweighted loss terms.

    Args:
        share: weight of this process's batch among those of all processes.

    Raises:
        TrainingError: the network cannot take the crops, or the memory cannot.
    """
    progress, state = training.progress, training.state
    try:
        batch = {name: _move(value, training.device) for name, value in batch.items()}
        losses = training.step(batch)
        loss = sum(training.weights[name] * value for name, value in losses.items())
        state.optimizer.zero_grad()
        state.scaler.scale(share * loss if share != 1 else loss).backward()
        for group in state.optimizer.param_groups:
            rate = learning_rate(training.schedule, progress.steps, training.planned)
            group["lr"] = rate * group.get("part", 1.0) * state.optimizer.defaults["lr"]
        state.scaler.step(state.optimizer)  # the first one allocates
    except ValueError as error:  # the network cannot take crops like these
        raise TrainingError(f"{error}; images: {', '.join(batch['name'])}") from None
    except RuntimeError as error:
        if not lacks_memory(error):
            raise
        count, _, height, width = batch["image"].shape
        raise TrainingError(
            f"the memory is too small for a step of {count} crops of {height}x{width}; a "
            f"smaller --crop or --batch-size needs less; images: {', '.join(batch['name'])}"
        ) from None
    state.scaler.update()
    progress.step += 1
    progress.steps += 1
    if state.averaged is not None:
        update_average(state.averaged, state.modules["model"], state.decay, progress.steps)
    return losses


def learning_rate(schedule: Schedule, step: int, planned: int) -> float:
    """Returns the learning rate of a step, of `planned` steps, as a part of the highest.

    Original: constant, as here without a warm-up or `cosine`.
    """
    warmup = min(schedule.warmup, planned // 2)  # so that it also falls in a short training
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if not schedule.cosine:
        return 1.0
    share = (step - warmup) / max(1, planned - warmup)
    return (1 + math.cos(math.pi * min(1.0, share))) / 2


@torch.no_grad()
def update_average(averaged: nn.Module, model: nn.Module, decay: float, steps: int) -> None:
    """Updates the exponential moving average of a model's weights and buffers after `steps` steps.

    The decay is lower at first, so that the initial weights soon count little. Buffers of integers
    are copied.
    """
    decay = min(decay, steps / (9 + steps))
    averages, values = (list(network.parameters()) for network in (averaged, model))
    for average, value in zip(averaged.buffers(), model.buffers(), strict=True):
        if average.is_floating_point():
            averages.append(average)
            values.append(value)
        else:
            average.copy_(value)
    torch._foreach_lerp_(averages, values, 1 - decay)


def validate(training: Training, loader: DataLoader) -> dict[str, Scores]:
    """Returns the scores of the model and, if there are any, of its averaged weights.

    Several processes share the images.

    Raises:
        TrainingError: counts are not finite, or an image does not fit into the memory.
    """
    training.clock.count_rest()
    scores = {}
    for name, network in training.state.networks.items():
        protocol, device = training.args.protocol, training.device
        distributed.share_buffers(network)
        try:
            results = evaluate(network.eval(), loader, device, protocol, training.precision)
            scores[name] = score(distributed.gather(results))
        except CountError as error:
            raise TrainingError(f"after epoch {training.progress.epochs} {error}") from None
    training.clock.count_validation()
    return scores


class Losses:
    """The loss terms of the last steps, which stay on the device until they are read."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.images: list[list[str]] = []  # of every step
        self._terms: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._terms)

    def add(self, losses: Mapping[str, Tensor], share: float, images: list[str]) -> None:
        """Adds a step's terms, weighted by `share`, and the names of its images."""
        self.names = list(losses)
        self.images.append(images)
        self._terms.append(share * torch.stack([v.detach().float() for v in losses.values()]))

    def values(self) -> list[float]:
        """Returns the losses, step by step and term by term. Waits for the device."""
        return torch.stack(self._terms).flatten().tolist() if self._terms else []

    def clear(self) -> None:
        self.images.clear()
        self._terms.clear()


def read_losses(training: Training, losses: Losses) -> None:
    """Adds the losses of the last steps to the epoch's, and calls `Training.decide`.

    Raises:
        TrainingError: a loss was not finite.
    """
    count, progress = len(losses), training.progress
    seconds = training.clock.count_steps(count)
    interval = min(MOST_STEPS, max(1, int(READ_EVERY_S * count / seconds)))
    # This must precede waiting for the device, which may last for ever if another process is gone.
    training.decide(interval)
    values = [v / ranks.processes() for v in distributed.add_up(losses.values())]
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
    training.show(count)


def _move(value: Any, device: torch.device) -> Any:
    """Moves a tensor, or the tensors of a list; anything else stays."""
    if isinstance(value, list):
        return [_move(part, device) for part in value]
    return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
