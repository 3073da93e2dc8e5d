"""Count people in pictures, folders, videos, streams and cameras, and draw where they are.

Exit codes: 0 all is counted, 1 something could not be read, 2 an option is wrong, 3 there was an
alarm (even if something could not be read), 130 stopped by Ctrl-C.
"""

import utils.start  # noqa: F401

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TextIO

import numpy as np

from counting.live import open_video
from counting.outputs import Film, Outputs, Timeline
from counting.predictor import Predictor
from counting.readings import COLUMNS, Reading, open_records
from counting.regions import RegionError, parse_region
from counting.sources import Source, SourceError, find_sources, searches
from counting.video import Frame, VideoError
from datasets.pictures import read_image
from datasets.splits import DataError
from deploy.engines import (
    ENGINES,
    EngineError,
    build_eager,
    build_engine,
    choose_device,
    parse_engine,
)
from models.counter import Counter, read_counter
from models.guard import read_features
from utils.checkpoint import DEFAULT, CheckpointError, find_checkpoint
from utils.device import add_device_options, select_device
from utils.files import Names, check_outputs, printable
from utils.interrupt import StopRequest
from utils.metrics import CountError
from utils.options import Parser, checked, fail, number, parse_side, whole_number
from utils.pixels import as_batch, normalise
from utils.precision import allow_tf32
from utils.progress import Bar

UNREADABLE, ALARM, STOPPED = 1, 3, 130  # exit codes
PATIENCE_S = 2  # seconds before a progress bar shows


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("inputs", nargs="+", help="pictures, videos, folders, patterns, URLs or camera:0")
    add("--checkpoint", "-c", type=find_checkpoint, default=DEFAULT, help="file or shipped weights")
    add(
        "--engine",
        type=checked(parse_engine),
        default="eager",
        help=f"what runs the network: {', '.join(ENGINES)}, or a file that export.py made of it",
    )
    add("--every", type=whole_number(1), default=1, help="count every so many frames of videos")
    add(
        "--max-side",
        type=checked(parse_side),
        default="auto",
        metavar="PIXELS",
        help="shrink larger pictures to a longer side of PIXELS; auto: that of the training's "
        "pictures; none: do not",
    )
    add("--recursive", action="store_true", help="count in the subfolders of folders, too")
    add_device_options(parser)

    add = parser.add_argument_group("what is counted").add_argument
    add(
        "--roi",
        type=checked(parse_region),
        action="append",
        default=[],
        metavar="'NAME:X,Y X,Y X,Y'",
        help="also count a polygon, in pixels or, if no number is above 1, in parts of the sides; "
        "may be repeated",
    )
    add("--alarm", type=number(0), help="people in a picture or a polygon above which to alarm")

    add = parser.add_argument_group("what is written").add_argument
    add("--out", type=Path, help="folder for overlays; of videos MP4 and count over time")
    add("--csv", type=Path, help="file with a row for every picture and frame")
    add("--json", type=Path, help="the same, a JSON object a line")
    add("--npy", type=Path, help="folder for raw density maps, heads per 8x8 pixels")
    args = parser.parse_intermixed_args()
    names = [region.name for region in args.roi]
    if len(set(names)) < len(names):
        parser.error(f"--roi: each needs a name of its own, got {', '.join(names)}")
    if taken := set(names) & set(COLUMNS):
        parser.error(f"--roi: {min(taken)} is another column's name")
    args.device = choose_device(args.engine, select_device(args, parser))
    if args.out and any(searches(text, args.out) for text in args.inputs):
        parser.error(f"--out {args.out} is where pictures are read: its overlays would be next")
    return args


def build_predictor(args: argparse.Namespace, counter: Counter) -> Predictor:
    """Builds the predictor, which rates pictures if the checkpoint has a guard."""
    network, guard = build_eager(counter.network, args.device), counter.guard

    def rate(glance: np.ndarray) -> float:
        features = read_features(network, normalise(as_batch(glance).to(args.device)))
        return guard.score(features.cpu()).item()

    engine = build_engine(args.engine, network, counter.fingerprint, args.device)
    regions = tuple(args.roi)
    max_side = counter.limit(args.max_side)
    rate = rate if guard else None
    return Predictor(engine, network, args.device, regions, args.alarm, rate, max_side)


def say(line: str, file: TextIO | None = None) -> None:
    """Prints a line; on a terminal, above the progress bars."""
    line = printable(line)
    if sys.stderr.isatty():
        Bar.write(line, file)
    else:
        print(line, file=file)


@dataclass
class Tally:
    """What all pictures share, and how much was counted, with how many alarms and problems."""

    predictor: Predictor
    outputs: Outputs
    record: Callable[[Reading], None]
    stop: StopRequest
    counted: int = 0  # pictures and frames
    alarms: int = 0
    problems: int = 0
    shrunk: bool = False  # a picture was, and it was said

    def complain(self, error: Exception | str) -> None:
        """Prints an error in one line, and counts it."""
        self.problems += 1
        say(f"error: {' '.join(str(error).split())}", sys.stderr)


