"""Measures MAE on images of other sizes, counted as they are and at smaller longer sides.

`python report/benchmarks/sizes.py lists/A_val.json -c skt_mobile_s_sha`
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import utils.start  # noqa: F401

import cv2
import numpy as np
import torch

from counting.predictor import Predictor  # noqa: E402
from datasets.files import read_heads  # noqa: E402
from datasets.pictures import read_image  # noqa: E402
from datasets.splits import DataError, read_list  # noqa: E402
from deploy.engines import build_eager  # noqa: E402
from models.counter import read_counter  # noqa: E402
from utils.checkpoint import CheckpointError, find_checkpoint  # noqa: E402
from utils.markdown import format_table  # noqa: E402
from utils.options import Parser, checked, fail, number, parse_side  # noqa: E402
from utils.progress import Bar  # noqa: E402

SIDES = (None, 512, 768, 896, 1024, 1280, 1536)  # pixels; None: as they are
CPU = torch.device("cpu")


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("list_json", type=Path, help="list of images with their heads")
    add("--checkpoint", "-c", type=find_checkpoint, required=True, help="file or shipped weights")
    add("--factors", type=number(0.01, 9), nargs="+", default=[0.5, 1, 2, 4], help="of the sides")
    add(
        "--sides",
        type=checked(parse_side),
        nargs="+",
        default=SIDES,
        help="longer sides to try: pixels, auto (the checkpoint's), none (as they are)",
    )
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    counter = read_counter(args.checkpoint)
    network = build_eager(counter.network, CPU)
    sides = [counter.limit(side) for side in args.sides]
    predictors = [Predictor(network, network, CPU, max_side=side) for side in sides]
    samples = read_list(args.list_json)
    errors = np.zeros((len(args.factors), len(sides), len(samples)))
    for place, sample in enumerate(Bar(samples, unit="image", leave=False)):
        image, heads = read_image(sample.image), len(read_heads(sample).points)
        for row, factor in enumerate(args.factors):
            how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
            resized = cv2.resize(image, None, fx=factor, fy=factor, interpolation=how)
            for column, predictor in enumerate(predictors):
                count = predictor.read(resized, sample.image.name)[0].count
                errors[row, column, place] = abs(count - heads)
    print(f"{counter.label}, the training pictures' longer side: {counter.max_side} pixels")
    rows = [
        [f"{factor:g}x", *maes]
        for factor, maes in zip(args.factors, errors.mean(axis=2), strict=True)
    ]
    print(format_table(["MAE", *("as they are" if s is None else str(s) for s in sides)], rows))


if __name__ == "__main__":
    try:
        main(parse_args())
    except (CheckpointError, DataError, OSError) as error:
        fail(error)
