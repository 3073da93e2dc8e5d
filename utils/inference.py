"""Engines: what runs a network, eager PyTorch or something that was built from it."""

import copy
import importlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from utils.cudagraph import CapturedNetwork

REQUIREMENTS = "requirements-deploy.txt"
SAMPLE = (2, 3, 67, 83)  # of the images that graphs are made with; none of it may stay fixed

Run = Callable[[Tensor], Tensor]


class EngineError(RuntimeError):
    """An engine cannot be built or cannot run; the message says what is missing."""


@dataclass(frozen=True)
class Engine:
    """Maps (B, 3, H, W) normalised float32 RGB of any size to the network's (B, 1, h, w) density.

    It has what the protocols of `utils.evaluation` ask a network for, but `forward_part`.
    """

    run: Run
    stride: int
    margin: int

    def __call__(self, images: Tensor) -> Tensor:
        return self.run(images)


def build_eager(network: nn.Module, device: torch.device) -> nn.Module:
    """Returns the network itself, moved to a device and channels-last."""
    return network.to(device, memory_format=torch.channels_last)


def build_compiled(network: nn.Module, device: torch.device) -> Engine:
    """Returns a copy of the network under torch.compile, for all sizes at once.

    Raises:
        EngineError: it cannot be compiled, which shows at the first images.
    """
    try:
        compiled = torch.compile(_copy(network, device), dynamic=True)
    except RuntimeError as error:  # no torch.compile for this Python or system
        raise EngineError(f"torch.compile failed: {_first_line(error)}") from None

    def run(images: Tensor) -> Tensor:
        try:
            return compiled(images)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise EngineError(f"torch.compile failed: {_first_line(error)}") from None

    return _engine(network, run)


def build_cudagraph(
    network: nn.Module, device: torch.device, dtype: torch.dtype = torch.float32
) -> Engine:
    """Returns a copy of the network, its weights of `dtype`, captured as a CUDA graph per size.

    Raises:
        EngineError: the device is no CUDA device.
    """
    if device.type != "cuda":
        raise EngineError("the engine cudagraph needs a CUDA GPU")
    return _engine(network, CapturedNetwork(_copy(network, device).to(dtype), dtype))


def export_onnx(network: nn.Module) -> bytes:
    """Returns a network as a serialised ONNX model of free batch, height and width.

    Its input is `images`, its output `density`.

    Raises:
        EngineError: a package is missing, or the exporter fails.
    """
    for package in ("onnx", "onnxscript"):
        _import(package)
    free = {axis: torch.export.Dim.DYNAMIC for axis in (0, 2, 3)}
    try:
        with _silence(), torch.no_grad():
            program = torch.onnx.export(
                _copy(network, torch.device("cpu")),
                (torch.zeros(SAMPLE),),
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=["density"],
                dynamic_shapes=(free,),
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise EngineError(f"the ONNX export failed: {_first_line(error)}") from None
    return program.model_proto.SerializeToString()


def build_onnxruntime(network: nn.Module, device: torch.device) -> Engine:
    """Returns the network exported to ONNX once and run by ONNX Runtime on the CPU.

    Raises:
        EngineError: as `export_onnx`.
    """
    onnxruntime = _import("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        export_onnx(network), options, providers=["CPUExecutionProvider"]
    )

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"images": _array(images)})[0])

    return _engine(network, run)


def build_openvino(network: nn.Module, device: torch.device) -> Engine:
    """Returns the network converted by OpenVINO, without ONNX, and run by it on the CPU.

    Raises:
        EngineError: the package is missing; or, later, images are too small for OpenVINO.
    """
    openvino = _import("openvino")
    with _silence(), torch.no_grad():
        model = openvino.convert_model(
            _copy(network, torch.device("cpu")),
            example_input=torch.zeros(SAMPLE),
            input=[-1, SAMPLE[1], -1, -1],
        )
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",  # or it takes bfloat16 where the processor has AMX
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(model, "CPU", settings)

    def run(images: Tensor) -> Tensor:
        try:
            density = torch.from_numpy(compiled(_array(images))[0].copy())
        except RuntimeError:  # its poolings take no fewer rows or columns than their kernel
            density = torch.empty(0)
        if not density.numel():  # which is how some of them take it
            height, width = images.shape[-2:]
            raise EngineError(f"openvino cannot run on an image of {height}x{width}")
        return density

    return _engine(network, run)


ENGINES: dict[str, Callable[[nn.Module, torch.device], nn.Module | Engine]] = {
    "eager": build_eager,
    "compile": build_compiled,
    "cudagraph": build_cudagraph,
    "onnxruntime": build_onnxruntime,
    "openvino": build_openvino,
}
CPU_ENGINES = ("onnxruntime", "openvino")  # which run there whatever device the rest is on


def choose_device(engine: str, device: torch.device) -> torch.device:
    """Returns where an engine of ENGINES runs if everything else is on `device`."""
    return torch.device("cpu") if engine in CPU_ENGINES else device


def _engine(network: nn.Module, run: Run) -> Engine:
    return Engine(run, network.stride, network.margin)


def _copy(network: nn.Module, device: torch.device) -> nn.Module:
    """A copy in evaluation mode and channels-last, whose weights no gradient follows."""
    network = copy.deepcopy(network).eval().requires_grad_(False)
    return network.to(device, memory_format=torch.channels_last)


@contextmanager
def _silence() -> Iterator[None]:
    """Keeps the converters' warnings, which are about their own code, from the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _array(images: Tensor) -> np.ndarray:
    # Not by PyTorch, whose threads would go on spinning where the engine needs the processor.
    return np.ascontiguousarray(images.detach().cpu().numpy())


def _import(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise EngineError(f"package {package} is missing: pip install -r {REQUIREMENTS}") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
