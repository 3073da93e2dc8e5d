"""A run's folder: checkpoints, log.jsonl, TensorBoard scalars, curves and the result."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from utils.plots import draw_curves


class RunError(ValueError):
    """--resume does not fit the contents of a run's folder; the message says what to do."""


class RunFolder:
    """The folder of a training. It never mixes two runs.

    Raises:
        RunError: `resume` does not fit what the folder holds.
    """

    def __init__(self, path: Path, resume: bool):
        self.path = path
        self.last, self.best_mae, self.best_rmse = (
            path / f"{name}.pth" for name in ("last", "best_mae", "best_rmse")
        )
        self.result, self._log = path / "result.json", path / "log.jsonl"
        if resume and not self.last.exists():
            raise RunError(f"--resume: {path} holds no last.pth to continue from")
        if not resume and (self.last.exists() or self._log.exists()):
            raise RunError(f"{path} already holds a run; continue it with --resume or name another")
        path.mkdir(parents=True, exist_ok=True)
        self._tensorboard: SummaryWriter | None = None

    def records(self) -> list[dict[str, Any]]:
        """Returns the log: one record per epoch."""
        if not self._log.exists():
            return []
        lines = self._log.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]  # without a cut one

    def rewind(self, epoch: int) -> None:
        """Drops what was logged after epoch `epoch`, from which a training continues."""
        kept = [record for record in self.records() if record["epoch"] <= epoch]
        rewound = self._log.with_suffix(".tmp")
        rewound.write_text("".join(json.dumps(record) + "\n" for record in kept))
        rewound.replace(self._log)

    def log(self, record: Mapping[str, Any]) -> None:
        """Appends an epoch's record, and draws the curves if it holds a validation."""
        with self._log.open("a") as file:
            file.write(json.dumps(record) + "\n")
        if self._tensorboard is None:
            self._tensorboard = SummaryWriter(self.path / "tensorboard", purge_step=record["epoch"])
        for name, value in record.items():
            if name != "epoch":
                self._tensorboard.add_scalar(name, value, record["epoch"])
        self._tensorboard.flush()
        if "val_mae" in record:
            draw_curves(self.records(), self.path / "curves.png")

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Writes result.json."""
        self.result.write_text(json.dumps(result, indent=1) + "\n")
