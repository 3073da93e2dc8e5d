"""Reads checkpoints without executing code, and writes them completely or not at all."""

import codecs
import hashlib
import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from utils.files import write_whole

SHIPPED = Path(__file__).resolve().parents[1] / "weights"  # weights that can be given by name
DEFAULT = "skt_mobile_s_sha"  # the best shipped student
HASH = "sha256"  # where the metadata of a .safetensors have the hash of all else in it
WRAPPERS = ("model", "state_dict", "model_state_dict")  # keys under which a state dict may lie

# Old checkpoints hold their best error as a NumPy scalar, which is data, not code: its type, and
# its bytes, which codecs.encode restores. The function that joins the two has had two names.
NUMPY_SCALARS = [codecs.encode, np.dtype]
NUMPY_SCALARS += [np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType]
for module in ("numpy.core.multiarray", "numpy._core.multiarray"):

    def scalar(dtype: np.dtype, data: bytes) -> np.generic:
        return np.frombuffer(data, dtype)[0]

    scalar.__module__ = module
    NUMPY_SCALARS.append(scalar)
torch.serialization.add_safe_globals(NUMPY_SCALARS)


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names the file and says why."""


def find_checkpoint(text: str) -> Path:
    """Returns the path of a checkpoint, given by its path or by the name of shipped weights."""
    shipped = SHIPPED / f"{text}.safetensors"
    return shipped if text == shipped.stem and shipped.is_file() else Path(text)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Returns what a .pth, .tar or .safetensors file holds, its tensors on the CPU.

    Original: loads with plain torch.load, which may execute code in the file.

    Raises:
        CheckpointError: the file is missing, truncated, damaged (as its checksums show, if it has
            any), or holds anything but plain data.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns what `read_checkpoint` does, and the metadata that a .safetensors has."""
    if not path.is_file():
        if path == Path(DEFAULT):
            raise CheckpointError(
                f"this copy has no {SHIPPED.name}/{DEFAULT}.safetensors: fetch it from the "
                "project's page, or train a network with SKT_distill.sh and name it with -c"
            )
        if path.is_dir():
            raise CheckpointError(f"checkpoint {path} is a folder; name a file of it")
        names = sorted(shipped.stem for shipped in SHIPPED.glob("*.safetensors"))
        known = f"; by name there are {', '.join(names)}" if names and not path.suffix else ""
        raise CheckpointError(f"checkpoint {path} does not exist{known}")
    try:
        if path.suffix == ".safetensors":
            return _read_weights(path)
        _check_sums(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"checkpoint {path} is no checkpoint or holds more than tensors and plain values; "
            "such code is never executed"
        ) from None
    except Exception as error:  # damaged bytes may raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"checkpoint {path} is truncated or damaged ({reason})") from None
    if not isinstance(checkpoint, dict):
        kind = type(checkpoint).__name__
        raise CheckpointError(f"checkpoint {path} must hold a dict of tensors, found {kind}")
    return checkpoint, {}


def read_deployed(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns the tensors of a .safetensors file, of any type, and its metadata.

    Raises:
        CheckpointError: as `read_state`; or it is another kind of file.
    """
    if path.is_file() and path.suffix != ".safetensors":
        raise CheckpointError(f"checkpoint {path} must be a .safetensors file, as training leaves")
    tensors, metadata = _read(path)
    _check_weights(path, tensors)
    return tensors, metadata


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns a checkpoint's state dict, and the facts about it that the file has as text.

    The state dict is unwrapped and without DataParallel's prefix; it has a run's adapters under
    `adapters.`.

    Raises:
        CheckpointError: the file is unreadable, holds no tensors, or some that are no plain finite
            numbers.
    """
    checkpoint, facts = _read(path)
    if path.suffix != ".safetensors":
        facts = {key: value for key, value in checkpoint.items() if isinstance(value, str)}
    state = next((checkpoint[key] for key in WRAPPERS if key in checkpoint), checkpoint)
    adapters = checkpoint.get("adapters", {})
    if not isinstance(state, dict) or not isinstance(adapters, dict):
        raise CheckpointError(f"checkpoint {path} holds no state dict")
    weights = {
        str(name).removeprefix("module."): tensor
        for name, tensor in [*state.items(), *((f"adapters.{k}", v) for k, v in adapters.items())]
        if isinstance(tensor, Tensor)
    }
    _check_weights(path, weights)
    return weights, facts


def why_no_weights(tensor: Tensor) -> str:
    """Returns why a tensor cannot be a network's weights; empty if it can."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        return "is sparse, quantised or without values; plain weights are needed"
    if tensor.is_complex():
        return "has complex values; plain weights are needed"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"claims the shape {list(tensor.shape)}, and has fewer values"
    if tensor.is_floating_point() and not tensor.isfinite().all():
        return "has values that are not finite: its training failed"
    return ""


def save_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    """Writes a .pth, which replaces an older one only when it is complete on the disk.

    Raises:
        WriteError: the disk is full or not writable; the older file is as it was.
    """
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    write_whole(path, buffer.getbuffer())


def save_weights(path: Path, state: dict[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a .safetensors of weights alone, in the same way as `save_checkpoint`.

    Its metadata get a hash of all else in it.
    """
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    facts = {key: value for key, value in metadata.items() if key != HASH}
    write_whole(path, save(state, facts | {HASH: _hash(state, facts)}))


def _check_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError if one of a file's tensors cannot be a network's weights."""
    for name, tensor in tensors.items():
        if reason := why_no_weights(tensor):
            raise CheckpointError(f"checkpoint {path}: {name} {reason}")


def _read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns a .safetensors file's tensors and metadata, after checking their hash, if any."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    wanted = metadata.pop(HASH, None)
    if wanted is not None and wanted != _hash(state, metadata):
        raise ValueError("its content does not fit its hash")
    return state, metadata


def _hash(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Returns the SHA-256 of names, types, shapes, values and metadata."""
    digest = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for name, tensor in sorted(state.items()):
        digest.update(repr((name, str(tensor.dtype), list(tensor.shape))).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _check_sums(path: Path) -> None:
    """Raises ValueError if a part of a zip file does not fit its checksum, which torch ignores."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            if damaged := file.testzip():
                raise ValueError(f"{damaged} does not fit its checksum")