def read(tally: Tally, image: np.ndarray, *facts: object) -> tuple[Reading, np.ndarray]:
    """Reads a picture, see `Predictor.read`; says once that pictures are shrunk."""
    side = tally.predictor.max_side
    if side and max(image.shape[:2]) > side and not tally.shrunk:
        tally.shrunk = True
        say(
            f"larger pictures are counted at a longer side of {side} pixels; --max-side none "
            "counts them as they are",
            sys.stderr,
        )
    return tally.predictor.read(image, *facts)


def find_all(tally: Tally, args: argparse.Namespace) -> list[Source]:
    """Returns the sources that the inputs name, each with a stem of its own.

    Prints an error for inputs that name none.

    Raises:
        WriteError: an output is an input or another output.
    """
    sources, names = [], Names()
    for text in args.inputs:
        try:
            sources += find_sources(text, args.recursive, partial(say, file=sys.stderr))
        except SourceError as error:
            tally.complain(error)
    sources = [replace(source, stem=names.take(source.stem)) for source in sources]
    outputs = [("--csv", args.csv), ("--json", args.json)]
    outputs += [file for source in sources for file in tally.outputs.files(source)]
    read = [args.checkpoint, Path(args.engine), *(Path(str(source.place)) for source in sources)]
    check_outputs(outputs, read)
    return sources


def count_picture(tally: Tally, source: Source) -> None:
    """Counts a picture, prints its line and writes the requested files.

    Raises:
        DataError, RegionError, EngineError: it cannot be counted.
    """
    image = read_image(source.place, upright=True)
    reading, density = read(tally, image, source.name)
    say(str(reading))
    tally.record(reading)
    tally.alarms += "alarm" in reading.notes
    tally.outputs.save_picture(source.stem, image, density, reading)
    tally.counted += 1


def count_video(tally: Tally, source: Source, every: int) -> None:
    """Counts a video frame by frame, and prints a line when an alarm begins, and one at the end.

    Raises:
        VideoError, RegionError, EngineError: it cannot be counted, or not to its end; what was
            counted before is written.
    """
    video = open_video(source.place, tally.stop, partial(say, file=sys.stderr))
    timeline, stem = Timeline(), source.stem
    shown = {"desc": source.name, "unit": "frame", "leave": False, "delay": PATIENCE_S}
    try:
        with (
            Bar(total=-(-video.frames // every) or None, **shown) as bar,
            tally.outputs.film(stem, video.fps / every) as film,
        ):
            for frame in video.read(every):
                count_frame(tally, source.name, frame, timeline, film)
                bar.set_postfix(count=f"{timeline.counts[-1]:.1f}", refresh=False)
                bar.update()
                if tally.stop.requested:
                    break
    finally:
        tally.alarms += timeline.notes["alarm"]
        if timeline.counts:
            say(f"{source.name}: {timeline}")
            tally.outputs.save_timeline(stem, timeline, tally.predictor.alarm)


def count_frame(tally: Tally, name: str, frame: Frame, timeline: Timeline, film: Film) -> None:
    """Counts a frame, and writes the requested files."""
    reading, density = read(tally, frame.image, name, frame.number, frame.seconds)
    if timeline.add(reading):
        say(f"{reading} at {frame.seconds:.1f} s")
    tally.record(reading)
    film.add(frame, density, reading)
    tally.counted += 1


def main(args: argparse.Namespace) -> int:
    sys.stdout.reconfigure(line_buffering=True)  # so that alarms appear at once
    allow_tf32(False)
    predictor = build_predictor(args, read_counter(args.checkpoint))
    outputs = Outputs(args.out, args.npy, predictor.regions, predictor.max_side)
    stop, names = StopRequest(), [region.name for region in args.roi]
    with open_records(args.csv, args.json, names) as record, stop:
        tally = Tally(predictor, outputs, record, stop)
        sources = find_all(tally, args)
        alone = len(sources) < 2
        for source in Bar(sources, unit="file", leave=False, delay=PATIENCE_S, disable=alone):
            try:
                if source.is_video:
                    count_video(tally, source, args.every)
                else:
                    count_picture(tally, source)
            except (DataError, VideoError) as error:
                tally.complain(error)
            except (RegionError, EngineError, CountError) as error:
                tally.complain(f"{source.name}: {error}")
            if stop.requested:
                break
    if args.out and tally.counted:
        say(f"overlays are in {args.out}")
    if stop.requested:
        return STOPPED
    return ALARM if tally.alarms else UNREADABLE if tally.problems else 0


if __name__ == "__main__":
    try:
        sys.exit(main(parse_args()))
    except (CheckpointError, EngineError, OSError) as error:
        fail(error)
