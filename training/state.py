"""The state of a training: saved in a checkpoint, and restored from it."""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utils.checkpoint import CheckpointError, why_no_weights

# Of an optimiser's group. PyTorch fills in what else an older one did not know.
NEEDED = {"params", "lr", "weight_decay", "part"}


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
            CheckpointError: it is not a training's, has other settings, or is damaged.
        """
        modules = dict(self.modules)
        if self.averaged is not None:
            modules["averaged"] = self.averaged
        parts = {"progress", "settings", "optimizer", "scaler", *modules}
        if not all(isinstance(checkpoint.get(part), dict) for part in parts):
            raise CheckpointError(f"checkpoint {path} is not of a training that can be resumed")
        for name, value in self.facts["settings"].items():
            before = checkpoint["settings"].get(name, value)  # which is younger than that run
            if before != value:
                told = before if isinstance(before, str) else "something else"
                raise CheckpointError(f"{path} was trained with {name} {told}, not {value}")
        try:
            progress = _read_progress(checkpoint["progress"])
            check_optimizer(checkpoint["optimizer"], self.optimizer)
            for name, module in modules.items():
                for key, tensor in checkpoint[name].items():
                    if reason := why_no_weights(tensor):
                        raise ValueError(f"{name}'s {key} {reason}")
                module.load_state_dict(checkpoint[name])
            self.optimizer.load_state_dict(checkpoint["optimizer"])
            self.scaler.load_state_dict(checkpoint["scaler"])
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise CheckpointError(
                f"checkpoint {path} is damaged, or not of this training ({reason})"
            ) from None
        self.progress = progress


def check_optimizer(saved: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Raises ValueError if a saved state does not fit an optimiser; torch would crash with it."""
    _check_groups(saved.get("param_groups"), optimizer.state_dict()["param_groups"])
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    names = _state_names(optimizer)
    for number, state in saved["state"].items():
        if number not in range(len(parameters)) or state.keys() != names:
            raise ValueError(f"the optimiser has no parameter {number} with such a state")
        shapes = (parameters[number].shape, torch.Size([]))
        for name, value in state.items():
            if value is not None and (value.shape not in shapes or why_no_weights(value)):
                raise ValueError(f"the optimiser's {name} of parameter {number} does not fit it")


def _check_groups(saved: Any, own: Sequence[Mapping[str, Any]]) -> None:
    is_list = isinstance(saved, list) and all(isinstance(group, dict) for group in saved)
    if not is_list or len(saved) != len(own):
        raise ValueError("the optimiser's groups of parameters are others")
    for group, wanted in zip(saved, own, strict=True):
        for key in wanted.keys() & (NEEDED | group.keys()):  # an older PyTorch has fewer
            if type(group.get(key)) is not type(wanted[key]):
                raise ValueError(f"the optimiser's {key} is not like {wanted[key]}")
        if group["params"] != wanted["params"]:
            raise ValueError("the optimiser's parameters are others")


def _state_names(optimizer: torch.optim.Optimizer) -> set[str]:
    """Returns what an optimiser keeps for a parameter, found by one step of another of its kind."""
    first = optimizer.param_groups[0]["params"][0]
    parameter = nn.Parameter(torch.zeros(1, device=first.device))
    parameter.grad = torch.zeros_like(parameter)
    known = inspect.signature(type(optimizer)).parameters
    options = {name: value for name, value in optimizer.defaults.items() if name in known}
    trial = type(optimizer)([parameter], **options)
    trial.step()
    return set(trial.state[parameter])


def _read_progress(saved: Mapping[str, Any]) -> Progress:
    """Returns saved progress.

    Raises:
        ValueError, TypeError: it has other fields, or values of other types.
    """
    progress = Progress(**saved)
    for name, default in asdict(Progress()).items():
        value = getattr(progress, name)
        kinds = {int: int, dict: dict}.get(type(default), (int, float, type(default)))
        if not isinstance(value, kinds):
            raise ValueError(f"progress {name} is {type(value).__name__}")
    if not all(isinstance(value, (int, float)) for value in progress.sums.values()):
        raise ValueError("progress sums are no numbers")
    if min(progress.epoch, progress.step, progress.steps, progress.kept) < 0:
        raise ValueError("progress is negative")
    return progress
