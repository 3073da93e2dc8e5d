"""Ends with an error if a finished teacher was trained otherwise than a script's variables ask."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import utils.start  # noqa: F401

from training.imagenet import parse_init  # noqa: E402
from training.setup import as_text  # noqa: E402
from utils.inputs import check_fields, read_json_file  # noqa: E402
from utils.options import Parser, fail, whole_number  # noqa: E402


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("run", type=Path, help="the teacher's folder")
    add("--train-on-val", action="store_true", help="as of train_teacher.py")
    add("--init", type=parse_init, help="the same; default: any")
    add("--epochs", type=whole_number(1), help="the same; default: any")
    return parser.parse_args()


def find_difference(args: argparse.Namespace) -> str:
    """Returns what is asked for and not so of the teacher; empty if it fits.

    Raises:
        DataError: its result cannot be read.
    """
    path = args.run / "result.json"
    result = check_fields(read_json_file(path), {"settings": (dict,)}, path)
    had = dict(result["settings"])
    had |= {"epochs": str(result["max_epochs"])} if "max_epochs" in result else {}
    wanted = {"train_on_val": args.train_on_val, "init": args.init, "epochs": args.epochs}
    for name, value in wanted.items():
        if value is not None and had.get(name) and had[name] != as_text(value):
            return f"with {name} {had[name]}, not {as_text(value)}"
    return ""


if __name__ == "__main__":
    options = parse_args()
    try:
        if difference := find_difference(options):
            sys.exit(
                f"error: the teacher in {options.run} was trained {difference}; another RUNS "
                f"trains one, TEACHER={options.run}/best_mae.pth without INIT takes it as it is"
            )
    except (ValueError, OSError) as error:
        fail(error)
