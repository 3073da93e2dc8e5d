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
    kept: int = 0  # of these, when the last epoch's validation and log were kept
    seconds: float = 0.0  # spent so far, on steps and validations; see Clock of what counts
    uncounted: float = 0.0  # beside these
    first: float = 0.0  # of `seconds`, on the first step, whose beginnings are slow
    between: float = 0.0  # of `seconds`, on validations, checkpoints and beginning anew
    pace: float | None = None  # seconds a step in the last minutes
    validation: float | None = None  # the longest one's seconds, since the last start
    sums: dict[str, float] = field(default_factory=dict)  # of each loss term over `step` batches
    best_mae: float = math.inf
    best_rmse: float = math.inf

    @property
    def epochs(self) -> int:
        """How many were begun, a last one perhaps cut short by the time."""
        return self.epoch + (self.step > 0)


@dataclass
class TrainingState:
    """All that a checkpoint holds."""

    modules: dict[str, nn.Module]  # of `Criterion.trained`
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # of float16's gradients
    facts: dict[str, Any]  # plain values: arch, width, settings
    averaged: nn.Module | None = None  # the model, its weights averaged over steps
    decay: float = 0.0  # of the average, an exponential moving one
    progress: Progress = field(default_factory=Progress)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """What is validated, by what its scores' names begin with."""
        averaged = {} if self.averaged is None else {"val_ema": self.averaged}
        return {"val": self.modules["model"], **averaged}

    def checkpoint(self, chosen: str = "val") -> dict[str, Any]:
        """Returns everything needed to resume and to test.

        Args:
            chosen: of `networks`, whose weights are to be tested; to resume, "val".
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
        """Takes up a checkpoint of the same settings, read from `path`.

        Raises:
            CheckpointError: it is of no training, or was made with other settings.
        """
        if not {"progress", "settings", *self.modules} <= checkpoint.keys():
            raise CheckpointError(f"checkpoint {path} is not of a training that can be resumed")
        for name, value in self.facts["settings"].items():
            before = checkpoint["settings"].get(name)
            if before != value:
                raise CheckpointError(f"{path} was trained with {name} {before}, not {value}")
        for name, module in self.modules.items():
            module.load_state_dict(checkpoint[name])
        if self.averaged is not None:
            self.averaged.load_state_dict(checkpoint["averaged"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.scaler.load_state_dict(checkpoint["scaler"])
        self.progress = Progress(**checkpoint["progress"])
