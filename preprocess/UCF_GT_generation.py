"""Makes the density maps of UCF-QNRF: one .h5 beside every image."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from datasets.splits import DataError  # noqa: E402
from preprocess.annotations import read_ucf_points  # noqa: E402
from preprocess.generation import Recipe, add_options, generate  # noqa: E402
from preprocess.layouts import find_ucf  # noqa: E402

SIGMA = "min(d1,30)"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, default_root="data/UCF-QNRF")
    parser.add_argument("--mode", choices=["train", "test"], help="one split (default: both)")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    recipe = Recipe.original(SIGMA, border="constant") if args.original else Recipe(SIGMA)
    for mode in [args.mode] if args.mode else ["train", "test"]:
        generate(f"UCF {mode}", find_ucf(args.root, mode), read_ucf_points, recipe, args)


if __name__ == "__main__":
    try:
        main(parse_args())
    except (DataError, OSError) as error:
        sys.exit(f"error: {error}")
