"""Makes the density maps of UCF-QNRF: one .h5 beside every image, which may be rescaled first."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import utils.start  # noqa: F401

from datasets.catalogue import DATASETS  # noqa: E402
from preprocess.commands import run  # noqa: E402
from preprocess.generation import add_options  # noqa: E402
from preprocess.maps import make_maps  # noqa: E402
from preprocess.rescaling import add_short_side, check_short_side  # noqa: E402
from utils.options import Parser  # noqa: E402


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add_options(parser, DATASETS["QNRF"])
    parser.add_argument("--mode", choices=["train", "test"], help="one split (default: both)")
    add_short_side(parser)
    args = parser.parse_args()
    check_short_side(args, parser, DATASETS["QNRF"])
    return args


def main(args: argparse.Namespace) -> None:
    splits = [args.mode] if args.mode else ["train", "test"]
    options = args.root, args.out, args.original, args.workers, args.short_side
    make_maps(DATASETS["QNRF"], splits, "UCF", *options)


if __name__ == "__main__":
    run(parse_args, main)
