"""Engines: each counts as eager PyTorch does, at sizes its graph was not made with."""

import json
import sys
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from test_protocols import random_image, random_network
from torch import nn

import test as test_program
from counting.protocols import predict_cells, predict_whole
from deploy.engines import (
    CPU_ENGINES,
    ENGINES,
    EngineError,
    build_compiled,
    choose_device,
    exported_engine,
    parse_engine,
)
from deploy.latency import measure_in_turn
from models.build import ARCHITECTURES
from utils.checkpoint import save_checkpoint
from utils.pixels import normalise

CPU = torch.device("cpu")
WIDTH = Fraction(1, 16)
SIZES = [(96, 160), (200, 300), (203, 317), (33, 47), (104, 24)]  # even and odd stride-8 grids
PACKAGES = {"onnxruntime": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",)}
ROUNDING = 3e-5  # of a map's peak: float32 sums of thousands of products, in another order


def build_engine(name: str, arch: str):
    """An engine and the network it was built from; skips where its packages are missing."""
    for package in PACKAGES.get(name, ()):
        pytest.importorskip(package, reason=f"{package} of requirements-deploy.txt is missing")
    network = random_network(arch, WIDTH)
    return ENGINES[name](network, CPU), network


def assert_same_map(engine, network, images):
    expected = network(images)
    found = engine(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=ROUNDING * expected.abs().max().item())


@pytest.mark.parametrize("name", CPU_ENGINES)
@pytest.mark.parametrize(  # test_export.py has all
    "arch", ["csrnet", pytest.param("bl", marks=pytest.mark.slow)]
)
def test_an_exported_network_gives_eagers_map_at_any_size_and_batch(name, arch):
    engine, network = build_engine(name, arch)
    for height, width in SIZES:
        for images in (1, 2):
            pixels = [random_image(height, width, seed) for seed in range(images)]
            assert_same_map(engine, network, normalise(torch.cat(pixels)))


@pytest.mark.parametrize(
    ("arch", "backend", "sizes"),
    [
        pytest.param("csrnet", "inductor", SIZES[::4], marks=pytest.mark.slow),
        ("bl", "aot_eager", SIZES[1:3]),  # its graph depends on the size: a minute of C++ compilers
    ],
)
def test_a_compiled_network_gives_eagers_map_at_two_sizes(arch, backend, sizes, monkeypatch):
    monkeypatch.setattr("models.csrnet.CSRNET_FRONTEND", ("M", "M", "M", 64))  # seconds a layer
    monkeypatch.setattr("models.csrnet.CSRNET_BACKEND", (64,))
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    engine, network = build_engine("compile", arch)
    with torch.no_grad():
        for height, width in sizes:
            pixels = [random_image(height, width, seed) for seed in range(2)]
            assert_same_map(engine, network, normalise(torch.cat(pixels)))


@pytest.mark.parametrize("name", CPU_ENGINES)
def test_engines_count_by_protocols(name):
    engine, network = build_engine(name, "bl")
    image = random_image(520, 600)
    for protocol in (predict_whole, predict_cells):
        assert protocol(engine, image)[0] == pytest.approx(protocol(network, image)[0], rel=1e-4)
    assert (engine.stride, engine.margin) == (network.stride, network.margin)


@pytest.mark.parametrize("name", CPU_ENGINES)
def test_engines_leave_the_network_and_earlier_maps_alone(name):
    engine, network = build_engine(name, "csrnet")
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    images = [normalise(random_image(64, 64, seed)) for seed in (0, 1)]
    first = engine(images[0])
    kept = first.clone()
    engine(images[1])
    assert torch.equal(first, kept)
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())
    with torch.no_grad():
        network.output_layer.bias += 1  # the engine has weights of its own
    assert torch.equal(engine(images[0]), kept)


@pytest.mark.parametrize("arch", ["bl", "mobile_s"])
def test_eager_counts_as_the_network_without_its_normalisation(arch):
    engine, network = build_engine("eager", arch)
    images = normalise(random_image(96, 160))
    torch.testing.assert_close(engine(images), network(images), rtol=1e-4, atol=1e-6)
    kinds = {type(module) for module in engine.modules()}
    assert torch.nn.BatchNorm2d not in kinds
    assert kinds - {torch.nn.Identity} == {type(m) for m in network.modules()} - {
        torch.nn.BatchNorm2d
    }


@pytest.mark.parametrize("name", CPU_ENGINES)
def test_a_missing_package_is_named_with_what_installs_it(name, monkeypatch):
    monkeypatch.setitem(sys.modules, PACKAGES[name][0], None)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EngineError, match=f"{name}.*pip install -r requirements-deploy.txt"):
        ENGINES[name](random_network("csrnet", WIDTH), CPU)


