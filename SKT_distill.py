"""Distil a narrow counter from a trained teacher: Structured Knowledge Transfer (ACM MM 2020)."""

import argparse
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import count, islice
from pathlib import Path

import torch
from torch import Tensor, nn

from datasets.crowd import CrowdDataset
from datasets.loaders import CACHES, build_loaders, check_options
from datasets.points import BOX_RULES
from datasets.sampler import CropSampler
from datasets.splits import DataError
from datasets.transforms import parse_crop
from models.bayesian import build_hard_loss
from models.build import ARCHITECTURES, build_network, init_kaiming, parse_width
from models.distillation import (
    INTRA_DISTANCES,
    PUBLISHED_TERMS,
    TERMS,
    distillation_terms,
    need_features,
)
from models.inheritance import inherit
from models.naming import Counter, load_counter
from models.taps import Adapters, FeatureReader, tap_channels
from training.experiment import prepare_device, run_experiment
from training.options import add_experiment_options, add_training_options, check_training_options
from training.recipes import student_recipe
from training.runlog import RunError
from training.teaching import ask_kept, ask_live, load_inert, teach_crops
from training.trainer import Terms, TrainingError
from utils import distributed
from utils.checkpoint import CheckpointError, find_checkpoint, read_weights
from utils.distributed import LostProcess
from utils.options import Parser, checked, choices, fail, number, select_device
from utils.pixels import normalise
from utils.precision import allow_tf32

