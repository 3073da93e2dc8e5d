"""A run's folder: checkpoints, log.jsonl, TensorBoard scalars, curves and the result."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch.utils.tensorboard import SummaryWriter

from utils.files import naming, write_json, write_whole
from utils.inputs import read_json_file, read_json_lines
from utils.plots import draw_curves

# The files by which a folder is known to hold a run.
LAST, BEST_MAE, BEST_RMSE = "last.pth", "best_mae.pth", "best_rmse.pth"
LOG, WEIGHTS, RESULT = "log.jsonl", "model.safetensors", "result.json"
TENSORBOARD = "tensorboard"
FILES = (LAST, BEST_MAE, BEST_RMSE, LOG, WEIGHTS, RESULT)
DRAWN_S = 10  # the curves are drawn at most once in so many seconds, as that takes one
LINGER_S = 10  # so long a killed training's workers may keep its lock


class RunError(ValueError):
    """--resume does not fit the contents of a run's folder; the message says what to do."""


def check_folder(path: Path, resume: bool) -> None:
    """Raises RunError if a training cannot begin in a folder or, with `resume`, go on in it."""
    held = [name for name in FILES if (path / name).exists()]
    if resume and LAST not in held:
        raise RunError(f"--resume: {path} holds no {LAST} to continue from")
    if not resume and held:
        advice = "continue it with --resume, or name another" if LAST in held else "name another"
        raise RunError(f"{path} already holds a run ({held[0]}); {advice}")


class RunFolder:
    """The folder of a training. It never mixes two runs, and only one process writes to it.

    Raises:
        RunError: `resume` does not fit what the folder holds, or another training is at work in it.
    """

    def __init__(self, path: Path, resume: bool):
        self.path = path
        self.last, self.best_mae, self.best_rmse = (
            path / name for name in (LAST, BEST_MAE, BEST_RMSE)
        )
        self.result, self.weights, self._log = path / RESULT, path / WEIGHTS, path / LOG
        check_folder(path, resume)
        path.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(path / ".lock")
        try:
            self._lock.acquire(timeout=LINGER_S)
        except Timeout:
            raise RunError(f"another training is at work in {path}; name another --out") from None
        check_folder(path, resume)  # again: the other one may just have ended
        self._tensorboard: SummaryWriter | None = None
        self._drawn, self._behind = time.monotonic(), False

    def read_result(self) -> dict[str, Any]:
        """Returns result.json, which is written last; empty unless it and the weights are there."""
        try:
            result = read_json_file(self.result)
        except (OSError, ValueError):
            return {}
        return result if isinstance(result, dict) and self.weights.exists() else {}

    def records(self) -> list[dict[str, Any]]:
        """Returns the log: one record per epoch.

        Raises:
            DataError: it is damaged, but for a last line that a kill cut off.
        """
        if not self._log.exists():
            return []
        return read_json_lines(self._log, {"epoch": (int,)})

    def rewind(self, epoch: int) -> None:
        """Drops what was logged after epoch `epoch`, from which a training continues."""
        kept = [record for record in self.records() if record["epoch"] <= epoch]
        write_whole(self._log, "".join(json.dumps(record) + "\n" for record in kept))

    def log(self, record: Mapping[str, Any]) -> None:
        """Appends an epoch's record; draws the curves if it holds a validation and it is time."""
        with naming(self._log), self._log.open("a") as file:
            file.write(json.dumps(record) + "\n")
        with naming(self.path / TENSORBOARD):
            if self._tensorboard is None:
                purged = {"purge_step": record["epoch"]}
                self._tensorboard = SummaryWriter(self.path / TENSORBOARD, **purged)
            for name, value in record.items():
                if name != "epoch":
                    self._tensorboard.add_scalar(name, value, record["epoch"])
            self._tensorboard.flush()
        self._behind |= "val_mae" in record
        if time.monotonic() > self._drawn + DRAWN_S:
            self.draw()

    def draw(self) -> None:
        """Draws the curves, if they lack a validation."""
        if self._behind:
            draw_curves(self.records(), self.path / "curves.png")
            self._drawn, self._behind = time.monotonic(), False

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Writes result.json, which says that the run is finished."""
        write_json(self.result, result)

    def close(self) -> None:
        """Lets others use the folder."""
        self._lock.release()
