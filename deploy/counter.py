"""Counters that are ready to use, for programs and, in three lines, for others' Python code."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from counting.predictor import Predictor
from counting.readings import Reading
from counting.regions import Region, parse_region
from counting.sources import read_picture
from deploy.engines import build_eager, build_engine, choose_device, parse_engine
from models import counter as counters
from models.guard import read_features
from utils.checkpoint import DEFAULT, find_checkpoint
from utils.options import parse_side
from utils.pixels import as_batch, normalise


class Counter:
    """Counts people in pictures, as predict.py does.

    Args:
        checkpoint: a file, or the name of shipped weights.
        device: where the network runs, such as "cuda"; engines for the CPU run there.
        options: of `build_predictor`; `max_side` and regions may be text, as predict.py takes it.

    Raises:
        ValueError: an option is wrong.
        CheckpointError: the checkpoint cannot be used.
        EngineError: the engine cannot be built.
    """

    def __init__(self, checkpoint: str | Path = DEFAULT, device: str = "cpu", **options: Any):
        where = choose_device(parse_engine(options.get("engine", "eager")), torch.device(device))
        if isinstance(side := options.get("max_side"), str):
            options["max_side"] = parse_side(side)
        regions = options.get("regions", ())
        options["regions"] = tuple(parse_region(r) if isinstance(r, str) else r for r in regions)
        found = counters.read_counter(find_checkpoint(str(checkpoint)))
        self.predictor = build_predictor(found, where, **options)

    def read(self, picture: str | Path | np.ndarray) -> tuple[Reading, np.ndarray]:
        """Returns what `Predictor.read` does of a file or of (H, W, 3) uint8 RGB.

        Raises:
            DataError: the file is no picture.
            ValueError: the array is not of that form.
        """
        if isinstance(picture, np.ndarray):
            if picture.dtype != np.uint8 or picture.shape[2:] != (3,) or not picture.size:
                raise ValueError(
                    "an array must be a picture of (H, W, 3) uint8 RGB, got "
                    f"{picture.shape} {picture.dtype}"
                )
            return self.predictor.read(np.require(picture, requirements=("C", "W")), "picture")
        return self.predictor.read(read_picture(Path(picture)), str(picture))

    def __call__(self, picture: str | Path | np.ndarray) -> Reading:
        """Returns the reading of a picture: its `count`, `notes` and more."""
        return self.read(picture)[0]


def build_predictor(
    counter: counters.Counter,
    device: torch.device,
    engine: str = "eager",
    regions: tuple[Region, ...] = (),
    alarm: float | None = None,
    max_side: int | str | None = "auto",
) -> Predictor:
    """Builds a predictor, which rates pictures if the counter has a guard.

    Args:
        engine: as `deploy.engines.parse_engine` takes it.
        max_side: pixels, None, or "auto" for what the counter's file says.

    Raises:
        EngineError: the engine cannot be built, or was made of other weights.
    """
    network, guard = build_eager(counter.network, device), counter.guard

    def rate(glance: np.ndarray) -> float:
        features = read_features(network, normalise(as_batch(glance).to(device)))
        return guard.score(features.cpu()).item()

    run = build_engine(engine, network, counter.fingerprint, device)
    side = counter.limit(max_side)
    return Predictor(run, network, device, regions, alarm, rate if guard else None, side)
