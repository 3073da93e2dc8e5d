"""Export a counter to ONNX or OpenVINO, in float32 or INT8.

A file is kept if it counts as PyTorch does; one in INT8 if its error stays within a budget.
"""

import utils.start  # noqa: F401

import argparse
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from counting.predictor import GLANCE_PIXELS
from counting.protocols import evaluate, limited, predict_whole
from datasets.files import read_heads
from datasets.loaders import build_evaluation_loader
from datasets.pictures import list_pictures, read_image
from datasets.splits import DataError, Sample, read_list
from deploy.deployed import RATING, Deployed, EngineError, Infer, import_package, prepare
from deploy.engines import exported_engine
from deploy.exported import FORMATS, ExportError, Format, check_parity, write_exported
from deploy.int8 import quantise_within
from deploy.rounding import measure_means, rank_layers, round_layers
from models.counter import MAX_SIDE, Counter, read_counter
from models.vgg import convolutions
from utils.checkpoint import CheckpointError, find_checkpoint
from utils.files import check_outputs
from utils.metrics import CountError, score
from utils.options import Parser, checked, fail, number, whole_number
from utils.pixels import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    as_batch,
    limit_side,
    normalise,
    shrink_image,
)

DESCRIBED = (
    "(batch,) float32, above 1: unlike the training pictures; ask it of a copy that is shrunk by "
    f"area to {GLANCE_PIXELS} pixels"
)
RANKED = 4  # images on which layers are compared
MOST_UNLIKE = 0.1  # by which INT8 may change a picture's unlikeness, whose threshold is 1
CPU = torch.device("cpu")


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("checkpoint", type=find_checkpoint, help="the network: a file, or shipped weights")
    add("out", type=checked(parse_out), help=".onnx file, or .xml of OpenVINO, whose .bin joins it")
    add("--preprocess", action="store_true", help="take (B, H, W, 3) uint8 RGB, normalise inside")
    add("--guard", action="store_true", help="also rate pictures, by the checkpoint's guard")
    add = parser.add_argument_group("INT8").add_argument
    add("--int8", type=Path, help="list of images whose error stays in the budget")
    add("--max-mae-rise", type=number(0), default=1.0, help="the budget, in heads")
    add("--calibrate", type=Path, help="folder or list that shows ranges (default: --int8)")
    add("--calibrate-images", type=whole_number(1), default=32, help="how many of them")
    args = parser.parse_args()
    if not args.int8:
        options = ["--max-mae-rise", "--calibrate", "--calibrate-images"]
        parser.refuse(args, options, "needs --int8")
    return args


def parse_out(text: str) -> Path:
    """Reads the path of a file to write.

    Raises:
        ValueError: its ending is of no format, or it is a folder.
    """
    path = Path(text)
    if path.suffix not in FORMATS:
        raise ValueError(f"must end in {' or '.join(FORMATS)}, got {text!r}")
    if path.is_dir():
        raise ValueError(f"must be a file, {text} is a folder")
    return path


def describe(args: argparse.Namespace, counter: Counter) -> dict[str, str]:
    """Returns the metadata of a float32 model."""
    inside = args.preprocess
    return {
        "model": counter.label,
        "architecture": counter.arch,
        "width": str(counter.width),
        "precision": "float32",
        "input": "pixels, uint8 RGB, 0 to 255" if inside else "images, float32 RGB, normalised",
        "input_layout": "(batch, height, width, 3)" if inside else "(batch, 3, height, width)",
        "preprocessing": "inside" if inside else "outside",
        "normalisation": "(value / 255 - mean) / deviation, of red, green and blue",
        "mean": " ".join(map(str, IMAGENET_MEAN)),
        "deviation": " ".join(map(str, IMAGENET_STD)),
        "density": "(batch, 1, ceil(height / 8), ceil(width / 8)) float32, heads per 8x8 pixels",
        "count": "(batch,) float32, heads: the sum of density",
        "checkpoint": args.checkpoint.name,
        "weights_sha256": counter.fingerprint(),
        **({RATING: DESCRIBED} if args.guard else {}),
        **({MAX_SIDE: str(counter.max_side)} if counter.max_side else {}),
    }


