"""OpenVINO IR: made from PyTorch without ONNX, run by OpenVINO, quantised by NNCF."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from deploy.deployed import (
    RATING,
    Deployed,
    EngineError,
    Infer,
    import_package,
    prepare,
    silence,
)
from deploy.rounding import TINY, WEIGHT_STEPS

if TYPE_CHECKING:
    from openvino import Model, Node

RUNTIME = "OpenVINO"
PACKAGES = ("openvino",)
INT8_PACKAGES = ("openvino", "nncf")
FACTS = "counter"  # their key in a model's runtime information
WEIGHTS = "bin_sha256"  # the fact that ties the two files of a model together

# Keeps these packages from reporting their use to their makers.
os.environ.setdefault("NNCF_CI", "1")
sys.modules.setdefault("openvino_telemetry", None)


def export(network: Deployed) -> Model:
    """Returns a network as an OpenVINO model with dynamic batch, height and width.

    Raises:
        EngineError: the package is missing, or the conversion fails.
    """
    openvino = import_package("openvino")
    example = network.example()
    shape = [-1 if axis in network.axes else side for axis, side in enumerate(example.shape)]
    try:
        with silence(), torch.no_grad():
            model = openvino.convert_model(network, example_input=example, input=shape)
    except RuntimeError as error:
        raise EngineError(f"OpenVINO cannot convert the network: {_reason(error)}") from None
    model.inputs[0].get_tensor().set_names({network.input_name})
    for output, name in zip(model.outputs, network.outputs, strict=True):
        output.get_tensor().set_names({name})
    return model


def open_model(model: Model | Path) -> tuple[Infer, dict[str, str]]:
    """Returns a function that runs a model or its file with PyTorch's threads, and its facts.

    Raises:
        EngineError: the package is missing, the file cannot be read, or its .bin is another
            model's; or, later, images are too small for OpenVINO.
    """
    openvino = import_package("openvino")
    core, name = openvino.Core(), model if isinstance(model, Path) else "the model"
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",  # otherwise bfloat16 where the CPU has it
        "PERFORMANCE_HINT": "LATENCY",
    }
    try:
        read = core.read_model(model) if isinstance(model, Path) else model
        compiled = core.compile_model(read, "CPU", settings)
    except RuntimeError as error:
        raise EngineError(f"OpenVINO cannot open {name}: {_reason(error)}") from None
    stored = read.get_rt_info(FACTS).value if FACTS in read.get_rt_info() else {}
    facts = {key: str(fact) for key, fact in stored.items()}
    if isinstance(model, Path) and WEIGHTS in facts:
        weights = model.with_suffix(".bin")
        if _hash(weights) != facts[WEIGHTS]:
            raise EngineError(f"{weights} does not belong to {model}: export both again")

    def run(images: np.ndarray) -> tuple[np.ndarray, ...]:
        # A new request each time: a reused one answers too small an image with the previous map.
        request = compiled.create_infer_request()
        try:
            results = request.infer([images])
            found = tuple(results[output].copy() for output in compiled.outputs)
            reason = "" if found[0].size else "it is too small, or the memory is"
        except RuntimeError as error:
            reason = _reason(error)
        if reason:
            height, width = images.shape[1:3] if images.dtype == np.uint8 else images.shape[2:]
            raise EngineError(f"openvino cannot run on an image of {height}x{width}: {reason}")
        return found

    return run, facts


def save(model: Model, path: Path, facts: Mapping[str, str]) -> list[Path]:
    """Writes a model with its facts, and returns the files that hold it.

    Raises:
        OSError: the disk is full or not writable.
    """
    openvino, weights = import_package("openvino"), path.with_suffix(".bin")
    try:
        openvino.save_model(model, path, compress_to_fp16=False)
        for name, fact in (facts | {WEIGHTS: _hash(weights)}).items():
            model.set_rt_info(fact, [FACTS, name])
        openvino.save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:
        raise OSError(f"OpenVINO cannot write {path.name}: {_reason(error)}") from None
    return [weights, path]


def quantise(
    model: Model, pictures: Sequence[Tensor], preprocess: bool, floats: Collection[str]
) -> Model:
    """Returns a model whose convolutions multiply in INT8.

    Args:
        model: its weights are multiples of a 64th of their output channel's greatest.
        pictures: (1, 3, H, W) uint8 RGB each, to calibrate the ranges of activations.
        preprocess: whether the model normalises them itself.
        floats: names of the network's convolutions that stay in float32.

    Raises:
        EngineError: the package is missing, or the model lacks a layer of `floats`.
    """
    nncf = import_package("nncf")
    presets = nncf.QuantizationPreset
    estimator = import_package("nncf.quantization.range_estimator").RangeEstimatorParametersSet
    nodes = _convolutions(model)
    weights = {name: node.input_value(1).get_node().data.copy() for name, node in nodes.items()}
    depthwise = any(node.get_type_name() == "GroupConvolution" for node in nodes.values())
    kept = [name for name in weights if _layer(name) in floats]
    if absent := set(floats) - set(map(_layer, kept)):
        raise EngineError(f"OpenVINO's model has no layer {min(absent)}, which is to stay float32")
    with silence():
        model = nncf.quantize(
            model,
            nncf.Dataset(pictures, lambda picture: prepare(picture, preprocess)),
            # Activations are not symmetric. But on processors with AMX, OpenVINO 2026.4 crashes in
            # depthwise layers whose activations are not.
            preset=presets.PERFORMANCE if depthwise else presets.MIXED,
            subset_size=len(pictures),
            ignored_scope=nncf.IgnoredScope(
                names=kept + _guard_nodes(model),
                types=["ReduceSum"],  # the count's
            ),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                # The default, the mean of the pictures' maxima, would cut off the densest crowds.
                activations_range_estimator_params=estimator.MINMAX,
                disable_bias_correction=True,  # which changes counts more than it corrects
            ),
        )
    for name, node in _convolutions(model).items():
        if name not in kept:
            _set_weight(node, weights[name])
    return model


def _guard_nodes(model: Model) -> list[str]:
    """Returns the names of what rates pictures: activations' means and all that follows."""
    ends = [output.get_node() for output in model.outputs if RATING in output.get_names()]
    names = {node.get_friendly_name() for node in ends}
    for node in reversed(model.get_ordered_ops()):
        if node.get_friendly_name() in names and node.get_type_name() != "ReduceMean":
            names |= {value.get_node().get_friendly_name() for value in node.input_values()}
    return sorted(names)


