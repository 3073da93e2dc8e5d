"""Distil a narrow counter from a trained teacher: Structured Knowledge Transfer (ACM MM 2020)."""

import argparse
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from datasets.loaders import build_evaluation_loader, build_training_loader
from datasets.splits import DataError, read_splits
from datasets.transforms import parse_crop
from models.build import build_network, init_kaiming, parse_width
from models.distillation import distillation_terms, squared_error
from models.naming import Counter, load_counter
from models.taps import Adapters, FeatureReader, tap_channels
from utils.checkpoint import CheckpointError, read_weights
from utils.engine import Terms, Training, TrainingError, fit
from utils.evaluation import evaluate
from utils.metrics import score
from utils.options import (
    Parser,
    add_training_options,
    build_optimizer,
    checked,
    fail,
    number,
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
        epochs=1000,
        crop="0.5:1",
        crops_per_image=4,
        optimizer="adam",
        lr=1e-4,
        out=Path("runs/skt_csrnet"),
    )
    add = parser.add_argument_group("distillation").add_argument
    add("--teacher_ckpt", "-tc", type=Path, required=True, help="the teacher's checkpoint")
    add("--student_ckpt", "-sc", type=Path, help="checkpoint that the student starts from")
    add("--width", type=checked(parse_width), help="of the student (None: --student_ckpt's or 1/4)")
    add("--lamb_fsp", "-laf", type=number(0), default=0.5, help="weight of inter-layer relations")
    add("--lamb_cos", "-lac", type=number(0), default=0.5, help="weight of intra-layer patterns")
    args = parser.parse_args()
    args.device = select_device(args, parser)
    return args


def load_teacher(args: argparse.Namespace) -> Counter:
    """Reads the teacher and makes it inert."""
    teacher = read_weights(args.teacher_ckpt, load_counter)
    if teacher.arch != "csrnet":
        raise CheckpointError(
            f"{args.teacher_ckpt}: the teacher must be a csrnet, not {teacher.arch}"
        )
    teacher.network.to(args.device, memory_format=torch.channels_last)
    teacher.network.eval().requires_grad_(False)
    return teacher


def build_student(args: argparse.Namespace, teacher: Counter) -> tuple[Counter, Adapters]:
    """Builds the student and its adapters to the teacher, from --student_ckpt or at random."""
    if args.student_ckpt:
        student = read_weights(args.student_ckpt, load_counter)
        wanted = build_network(teacher.arch, args.width or student.width)
        if _shapes(student.network) != _shapes(wanted):
            raise CheckpointError(
                f"{args.student_ckpt} is a {student.width} {student.arch}, "
                f"not a {args.width or student.width} {teacher.arch}"
            )
    else:
        width = args.width or parse_width("1/4")
        student = Counter(build_network(teacher.arch, width), teacher.arch, width, adapters={})
        init_kaiming(student.network)
    adapters = Adapters(
        student.network.taps, tap_channels(student.network), tap_channels(teacher.network)
    )
    init_kaiming(adapters)
    if student.adapters:
        try:
            adapters.load_state_dict(student.adapters)
        except RuntimeError:
            raise CheckpointError(
                f"{args.student_ckpt}: its adapters fit another teacher than {args.teacher_ckpt}"
            ) from None
    return student, adapters


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in network.named_parameters()}


def build_terms(
    teacher: nn.Module, student: nn.Module, adapters: Adapters, names: Iterable[str]
) -> Terms:
    """Returns the function from a batch to the loss terms called `names`."""
    read_teacher = FeatureReader(teacher, teacher.taps)
    read_student = FeatureReader(student, student.taps)
    device = next(student.parameters()).device

    def terms(batch: dict) -> dict[str, Tensor]:
        images = batch["image"].to(device, memory_format=torch.channels_last)
        density = batch["density"].to(device)
        with torch.no_grad():
            taught, taught_features = read_teacher(images)
        predicted, features = read_student(images)
        return distillation_terms(
            names,
            (predicted, adapters(features)),
            (taught, taught_features),
            partial(squared_error, density=density),
            student.taps,
        )

    return terms


def main(args: argparse.Namespace) -> None:
    train, val, test = read_splits(
        args.train_json, args.val_json, args.test_json, args.train_on_val
    )
    torch.manual_seed(args.seed)
    teacher = load_teacher(args)
    student, adapters = build_student(args, teacher)
    network = student.network.to(args.device, memory_format=torch.channels_last)
    adapters.to(args.device, memory_format=torch.channels_last)
    loader = build_training_loader(
        train, args.crop, args.crops_per_image, args.batch_size, args.seed, args.workers
    )
    val_loader, test_loader = (build_evaluation_loader(s, args.workers) for s in (val, test))

    run = RunFolder(args.out, args.resume)
    facts = {
        "arch": student.arch,
        "width": str(student.width),
        "settings": run_settings(args, train),
    }
    training = Training(
        {"model": network, "adapters": adapters}, build_optimizer(args, [network, adapters]), facts
    )
    if args.resume:
        training.restore(run.last)
        run.rewind(training.progress.epoch)

    weights = {"hard": 1.0, "soft": 1.0, "intra": args.lamb_cos, "inter": args.lamb_fsp}
    weights = {name: weight for name, weight in weights.items() if weight}
    fit(
        run,
        training,
        loader,
        build_terms(teacher.network, network, adapters, weights),
        weights,
        validate=lambda: score(evaluate(network, val_loader, args.device, args.protocol)),
        epochs=args.epochs,
        eval_every=args.eval_every,
        cosine=args.cosine,
    )
    finish_run(
        run,
        network,
        lambda: evaluate(network, test_loader, args.device, args.protocol),
        args.train_on_val,
        loader.dataset.heads,
    )


if __name__ == "__main__":
    try:
        main(parse_args())
    except (DataError, CheckpointError, RunError, TrainingError, OSError) as error:
        fail(error)
