"""The loops: one epoch of training, and a whole training that can be interrupted and resumed."""

import math
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from utils.checkpoint import CheckpointError, read_checkpoint, save_checkpoint
from utils.metrics import Scores
from utils.runlog import RunFolder

Terms = Callable[[dict[str, Any]], dict[str, Tensor]]  # a batch -> its unweighted loss terms


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why."""


@dataclass
class Progress:
    """Where a training stands."""

    epoch: int = 0  # epochs done
    step: int = 0  # batches done in the next one
    seconds: float = 0.0  # spent on steps so far
    sums: dict[str, float] = field(default_factory=dict)  # of each loss term over those batches
    best_mae: float = math.inf
    best_rmse: float = math.inf


@dataclass
class Training:
    """All that a checkpoint holds."""

    modules: dict[str, nn.Module]  # what is trained: "model" and, for a student, "adapters"
    optimizer: torch.optim.Optimizer
    facts: dict[str, Any]  # plain values: arch, width, settings
    progress: Progress = field(default_factory=Progress)

    def checkpoint(self) -> dict[str, Any]:
        """Returns everything needed to resume and to test."""
        return {
            **self.facts,
            **{name: module.state_dict() for name, module in self.modules.items()},
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
            "random": {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()},
        }

    def restore(self, path: Path) -> None:
        """Takes up a checkpoint of the same settings.

        Raises:
            CheckpointError: the file is unreadable, or was made with other settings.
        """
        checkpoint = read_checkpoint(path)
        if not {"progress", "settings", *self.modules} <= checkpoint.keys():
            raise CheckpointError(f"checkpoint {path} is not of a training that can be resumed")
        for name, value in self.facts["settings"].items():
            before = checkpoint["settings"].get(name)
            if before != value:
                raise CheckpointError(f"{path} was trained with {name} {before}, not {value}")
        for name, module in self.modules.items():
            module.load_state_dict(checkpoint[name])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.progress = Progress(**checkpoint["progress"])
        torch.set_rng_state(checkpoint["random"]["cpu"])
        if len(checkpoint["random"]["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(checkpoint["random"]["cuda"])


class StopRequest:
    """While entered, Ctrl-C or SIGTERM lets the current step end; a second one ends at once."""

    def __init__(self) -> None:
        self._requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        return self._requested

    def _on_signal(self, *_: object) -> None:
        self._requested = True
        self.__exit__()


def train_one_epoch(
    loader: DataLoader,
    terms: Terms,
    weights: Mapping[str, float],
    training: Training,
    device: torch.device,
    rate: Callable[[], float],
    stop: StopRequest,
    bar: tqdm,
) -> None:
    """Takes an optimiser step for every batch that is left of the epoch, or until `stop`.

    A step's learning rate is what rate() says before it.

    Raises:
        TrainingError: the loss is not finite.
    """
    progress = training.progress
    for batch in loader:
        moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        losses = terms(moved)
        loss = sum(weights[name] * value for name, value in losses.items())
        values = {name: value.item() for name, value in losses.items()}
        if not torch.isfinite(loss):
            listed = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            raise TrainingError(
                f"the loss is not finite in epoch {progress.epoch + 1}, step {progress.step + 1}: "
                f"{listed}; images: {', '.join(batch['name'])}; a lower --lr may help"
            )
        for group in training.optimizer.param_groups:
            group["lr"] = rate()
        training.optimizer.zero_grad()
        loss.backward()
        training.optimizer.step()
        progress.step += 1
        for name, value in values.items():
            progress.sums[name] = progress.sums.get(name, 0.0) + value
        bar.update()
        means = {name: f"{total / progress.step:.3g}" for name, total in progress.sums.items()}
        bar.set_postfix(means, refresh=False)
        if stop:
            return


def fit(
    run: RunFolder,
    training: Training,
    loader: DataLoader,
    terms: Terms,
    weights: Mapping[str, float],
    validate: Callable[[], Scores],
    device: torch.device,
    epochs: int,
    eval_every: int,
    cosine: bool,
) -> None:
    """Trains until `epochs` are done, from wherever `training` stands.

    Args:
        loader: of batches; its sampler has an `epoch` and a `start`, see CropSampler.
        terms: a batch -> its unweighted loss terms.
        weights: of the terms.
        validate: scores the network as it is; called every `eval_every` epochs and at the end.
        device: where `terms` gets its batches.
        cosine: whether the learning rate falls to 0 along half a cosine, or stays.

    Raises:
        TrainingError: the loss is not finite. The last checkpoint is the last epoch's.
        SystemExit: a signal asked to stop. The last checkpoint stands at that step.
    """
    progress, sampler = training.progress, loader.sampler
    steps, highest = len(loader), training.optimizer.defaults["lr"]

    def rate() -> float:
        share = (progress.epoch * steps + progress.step) / (epochs * steps)
        return highest * (1 + math.cos(math.pi * share)) / 2 if cosine else highest

    done = progress.epoch * steps + progress.step
    with StopRequest() as stop, tqdm(total=epochs * steps, initial=done, unit="step") as bar:
        while progress.epoch < epochs:
            bar.set_description(f"epoch {progress.epoch + 1}/{epochs}")
            began = time.perf_counter()
            sampler.epoch, sampler.start = progress.epoch, progress.step * loader.batch_size
            train_one_epoch(loader, terms, weights, training, device, rate, stop, bar)
            progress.seconds += time.perf_counter() - began
            save_checkpoint(run.last, training.checkpoint())  # a long validation may be killed
            if stop:
                bar.close()
                print(f"stopped in epoch {progress.epoch + 1}; --resume continues from there")
                raise SystemExit(130)
            due = (progress.epoch + 1) % eval_every == 0 or progress.epoch + 1 == epochs
            scores = validate() if due else None
            _finish_epoch(run, training, scores)
            if scores:
                bar.write(
                    f"epoch {progress.epoch}: validation MAE {scores.mae:.2f}, "
                    f"RMSE {scores.rmse:.2f} (best MAE {progress.best_mae:.2f})"
                )


def _finish_epoch(run: RunFolder, training: Training, scores: Scores | None) -> None:
    """Counts the epoch as done, logs it and saves; the log may be ahead of the last checkpoint."""
    progress = training.progress
    record = {name: value / progress.step for name, value in progress.sums.items()}
    progress.epoch, progress.step, progress.sums = progress.epoch + 1, 0, {}
    better = []
    if scores:
        if not math.isfinite(scores.mae):
            raise TrainingError(f"the counts after epoch {progress.epoch} are not finite")
        record |= {f"val_{name}": value for name, value in asdict(scores).items()}
        if scores.mae < progress.best_mae:
            progress.best_mae = scores.mae
            better.append(run.best_mae)
        if scores.rmse < progress.best_rmse:
            progress.best_rmse = scores.rmse
            better.append(run.best_rmse)
    run.log({"epoch": progress.epoch, "seconds": round(progress.seconds, 1), **record})
    for path in [*better, run.last]:
        save_checkpoint(path, training.checkpoint())
