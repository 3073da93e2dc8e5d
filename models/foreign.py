"""Recognises weights of other codes by the names and shapes of their tensors."""

import math
import re
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import cache

import torch
from torch import Tensor, nn

from models.architecture import Architecture
from models.build import ARCHITECTURES, find_architecture
from models.vgg import convolutions, scale_plan

KINDS = ("weight", "bias")
VGG_NAMES = re.compile(r"features\.\d")  # of torchvision's VGG and of BL's front end


def recognise(weights: Mapping[str, Tensor]) -> tuple[str, Fraction, dict[str, Tensor]]:
    """Returns the architecture and width that weights belong to, and the weights under our names.

    Raises:
        ValueError: no network known here has these names and shapes.
    """
    arch, names = _recognise_names(weights)
    weights = {names[name]: tensor for name, tensor in weights.items()}
    return arch, _infer_width(arch, weights), weights


def adapter_taps() -> Mapping[str, str]:
    """Returns the names of adapters in other codes, each with its tap's name."""
    return dict(ChainMap(*(dict(entry.foreign_adapters) for entry in ARCHITECTURES.values())))


def is_counter(state: Mapping[str, Tensor]) -> bool:
    """Returns whether any name is a counter's; otherwise the weights may be a VGG's."""
    known = {name for names in _all_namings() for name in names if not VGG_NAMES.match(name)}
    return bool(known & state.keys())


def find_missing_head(state: Mapping[str, Tensor]) -> tuple[str, str, int] | None:
    """Returns the output layer's weight, bias and input channels if only that layer is missing.

    The two names follow the naming of `state`.
    """
    for *trunk, weight, bias in _all_namings():
        if state.keys() >= set(trunk) and not state.keys() & {weight, bias}:
            last = next(name for name in reversed(trunk) if name.endswith(".bias"))
            return weight, bias, state[last].numel()
    return None


def _recognise_names(weights: Mapping[str, Tensor]) -> tuple[str, dict[str, str]]:
    """Returns the architecture, and a mapping from the checkpoint's tensor names to ours."""
    namings = [(name, names) for name, arch in ARCHITECTURES.items() for names in _namings(arch)]
    for arch, names in namings:
        if names.keys() == weights.keys():
            return arch, names
    arch, names = max(namings, key=lambda naming: len(naming[1].keys() & weights.keys()))
    if not names.keys() & weights.keys():
        unknown = weights.keys() - names.keys()
        example = f", such as {min(unknown)}" if unknown else ""
        raise ValueError(
            f"no weights of a network known here ({', '.join(ARCHITECTURES)}){example}"
        )
    raise ValueError(describe_difference(arch, names.keys(), weights.keys()))


def describe_difference(network: str, wanted: set[str], found: set[str]) -> str:
    """Returns a message about missing and unknown tensors of a network."""
    faults = [
        f"{len(names)} {fault}, such as {min(names)}"
        for fault, names in (("missing", wanted - found), ("unknown", found - wanted))
        if names
    ]
    return f"not a complete {network}, tensors {' and '.join(faults)}"


def _all_namings() -> Iterator[dict[str, str]]:
    for arch in ARCHITECTURES.values():
        yield from _namings(arch)


@cache  # building the networks takes a quarter of a second
def _build_shapes(network: Callable[..., nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return network(1)


def _namings(arch: Architecture) -> list[dict[str, str]]:
    """Returns every known naming of an architecture: a tensor's name there -> its name here."""
    network = _build_shapes(arch.network)
    ours = list(convolutions(network))
    return [
        {name: name for name in network.state_dict()},
        *(
            {
                f"{t}.{kind}": f"{o}.{kind}"
                for t, o in zip(theirs, ours, strict=True)
                for kind in KINDS
            }
            for theirs in arch.foreign_names(network)
        ),
    ]


def _infer_width(arch: str, weights: Mapping[str, Tensor]) -> Fraction:
    network = _build_shapes(find_architecture(arch).network)
    hidden = list(convolutions(network).items())[:-1]  # the last has 1 channel
    full = [convolution.out_channels for _, convolution in hidden]
    found = [len(weights[f"{name}.weight"]) for name, _ in hidden]
    # Rounding leaves an interval of widths for every layer: take the simplest fraction in all.
    low = max(Fraction(2 * c - 1, 2 * p) for c, p in zip(found, full, strict=True))
    for denominator in range(1, 2 * max(full) + 1):
        width = Fraction(max(1, math.ceil(low * denominator)), denominator)
        if width <= 1 and scale_plan(full, width) == found:
            return width
    raise ValueError(f"channels {' '.join(map(str, found))}, which are no width of {arch}")
