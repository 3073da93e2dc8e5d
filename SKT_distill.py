"""Distil a narrow counter from a trained teacher: Structured Knowledge Transfer (ACM MM 2020)."""

import utils.start  # noqa: F401

import argparse
from functools import partial

import torch

from datasets.loaders import build_loaders, check_options
from datasets.splits import DataError
from models.bayesian import build_hard_loss
from models.build import ARCHITECTURES, find_architecture, parse_width
from models.counter import Counter, new_student, read_counter, read_frozen
from models.distillation import (
    INTRA_DISTANCES,
    PUBLISHED_TERMS,
    TERMS,
    Criterion,
    need_features,
    need_teacher,
    need_truth,
)
from models.initial import init_kaiming
from models.taps import Adapters, Tap, match_taps, tap_channels
from training.experiment import Training, TrainingError
from training.imagenet import fill_from_imagenet, parse_init
from training.inheriting import check_heir, inherit_weights
from training.loop import train_one_epoch, validate
from training.options import add_experiment_options, add_training_options, check_training_options
from training.recipes import student_recipe, teacher_recipe
from training.result import score_best
from training.runlog import LAST, WEIGHTS, RunError, check_folder
from training.setup import prepare_device
from training.teaching import choose_asking
from utils import distributed, ranks
from utils.checkpoint import CheckpointError, find_checkpoint
from utils.device import select_device
from utils.distributed import LostProcess
from utils.metrics import CountError
from utils.options import Parser, checked, choices, fail, number


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    recipe = student_recipe(*add_experiment_options(parser))
    add_training_options(parser)
    add = parser.add_argument_group("networks").add_argument
    add("--teacher_ckpt", "-tc", type=find_checkpoint, help="the teacher's checkpoint")
    add(
        "--more-teachers",
        type=find_checkpoint,
        nargs="+",
        default=[],
        help="checkpoints of any networks, whose maps are averaged with the teacher's",
    )
    add("--student_ckpt", "-sc", type=find_checkpoint, help="what the student starts from")
    width = "of the student (default: --student_ckpt's, or the architecture's: 1/4, mobile 1)"
    add("--width", type=checked(parse_width), help=width)
    add(
        "--init",
        type=partial(parse_init, words=("imagenet", "kaiming", "teacher")),
        default="kaiming",
        help="a new student's weights. kaiming: random; teacher: fitted to chosen channels of the "
        "teacher; imagenet, or a file of such weights: in the trunk",
    )

    add = parser.add_argument_group("distillation").add_argument
    add(
        "--terms",
        type=choices(TERMS),
        default=PUBLISHED_TERMS,
        help="of the loss, with commas; hard, or hard,count, trains without a teacher",
    )
    for term in TERMS.values():
        weight = {"type": number(0, exclusive=True), "default": term.weight}
        add(*term.options, **weight, help=f"weight of {term.meaning}")
    add("--intra", choices=INTRA_DISTANCES, default="cos", help="distance between two features")
    add(
        "--teacher-cache",
        metavar="DIR",
        help="folder where the teacher's answers to whole pictures are kept, for all trainings; "
        "auto: teacher_cache beside --out where that pays and fits; none: asked at every step",
    )
    parser.add_argument(
        "--check",
        nargs="?",
        const="",
        choices=["", *ARCHITECTURES],
        metavar="ARCH",
        help="only check options and networks; ARCH: of a teacher that is yet to be trained",
    )
    parser.set_defaults(**recipe)
    args = parser.parse_args()
    check_training_options(args, parser)
    check_terms(args, parser)
    args.device = select_device(args, parser)
    return args


def check_terms(args: argparse.Namespace, parser: Parser) -> None:
    """Ends with an error if an option belongs to a term that is off, or the teacher is missing."""
    used = {option for name in args.terms for option in TERMS[name].belongs}
    for name, term in TERMS.items():
        if name not in args.terms:
            options = [term.options[0], *(o for o in term.belongs if o not in used)]
            parser.refuse(args, options, f"belongs to {name}, which --terms leaves out")
    if args.student_ckpt is not None:
        parser.refuse(args, ["--init"], "is for a new student; --student_ckpt has its weights")
    terms, alone = ",".join(args.terms), not need_teacher(args.terms)
    has_teacher = args.init == "teacher" or not alone
    useless = ["--teacher-cache"] if alone else []
    useless += [] if has_teacher else ["--teacher_ckpt"]
    parser.refuse(args, useless, f"has nothing to teach with --terms {terms}")
    if args.terms == ("intra",):
        parser.error("--terms intra alone teaches no map; add hard, soft or inter")
    if has_teacher and args.teacher_ckpt is None:
        reason = "--init teacher" if alone else f"--terms {terms}"
        parser.error(f"{reason} needs a teacher: --teacher_ckpt")


