"""Makes the density maps and lists of your own data set; with --images the data set as well."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import utils.start  # noqa: F401

from datasets.catalogue import DATASETS  # noqa: E402
from datasets.files import open_map  # noqa: E402
from datasets.splits import DataError  # noqa: E402
from preprocess.annotations import read_points  # noqa: E402
from preprocess.commands import run  # noqa: E402
from preprocess.density import SIGMA_RULES  # noqa: E402
from preprocess.generation import Recipe, add_options, generate  # noqa: E402
from preprocess.importing import import_dataset  # noqa: E402
from preprocess.layouts import AnnotatedImage, find_images, splits_of  # noqa: E402
from preprocess.lists import Validation, make_lists  # noqa: E402
from preprocess.matching import Source  # noqa: E402
from preprocess.processes import raise_failed  # noqa: E402

OWN = DATASETS["MINE"]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add_options(parser, default_root="data/mine")
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
    add("--test-share", type=float, default=0.2, help="where no folder is called so, default: 0.2")
    add("--seed", type=int, default=0, help="of this choice, default: 0")
    args = parser.parse_args()
    for name in ("annotations", "labels", "allow_empty", "copy", "test_share", "seed"):
        if args.images is None and getattr(args, name) != parser.get_default(name):
            parser.error(f"--{name.replace('_', '-')} needs --images")
    if not 0 < args.test_share < 1:
        parser.error(f"--test-share must lie between 0 and 1, got {args.test_share}")
    return args


def main(args: argparse.Namespace) -> None:
    if args.images is not None:
        labels = None if args.labels is None else args.labels.split(",")
        source = Source(args.images, args.annotations or args.images, labels, args.allow_empty)
        import_dataset(source, args.root, args.test_share, args.seed, args.copy, args.workers)
    splits = splits_of(OWN, args.root)
    pairs = {split: find_images(OWN, args.root, split) for split in splits}
    jobs = {s: [(p, p.density_path(args.root, args.out)) for p in pairs[s]] for s in splits}
    sigma = args.sigma or find_sigma(sum(jobs.values(), []))
    recipe = Recipe.original(sigma, border="constant") if args.original else Recipe(sigma)
    failed = []
    for split in splits:
        failed += generate(split, jobs[split], read_points, recipe, args.workers, upright=True)
    raise_failed(failed)
    make_lists("MINE", args.root, args.out, args.out or args.root, Validation())


def find_sigma(jobs: list[tuple[AnnotatedImage, Path]]) -> str:
    """Returns the sigma rule of the first existing map, or Part A's if there is none."""
    for _, path in jobs:
        try:
            with open_map(path) as file:
                rule = file.attrs.get("sigma")
        except DataError:  # missing, or damaged
            continue
        if isinstance(rule, str) and rule in SIGMA_RULES:
            return rule
    return OWN.sigma


if __name__ == "__main__":
    run(parse_args, main)
