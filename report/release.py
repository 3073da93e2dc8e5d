"""A run's weights as a file to hand out: float16, without what only training needs.

`python report/release.py runs/skt_csrnet_sha/best_mae.pth weights/skt_csrnet_sha.safetensors`

Several checkpoints become one network: the mean of their weights, a "model soup" (Wortsman et al.,
ICML 2022). That is sensible if their trainings began with the same weights.
"""

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import utils.start  # noqa: F401

import torch
from torch import Tensor

from models.counter import MAX_SIDE  # noqa: E402
from utils.checkpoint import CheckpointError, read_checkpoint, save_weights  # noqa: E402
from utils.files import check_outputs  # noqa: E402
from utils.options import Parser, fail  # noqa: E402


def release(checkpoints: Sequence[Path], path: Path) -> str:
    """Writes the mean network of trainings' checkpoints to a .safetensors; returns its SHA-256.

    Raises:
        CheckpointError: a checkpoint is unreadable, not of a training, or of another network than
            the first; or a weight does not fit into float16.
        WriteError: the file cannot be written.
    """
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path} must be a .safetensors file, as programs read it")
    held = [_read(checkpoint) for checkpoint in checkpoints]
    facts = {name: held[0][name] for name in ("arch", "width")}
    for checkpoint, other in zip(checkpoints, held, strict=True):
        if not facts.items() <= other.items():
            raise CheckpointError(
                f"{checkpoint} is a {other['width']} {other['arch']}, {checkpoints[0]} a "
                f"{facts['width']} {facts['arch']}: they have no mean"
            )
    weights = {
        name: _shorten(name, _mean([other["model"][name] for other in held]))
        for name in held[0]["model"]
    }
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{checkpoints[0]}: {name} does not fit into float16")
    facts |= {"dataset": held[0]["settings"]["dataset"]}
    facts |= {name: held[0][name] for name in (MAX_SIDE,) if name in held[0]}
    save_weights(path, weights, facts)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read(checkpoint: Path) -> dict[str, Any]:
    held = read_checkpoint(checkpoint)
    if not {"model", "arch", "width", "settings"} <= held.keys():
        raise CheckpointError(f"{checkpoint} is not of a training; best_mae.pth of a run is")
    return held


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    """Returns the mean; of whole numbers, which only count batches, the first."""
    if not tensors[0].is_floating_point():
        return tensors[0]
    return torch.stack([tensor.double() for tensor in tensors]).mean(0).to(tensors[0].dtype)


def _shorten(name: str, tensor: Tensor) -> Tensor:
    """Returns it in float16; statistics of batch normalisation, and whole numbers, stay."""
    is_statistic = name.rpartition(".")[2].startswith("running_")
    return tensor if is_statistic or not tensor.is_floating_point() else tensor.half()


if __name__ == "__main__":
    parser = Parser(description=__doc__.splitlines()[0])
    what = "of a training, such as RUN/best_mae.pth; the weights of several are averaged"
    parser.add_argument("checkpoint", type=Path, nargs="+", help=what)
    parser.add_argument("path", type=Path, help=".safetensors file to write")
    options = parser.parse_args()
    try:
        check_outputs([("path", options.path)], options.checkpoint)
        digest = release(options.checkpoint, options.path)
    except (CheckpointError, OSError) as error:
        fail(error)
    print(f"{options.path}: {options.path.stat().st_size:,} bytes, SHA-256 {digest}")
