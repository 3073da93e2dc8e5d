"""Makes the density maps of UCF-QNRF: one .h5 beside every image, which may be rescaled first."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from datasets.splits import DataError  # noqa: E402
from preprocess.annotations import read_ucf_points  # noqa: E402
from preprocess.generation import Recipe, add_options, generate  # noqa: E402
from preprocess.layouts import find_ucf  # noqa: E402
from preprocess.rescaling import parse_limits, rescale  # noqa: E402

SIGMA = "min(d1,30)"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, default_root="data/UCF-QNRF")
    parser.add_argument("--mode", choices=["train", "test"], help="one split (default: both)")
    parser.add_argument(
        "--short-side",
        type=parse_limits,
        metavar="LOW:HIGH",
        help="write images whose short side is within these pixels into --out, too; BL: 512:2048",
    )
    args = parser.parse_args()
    if args.short_side and (args.out is None or args.out.resolve() == args.root.resolve()):
        parser.error("--short-side needs --out, another folder than --root, for rescaled images")
    return args


def main(args: argparse.Namespace) -> None:
    recipe = Recipe.original(SIGMA, border="constant") if args.original else Recipe(SIGMA)
    for mode in [args.mode] if args.mode else ["train", "test"]:
        pairs, out = find_ucf(args.root, mode), args.out
        if args.short_side:
            limits, workers = args.short_side, args.workers
            pairs = rescale(pairs, args.root, out, limits, read_ucf_points, workers)
            out = None  # beside the rescaled images
        jobs = [(pair, pair.density_path(args.root, out)) for pair in pairs]
        generate(f"UCF {mode}", jobs, read_ucf_points, recipe, args.workers)


if __name__ == "__main__":
    try:
        main(parse_args())
    except (DataError, OSError) as error:
        sys.exit(f"error: {error}")
