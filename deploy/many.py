"""Counts pictures with Ray, into parts of a folder; see docs/scale.md."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from counting.parts import Failure, Outcome, Parts, open_parts
from counting.scale import Build, count_pictures, name_pictures, running_ray
from counting.totals import Totals
from deploy.engines import ENGINES, choose_device
from deploy.exported import open_exported
from models.counter import Counter
from utils.progress import Bar, say, tell


def count_with_ray(args: argparse.Namespace, counter: Counter, build: Build) -> int:
    """Counts pictures in Ray's actors, into parts of a folder, and returns the exit code.

    Args:
        args: predict.py's.
        build: builds the counter's predictor on a device.

    Raises:
        EngineError, PartsError, ScaleError: the message is for the user.
    """
    totals, regions = Totals(), [region.name for region in args.roi]
    use_gpus = not args.cpu and choose_device(args.engine, torch.device("cuda")).type == "cuda"
    if not use_gpus:
        build(torch.device("cpu"))  # what fails in every actor fails here, in one line
    names = name_pictures(totals.find(args.inputs, args.recursive))
    folder, ending = (args.csv, ".csv") if args.csv else (args.parquet, ".parquet")
    with open_parts(folder, ending, regions, describe_counts(args, counter)) as parts:
        left = [name for name in names if parts.lacks(name)]
        totals.counted, totals.alarms = len(names) - len(left), parts.alarms
        if left:
            with running_ray(args.ray, args.actors), totals.stop:
                outcomes = count_pictures(left, build, args.actors, use_gpus, tell)
                note_outcomes(outcomes, totals, parts, len(names))
    say(f"{totals.counted} of {len(names)} pictures are counted, in {folder}")
    return totals.exit_code


def describe_counts(args: argparse.Namespace, counter: Counter) -> dict[str, Any]:
    """Returns what counts depend on, for the parts of which results consist."""
    exported = args.engine not in ENGINES
    return {
        "weights": counter.fingerprint(),
        "guard": counter.guard.threshold.item() if counter.guard else None,
        "engine": open_exported(Path(args.engine)).facts if exported else args.engine,
        "roi": {region.name: list(map(list, region.corners)) for region in args.roi},
        "alarm": args.alarm,
        "max_side": counter.limit(args.max_side),
    }


def note_outcomes(outcomes: Iterable[Outcome], totals: Totals, parts: Parts, total: int) -> None:
    """Adds pictures to parts and totals, until a stop is requested; prints errors and alarms."""
    with Bar(total=total, initial=totals.counted, unit="picture") as bar:
        for outcome in outcomes:
            if isinstance(outcome, Failure):
                totals.complain(outcome.error)
            else:
                totals.counted += 1
                if "alarm" in outcome.notes:
                    totals.alarms += 1
                    say(str(outcome))
            bar.update()
            if parts.add(outcome) and bar.disable:
                tell(f"{totals.counted} of {total} pictures are counted")
            if totals.stop.requested:
                break
