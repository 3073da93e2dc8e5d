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

from counting.live import open_video
from counting.outputs import Film, Outputs, Timeline
from counting.parts import PartsError
from counting.predictor import Predictor
from counting.readings import COLUMNS, Reading, open_records
from counting.regions import RegionError, parse_region
from counting.scale import ScaleError
from counting.sources import Source, read_picture, searches
from counting.totals import Totals
from counting.video import Frame, VideoError
from deploy.counter import build_predictor
from deploy.engines import (
    ENGINES,
    EngineError,
    choose_device,
    parse_engine,
)
from deploy.many import count_with_ray
from models.counter import read_counter
from utils.checkpoint import DEFAULT, CheckpointError, find_checkpoint
from utils.device import add_device_options, select_device
from utils.files import Names, check_outputs
from utils.inputs import DataError
from utils.interrupt import StopRequest
from utils.metrics import CountError
from utils.options import Parser, checked, fail, number, parse_side, whole_number
from utils.precision import allow_tf32
from utils.progress import Bar, say, tell

PATIENCE_S = 2  # seconds before a progress bar shows


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    what = "pictures, videos, folders, patterns, lists, URLs of videos, or camera:0"
    add("inputs", nargs="+", help=what)
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

    add = parser.add_argument_group("many pictures, see docs/scale.md").add_argument
    where = "a cluster of Ray's counts, or 'local': Ray's actors on this machine"
    add("--ray", metavar="ADDRESS", help=f"{where}; into parts in the folder --csv or --parquet")
    add("--parquet", type=Path, help="folder for a Parquet table in parts; with --ray")
    which = "processes that count (default: one for each GPU or else each core); with --ray"
    add("--actors", type=whole_number(1), help=which)
    args = parser.parse_intermixed_args()
    names = [region.name for region in args.roi]
    if len(set(names)) < len(names):
        parser.error(f"--roi: each needs a name of its own, got {', '.join(names)}")
    if taken := set(names) & {*COLUMNS, "error"}:
        parser.error(f"--roi: {min(taken)} is another column's name")
    check_ray(args, parser)
    for option in ("out", "npy"):
        folder = getattr(args, option)
        if folder and folder.exists() and not folder.is_dir():
            parser.error(f"--{option} must be a folder, {folder} is a file")
    args.device = choose_device(args.engine, select_device(args, parser))
    if args.out and any(searches(text, args.out, args.recursive) for text in args.inputs):
        parser.error(f"--out {args.out} is where pictures are read: its overlays would be next")
    return args


def check_ray(args: argparse.Namespace, parser: Parser) -> None:
    """Ends with an error where --ray lacks an option, or another one does not go with it."""
    if args.ray is None:
        for option in ("parquet", "actors"):
            if getattr(args, option) is not None:
                parser.error(f"--{option} needs --ray")
        return
    if not args.ray:
        parser.error("--ray needs an address: local, auto, or HOST:PORT of a cluster")
    for option in ("out", "npy", "json", "gpu"):
        if getattr(args, option) is not None:
            parser.error(f"--{option} does not go with --ray")
    if args.every > 1:
        parser.error("--every is for videos, which --ray does not count")
    if (args.csv is None) == (args.parquet is None):
        parser.error("--ray needs --csv FOLDER or --parquet FOLDER, one of them, for its parts")


@dataclass
class Tally(Totals):
    """Totals, and what all pictures share."""

    predictor: Predictor
    outputs: Outputs
    record: Callable[[Reading], None]


def find_all(tally: Tally, args: argparse.Namespace) -> list[Source]:
    """Returns the sources that the inputs name, each with a stem of its own.

    Prints an error for inputs that name none.

    Raises:
        WriteError: an output is an input or another output.
    """
    names = Names()
    found = tally.find(args.inputs, args.recursive)
    sources = [replace(source, stem=names.take(source.stem)) for source in found]
    outputs = [("--csv", args.csv), ("--json", args.json)]
    outputs += [file for source in sources for file in tally.outputs.files(source)]
    read = [args.checkpoint, Path(args.engine), *map(Path, args.inputs)]
    check_outputs(outputs, [*read, *(Path(str(source.place)) for source in sources)])
    return sources


def count_picture(tally: Tally, source: Source) -> None:
    """Counts a picture, prints its line and writes the requested files.

    Raises:
        DataError, RegionError, EngineError: it cannot be counted.
    """
    image = read_picture(source.place)
    reading, density = tally.predictor.read(image, source.name)
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
    video = open_video(source.place, tally.stop, tell)
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
    reading, density = tally.predictor.read(frame.image, name, frame.number, frame.seconds)
    if timeline.add(reading):
        say(f"{reading} at {frame.seconds:.1f} s")
    tally.record(reading)
    film.add(frame, density, reading)
    tally.counted += 1


def count_here(args: argparse.Namespace, predictor: Predictor) -> int:
    """Counts everything in this process, and returns the exit code."""
    outputs = Outputs(args.out, args.npy, predictor.regions, predictor.max_side)
    stop, names = StopRequest(), [region.name for region in args.roi]
    with open_records(args.csv, args.json, names) as record, stop:
        tally = Tally(predictor, outputs, record, stop=stop)
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
    return tally.exit_code


def main(args: argparse.Namespace) -> int:
    sys.stdout.reconfigure(line_buffering=True)  # so that alarms appear at once
    allow_tf32(False)
    counter = read_counter(args.checkpoint)
    build = partial(
        build_predictor,
        counter,
        engine=args.engine,
        regions=tuple(args.roi),
        alarm=args.alarm,
        max_side=args.max_side,
    )
    if args.ray is not None:
        return count_with_ray(args, counter, build)
    return count_here(args, build(args.device))


if __name__ == "__main__":
    try:
        sys.exit(main(parse_args()))
    except (CheckpointError, EngineError, PartsError, ScaleError, OSError) as error:
        fail(error)