def _convolutions(model: Model) -> dict[str, Node]:
    nodes, kinds = model.get_ordered_ops(), {"Convolution", "GroupConvolution"}
    return {node.get_friendly_name(): node for node in nodes if node.get_type_name() in kinds}


def _layer(name: str) -> str:
    """Returns the network's name of a convolution: "__module.network.a.b/aten::..." is "a.b"."""
    return name.partition("/")[0].removeprefix("__module.network.")


def _set_weight(node: Node, weight: np.ndarray) -> None:
    """Replaces the weight that NNCF gave to a convolution, as its steps differ from ours.

    A weight is (out, in, 3, 3), one of groups (groups, out / groups, in / groups, 3, 3).
    """
    constant = import_package("openvino.opset13").constant
    converted, scale = (value.get_node() for value in node.input_value(1).get_node().input_values())
    step = np.maximum(np.abs(weight).max((-3, -2, -1), keepdims=True) / WEIGHT_STEPS, TINY)
    steps = np.rint(weight / step).astype(np.int8)
    converted.input_value(0).replace(constant(steps).output(0))
    scale.output(0).replace(constant(step).output(0))


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _reason(error: Exception) -> str:
    """Returns the last line of an error; those before it say where in OpenVINO it was raised."""
    return str(error).strip().splitlines()[-1]
