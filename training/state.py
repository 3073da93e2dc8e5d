"""The state of a training: saved in a checkpoint, and restored from it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utils.checkpoint import CheckpointError


@dataclass
class Progress:
    """Where a training stands."""

    epoch: int = 0  # epochs done
    step: int = 0  # batches done in the next one
    steps: int = 0  # batches done in all
    kept: int = 0  # `steps` when the last epoch was logged and saved
    seconds: float = 0.0  # spent so far; see Clock for what counts
    uncounted: float = 0.0  # seconds that do not count
    first: float = 0.0  # of `seconds`, on the first step, which is slow
    between: float = 0.0  # of `seconds`, on validations, checkpoints and resumptions
    pace: float | None = None  # seconds per step in the last minutes
    validation: float | None = None  # seconds of the longest validation since the last start
    sums: dict[str, float] = field(default_factory=dict)  # of each loss term over `step` batches
    best_mae: float = math.inf
    best_rmse: float = math.inf

    @property
    def epochs(self) -> int:
        """The number of epochs begun; the last one may be unfinished."""
        return self.epoch + (self.step > 0)


@dataclass
class TrainingState:
    """Everything that a checkpoint holds."""

    modules: dict[str, nn.Module]  # of `Criterion.trained`
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # of gradients in float16
    facts: dict[str, Any]  # plain values: arch, width, settings
    averaged: nn.Module | None = None  # exponential moving average of the model
    decay: float = 0.0  # of the average
    progress: Progress = field(default_factory=Progress)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks that are validated, by the prefix of their scores' names."""
        averaged = {} if self.averaged is None else {"val_ema": self.averaged}
        return {"val": self.modules["model"], **averaged}

    def checkpoint(self, chosen: str = "val") -> dict[str, Any]:
        """Returns everything needed to resume and to test.

        Args:
            chosen: name in `networks` of the weights to test; "val" to resume.
        """
        averaged = {} if self.averaged is None else {"averaged": self.averaged.state_dict()}
        return {
            **self.facts,
            **{name: module.state_dict() for name, module in self.modules.items()},
            "model": self.networks[chosen].state_dict(),
            **averaged,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": asdict(self.progress),
        }

    def restore(self, checkpoint: Mapping[str, Any], path: Path) -> None:
        """Restores a checkpoint with the same settings, read from `path`.

        Raises:
            CheckpointError: it is not a training's, or has other settings.
        """
        if not {"progress", "settings", *self.modules} <= checkpoint.keys():
            raise CheckpointError(f"checkpoint {path} is not of a training that can be resumed")
        for name, value in self.facts["settings"].items():
            before = checkpoint["settings"].get(name, value)  # which is younger than that run
            if before != value:
                raise CheckpointError(f"{path} was trained with {name} {before}, not {value}")
        for name, module in self.modules.items():
            module.load_state_dict(checkpoint[name])
        if self.averaged is not None:
            self.averaged.load_state_dict(checkpoint["averaged"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.scaler.load_state_dict(checkpoint["scaler"])
        self.progress = Progress(**checkpoint["progress"])
