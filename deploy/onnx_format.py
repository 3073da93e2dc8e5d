"""ONNX models: made by PyTorch, run and quantised by ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
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
    first_line,
    import_package,
    prepare,
    silence,
)

if TYPE_CHECKING:
    from onnx import ModelProto

RUNTIME = "ONNX Runtime"
PACKAGES = INT8_PACKAGES = ("onnxruntime", "onnx", "onnxscript")
QUANTISED = ("Conv", "Relu", "Clip", "Add", "MaxPool", "Resize")  # what runs in INT8


def export(network: Deployed) -> ModelProto:
    """Returns a network as an ONNX model with dynamic batch, height and width.

    Raises:
        EngineError: a package is missing, or the exporter fails.
    """
    for package in PACKAGES:
        import_package(package)
    try:
        with silence(), torch.no_grad():
            program = torch.onnx.export(
                network,
                (network.example(),),
                dynamo=True,
                verbose=False,
                input_names=[network.input_name],
                output_names=network.outputs,
                dynamic_shapes=(network.axes,),
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise EngineError(f"the ONNX export failed: {first_line(error)}") from None
    model = program.model_proto
    for described in (*model.graph.node, *model.graph.value_info):
        del described.metadata_props[:]  # stack traces, with this machine's paths
    return model


def open_model(model: ModelProto | Path) -> tuple[Infer, dict[str, str]]:
    """Returns a function that runs a model or its file with PyTorch's threads, and its facts.

    Raises:
        EngineError: the package is missing, or the file cannot be read; or, later, it cannot run,
            such as for lack of memory.
    """
    onnxruntime = import_package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    try:
        session = onnxruntime.InferenceSession(source, options, ["CPUExecutionProvider"])
    except Exception as error:  # damaged bytes can make it raise anything
        name = model if isinstance(model, Path) else "the model"
        raise EngineError(f"ONNX Runtime cannot open {name}: {first_line(error)}") from None
    (pictures,) = session.get_inputs()
    outputs = [output.name for output in session.get_outputs()]

    def run(images: np.ndarray) -> tuple[np.ndarray, ...]:
        try:
            return tuple(session.run(outputs, {pictures.name: images}))
        except Exception as error:  # its own kinds, which are no RuntimeErrors
            raise EngineError(f"ONNX Runtime failed: {first_line(error)}") from None

    return run, session.get_modelmeta().custom_metadata_map


def save(model: ModelProto, path: Path, facts: Mapping[str, str]) -> list[Path]:
    """Writes a model with its facts, and returns the files that hold it.

    Raises:
        OSError: the disk is full or not writable.
    """
    onnx = import_package("onnx")
    onnx.helper.set_model_props(model, facts)
    onnx.save(model, path)
    return [path]


def quantise(
    model: ModelProto, pictures: Sequence[Tensor], preprocess: bool, floats: Collection[str]
) -> ModelProto:
    """Returns a model whose convolutions multiply in INT8.

    Args:
        model: its weights are multiples of a 64th of their output channel's greatest.
        pictures: (1, 3, H, W) uint8 RGB each, to calibrate the ranges of activations.
        preprocess: whether the model normalises them itself.
        floats: names of the network's convolutions that stay in float32.

    Raises:
        EngineError: the package is missing.
    """
    onnx = import_package("onnx")
    quantization = import_package("onnxruntime.quantization")
    kept = {f"network.{name}.weight" for name in floats}
    excluded = [n.name for n in model.graph.node if n.op_type == "Conv" and n.input[1] in kept]
    excluded += _guard_nodes(model)
    (images,) = model.graph.input
    with tempfile.TemporaryDirectory() as folder, silence():
        path = Path(folder, "float.onnx")
        onnx.save(model, path)
        quantization.quantize_static(
            path,
            path.with_name("int8.onnx"),
            _Reader({images.name: prepare(picture, preprocess)} for picture in pictures),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=QUANTISED,
            per_channel=True,
            reduce_range=True,  # from -64 to 64
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=excluded,
        )
        return onnx.load(path.with_name("int8.onnx"))


def _guard_nodes(model: ModelProto) -> list[str]:
    """Returns the names of what rates pictures: activations' means and all that follows."""
    nodes, values = [], {RATING}
    for node in reversed(model.graph.node):
        if values.intersection(node.output):
            nodes.append(node.name)
            values.update(() if node.op_type == "ReduceMean" else node.input)
    return nodes


class _Reader:
    """Gives ONNX Runtime's calibration its inputs, one by one."""

    def __init__(self, inputs: Iterator[dict[str, np.ndarray]]):
        self._inputs = inputs

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._inputs, None)