def build_student(args: argparse.Namespace) -> Counter:
    """Builds the student, from --student_ckpt or with random weights.

    Original: --student_ckpt also restores epoch and optimiser, as --resume does here.
    """
    start = args.out / LAST if args.resume and args.student_ckpt else args.student_ckpt
    if start is None:
        width = args.width or parse_width(find_architecture(args.arch).student_width)
        student = new_student(args.arch, width)
        if args.init not in ("kaiming", "teacher") and not args.resume:
            fill_from_imagenet(student.network, args.arch, width, args.init)
    else:
        student = read_counter(start)
        if mismatch := student.mismatch(args.arch, args.width or student.width):
            raise CheckpointError(f"{start} {mismatch}")
    student.network.to(args.device, memory_format=torch.channels_last)
    return student


def build_adapters(
    args: argparse.Namespace, student: Counter, teacher: Counter
) -> tuple[Adapters, list[Tap], list[Tap]]:
    """Builds the adapters from student to teacher, from --student_ckpt or with random weights.

    Returns:
        The adapters, and the taps of student and teacher that they connect.
    """
    try:
        pairs = match_taps(student.network.taps, teacher.network.taps)
    except ValueError as error:
        raise CheckpointError(f"{args.teacher_ckpt}: {error}") from None
    taps, imitated = map(list, zip(*pairs, strict=True))
    adapters = Adapters(
        taps, tap_channels(student.network, taps), tap_channels(teacher.network, imitated)
    )
    init_kaiming(adapters)
    if student.adapters:
        try:
            adapters.load_state_dict(student.adapters)
        except RuntimeError:
            raise CheckpointError(
                f"{args.student_ckpt}: its adapters fit another teacher than {args.teacher_ckpt}; "
                f"the {WEIGHTS} beside it has none"
            ) from None
    return adapters.to(args.device), taps, imitated


def check_networks(args: argparse.Namespace) -> None:
    """Builds student and teacher as a training would, to find out whether they fit."""
    student = build_student(args)
    if args.teacher_ckpt is None:
        return
    if args.check:  # as wide as the recipe will train it
        width = teacher_recipe(args.check, args.dataset, args.recipe)["width"]
        teacher = new_student(args.check, parse_width(width))
    else:
        teacher = read_counter(args.teacher_ckpt)
    for path in args.more_teachers:
        read_counter(path)
    if need_features(args.terms):
        build_adapters(args, student, teacher)
    if args.init == "teacher":
        check_heir(args, student, teacher)


def main(args: argparse.Namespace) -> None:
    if args.check is not None:
        check_options(args)
        check_folder(args.out, args.resume)
        check_networks(args)
        return
    if ranks.is_main():
        check_folder(args.out, args.resume)
    train, val, test = build_loaders(args, [args.hard] if need_truth(args.terms) else [])

    teachers = [
        read_frozen(path, args.device)
        for path in [args.teacher_ckpt, *args.more_teachers]
        if path is not None
    ]
    torch.manual_seed(args.seed)  # after teachers, so that students start alike with and without
    student = build_student(args)
    if teachers and teachers[0].arch != student.arch:
        ranks.say(f"the student is a {student.label}, its teacher a {teachers[0].label}")
    adapters, taps, imitated = None, (), ()
    if need_features(args.terms):
        adapters, taps, imitated = build_adapters(args, student, teachers[0])
        if left := [tap.name for tap in student.network.taps if tap not in taps]:
            ranks.say(f"{', '.join(left)}: no tap of the teacher has that stride; left out")
    if args.init == "teacher":
        inherit_weights(args, student, adapters, teachers[0], train.dataset)

    precision = prepare_device(args)
    ask, answers = choose_asking(args, teachers, imitated, train.dataset, precision)
    hard_loss = build_hard_loss(args.hard, args.background, args.sigma)
    criterion = Criterion(
        args.terms, student.network, hard_loss, ask, taps, adapters, args.intra, precision
    )
    weights = {name: vars(args)[TERMS[name].destination] for name in args.terms}

    loaders = train, val, test
    hashes = ",".join(teacher.fingerprint()[:16] for teacher in teachers)
    settings = {"answers": answers, "teachers": hashes, "width": str(student.width)}
    with Training(args, criterion, weights, student.facts, loaders, settings) as training:
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
