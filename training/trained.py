"""Says how a finished teacher was trained, or ends with an error if variables ask otherwise."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import utils.start  # noqa: F401

from training.imagenet import parse_init  # noqa: E402
from training.setup import as_text  # noqa: E402
from utils.inputs import NUMBER, check_fields, read_json_file  # noqa: E402
from utils.options import Parser, fail, whole_number  # noqa: E402


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("run", type=Path, help="the teacher's folder")
    add("--train-on-val", action="store_true", help="as of train_teacher.py")
    add("--init", type=parse_init, help="the same; default: any")
    add("--epochs", type=whole_number(1), help="the same; default: any")
    return parser.parse_args()


def read_teacher(run: Path) -> dict[str, Any]:
    """Returns the result of a teacher's training.

    Raises:
        DataError: it cannot be read.
    """
    path = run / "result.json"
    kinds = {"settings": (dict,), "max_epochs": (int,), "epochs": (int,), "val_mae": NUMBER}
    return check_fields(read_json_file(path), kinds, path)


def find_difference(args: argparse.Namespace, result: Mapping[str, Any]) -> str:
    """Returns what is asked for and not so of the teacher; empty if it fits."""
    had = result["settings"] | {"epochs": str(result["max_epochs"])}
    wanted = {"train_on_val": args.train_on_val, "init": args.init, "epochs": args.epochs}
    for name, value in wanted.items():
        if value is not None and had.get(name) and had[name] != as_text(value):
            return f"with {name} {had[name]}, not {as_text(value)}"
    return ""


if __name__ == "__main__":
    options = parse_args()
    try:
        found = read_teacher(options.run)
        if difference := find_difference(options, found):
            sys.exit(
                f"error: the teacher in {options.run} was trained {difference}; another RUNS "
                f"trains one, TEACHER={options.run}/best_mae.pth without INIT takes it as it is"
            )
        how = {"images": "?", "batch_size": "?", "optimizer": "?", "lr": "?"} | found["settings"]
        print(
            f"trained already: {found['epochs']} epochs on {how['images']} images by "
            f"{how['optimizer']} at {how['lr']}, {how['batch_size']} crops a step; validation MAE "
            f"{found['val_mae']:.2f}; another RUNS trains another one"
        )
    except (ValueError, OSError) as error:
        fail(error)
