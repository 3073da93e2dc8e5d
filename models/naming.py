"""Checkpoints in circulation -> networks of ours: every naming, any width, strictly."""

import hashlib
import math
import re
from collections import ChainMap
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor, nn

from models.build import ARCHITECTURES, build_network
from models.guard import Guard
from models.vgg import convolutions, scale_plan

KINDS = ("weight", "bias")
ADAPTERS = "adapters."  # prefix of the adapters in a state dict of ours
GUARD = "guard."  # prefix of a guard's tensors there
VGG_NAMES = re.compile(r"features\.\d")  # of torchvision's VGG, and of BL's front as well


@dataclass
class Counter:
    """A loaded network, what it is, and what came with it.

    That is the state of its `Adapters`, empty where there are none, and its guard. A `new_head` is
    an output layer that came from no file.
    """

    network: nn.Module
    arch: str
    width: Fraction
    adapters: dict[str, Tensor]
    guard: Guard | None = None
    new_head: bool = False

    @property
    def label(self) -> str:
        """Such as CSRNet or 1/4-CSRNet."""
        name = type(self.network).__name__
        return name if self.width == 1 else f"{self.width}-{name}"

    def fingerprint(self) -> str:
        """SHA-256 of the network's float32 weights, the same in whatever file they come."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def mismatch(self, arch: str, width: Fraction) -> str:
        """Says what this is, and which options fit it; empty where it is that network."""
        with torch.device("meta"):
            if _shapes(self.network) == _shapes(build_network(arch, width)):
                return ""
        options = [f"--arch {self.arch}"] if arch != self.arch else []
        options += [f"--width {self.width}"] if width != self.width else []
        found, wanted = _name(self.arch, self.width), _name(arch, width)
        return f"is a {found}, not a {wanted}; {' '.join(options)} goes on from it"


def load_counter(state: dict[str, Tensor]) -> Counter:
    """Builds the network that a state dict belongs to, and fills it; weights become float32.

    Architecture and width follow from the names and shapes. Known are our own names and those of
    CSRNet-pytorch, SKT and BL, the first and third with or without their adapters, and ours with or
    without a guard.

    Raises:
        ValueError: the names or shapes are of no network known here.
    """
    weights, adapters, guard = {}, {}, {}
    foreign = dict(ChainMap(*(entry.foreign_adapters for entry in ARCHITECTURES.values())))
    for name, tensor in state.items():
        layer, _, kind = name.rpartition(".")
        if name.startswith(ADAPTERS):
            adapters[name.removeprefix(ADAPTERS)] = tensor.float()
        elif name.startswith(GUARD):
            guard[name.removeprefix(GUARD)] = tensor.float()
        elif layer in foreign:
            adapters[f"{foreign[layer]}.{kind}"] = tensor.float()
        else:
            weights[name] = tensor.float()
    arch, ours = _recognise(weights)
    weights = {ours[name]: tensor for name, tensor in weights.items()}
    width = _infer_width(arch, weights)
    network = build_network(arch, width)
    for name, parameter in network.state_dict().items():
        if parameter.shape != weights[name].shape:
            raise ValueError(
                f"{name} must have the shape {list(parameter.shape)} in a {width} {arch}, "
                f"found {list(weights[name].shape)}"
            )
    network.load_state_dict(weights)
    return Counter(network, arch, width, adapters, _build_guard(guard, network))


def load_start(state: dict[str, Tensor]) -> Counter | None:
    """Builds the counter that a training goes on from; None where the weights may be a VGG's.

    As `load_counter`, but a network that lacks nothing but its output layer gets a new one, as a
    teacher's: normal(0, 0.01), bias 0.

    Raises:
        ValueError: some names are a counter's, but not all, or the shapes are of none.
    """
    namings = [names for arch in ARCHITECTURES for names in _namings(arch)]
    known = {name for names in namings for name in names if not VGG_NAMES.match(name)}
    if not known & state.keys():
        return None
    for *trunk, weight, bias in namings:
        if state.keys() >= set(trunk) and not state.keys() & {weight, bias}:
            channels = state[trunk[-1]].numel()
            head = {weight: 0.01 * torch.randn(1, channels, 1, 1), bias: torch.zeros(1)}
            return replace(load_counter(state | head), new_head=True)
    return load_counter(state)


def _name(arch: str, width: Fraction) -> str:
    return arch if width == 1 else f"{width} {arch}"


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in network.named_parameters()}


def _recognise(weights: dict[str, Tensor]) -> tuple[str, dict[str, str]]:
    """Returns the architecture, and for every tensor's name in the checkpoint its name here."""
    namings = [(arch, names) for arch in ARCHITECTURES for names in _namings(arch)]
    for arch, names in namings:
        if names.keys() == weights.keys():
            return arch, names
    arch, names = max(namings, key=lambda naming: len(naming[1].keys() & weights.keys()))
    missing, unknown = names.keys() - weights.keys(), weights.keys() - names.keys()
    if len(missing) == len(names):
        example = f", such as {min(unknown)}" if unknown else ""
        raise ValueError(
            f"no weights of a network known here ({', '.join(ARCHITECTURES)}){example}"
        )
    faults = [
        f"{len(tensors)} {fault}, such as {min(tensors)}"
        for fault, tensors in (("missing", missing), ("unknown", unknown))
        if tensors
    ]
    raise ValueError(f"not a complete {arch}, tensors {' and '.join(faults)}")


def _build_guard(tensors: dict[str, Tensor], network: nn.Module) -> Guard | None:
    if not tensors:
        return None
    channels = list(convolutions(network).values())[-1].in_channels
    wanted = {"mean": (channels,), "whitening": (channels, channels), "threshold": ()}
    if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != wanted:
        raise ValueError(f"the tensors {GUARD}* are not the guard of a network of this width")
    return Guard(**tensors)


def _namings(arch: str) -> list[dict[str, str]]:
    """For every known naming of an architecture: a tensor's name there -> its name here."""
    with torch.device("meta"):
        network = build_network(arch)
    ours = list(convolutions(network))
    theirs = [ours, *ARCHITECTURES[arch].foreign_names(network)]
    return [
        {f"{t}.{kind}": f"{o}.{kind}" for t, o in zip(names, ours, strict=True) for kind in KINDS}
        for names in theirs
    ]


def _infer_width(arch: str, weights: dict[str, Tensor]) -> Fraction:
    with torch.device("meta"):
        hidden = list(convolutions(build_network(arch)).items())[:-1]  # the last gives 1 channel
    full = [convolution.out_channels for _, convolution in hidden]
    found = [len(weights[f"{name}.weight"]) for name, _ in hidden]
    # Rounding leaves an interval of widths for every layer; the simplest fraction in all is taken.
    low = max(Fraction(2 * c - 1, 2 * p) for c, p in zip(found, full, strict=True))
    for denominator in range(1, 2 * max(full) + 1):
        width = Fraction(max(1, math.ceil(low * denominator)), denominator)
        if width <= 1 and scale_plan(full, width) == found:
            return width
    raise ValueError(f"channels {' '.join(map(str, found))}, which are no width of {arch}")
