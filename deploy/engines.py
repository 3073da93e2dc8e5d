"""Engines that run a network: eager PyTorch, or something that is built from the network."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from datasets.sizes import STRIDE, grid
from deploy import onnx_format, openvino_format
from deploy.cudagraph import CapturedNetwork
from deploy.deployed import (
    Deployed,
    EngineError,
    Infer,
    copy_for_inference,
    copy_for_tracing,
    first_line,
    prepare,
)
from deploy.exported import FORMATS, Format, open_exported
from utils.pixels import restore


@dataclass(frozen=True)
class Engine:
    """Maps (B, 3, H, W) normalised float32 RGB of any size to the network's (B, 1, h, w) density.

    It has all that `counting.protocols` needs of a network, except `forward_part`.
    """

    run: Callable[[Tensor], Tensor]
    stride: int
    margin: int

    def __call__(self, images: Tensor) -> Tensor:
        return self.run(images)


def build_eager(network: nn.Module, device: torch.device) -> nn.Module:
    """Returns a copy of the network, for inference in PyTorch."""
    return copy_for_inference(network, device)


def build_compiled(network: nn.Module, device: torch.device) -> Engine:
    """Returns a copy of the network under torch.compile, with dynamic sizes.

    Raises:
        EngineError: it cannot be compiled, which may show only at the first images.
    """
    try:
        compiled = torch.compile(copy_for_tracing(network, device), dynamic=True)
    except RuntimeError as error:  # no torch.compile for this Python or system
        raise EngineError(f"torch.compile failed: {first_line(error)}") from None

    def run(images: Tensor) -> Tensor:
        try:
            return compiled(images)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise EngineError(f"torch.compile failed: {first_line(error)}") from None

    return _engine(network, run)


def build_cudagraph(
    network: nn.Module, device: torch.device, dtype: torch.dtype = torch.float32
) -> Engine:
    """Returns a copy of the network, its weights of `dtype`, captured as a CUDA graph per size.

    Raises:
        EngineError: the device is not a CUDA device.
    """
    if device.type != "cuda":
        raise EngineError("the engine cudagraph needs a CUDA GPU")
    return _engine(network, CapturedNetwork(copy_for_inference(network, device).to(dtype), dtype))


def build_onnxruntime(network: nn.Module, device: torch.device) -> Engine:
    """Returns the network exported to ONNX once and run by ONNX Runtime on the CPU.

    Raises:
        EngineError: a package is missing, or the exporter fails.
    """
    return _export_and_open(network, onnx_format)


def build_openvino(network: nn.Module, device: torch.device) -> Engine:
    """Returns the network converted by OpenVINO, without ONNX, and run by it on the CPU.

    Raises:
        EngineError: the package is missing; or, later, images are too small for OpenVINO.
    """
    return _export_and_open(network, openvino_format)


ENGINES: dict[str, Callable[[nn.Module, torch.device], nn.Module | Engine]] = {
    "eager": build_eager,
    "compile": build_compiled,
    "cudagraph": build_cudagraph,
    "onnxruntime": build_onnxruntime,
    "openvino": build_openvino,
}
CPU_ENGINES = ("onnxruntime", "openvino")  # which run on the CPU whatever device is chosen


def parse_engine(text: str) -> str:
    """Returns a name of ENGINES, or the path of an exported counter, as it is.

    Raises:
        ValueError: it is neither.
    """
    if text not in ENGINES and Path(text).suffix not in FORMATS:
        raise ValueError(
            f"must be one of {', '.join(ENGINES)}, or a file that export.py wrote, got {text!r}"
        )
    return text


def choose_device(engine: str, device: torch.device) -> torch.device:
    """Returns where an engine runs if everything else is on `device`."""
    exported = engine in CPU_ENGINES or engine not in ENGINES
    return torch.device("cpu") if exported else device


def build_engine(
    engine: str, network: nn.Module, fingerprint: Callable[[], str], device: torch.device
) -> nn.Module | Engine:
    """Returns the engine that `parse_engine` accepted, ready to count as `network` does.

    Args:
        fingerprint: returns the fingerprint of the network's weights, as exported files store it.

    Raises:
        EngineError: it cannot be built or opened, or a file was made from other weights.
    """
    if engine in ENGINES:
        return ENGINES[engine](network, device)
    exported = open_exported(Path(engine))
    if exported.facts["weights_sha256"] != fingerprint():
        model, checkpoint = exported.facts["model"], exported.facts["checkpoint"]
        raise EngineError(
            f"{engine} was made of other weights than the checkpoint's: of a {model}, "
            f"{checkpoint}, which -c must name"
        )
    return exported_engine(network, exported.run, exported.preprocess)


def exported_engine(network: nn.Module, run: Infer, preprocess: bool) -> Engine:
    """Returns an exported model as an engine, which takes normalised images.

    Args:
        network: what it was made from, or its class, for the stride and the margin.
        preprocess: whether the model normalises; it then gets the restored uint8 pixels.
    """

    def run_tensors(images: Tensor) -> Tensor:
        taken = prepare(restore(images), True) if preprocess else _array(images)
        density = torch.from_numpy(run(taken)[0])
        wanted = [len(images), 1, *grid(images.shape[2:], STRIDE)]
        if (shape := list(density.shape)) != wanted:
            raise EngineError(f"the exported file's maps have the shape {shape}, not {wanted}")
        return density

    return _engine(network, run_tensors)


def _export_and_open(network: nn.Module, form: Format) -> Engine:
    run, _ = form.open_model(form.export(Deployed(network)))
    return exported_engine(network, run, preprocess=False)


def _engine(network: nn.Module, run: Callable[[Tensor], Tensor]) -> Engine:
    return Engine(run, network.stride, network.margin)


def _array(images: Tensor) -> np.ndarray:
    # NumPy makes the copy: PyTorch's threads would keep spinning while the engine needs the CPU.
    return np.ascontiguousarray(images.detach().cpu().numpy())
