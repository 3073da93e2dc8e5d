"""Makes the density maps and lists of your own data set; with --images the data set as well."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import utils.start  # noqa: F401

from datasets.catalogue import DATASETS  # noqa: E402
from preprocess.commands import run  # noqa: E402
from preprocess.density import SIGMA_RULES  # noqa: E402
from preprocess.generation import add_options  # noqa: E402
from preprocess.importing import import_dataset  # noqa: E402
from preprocess.layouts import splits_of  # noqa: E402
from preprocess.lists import Validation, make_lists  # noqa: E402
from preprocess.maps import make_maps  # noqa: E402
from preprocess.matching import TEST_SHARE, Source  # noqa: E402
from utils.options import Parser, number, whole_number  # noqa: E402

OWN = DATASETS["MINE"]


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add_options(parser, OWN)
    add = parser.add_argument
    rules = f"{', '.join(SIGMA_RULES)} (default: of the maps there are, else the first)"
    add("--sigma", choices=SIGMA_RULES, metavar="RULE", help=rules)
    add = parser.add_argument_group("to make the data set --root first").add_argument
    add("--images", type=Path, help="folder of images, in folders train, val, test or without")
    add("--annotations", type=Path, help="file or folder (default: the folder of the images)")
    add("--labels", help="which of LabelMe's labels or COCO's categories are heads: a,b,...")
    empty = "a COCO file that annotates nothing means images without heads"
    add("--allow-empty", action="store_true", help=empty)
    add("--copy", action="store_true", help="copy images, which else are links to where they lie")
    share = f"of the images, where no folders are called so (default: {TEST_SHARE})"
    add("--test-share", type=number(0, 0.99, exclusive=True), help=share)
    add("--seed", type=whole_number(0), help="of this choice (default: 0)")
    args = parser.parse_args()
    for name in ("annotations", "labels", "allow_empty", "copy", "test_share", "seed"):
        if args.images is None and getattr(args, name) != parser.get_default(name):
            parser.error(f"--{name.replace('_', '-')} needs --images")
    return args


def main(args: argparse.Namespace) -> None:
    if args.images is not None:
        labels = None if args.labels is None else args.labels.split(",")
        source = Source(args.images, args.annotations or args.images, labels, args.allow_empty)
        import_dataset(source, args.root, args.test_share, args.seed, args.copy, args.workers)
    splits = splits_of(OWN, args.root)
    options = args.root, args.out, args.original, args.workers
    make_maps(OWN, splits, "MINE", *options, sigma=args.sigma)
    make_lists("MINE", args.root, args.out, args.out or args.root, Validation())


if __name__ == "__main__":
    run(parse_args, main)
