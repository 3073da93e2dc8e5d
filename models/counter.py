"""Reads counters from checkpoints: a network, its architecture and width, adapters and guard."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from models.build import build_network, find_architecture, parse_width
from models.foreign import (
    adapter_taps,
    describe_difference,
    find_missing_head,
    is_counter,
    recognise,
)
from models.guard import Guard, judged_layers
from models.initial import OUTPUT_DEVIATION
from utils.checkpoint import CheckpointError, read_state

ADAPTERS = "adapters."  # prefix of the adapters in a state dict of ours
GUARD = "guard."  # prefix of a guard's tensors there
MAX_SIDE = "max_side"  # the fact of files that has the `typical_side` of the training pictures
NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass
class Counter:
    """A network, with its architecture and width.

    Args:
        adapters: state dict of its `Adapters`; empty if there are none.
        guard: the guard in its file, if any.
        max_side: pixels that training pictures' longer side had, if the file says so.
        new_head: whether its output layer is new, because the file has none.
    """

    network: nn.Module
    arch: str
    width: Fraction
    adapters: dict[str, Tensor]
    guard: Guard | None = None
    max_side: int | None = None
    new_head: bool = False

    @property
    def label(self) -> str:
        """Its name in tables, such as CSRNet or 1/4-CSRNet."""
        name = type(self.network).__name__
        return name if self.width == 1 else f"{self.width}-{name}"

    @property
    def facts(self) -> dict[str, str]:
        """What files record of the network, by which it is loaded again."""
        return {"arch": self.arch, "width": str(self.width)}

    def limit(self, side: int | str | None) -> int | None:
        """Returns the longer side to which pictures are shrunk, by an option's `parse_side`."""
        return self.max_side if side == "auto" else side

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the network's float32 weights, the same for any file format."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def mismatch(self, arch: str, width: Fraction) -> str:
        """Returns what this is and which options fit it; empty if it is the given network."""
        with torch.device("meta"):
            if _shapes(self.network) == _shapes(build_network(arch, width)):
                return ""
        options = [f"--arch {self.arch}"] if arch != self.arch else []
        options += [f"--width {self.width}"] if width != self.width else []
        found, wanted = _name(self.arch, self.width), _name(arch, width)
        return f"is a {found}, not a {wanted}; {' '.join(options)} goes on from it"


def new_student(arch: str, width: Fraction) -> Counter:
    """Returns a counter with a new student's random weights."""
    network = build_network(arch, width)
    find_architecture(arch).init_student(network)
    return Counter(network, arch, width, adapters={})


def read_counter(path: Path) -> Counter:
    """Reads a checkpoint's counter, see `load_counter`.

    Raises:
        CheckpointError: the file is unreadable, or holds no counter.
    """
    state, facts = read_state(path)
    try:
        return load_counter(state, facts)
    except ValueError as error:
        raise CheckpointError(f"checkpoint {path}: {error}") from None


def read_frozen(path: Path, device: torch.device) -> Counter:
    """Reads a counter and freezes it.

    Raises:
        CheckpointError: as `read_counter`.
    """
    counter = read_counter(path)
    counter.network.to(device, memory_format=torch.channels_last)
    counter.network.requires_grad_(False)
    return counter


def load_counter(state: Mapping[str, Tensor], facts: Mapping[str, str] = NOTHING) -> Counter:
    """Builds the network of a state dict, in evaluation mode; its weights become float32.

    The facts of this project's files name `arch` and `width`. Other files are recognised by names
    and shapes: those of CSRNet-pytorch, SKT and BL. Adapters and a guard may come along.

    Raises:
        ValueError: the weights do not fit that network, or no known one.
    """
    weights, adapters, guard = _sort_out(state)
    if {"arch", "width"} <= facts.keys():
        arch, width = facts["arch"], parse_width(facts["width"])
    else:
        arch, width, weights = recognise(weights)
    network = build_network(arch, width)
    wanted = network.state_dict()
    if wanted.keys() != weights.keys():
        name = _name(arch, width)
        raise ValueError(describe_difference(name, wanted.keys(), weights.keys()))
    for name, tensor in wanted.items():
        if tensor.shape != weights[name].shape:
            raise ValueError(
                f"{name} must have the shape {list(tensor.shape)} in a {width} {arch}, "
                f"found {list(weights[name].shape)}"
            )
    network.load_state_dict(weights)
    guard = _build_guard(guard, network)
    return Counter(network.eval(), arch, width, adapters, guard, _read_side(facts))


def read_start(path: Path) -> tuple[Counter | None, dict[str, Tensor]]:
    """Reads a training's initial weights: a counter, or weights that may be ImageNet's.

    Returns:
        The counter, see `load_start`, or None; and the state dict.

    Raises:
        CheckpointError: as `read_counter`.
    """
    state, facts = read_state(path)
    try:
        return load_start(state, facts), state
    except ValueError as error:
        raise CheckpointError(f"checkpoint {path}: {error}") from None


def load_start(state: dict[str, Tensor], facts: Mapping[str, str] = NOTHING) -> Counter | None:
    """Builds the counter that a training starts from; None if the weights may be a VGG's.

    As `load_counter`, but if only the output layer is missing, it gets a teacher's initial weights:
    normal(0, 0.01), bias 0.

    Raises:
        ValueError: only some names are a counter's, or the shapes fit no counter.
    """
    if "width" not in facts and not is_counter(state):
        return None
    if head := find_missing_head(state):
        weight, bias, channels = head
        new = {weight: OUTPUT_DEVIATION * torch.randn(1, channels, 1, 1), bias: torch.zeros(1)}
        return replace(load_counter(state | new, facts), new_head=True)
    return load_counter(state, facts)


def _sort_out(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], ...]:
    """Returns the tensors of the network, of its adapters and of its guard, in float32."""
    weights, adapters, guard = {}, {}, {}
    foreign = adapter_taps()
    for name, tensor in state.items():
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        layer, _, kind = name.rpartition(".")
        if name.startswith(ADAPTERS):
            adapters[name.removeprefix(ADAPTERS)] = tensor
        elif name.startswith(GUARD):
            guard[name.removeprefix(GUARD)] = tensor
        elif layer in foreign:
            adapters[f"{foreign[layer]}.{kind}"] = tensor
        else:
            weights[name] = tensor
    return weights, adapters, guard


def _name(arch: str, width: Fraction) -> str:
    return arch if width == 1 else f"{width} {arch}"


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in network.named_parameters()}


def _read_side(facts: Mapping[str, str]) -> int | None:
    """Raises ValueError if MAX_SIDE is no whole number of pixels."""
    if (text := facts.get(MAX_SIDE)) is None:
        return None
    if not (text.isdecimal() and text.isascii() and 0 < int(text[:9])):
        raise ValueError(f"{MAX_SIDE} must be a whole number of pixels, got {text[:99]!r}")
    return int(text[:9])


def _build_guard(tensors: dict[str, Tensor], network: nn.Module) -> Guard | None:
    if not tensors:
        return None
    channels = sum(layer.in_channels for layer in judged_layers(network))
    wanted = {"mean": (channels,), "whitening": (channels, channels), "threshold": ()}
    if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != wanted:
        raise ValueError(
            f"the tensors {GUARD}* are not the guard of a network of this width, or of an earlier "
            "version of this project; calibrate.py makes a new one"
        )
    return Guard(**tensors)
