"""Train a teacher: CSRNet on density maps (CVPR 2018), or BL on points (ICCV 2019)."""

import utils.start  # noqa: F401

import argparse
from pathlib import Path

import torch
from torch import nn

from datasets.loaders import build_loaders
from datasets.splits import DataError
from models.bayesian import build_hard_loss
from models.build import build_network, parse_width
from models.counter import read_start
from models.distillation import Criterion
from models.initial import init_kaiming, init_normal, init_output
from training.experiment import Training, TrainingError
from training.imagenet import fill_from_imagenet, parse_init
from training.loop import train_one_epoch, validate
from training.options import add_experiment_options, add_training_options, check_training_options
from training.recipes import teacher_recipe
from training.result import score_best
from training.runlog import RunError, check_folder
from training.setup import prepare_device
from utils import distributed, ranks
from utils.checkpoint import CheckpointError
from utils.device import select_device
from utils.distributed import LostProcess
from utils.metrics import CountError
from utils.options import Parser, checked, fail


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    recipe = teacher_recipe(*add_experiment_options(parser))
    add_training_options(parser)
    add = parser.add_argument_group("teacher").add_argument
    add("--width", type=checked(parse_width), help="channels, as a part of the plan's")
    add(
        "--init",
        type=parse_init,
        help="imagenet: its weights in the trunk (VGG-16 for csrnet, VGG-19 for bl, MobileNetV2 "
        "for mobile, EfficientNet-Lite0 for lite), normal behind; a file of such weights; "
        "kaiming: all of it at random; a counter's file, or the name of shipped weights: all of "
        "it, at its width",
    )
    parser.set_defaults(**recipe | width_of_start())
    args = parser.parse_args()
    check_training_options(args, parser)
    args.device = select_device(args, parser)
    return args


def width_of_start() -> dict[str, str]:
    """Returns the default of --width if --init is a counter; empty if it is not."""
    early = Parser(add_help=False)
    early.add_argument("--init", type=parse_init)
    init = early.parse_known_args()[0].init
    if not isinstance(init, Path) or not init.is_file():
        return {}
    start, _ = read_start(init)
    return {"width": str(start.width)} if start else {}


def build_teacher(args: argparse.Namespace) -> nn.Module:
    """Builds the network with the initial weights of --init."""
    network = build_network(args.arch, args.width)
    if args.resume:
        return network  # the run's checkpoint has its weights
    if args.init == "kaiming":
        init_kaiming(network)
        init_output(network)  # or the first counts are far too large
        return network
    init_normal(network)
    start, state = None, None
    if args.init != "imagenet":
        start, state = read_start(args.init)
    if start is None:
        fill_from_imagenet(network, args.arch, args.width, args.init, state)
        return network
    if mismatch := start.mismatch(args.arch, args.width):
        raise CheckpointError(f"{args.init} {mismatch}")
    if start.new_head:
        ranks.say(f"{args.init} has no output layer: a new one begins")
    network.load_state_dict(start.network.state_dict())
    return network


def main(args: argparse.Namespace) -> None:
    if ranks.is_main():
        check_folder(args.out, args.resume)
    train, val, test = build_loaders(args, [args.hard])

    torch.manual_seed(args.seed)
    teacher = build_teacher(args).to(args.device, memory_format=torch.channels_last)
    hard_loss = build_hard_loss(args.hard, args.background, args.sigma)
    criterion = Criterion(["hard"], teacher, hard_loss, precision=prepare_device(args))

    facts = {"arch": args.arch, "width": str(args.width)}
    with Training(args, criterion, {"hard": 1.0}, facts, (train, val, test)) as training:
        for _ in training.epochs():
            train_one_epoch(training, train)
            scores = validate(training, val) if training.validation_due else {}
            training.keep(scores)
    score_best(training, val, test)


if __name__ == "__main__":
    try:
        options = parse_args()
        with distributed.together(options.device):
            main(options)
    except (
        CheckpointError, CountError, DataError, LostProcess, OSError, RunError, TrainingError
    ) as error:  # fmt: skip
        fail(error)
