"""A run's weights as a file to hand out: float16, without what only training needs.

`python report/release.py runs/skt_csrnet_sha/best_mae.pth weights/skt_csrnet_sha.safetensors`
"""

import argparse
import hashlib
import sys
from pathlib import Path

from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from utils.checkpoint import CheckpointError, read_checkpoint, save_weights  # noqa: E402


def release(checkpoint: Path, path: Path) -> str:
    """Writes the network of a training's checkpoint to a .safetensors, and returns its SHA-256.

    Raises:
        CheckpointError: the checkpoint is unreadable or not of a training, a weight does not fit
            into float16, or the file cannot be written.
    """
    held = read_checkpoint(checkpoint)
    if not {"model", "arch", "width", "settings"} <= held.keys():
        raise CheckpointError(f"{checkpoint} is not of a training; best_mae.pth of a run is")
    weights = {name: _shorten(name, tensor) for name, tensor in held["model"].items()}
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{checkpoint}: {name} does not fit into float16")
    facts = {name: held[name] for name in ("arch", "width")}
    save_weights(path, weights, facts | {"dataset": held["settings"]["dataset"]})
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _shorten(name: str, tensor: Tensor) -> Tensor:
    """Returns it in float16; statistics of batch normalisation, and whole numbers, stay."""
    is_statistic = name.rpartition(".")[2].startswith("running_")
    return tensor if is_statistic or not tensor.is_floating_point() else tensor.half()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="of a training, such as RUN/best_mae.pth")
    parser.add_argument("path", type=Path, help=".safetensors file to write")
    options = parser.parse_args()
    try:
        digest = release(options.checkpoint, options.path)
    except (CheckpointError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{options.path}: {options.path.stat().st_size:,} bytes, SHA-256 {digest}")