def quantise(
    args: argparse.Namespace, counter: Counter, labelled: Sequence[Sample], model: Any, form: Format
) -> tuple[Any, dict[str, str]]:
    """Quantises a float32 model within the budget; returns it and its additional metadata."""
    names, guard = list(convolutions(counter.network)), counter.guard if args.guard else None
    shown = args.calibrate or args.int8
    pictures = read_pictures(shown, args.calibrate_images, counter.max_side)
    last = names[-1]  # the map's, whose INT8 steps would be whole heads

    def measure(model: Any) -> float:
        run, _ = form.open_model(model)
        engine = exported_engine(counter.network, run, args.preprocess)
        loader = build_evaluation_loader(labelled, workers=0)
        predict = limited(predict_whole, counter.max_side)
        return score(evaluate(engine, loader, CPU, predict)).mae

    def convert(floats: Collection[str]) -> Any:
        rounded = round_layers(counter.network, means, floats)
        model = form.export(Deployed(rounded, args.preprocess, guard))
        return form.quantise(model, pictures, args.preprocess, floats)

    baseline = measure(model)
    images = f"the {len(labelled)} images of {args.int8.name}"
    print(f"float32: MAE {baseline:.2f} over {images}", flush=True)
    means = measure_means(counter.network, map(normalise, pictures))

    def rank() -> list[str]:
        few = list(map(normalise, pictures[:RANKED]))
        return rank_layers(counter.network, few, means, {last})

    found = quantise_within(convert, measure, rank, names, {last}, baseline, args.max_mae_rise)
    if guard:
        rated = [rate(form.open_model(each)[0], pictures, args) for each in (found.model, model)]
        check_rating(*rated)
    facts = {
        "precision": "int8",
        "float32_layers": " ".join(found.floats),
        "calibration": f"{len(pictures)} images of {shown.name}",
        "mae": f"{found.mae:.2f}, in float32 {baseline:.2f}, over {images}, each counted whole",
    }
    return found.model, facts


def rate(run: Infer, pictures: Sequence[Tensor], args: argparse.Namespace) -> np.ndarray:
    """Returns the unlikeness of (1, 3, H, W) uint8 RGB pictures, as small copies: (N,)."""
    glances = (shrink_image(p[0].permute(1, 2, 0).numpy(), GLANCE_PIXELS) for p in pictures)
    return np.ravel([run(prepare(as_batch(glance), args.preprocess))[2] for glance in glances])


def check_rating(found: np.ndarray, wanted: np.ndarray) -> None:
    """Prints by how much INT8 changes the unlikeness of pictures.

    Raises:
        ExportError: by more than MOST_UNLIKE.
    """
    greatest = np.abs(found - wanted).max()
    changed = f"unlikeness changes by at most {greatest:.2g} over {len(found)} images"
    if not greatest <= MOST_UNLIKE:  # nor NaN
        raise ExportError(f"INT8: {changed}, and may by {MOST_UNLIKE}; leave out --guard")
    print(changed, flush=True)


def read_pictures(path: Path, most: int, max_side: int | None = None) -> list[Tensor]:
    """Returns images of a list or folder, (1, 3, H, W) uint8 RGB, evenly chosen, last first.

    Their longer sides are shrunk to `max_side`, as for counting.

    Raises:
        DataError: there are none, or one is damaged.
    """
    if path.is_dir():
        files = list_pictures(path, recursive=False).files
    else:  # from the emptiest to the fullest, which have the widest ranges
        samples = sorted(read_list(path), key=lambda sample: len(read_heads(sample).points))
        files = [sample.image for sample in samples]
    if not files:
        raise DataError(f"folder {path} holds no pictures")
    last, chosen = len(files) - 1, min(most, len(files))
    files = [files[last - last * i // max(1, chosen - 1)] for i in range(chosen)]
    return [as_batch(limit_side(read_image(file), max_side)) for file in files]


def main(args: argparse.Namespace) -> None:
    form = FORMATS[args.out.suffix]
    written = {args.out, args.out.with_suffix(".bin")} if args.out.suffix == ".xml" else {args.out}
    check_outputs([("out", path) for path in written], [args.checkpoint, args.int8, args.calibrate])
    for package in form.INT8_PACKAGES if args.int8 else form.PACKAGES:
        import_package(package)
    counter = read_counter(args.checkpoint)
    if args.guard and counter.guard is None:
        raise ExportError(f"{args.checkpoint} has no guard; calibrate.py fits one")
    labelled = read_list(args.int8) if args.int8 else []
    facts = describe(args, counter)
    network = Deployed(counter.network, args.preprocess, counter.guard if args.guard else None)
    model = form.export(network)

    def prove(run: Infer) -> None:
        difference = check_parity(run, network.run, args.preprocess)
        print(f"counts agree with PyTorch's to {100 * difference:.1g} %", flush=True)

    check = prove
    if args.int8:
        prove(form.open_model(model)[0])
        model, added = quantise(args, counter, labelled, model, form)
        facts, (quantised, _) = facts | added, form.open_model(model)
        check = partial(check_parity, reference=quantised, preprocess=args.preprocess)
    files = write_exported(args.out, model, facts, check)
    for file in files:
        print(f"{file}: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    try:
        main(parse_args())
    except (CheckpointError, CountError, DataError, EngineError, ExportError, OSError) as error:
        fail(error)
