"""Writes the train, validation and test lists of a data set, such as A_train.json."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import utils.start  # noqa: F401

from datasets.catalogue import DATASETS  # noqa: E402
from preprocess.commands import run  # noqa: E402
from preprocess.generation import default_root  # noqa: E402
from preprocess.lists import VAL_SHARE, Validation, make_lists  # noqa: E402
from utils.options import Parser, number, whole_number  # noqa: E402


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--dataset", type=str.upper, choices=DATASETS, default="SHA", help="name")
    add("--root", type=Path, help="data set's folder, by default $ROOT or its own in data/")
    add("--gt-root", type=Path, help="the --out that the maps were written to (default: root)")
    add("--out", type=Path, default=Path("."), help="folder for the lists")
    share = f"of the training images, where no validation images are given (default: {VAL_SHARE})"
    add("--val-share", type=number(0, 0.99, exclusive=True), help=share)
    add("--seed", type=whole_number(0), help="of this choice (default: 0)")
    add("--train-on-val", action="store_true", help="the original's list: train on all images")
    args = parser.parse_args()
    args.root = args.root or default_root(DATASETS[args.dataset])
    return args


def main(args: argparse.Namespace) -> None:
    validation = Validation(args.val_share, args.seed, args.train_on_val)
    make_lists(args.dataset, args.root, args.gt_root, args.out, validation)


if __name__ == "__main__":
    run(parse_args, main)
