"""A whole training: epochs, validations and checkpoints, interrupted and resumed at will."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from training.runlog import RunFolder
from training.schedule import Schedule
from training.state import Training
from training.trainer import Trainer, TrainingError
from utils import distributed
from utils.checkpoint import save_checkpoint
from utils.interrupt import StopRequest
from utils.metrics import Scores

VALIDATED = {"val": "validation", "val_ema": "validation of averaged weights"}


def fit(
    run: RunFolder | None,
    training: Training,
    loader: DataLoader,
    step: nn.Module,
    weights: Mapping[str, float],
    schedule: Schedule,
    validate: Callable[[nn.Module], Scores],
    device: torch.device,
    eval_every: int,
) -> None:
    """Trains until the schedule is done, from wherever `training` stands.

    Args:
        run: the main process's, which alone writes.
        loader: of batches; see CropSampler of what its `sampler` must have.
        step: a batch -> its unweighted loss terms, as a module of all that is trained.
        weights: of the terms.
        validate: scores a network; called every `eval_every` epochs and at the end.
        device: where `step` gets its batches.

    Raises:
        TrainingError: the loss is not finite. The last checkpoint is the last epoch's.
        SystemExit: a signal asked to stop. The last checkpoint stands at that step.
    """
    progress, main, stop = training.progress, distributed.is_main(), StopRequest()
    trainer = Trainer(training, step, weights, schedule, device, len(loader), stop)
    total, done = trainer.planned, progress.steps
    with stop, tqdm(total=total, initial=done, unit="step", disable=not main) as bar:
        while not trainer.finished or progress.kept < progress.steps:
            bar.set_description(f"epoch {progress.epoch + 1}/{schedule.epochs}")
            if not trainer.finished:  # else it was interrupted after its last step
                trainer.train_one_epoch(loader, bar)
            due = (progress.epoch + 1) % eval_every == 0 or trainer.finished
            if main and (due or trainer.stopped):  # a long validation may be killed
                save_checkpoint(run.last, training.checkpoint())
            if trainer.stopped:
                bar.close()
                distributed.say(
                    f"stopped in epoch {progress.epochs}; --resume continues from there"
                )
                raise SystemExit(130)
            scores = trainer.validate(validate) if due else {}
            _keep(run, training, scores, trainer.steps)
            for name, values in scores.items() if main else ():
                bar.write(
                    f"epoch {progress.epochs}: {VALIDATED[name]} MAE {values.mae:.2f}, "
                    f"RMSE {values.rmse:.2f} (best MAE {progress.best_mae:.2f})"
                )
    if progress.uncounted >= 60:
        distributed.say(
            f"{progress.uncounted / 60:.1f} minutes are not counted, in which the training waited "
            "for other work or was stopped"
        )


def _keep(
    run: RunFolder | None, training: Training, scores: Mapping[str, Scores], steps: int
) -> None:
    """Logs and saves an epoch of `steps`; the log may be ahead of the last checkpoint."""
    progress = training.progress
    record = {"epoch": progress.epochs, "seconds": round(progress.seconds, 1)}
    record |= {name: value / progress.step for name, value in progress.sums.items()}
    progress.kept = progress.steps
    if progress.step == steps:  # else the time is up, and more time continues within the epoch
        progress.epoch, progress.step, progress.sums = progress.epoch + 1, 0, {}
    better = {}
    for name, values in scores.items():
        if not math.isfinite(values.mae):
            raise TrainingError(f"the counts after epoch {progress.epochs} are not finite")
        record |= {f"{name}_{key}": value for key, value in asdict(values).items()}
        if values.mae < progress.best_mae:
            progress.best_mae, better["best_mae"] = values.mae, name
        if values.rmse < progress.best_rmse:
            progress.best_rmse, better["best_rmse"] = values.rmse, name
    if distributed.is_main():
        run.log(record)
        for best, name in better.items():
            save_checkpoint(getattr(run, best), training.checkpoint(name))
        save_checkpoint(run.last, training.checkpoint())
