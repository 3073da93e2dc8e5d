"""What the programs' command lines have in common."""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from utils import distributed
from utils.evaluation import PROTOCOLS
from utils.precision import PRECISIONS
from utils.recipes import DATASETS, RECIPES

# Seconds before another than the main process speaks: mostly both say the same, and torchrun ends
# all with the first.
HEAD_START_S = 3
WORKERS = min(2, os.cpu_count() or 1)  # by default


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors take one line."""

    def __init__(self, **options: Any):
        super().__init__(formatter_class=argparse.ArgumentDefaultsHelpFormatter, **options)
        sys.excepthook = _say_stopped

    def error(self, message: str) -> NoReturn:
        if distributed.local_rank():
            sys.exit(2)  # another process of this machine has the same options, and says it
        self.exit(2, f"{self.prog}: error: {message} (--help lists the options)\n")

    def refuse(self, args: argparse.Namespace, options: Iterable[str], reason: str) -> None:
        """Ends with an error if one of `options`, such as --lr, stands on the command line."""
        unset = object()
        blank = argparse.Namespace(**dict.fromkeys(vars(args), unset))  # keeps defaults away
        given = vars(self.parse_args(namespace=blank))
        for option in options:
            if given[option.removeprefix("--").replace("-", "_")] is not unset:
                self.error(f"{option} {reason}")


def _say_stopped(kind: type[BaseException], *rest: Any) -> None:
    """Spares whoever presses Ctrl-C the traceback; Python then ends as by that signal."""
    if issubclass(kind, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
    else:
        sys.__excepthook__(kind, *rest)


def fail(error: Exception) -> NoReturn:
    """Ends the program with a mistake's message in one line."""
    if not distributed.is_main():
        time.sleep(HEAD_START_S)
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # An error in a loader's worker arrives with the worker's traceback before it.
    sys.exit(
        f"error: {lines[-1].removeprefix(f'{type(error).__module__}.{type(error).__name__}: ')}"
    )


def number(low: float, high: float = math.inf, exclusive: bool = False) -> Callable[[str], float]:
    """Returns an option type: a finite number of at least, or more than, `low`, and to `high`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not low <= value <= high or (exclusive and value == low):
            bound = f"{'more than' if exclusive else 'at least'} {low:g}"
            bound += f" and at most {high:g}" if high < math.inf else ""
            raise argparse.ArgumentTypeError(f"must be a number of {bound}, got {text!r}")
        return value

    return parse


def whole_number(low: int) -> Callable[[str], int]:
    """Returns an option type: a whole number of at least `low`."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(
                f"must be a whole number of at least {low}, got {text!r}"
            )
        return int(text)

    return parse


