"""Measure the speed claims, each against a baseline that computes the same, in one run."""

import utils.start  # noqa: F401

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets.splits import DataError, read_list
from deploy.deployed import EngineError
from report.benchmarks.deployment import measure_int8
from report.benchmarks.engines import measure_infer
from report.benchmarks.layers import measure_layers
from report.benchmarks.maps import measure_preprocess
from report.benchmarks.report import (
    ComparisonError,
    ReportError,
    check_result,
    tabulate,
    write_report,
)
from report.benchmarks.train import measure_train
from utils.checkpoint import CheckpointError, find_checkpoint
from utils.device import add_device_options, select_device
from utils.files import check_outputs, make_folder, write_json
from utils.inputs import read_json_file
from utils.metrics import CountError
from utils.options import Parser, checked, fail, parse_size, whole_number


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (add_options, measure) in BENCHMARKS.items():
        command = commands.add_parser(name, description=measure.__doc__, help=measure.__doc__)
        add_options(command)
        command.add_argument("--json", type=Path, help="file for the result, which report reads")
    command = commands.add_parser("report", help="results as tables and a figure")
    command.add_argument("json", type=Path, nargs="+", help="files that --json wrote")
    command.add_argument("--out", type=Path, default=Path("results"), help="folder")
    command.add_argument("--name", default="performance", help="of the .md and .png there")
    args = parser.parse_args()
    if "cpu" in args:
        args.device = select_device(args, parser)
    return args


def add_timing_options(command: Parser, size: tuple[int, int], rounds: int) -> None:
    """Adds the options of every timed benchmark, with these defaults."""
    add = command.add_argument
    add("--size", type=checked(parse_size), default=size, help="HEIGHTxWIDTH of images or crops")
    add("--rounds", type=whole_number(1), default=rounds, help="how often each is timed")


def add_preprocess_options(command: Parser) -> None:
    add_timing_options(command, size=(768, 1024), rounds=3)
    command.add_argument("--heads", type=whole_number(4), default=500, help="of the image")


def add_train_options(command: Parser) -> None:
    add_timing_options(command, size=(224, 224), rounds=5)
    command.add_argument("--batch-size", type=whole_number(1), default=8, help="crops of our step")
    add_device_options(command)


def add_infer_options(command: Parser) -> None:
    add_timing_options(command, size=(576, 864), rounds=10)
    add_device_options(command)


def add_layers_options(command: Parser) -> None:
    add = command.add_argument
    add("--size", type=checked(parse_size), default=(576, 864), help="HEIGHTxWIDTH of the image")


def add_int8_options(command: Parser) -> None:
    add_timing_options(command, size=(576, 864), rounds=10)
    add = command.add_argument
    add("list", type=Path, help="list of images to count")
    add("counters", type=find_checkpoint, nargs="+", help="checkpoints and files of export.py")


# For each subcommand, what adds its options and what turns these into a table of measurements.
BENCHMARKS: dict[
    str, tuple[Callable[[Parser], None], Callable[[argparse.Namespace], dict[str, Any]]]
] = {
    "preprocess": (add_preprocess_options, measure_preprocess),
    "train": (add_train_options, measure_train),
    "infer": (add_infer_options, measure_infer),
    "layers": (add_layers_options, measure_layers),
    "int8": (add_int8_options, measure_int8),
}


def report(paths: list[Path], folder: Path, name: str) -> None:
    """Writes the tables and the figure of several results."""
    results = []
    for path in paths:
        try:
            results.append(check_result(read_json_file(path), path))
        except DataError:
            raise ReportError(f"{path} is no result that benchmark.py --json wrote") from None
    write_report(results, folder, name)
    print(f"{folder / name}.md and {folder / name}.png are written")


def main(args: argparse.Namespace) -> None:
    if args.command == "report":
        report(args.json, args.out, args.name)
        return
    inputs = []
    if "counters" in args:
        pictures = [sample.image for sample in read_list(args.list)]
        inputs = [args.list, *args.counters, *pictures]
    check_outputs([("--json", args.json)], inputs)
    if args.json:
        make_folder(args.json)
    _, measure = BENCHMARKS[args.command]
    result = measure(args)
    result["command"] = shlex.join(["benchmark.py", *sys.argv[1:]])
    print(f"{result['title']}; {result['device']}\n\n{tabulate([result])}\n")
    print(*result["notes"], sep="\n")
    if args.json:
        write_json(args.json, result)


if __name__ == "__main__":
    try:
        main(parse_args())
    except (
        CheckpointError,
        ComparisonError,
        CountError,
        DataError,
        EngineError,
        ReportError,
        OSError,
    ) as error:
        fail(error)
