"""Teach a network's file which pictures are like its training pictures, so that others are flagged.

The guard is written into the .safetensors file, and the training pictures' typical longer side, to
which predict.py shrinks larger pictures. Otherwise the file stays as it is.
"""

import utils.start  # noqa: F401

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from counting.predictor import GLANCE_PIXELS
from datasets.pictures import read_image, read_size
from datasets.sizes import typical_side
from datasets.splits import DataError, Sample, check_disjoint, read_list
from models.counter import GUARD, MAX_SIDE, load_counter
from models.guard import GuardError, check_number, fit_guard, read_features
from utils.checkpoint import CheckpointError, find_checkpoint, read_deployed, save_weights
from utils.options import Parser, fail, number
from utils.pixels import as_batch, normalise, shrink_image
from utils.progress import Bar


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("train_json", type=Path, help="list of pictures that the network was trained on")
    add("test_json", type=Path, help="list of other ones, on which false alarms are counted")
    add("--checkpoint", "-c", type=find_checkpoint, required=True, help=".safetensors; is changed")
    add(
        "--false-alarms",
        type=number(0, 0.5, exclusive=True),
        default=0.01,
        help="part of pictures like the training's that may be flagged",
    )
    return parser.parse_args()


def read_all(network: nn.Module, samples: list[Sample]) -> Tensor:
    """Returns the (N, C) features of pictures, from the small copies that predict.py judges.

    Raises:
        DataError: a picture cannot be read.
    """
    rows = []
    for sample in Bar(samples, desc="looking", unit="picture", leave=False):
        glance = shrink_image(read_image(sample.image), GLANCE_PIXELS)
        rows.append(read_features(network, normalise(as_batch(glance))))
    return torch.cat(rows)


def main(args: argparse.Namespace) -> None:
    trained, others = read_list(args.train_json), read_list(args.test_json)
    check_disjoint("training", trained, "test", others)
    check_number(len(trained), args.false_alarms)
    tensors, metadata = read_deployed(args.checkpoint)
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(GUARD)}
    try:
        network = load_counter(tensors, metadata).network
    except ValueError as error:
        raise CheckpointError(f"checkpoint {args.checkpoint}: {error}") from None
    guard = fit_guard(read_all(network, trained), args.false_alarms)
    flagged = int((guard.score(read_all(network, others)) > 1).sum())
    tensors |= {f"{GUARD}{name}": tensor for name, tensor in guard.state_dict().items()}
    metadata["guard"] = (
        f"{len(trained)} pictures, of which {args.false_alarms:.1%} may be flagged; "
        f"{flagged} of {len(others)} others were"
    )
    metadata[MAX_SIDE] = str(typical_side(read_size(sample.image) for sample in trained))
    save_weights(args.checkpoint, tensors, metadata)
    print(
        f"{args.checkpoint}: guard fitted to {metadata['guard']}; pictures are shrunk to "
        f"{metadata[MAX_SIDE]} pixels"
    )


if __name__ == "__main__":
    try:
        main(parse_args())
    except (CheckpointError, DataError, GuardError, OSError) as error:
        fail(error)
