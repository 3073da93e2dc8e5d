"""The command-line options that trainings share."""

import argparse
import math
from pathlib import Path

from counting.protocols import PROTOCOLS
from datasets.catalogue import DATASETS
from datasets.loaders import CACHES
from datasets.points import BOX_RULES
from datasets.transforms import parse_crop
from models.build import ARCHITECTURES
from training.recipes import RECIPES
from utils.device import add_device_options
from utils.options import WORKERS, Parser, checked, number, whole_number
from utils.precision import PRECISIONS


def parse_scale(text: str) -> tuple[float, float]:
    """Reads LOW:HIGH, the range of scale factors.

    Raises:
        argparse.ArgumentTypeError: not 0.25 <= LOW <= HIGH <= 4.
    """
    try:
        low, high = map(float, text.split(":"))
    except ValueError:
        low = high = math.nan
    if not 0.25 <= low <= high <= 4:
        raise argparse.ArgumentTypeError(f"must be LOW:HIGH within 0.25 and 4, got {text!r}")
    return low, high


def add_experiment_options(parser: argparse.ArgumentParser) -> tuple[str, str, str]:
    """Adds --arch, --dataset and --recipe, and returns them: other defaults depend on them."""
    for options in (parser, early := Parser(add_help=False)):
        add = options.add_argument_group("experiment").add_argument
        add("--arch", choices=ARCHITECTURES, default="csrnet", help="network")
        add("--dataset", "-d", type=str.upper, choices=DATASETS, default="SHA", help="for defaults")
        add("--recipe", choices=RECIPES, default="published", help="for defaults")
    known, _ = early.parse_known_args()
    return known.arch, known.dataset, known.recipe


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of every training; a recipe sets their defaults."""
    add = parser.add_argument_group("data").add_argument
    for split in ("train", "val", "test"):
        add(f"{split}_json", type=Path, help=f"list of {split} images")
    add("--train-on-val", action="store_true", help="allow validation images in the training list")
    add("--empty", type=Path, metavar="FOLDER", help="pictures that show nobody, for training")
    add(
        "--empty-share",
        type=number(0, 0.9, exclusive=True),
        default=0.125,
        help="their part of every batch",
    )
    add("--workers", type=whole_number(0), default=WORKERS, help="processes that read images")
    add("--cache", choices=CACHES, help="where images stay between epochs; gpu: no workers at all")

    add = parser.add_argument_group("recipe").add_argument
    add("--epochs", type=whole_number(1), help="passes over the training list")
    add("--batch-size", type=whole_number(1), help="crops a step, of all processes together")
    add("--crop", type=checked(parse_crop), help="LOW:HIGH of the image's sides, or HEIGHTxWIDTH")
    add("--crops-per-image", type=whole_number(1), help="crops of every image an epoch")
    add("--flip", type=number(0, 1), help="probability that a crop is mirrored")
    add(
        "--scale",
        type=parse_scale,
        help="LOW:HIGH, factors by which crops are enlarged or shrunk at random",
    )
    add("--colour", type=number(0, 0.9), help="brightness, contrast, saturation vary by this part")
    add("--corrupt", type=number(0, 1), help="probability each of grey, blur, noise, JPEG in crops")
    add("--optimizer", choices=["sgd", "adam", "adamw"], help="SGD has momentum 0.95")
    add("--lr", type=number(0, exclusive=True), help="learning rate")
    add(
        "--trunk-lr",
        type=number(0),
        help="of the trunk, as a part of it",
    )
    add(
        "--cosine",
        action=argparse.BooleanOptionalAction,
        help="let the learning rate fall to 0 along a cosine",
    )
    add("--warmup", type=whole_number(0), help="steps over which the learning rate rises from 0")
    add("--weight-decay", type=number(0), help="L2 penalty of the optimiser")
    add("--ema", type=number(0, 0.99999), help="decay of averaged weights, validated, too; 0: none")
    add(
        "--max-minutes",
        type=number(0, exclusive=True),
        default=math.inf,
        help="time in which the schedule, validations and test are to end, over all resumptions; "
        "on a CPU without what other work took",
    )
    add("--precision", choices=PRECISIONS, help="auto: bfloat16 or float16 on a GPU; TF32 with it")
    add("--compile", action=argparse.BooleanOptionalAction, help="let torch.compile fuse a step")
    add("--seed", type=whole_number(0), default=0, help="of weights, order and crops")

    add = parser.add_argument_group("ground truth").add_argument
    add("--hard", choices=["density", "bayesian"], help="loss: squared error of maps, or Bayesian")
    add("--boxes", choices=BOX_RULES, help="data set whose rule says which heads a crop holds")
    add("--background", type=number(0, exclusive=True), help="its reach / the image's short side")
    add("--sigma", type=number(0, exclusive=True), default=8.0, help="of a head, in pixels")

    add = parser.add_argument_group("run").add_argument
    add("--out", type=Path, help="folder of checkpoints, log and figures")
    add("--resume", action="store_true", help="continue the run in --out")
    add("--protocol", choices=PROTOCOLS, help="how images are counted")
    add("--eval-every", type=whole_number(1), help="epochs between validations")
    add_device_options(parser)


def check_training_options(args: argparse.Namespace, parser: Parser) -> None:
    """Ends with an error if a given option has no effect because of another one."""
    if args.hard != "bayesian":
        parser.refuse(args, ["--boxes", "--background", "--sigma"], "needs --hard bayesian")
    if args.empty is None:
        parser.refuse(args, ["--empty-share"], "needs --empty")