def test_cudagraph_needs_a_gpu():
    with pytest.raises(EngineError, match="needs a CUDA GPU"):
        ENGINES["cudagraph"](random_network("csrnet", WIDTH), CPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_cuda_graphs_give_eagers_map_at_more_sizes_than_are_kept(arch):
    gpu = torch.device("cuda", 0)
    network = random_network(arch, WIDTH).to(gpu)
    engine = ENGINES["cudagraph"](network, gpu)
    sizes = [(64 + 16 * i, 96) for i in range(10)]
    for height, width in [*sizes, *sizes[::-1]]:
        images = normalise(random_image(height, width).to(gpu))
        expected = network(images)
        # TF32 may be taken by one and not by the other.
        torch.testing.assert_close(
            engine(images), expected, rtol=0, atol=2e-3 * expected.abs().max().item()
        )


def test_exported_engines_run_on_the_cpu_whatever_the_rest_does():
    gpu = torch.device("cuda", 0)
    assert {name: choose_device(name, gpu).type for name in ENGINES} == {
        "eager": "cuda", "compile": "cuda", "cudagraph": "cuda",
        "onnxruntime": "cpu", "openvino": "cpu",
    }  # fmt: skip
    assert choose_device(parse_engine("counter.onnx"), gpu).type == "cpu"


def test_openvino_counts_a_tiny_image_or_says_that_it_cannot():
    engine, network = build_engine("openvino", "bl")  # which of the two depends on its threads
    images = torch.rand(1, 3, 5, 40)
    try:
        torch.testing.assert_close(engine(images), network(images), atol=1e-5, rtol=1e-3)
    except EngineError as error:
        assert str(error).startswith("openvino cannot run on an image of 5x40: ")


def test_an_exported_file_whose_maps_have_another_shape_is_refused():
    network = random_network("csrnet", WIDTH)

    def run(images):
        return np.zeros((len(images), 1, 4, 5), np.float32), np.zeros(len(images), np.float32)

    engine = exported_engine(network, run, preprocess=False)
    with pytest.raises(EngineError, match=r"the shape \[1, 1, 4, 5\], not \[1, 1, 8, 12\]"):
        engine(torch.zeros(1, 3, 64, 96))


def test_things_are_timed_in_turn_each_after_a_pass_of_its_own():
    ran = []
    runs = {name: lambda name=name: ran.append(name) for name in "ab"}
    latencies = measure_in_turn(runs, CPU, rounds=3)
    assert ran == list("aabb" * 3)
    assert [latencies[name].passes for name in "ab"] == [3, 3]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("counter") / "bl.pth"
    save_checkpoint(path, random_network("bl", WIDTH).state_dict())
    return path


def run_test_program(monkeypatch, *options):
    """test.py in this process."""
    monkeypatch.setattr(sys, "argv", ["test.py", *map(str, options), "--workers", "0", "--cpu"])
    test_program.main(test_program.parse_args())


@pytest.mark.parametrize("name", ["eager", *CPU_ENGINES])
def test_the_table_names_the_engine_and_how_its_counts_differ(
    name, checkpoint, crowd_lists, tmp_path, monkeypatch, capsys
):
    for package in PACKAGES.get(name, ()):
        pytest.importorskip(package, reason=f"{package} of requirements-deploy.txt is missing")
    file = tmp_path / "result.json"
    options = ["-c", checkpoint, "--size", "64x96", "--engine", name, "--json", file]
    run_test_program(monkeypatch, crowd_lists[2], *options)
    printed, measured = capsys.readouterr().out, json.loads(file.read_text())
    assert measured["engine"] == name
    assert measured["cpu_s"] > 0 and measured["gpu_ms"] is None
    if name == "eager":
        assert measured["count_difference"] is None
        assert "ours: 1/16-BL  " in printed and "differ by at most" not in printed
    else:
        assert 0 <= measured["count_difference"] < 1e-3
        assert f"ours: 1/16-BL, {name}" in printed
        assert f"counts by {name} and by eager float32 differ by at most" in printed


def test_an_engine_that_counts_otherwise_is_found_out(
    checkpoint, crowd_lists, tmp_path, monkeypatch
):
    class Wrong(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, images):
            density = self.network(images).clone()
            density[:, :, 0, 0] += 0.5
            return density

    eager = ENGINES["eager"]
    monkeypatch.setitem(ENGINES, "compile", lambda n, device: Wrong(eager(n, device)))
    file = tmp_path / "result.json"
    options = ["-c", checkpoint, "--size", "64x96", "--engine", "compile", "--json", file]
    run_test_program(monkeypatch, crowd_lists[2], *options)
    difference = json.loads(file.read_text())["count_difference"]
    assert difference == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "onnxruntime", "--protocol", "tiled"], "no place beside --protocol tiled"),
        (["--engine", "cudagraph"], "--engine cudagraph needs a GPU"),
        (["--engine", "tensorrt"], "argument --engine: must be one of eager, compile, cudagraph"),
        (["--engine", "counter.pt"], "or a file that export.py wrote, got 'counter.pt'"),
    ],
)
def test_engines_that_cannot_be_used_are_refused_in_one_line(
    options, message, checkpoint, crowd_lists, monkeypatch, capsys
):
    with pytest.raises(SystemExit):
        run_test_program(monkeypatch, crowd_lists[2], "-c", checkpoint, *options)
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_no_compiler_is_said_in_one_line(tmp_path, monkeypatch):
    from torch._inductor import config  # here, as importing it takes seconds

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # in which nothing is compiled
    network = nn.Sequential(nn.ReLU())
    network.stride = network.margin = 8
    engine = build_compiled(network, CPU)
    with (
        config.patch("cpp.cxx", ("/no/compiler",)),
        pytest.raises(EngineError, match="^torch.compile failed: .*compiler") as caught,
    ):
        engine(torch.zeros(2, 3, 8, 8))
    assert "\n" not in str(caught.value)