INHERITED_CROPS = 128  # at which --init teacher fits a student


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    recipe = student_recipe(*add_experiment_options(parser, ARCHITECTURES))
    add_training_options(parser, checked(parse_crop), BOX_RULES, CACHES)
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
    add("--width", type=checked(parse_width), help="of the student (None: --student_ckpt's or 1/4)")
    add(
        "--init",
        choices=["kaiming", "teacher"],
        default="kaiming",
        help="a new student's weights: random, or fitted to chosen channels of the teacher",
    )

    add = parser.add_argument_group("distillation").add_argument
    add(
        "--terms",
        type=choices(TERMS),
        default=PUBLISHED_TERMS,
        help="of the loss, with commas; hard alone trains without a teacher",
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
    parser.add_argument("--check", action="store_true", help="only check the options")
    parser.set_defaults(**recipe)
    args = parser.parse_args()
    check_training_options(args, parser)
    check_terms(args, parser)
    args.device = select_device(args, parser)
    return args


def check_terms(args: argparse.Namespace, parser: Parser) -> None:
    """Ends with an error where an option belongs to a term that is off, or the teacher lacks."""
    for name, term in TERMS.items():
        if name not in args.terms:
            options = [term.options[0], *term.belongs]
            parser.refuse(args, options, f"belongs to {name}, which --terms leaves out")
    if args.student_ckpt is not None:
        parser.refuse(args, ["--init"], "is for a new student; --student_ckpt has its weights")
    alone = args.terms == ("hard",)
    if alone and args.init != "teacher":
        useless = ["--teacher_ckpt", "--teacher-cache"]
        parser.refuse(args, useless, "has nothing to teach with --terms hard")
    elif args.terms == ("intra",):
        parser.error("--terms intra alone teaches no map; add hard, soft or inter")
    elif args.teacher_ckpt is None:
        reason = "--init teacher" if alone else f"--terms {','.join(args.terms)}"
        parser.error(f"{reason} needs a teacher: --teacher_ckpt")


def load_teacher(args: argparse.Namespace) -> Counter:
    """Reads the teacher, whose features are imitated."""
    teacher = load_inert(args.teacher_ckpt, args.device)
    if teacher.arch != args.arch:
        raise CheckpointError(
            f"{args.teacher_ckpt} is a {teacher.arch}, not a {args.arch}; --arch {teacher.arch} "
            "distils it"
        )
    return teacher


def build_student(args: argparse.Namespace) -> Counter:
    """Builds the student, from --student_ckpt or at random."""
    if args.student_ckpt is None:
        width = args.width or parse_width("1/4")
        student = Counter(build_network(args.arch, width), args.arch, width, adapters={})
        init_kaiming(student.network)
    else:
        student = read_weights(args.student_ckpt, load_counter)
        if mismatch := student.mismatch(args.arch, args.width or student.width):
            raise CheckpointError(f"{args.student_ckpt} {mismatch}")
    student.network.to(args.device, memory_format=torch.channels_last)
    return student


def build_adapters(args: argparse.Namespace, student: Counter, teacher: Counter) -> Adapters:
    """Builds the adapters from the student to the teacher, from --student_ckpt or at random."""
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
    return adapters.to(args.device)


def inherit_weights(
    args: argparse.Namespace,
    modules: Mapping[str, nn.Module],
    student: Counter,
    teacher: Counter,
    dataset: CrowdDataset,
) -> None:
    """Fits the student and its adapters to the teacher, at the first crops, in their own colours.

    The main process does so; the others get what it found. Nobody does to resume a run.
    """
    if student.width > teacher.width:
        raise CheckpointError(
            f"--init teacher: {args.teacher_ckpt} is {teacher.width} wide, the student "
            f"{student.width}; it needs a teacher as wide or wider"
        )
    if args.resume:
        return
    states = None
    if distributed.is_main():
        crops = list(islice(_first_crops(args, dataset), INHERITED_CROPS))
        print(f"fitting the student to {args.teacher_ckpt} at {len(crops)} crops", flush=True)
        allow_tf32(False)  # until the training decides
        inherit(
            student.network,
            modules.get("adapters"),
            teacher.network,
            lambda: (normalise(crop.to(args.device)) for crop in crops),
        )
        states = {
            name: {key: value.cpu() for key, value in module.state_dict().items()}
            for name, module in modules.items()
        }
    for name, state in distributed.from_main(states).items():
        modules[name].load_state_dict(state)


def _first_crops(args: argparse.Namespace, dataset: CrowdDataset) -> Iterator[Tensor]:
    sampler = CropSampler(len(dataset), args.crops_per_image, args.batch_size, args.seed)
    for sampler.epoch in count():
        for indices in sampler:
            yield from dataset[indices]["image"].split(1)


def keep_answers(
    args: argparse.Namespace, teachers: Sequence[Counter], features: bool, dataset: CrowdDataset
) -> bool:
    """Lets teachers answer beforehand, as --teacher-cache asks for, and returns whether they did.

    "auto" does so where it pays: features of a picture are read slower than a GPU makes them.
    """
    auto = args.teacher_cache == "auto"
    live = args.terms == ("hard",) or (auto and features and args.device.type != "cpu")
    if live or args.teacher_cache == "none":
        return False
    folder = args.out.parent / "teacher_cache" if auto else Path(args.teacher_cache)
    precision = prepare_device(args)
    return teach_crops(dataset, teachers, features, folder, precision, args.device, optional=auto)


def build_terms(
    names: Collection[str],
    intra: str,
    hard_loss: Callable[[Tensor, dict], Tensor],
    student: nn.Module,
    teacher: Counter | None,
    adapters: Adapters | None,
    more: Sequence[nn.Module] = (),
    kept: bool = False,
) -> Terms:
    """Returns the function from a batch to the loss terms called `names`.

    The teacher may be absent where "hard" stands alone, the adapters where no features are taught.
    The maps of `more` teachers are averaged with the teacher's. Where answers are `kept`, batches
    bring them along.
    """
    taps = student.taps if adapters else ()
    read_student = FeatureReader(student, taps)
    alone = set(names) == {"hard"}
    if not alone:
        network = teacher.network
        ask = ask_kept(network, taps) if kept else ask_live(network, taps, more)

    def terms(batch: dict) -> dict[str, Tensor]:
        images = normalise(batch["image"], batch.get("colour"))
        predicted, features = read_student(images)
        if alone:
            return {"hard": hard_loss(predicted, batch)}
        with torch.no_grad():
            taught, taught_features = ask(images, batch)
        return distillation_terms(
            names,
            (predicted, features),
            (taught, taught_features),
            list(adapters.values()) if adapters else [],
            lambda density: hard_loss(density, batch),
            taps,
            intra,
        )

    return terms


def main(args: argparse.Namespace) -> None:
    if args.check:
        check_options(args)
        build_student(args)
        return
    truth = args.hard if "hard" in args.terms else None
    loaders = build_loaders(
        args,
        truth == "density",
        truth == "bayesian",
        distributed.rank(),
        distributed.processes(),
        distributed.local_processes(),
    )
    torch.manual_seed(args.seed)
    teacher = load_teacher(args) if args.teacher_ckpt else None
    more = [load_inert(path, args.device) for path in args.more_teachers]
    student = build_student(args)
    modules, adapters = {"model": student.network}, None
    if need_features(args.terms):
        modules["adapters"] = adapters = build_adapters(args, student, teacher)
    if args.init == "teacher":
        inherit_weights(args, modules, student, teacher, loaders[0].dataset)
    kept = keep_answers(args, [teacher, *more], adapters is not None, loaders[0].dataset)
    weights = {name: vars(args)[TERMS[name].options[0].lstrip("-")] for name in args.terms}
    hard_loss = build_hard_loss(args.hard, args.background, args.sigma)
    run_experiment(
        args,
        {"arch": student.arch, "width": str(student.width)},
        modules,
        build_terms(
            args.terms,
            args.intra,
            hard_loss,
            student.network,
            teacher,
            adapters,
            [other.network for other in more],
            kept,
        ),
        weights,
        *loaders,
        {"answers": "kept" if kept else "live"},
    )


if __name__ == "__main__":
    try:
        options = parse_args()
        with distributed.together(options.device):
            main(options)
    except (DataError, CheckpointError, RunError, TrainingError, LostProcess, OSError) as error:
        fail(error)
