"""Makes the density maps of ShanghaiTech: one .h5 for every image of part A, B or both."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from datasets.splits import DataError  # noqa: E402
from preprocess.annotations import read_shanghaitech_points  # noqa: E402
from preprocess.generation import Recipe, add_options, generate  # noqa: E402
from preprocess.layouts import find_shanghaitech  # noqa: E402

RECIPES = {"A": Recipe("0.1*(d1+d2+d3)"), "B": Recipe("15")}
ORIGINAL_RECIPES = {
    "A": Recipe.original("0.1*(d1+d2+d3)", border="constant"),
    "B": Recipe.original("15", border="reflect"),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, default_root="data/ShanghaiTech")
    parser.add_argument("--part", choices=["A", "B", "AB"], default="A", help="default: A")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    recipes = ORIGINAL_RECIPES if args.original else RECIPES
    for part in args.part:
        for split in ("train", "test"):
            pairs = find_shanghaitech(args.root, part, split)
            jobs = [(pair, pair.density_path(args.root, args.out)) for pair in pairs]
            name = f"part {part}, {split}"
            generate(name, jobs, read_shanghaitech_points, recipes[part], args.workers)


if __name__ == "__main__":
    try:
        main(parse_args())
    except (DataError, OSError) as error:
        sys.exit(f"error: {error}")