def choices(words: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """Returns an option type: at least one of `words`, with commas between, in their order."""

    def parse(text: str) -> tuple[str, ...]:
        chosen = text.split(",")
        for word in chosen:
            if word not in words:
                raise argparse.ArgumentTypeError(
                    f"must be of {','.join(words)}, with commas between, got {text!r}"
                )
        return tuple(word for word in words if word in chosen)

    return parse


def checked(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Returns an option type that shows the message of the ValueError that `parse` raises."""

    def checked_parse(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked_parse


def parse_size(text: str) -> tuple[int, int]:
    """Reads HEIGHTxWIDTH in pixels.

    Raises:
        ValueError: it is not of that form.
    """
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise ValueError(f"must be HEIGHTxWIDTH in pixels, such as 576x864, got {text!r}")
    return int(height), int(width)


def parse_scale(text: str) -> tuple[float, float]:
    """Reads LOW:HIGH, factors of enlargement.

    Raises:
        argparse.ArgumentTypeError: they are not from 0.25 to 4, LOW first.
    """
    try:
        low, high = map(float, text.split(":"))
    except ValueError:
        low = high = math.nan
    if not 0.25 <= low <= high <= 4:
        raise argparse.ArgumentTypeError(f"must be LOW:HIGH within 0.25 and 4, got {text!r}")
    return low, high


def add_experiment_options(
    parser: argparse.ArgumentParser, networks: Iterable[str]
) -> tuple[str, str, str]:
    """Adds --arch, --dataset and --recipe, and returns them: other options' defaults follow."""
    for options in (parser, early := Parser(add_help=False)):
        add = options.add_argument_group("experiment").add_argument
        add("--arch", choices=networks, default="csrnet", help="network")
        add("--dataset", "-d", type=str.upper, choices=DATASETS, default="SHA", help="for defaults")
        add("--recipe", choices=RECIPES, default="published", help="for defaults")
    known, _ = early.parse_known_args()
    return known.arch, known.dataset, known.recipe


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """Adds --gpu and --cpu, which `select_device` reads."""
    group = parser.add_argument_group("device").add_mutually_exclusive_group()
    group.add_argument("--gpu", type=whole_number(0), help="GPU number; None: the first, or CPU")
    group.add_argument("--cpu", action="store_true", help="keep everything on the CPU")


def select_device(args: argparse.Namespace, parser: argparse.ArgumentParser) -> torch.device:
    """Returns the device that was asked for, or ends with an error where there is none such.

    Of several processes on a machine each gets a GPU of its own.
    """
    available, processes = torch.cuda.device_count(), distributed.local_processes()
    if args.gpu is not None and processes > 1:
        parser.error(f"--gpu {args.gpu}: each of the {processes} processes takes one of its own")
    if args.gpu is not None and args.gpu >= available:
        parser.error(f"--gpu {args.gpu}: this machine has {available} GPUs; --cpu runs without")
    if args.cpu or not available:
        return torch.device("cpu")
    if processes > available:
        parser.error(f"{processes} processes need as many GPUs, this machine has {available}")
    return torch.device("cuda", args.gpu or distributed.local_rank())


def add_training_options(
    parser: argparse.ArgumentParser,
    parse_crop: Callable[[str], Any],
    box_rules: Iterable[str],
    caches: Iterable[str],
) -> None:
    """Adds what every training can be told; a recipe has the defaults."""
    add = parser.add_argument_group("data").add_argument
    for split in ("train", "val", "test"):
        add(f"{split}_json", type=Path, help=f"list of {split} images")
    add("--train-on-val", action="store_true", help="allow validation images in the training list")
    add("--workers", type=whole_number(0), default=WORKERS, help="processes that read images")
    add("--cache", choices=caches, help="where images stay between epochs; gpu: no workers at all")

    add = parser.add_argument_group("recipe").add_argument
    add("--epochs", type=whole_number(1), help="passes over the training list")
    add("--batch-size", type=whole_number(1), help="crops a step, of all processes together")
    add("--crop", type=parse_crop, help="LOW:HIGH of the image's sides, or HEIGHTxWIDTH")
    add("--crops-per-image", type=whole_number(1), help="crops of every image an epoch")
    add("--flip", type=number(0, 1), help="probability that a crop is mirrored")
    add("--scale", type=parse_scale, help="LOW:HIGH, between which crops are enlarged at random")
    add("--colour", type=number(0, 0.9), help="brightness, contrast, saturation vary by this part")
    add("--optimizer", choices=["sgd", "adam"], help="SGD with momentum 0.95, or Adam")
    add("--lr", type=number(0, exclusive=True), help="learning rate")
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
    add("--boxes", choices=box_rules, help="data set whose rule says which heads a crop holds")
    add("--background", type=number(0, exclusive=True), help="its reach / the image's short side")
    add("--sigma", type=number(0, exclusive=True), default=8.0, help="of a head, in pixels")

    add = parser.add_argument_group("run").add_argument
    add("--out", type=Path, help="folder of checkpoints, log and figures")
    add("--resume", action="store_true", help="continue the run in --out")
    add("--protocol", choices=PROTOCOLS, help="how images are counted")
    add("--eval-every", type=whole_number(1), help="epochs between validations")
    add_device_options(parser)


def check_training_options(args: argparse.Namespace, parser: Parser) -> None:
    """Ends with an error where an option was given that another one leaves without effect."""
    if args.hard != "bayesian":
        parser.refuse(args, ["--boxes", "--background", "--sigma"], "needs --hard bayesian")
