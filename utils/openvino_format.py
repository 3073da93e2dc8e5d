"""OpenVINO IR: made from PyTorch without ONNX, run by OpenVINO, quantised by NNCF."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from utils.deployed import (
    OUTPUTS,
    Deployed,
    EngineError,
    Run,
    first_line,
    import_package,
    prepare,
    silence,
)
from utils.processor import dot_products

if TYPE_CHECKING:
    from openvino import Model

RUNTIME = "OpenVINO"
PACKAGES = ("openvino",)
INT8_PACKAGES = ("openvino", "nncf")
os.environ.setdefault("NNCF_CI", "1")  # or NNCF reports its use to its makers
FACTS = "counter"  # where in a model's runtime information its metadata stands


def export(network: Deployed) -> Model:
    """Returns a network as an OpenVINO model of free batch, height and width.

    Raises:
        EngineError: the package is missing.
    """
    openvino = import_package("openvino")
    example = network.example()
    shape = [-1 if axis in network.axes else side for axis, side in enumerate(example.shape)]
    with silence(), torch.no_grad():
        model = openvino.convert_model(network, example_input=example, input=shape)
    model.inputs[0].get_tensor().set_names({network.input_name})
    for output, name in zip(model.outputs, OUTPUTS, strict=True):
        output.get_tensor().set_names({name})
    return model


def open_model(model: Model | Path) -> Run:
    """Returns a model or its file as a function, run by as many threads as PyTorch.

    Raises:
        EngineError: the package is missing, or the file cannot be read; or, later, images are too
            small for OpenVINO.
    """
    openvino = import_package("openvino")
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",  # or it takes bfloat16 where the processor has AMX
        "PERFORMANCE_HINT": "LATENCY",
    }
    try:
        compiled = openvino.Core().compile_model(model, "CPU", settings)
    except RuntimeError as error:
        name = model if isinstance(model, Path) else "the model"
        raise EngineError(f"OpenVINO cannot open {name}: {first_line(error)}") from None

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        try:
            density, count = (compiled(images)[name].copy() for name in OUTPUTS)
        except RuntimeError:  # its poolings take no fewer rows or columns than their kernel
            density = count = np.empty(0, np.float32)
        if not density.size:  # which is how some of them take it
            height, width = images.shape[1:3] if images.dtype == np.uint8 else images.shape[2:]
            raise EngineError(f"openvino cannot run on an image of {height}x{width}")
        return density, count

    return run


def read_facts(path: Path) -> dict[str, str]:
    """Returns a file's metadata.

    Raises:
        EngineError: as `open_model`.
    """
    openvino = import_package("openvino")
    try:
        model = openvino.Core().read_model(path)
    except RuntimeError as error:
        raise EngineError(f"OpenVINO cannot open {path}: {first_line(error)}") from None
    if FACTS not in model.get_rt_info():
        return {}
    return {name: str(fact) for name, fact in model.get_rt_info(FACTS).value.items()}


def save(model: Model, path: Path, facts: Mapping[str, str]) -> list[Path]:
    """Writes a model with its metadata, and returns the files that hold it."""
    openvino = import_package("openvino")
    for name, fact in facts.items():
        model.set_rt_info(fact, [FACTS, name])
    openvino.save_model(model, path, compress_to_fp16=False)
    return [path.with_suffix(".bin"), path]


def quantise(
    model: Model, pictures: Sequence[Tensor], preprocess: bool, floats: Collection[int]
) -> Model:
    """Returns a model whose convolutions multiply in INT8, weights rounded channel by channel.

    Args:
        pictures: (1, 3, H, W) uint8 RGB each, which show the ranges of activations.
        preprocess: whether the model normalises them itself.
        floats: numbers of the convolutions, in the order that images pass them, that stay.

    Raises:
        EngineError: the package is missing.
    """
    nncf = import_package("nncf")
    estimator = import_package("nncf.quantization.range_estimator").RangeEstimatorParametersSet
    overflow = import_package("nncf.quantization.advanced_parameters").OverflowFix
    nodes = [node for node in model.get_ordered_ops() if node.get_type_name() == "Convolution"]
    names = [nodes[number].get_friendly_name() for number in floats]
    with silence():
        return nncf.quantize(
            model,
            nncf.Dataset(pictures, lambda picture: prepare(picture, preprocess)),
            preset=nncf.QuantizationPreset.MIXED,  # activations are not symmetric
            subset_size=len(pictures),
            ignored_scope=nncf.IgnoredScope(names=names, types=["ReduceSum"]),  # the count's
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                # Means of the pictures' highest values, its default, cut off the densest crowds.
                activations_range_estimator_params=estimator.MINMAX,
                disable_bias_correction=True,  # which changes counts more than it corrects
                overflow_fix=overflow.DISABLE if dot_products() else overflow.ENABLE,
            ),
        )
