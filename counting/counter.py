"""Counting from Python, in three lines; see docs/predict.md."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from counting.predictor import build_predictor
from counting.readings import Reading
from counting.sources import read_picture
from models.counter import read_counter
from utils.checkpoint import DEFAULT, find_checkpoint


class Counter:
    """Counts people in pictures, as predict.py does.

    Args:
        checkpoint: a file, or the name of shipped weights.
        device: where the network runs, such as "cuda".
        options: of `build_predictor`.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        EngineError: the engine cannot be built.
    """

    def __init__(self, checkpoint: str | Path = DEFAULT, device: str = "cpu", **options: Any):
        found = read_counter(find_checkpoint(str(checkpoint)))
        self.predictor = build_predictor(found, torch.device(device), **options)

    def read(self, picture: str | Path | np.ndarray) -> tuple[Reading, np.ndarray]:
        """Returns what `Predictor.read` does of a file or of (H, W, 3) uint8 RGB.

        Raises:
            DataError: the file is no picture.
        """
        if isinstance(picture, np.ndarray):
            return self.predictor.read(picture, "picture")
        return self.predictor.read(read_picture(Path(picture)), str(picture))

    def __call__(self, picture: str | Path | np.ndarray) -> Reading:
        """Returns the reading of a picture: its `count`, `notes` and more."""
        return self.read(picture)[0]
