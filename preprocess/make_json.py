"""Writes the train, validation and test lists of a data set, such as A_train.json."""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import utils.start  # noqa: F401

from datasets.catalogue import DATASETS  # noqa: E402
from preprocess.commands import run  # noqa: E402
from preprocess.lists import Validation, make_lists  # noqa: E402

PROJECT = Path(__file__).resolve().parents[1]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--dataset", type=str.upper, choices=DATASETS, default="SHA", help="default: SHA")
    add("--root", type=Path, help="data set's folder (default: $ROOT or data/...)")
    add("--gt-root", type=Path, help="the --out that the maps were written to (default: root)")
    add("--out", type=Path, default=Path("."), help="folder for the lists (default: this one)")
    add("--val-share", type=float, default=0.2, help="of the training images (default: 0.2)")
    add("--seed", type=int, default=0, help="of the split where none is published (default: 0)")
    add("--train-on-val", action="store_true", help="the original's list: train on all images")
    args = parser.parse_args()
    if not 0 < args.val_share < 1:
        parser.error(f"--val-share must lie between 0 and 1, got {args.val_share}")
    if args.root is None:
        args.root = Path(os.environ.get("ROOT", PROJECT / DATASETS[args.dataset].root))
    return args


def main(args: argparse.Namespace) -> None:
    validation = Validation(args.val_share, args.seed, args.train_on_val)
    make_lists(args.dataset, args.root, args.gt_root, args.out, validation)


if __name__ == "__main__":
    run(parse_args, main)
