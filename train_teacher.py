"""Train a teacher: CSRNet on density maps (Li et al., CVPR 2018)."""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import VGG16_Weights

from datasets.loaders import build_evaluation_loader, build_training_loader
from datasets.splits import DataError, read_splits
from datasets.transforms import parse_crop
from models.build import build_network, init_imagenet, init_kaiming, init_normal, parse_width
from models.csrnet import CSRNet
from models.distillation import squared_error
from utils.checkpoint import CheckpointError, read_weights
from utils.engine import Training, TrainingError, fit
from utils.evaluation import evaluate
from utils.metrics import score
from utils.options import (
    Parser,
    add_training_options,
    build_optimizer,
    checked,
    fail,
    run_settings,
    select_device,
)
from utils.result import finish_run
from utils.runlog import RunError, RunFolder


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add_training_options(
        parser,
        checked(parse_crop),
        epochs=400,
        crop="0.5",
        crops_per_image=4,
        optimizer="sgd",
        lr=1e-7,
        out=Path("runs/teacher_csrnet"),
    )
    add = parser.add_argument_group("teacher").add_argument
    add("--width", type=checked(parse_width), default="1", help="channels, as a part of the plan's")
    add(
        "--init",
        default="imagenet",
        help="imagenet: torchvision's VGG-16 in front, normal behind; a file of such weights; "
        "kaiming: all of it at random",
    )
    args = parser.parse_args()
    args.device = select_device(args, parser)
    return args


def build_teacher(args: argparse.Namespace) -> CSRNet:
    """Builds the network with the beginning that --init asks for."""
    network = build_network("csrnet", args.width)
    if args.resume:
        return network  # whose weights the run's own checkpoint holds
    if args.init == "kaiming":
        init_kaiming(network)
        nn.init.normal_(network.output_layer.weight, std=0.01)  # first maps of a crowd's size
        return network
    init_normal(network)

    def fill_front(vgg: dict[str, Tensor]) -> None:
        init_imagenet(network, vgg)

    if args.init == "imagenet":
        if args.width != 1:
            raise CheckpointError(f"ImageNet weights need --width 1, got {args.width}")
        fill_front(download_vgg16())
    else:
        read_weights(Path(args.init), fill_front)
    return network


def download_vgg16() -> dict[str, Tensor]:
    try:
        return VGG16_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network; a download that was cut
        raise CheckpointError(
            f"VGG-16's ImageNet weights cannot be downloaded ({error}); --init FILE takes a copy"
        ) from None


def main(args: argparse.Namespace) -> None:
    train, val, test = read_splits(
        args.train_json, args.val_json, args.test_json, args.train_on_val
    )
    torch.manual_seed(args.seed)
    teacher = build_teacher(args).to(args.device, memory_format=torch.channels_last)
    loader = build_training_loader(
        train, args.crop, args.crops_per_image, args.batch_size, args.seed, args.workers
    )
    val_loader, test_loader = (build_evaluation_loader(s, args.workers) for s in (val, test))

    run = RunFolder(args.out, args.resume)
    facts = {"arch": "csrnet", "width": str(args.width), "settings": run_settings(args, train)}
    training = Training({"model": teacher}, build_optimizer(args, [teacher]), facts)
    if args.resume:
        training.restore(run.last)
        run.rewind(training.progress.epoch)

    def terms(batch: dict) -> dict[str, Tensor]:
        images = batch["image"].to(args.device, memory_format=torch.channels_last)
        return {"hard": squared_error(teacher(images), batch["density"].to(args.device))}

    fit(
        run,
        training,
        loader,
        terms,
        weights={"hard": 1.0},
        validate=lambda: score(evaluate(teacher, val_loader, args.device, args.protocol)),
        epochs=args.epochs,
        eval_every=args.eval_every,
        cosine=args.cosine,
    )
    finish_run(
        run,
        teacher,
        lambda: evaluate(teacher, test_loader, args.device, args.protocol),
        args.train_on_val,
        loader.dataset.heads,
    )


if __name__ == "__main__":
    try:
        main(parse_args())
    except (DataError, CheckpointError, RunError, TrainingError, OSError) as error:
        fail(error)
