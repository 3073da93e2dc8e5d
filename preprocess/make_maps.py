"""Makes the density maps of any data set that the project knows: one .h5 for every image."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import utils.start  # noqa: F401

from datasets.catalogue import DATASETS  # noqa: E402
from preprocess.commands import run  # noqa: E402
from preprocess.generation import add_options, default_root  # noqa: E402
from preprocess.layouts import splits_of  # noqa: E402
from preprocess.maps import make_maps  # noqa: E402
from preprocess.rescaling import add_short_side, check_short_side  # noqa: E402
from utils.options import Parser  # noqa: E402


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--dataset", type=str.upper, choices=DATASETS, required=True)
    add_options(parser, None)
    add_short_side(parser)
    args = parser.parse_args()
    args.root = args.root or default_root(DATASETS[args.dataset])
    check_short_side(args, parser, DATASETS[args.dataset])
    return args


def main(args: argparse.Namespace) -> None:
    dataset = DATASETS[args.dataset]
    splits = splits_of(dataset, args.root)
    options = args.root, args.out, args.original, args.workers, args.short_side
    make_maps(dataset, splits, args.dataset, *options)


if __name__ == "__main__":
    run(parse_args, main)
