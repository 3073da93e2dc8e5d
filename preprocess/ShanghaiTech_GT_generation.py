"""Makes the density maps of ShanghaiTech: one .h5 for every image of part A, B or both."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import utils.start  # noqa: F401

from datasets.catalogue import DATASETS  # noqa: E402
from preprocess.commands import run  # noqa: E402
from preprocess.generation import add_options  # noqa: E402
from preprocess.maps import make_maps  # noqa: E402
from utils.options import Parser  # noqa: E402


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add_options(parser, DATASETS["SHA"])
    parser.add_argument("--part", choices=["A", "B", "AB"], default="A", help="part or parts")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    for part in args.part:
        options = args.root, args.out, args.original, args.workers
        make_maps(DATASETS[f"SH{part}"], ["train", "test"], f"part {part},", *options)


if __name__ == "__main__":
    run(parse_args, main)
