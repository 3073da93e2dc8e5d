"""export.py: files that count as PyTorch does, at any size, and INT8 within its budget."""

import json
import re
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import PROJECT, need_packages, plain_guard, save_student
from PIL import Image
from test_protocols import random_image, random_network

import export
import test as test_program
from datasets.pictures import read_image
from datasets.splits import DataError, read_list
from deploy import onnx_format
from deploy.deployed import Deployed, EngineError, prepare
from deploy.exported import FORMATS, NEEDED, ExportError, check_parity, open_exported
from deploy.int8 import quantise_within
from deploy.rounding import WEIGHT_STEPS, measure_means, rank_layers, round_layers
from models.build import ARCHITECTURES
from models.counter import read_counter
from models.guard import read_features
from models.vgg import convolutions
from utils.checkpoint import read_checkpoint, save_checkpoint, save_weights
from utils.options import fail
from utils.pixels import as_batch, limit_side, normalise, restore

WIDTH = Fraction(1, 16)
SIZES = [(96, 160), (203, 317), (33, 47)]  # even and odd stride-8 grids
LIKE_MOBILE_S = ("mobile_l", "lite_s")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(arch, marks=[pytest.mark.slow] * (arch in LIKE_MOBILE_S))
        for arch in ARCHITECTURES
    ],
)
def counter(request, tmp_path_factory):
    """A random network, scaled to count some hundreds, and its checkpoint."""
    network = random_network(request.param, WIDTH)
    last = list_layers(network)[-1]
    last.weight *= 200 / network(normalise(random_image(200, 300))).sum()
    path = tmp_path_factory.mktemp("counter") / f"{request.param}.pth"
    facts = {"arch": request.param, "width": str(WIDTH)}
    save_checkpoint(path, {"model": network.state_dict(), **facts})
    return network, path


@pytest.fixture
def csrnet(tmp_path):
    return save_random("csrnet", tmp_path)


def save_random(arch, folder):
    """A random network, and its checkpoint in a folder."""
    network = random_network(arch, WIDTH)
    facts = {"arch": arch, "width": str(WIDTH)}
    save_checkpoint(folder / f"{arch}.pth", {"model": network.state_dict(), **facts})
    return network, folder / f"{arch}.pth"


def list_layers(network):
    return list(convolutions(network).values())


def run_export(monkeypatch, *options):
    """export.py in this process."""
    monkeypatch.setattr(sys, "argv", ["export.py", *map(str, options)])
    export.main(export.parse_args())


@pytest.mark.parametrize("suffix", FORMATS)
def test_files_count_as_pytorch_does_at_sizes_that_were_not_traced(
    suffix, counter, tmp_path, monkeypatch
):
    need_packages(suffix)
    network, checkpoint = counter
    preprocess = checkpoint.stem in ("bl", "mobile_l")  # it is the same layer for all
    path = tmp_path / f"new/counter{suffix}"
    run_export(monkeypatch, checkpoint, path, *["--preprocess"] * preprocess)
    exported = open_exported(path)
    assert exported.preprocess == preprocess
    for height, width in SIZES:
        for count in (1, 2):
            pixels = torch.cat([random_image(height, width, seed) for seed in range(count)])
            expected = network(normalise(pixels))
            density, counts = exported.run(prepare(pixels, preprocess))
            # float32 sums of thousands of products, in another order
            np.testing.assert_allclose(
                density, expected, rtol=0, atol=3e-5 * expected.abs().max().item()
            )
            np.testing.assert_allclose(counts, expected.sum((1, 2, 3)), rtol=1e-3)
            assert counts.shape == (count,)
    files = {file.name for file in path.parent.iterdir()}
    assert files == {path.name} | ({"counter.bin"} if suffix == ".xml" else set())
    assert exported.size == sum(file.stat().st_size for file in path.parent.iterdir())


@pytest.mark.parametrize("suffix", FORMATS)
def test_metadata_say_what_goes_in_and_what_comes_out(suffix, csrnet, tmp_path, monkeypatch):
    need_packages(suffix)
    path = tmp_path / f"counter{suffix}"
    run_export(monkeypatch, csrnet[1], path, "--preprocess")
    facts = open_exported(path).facts
    expected = {
        "model": "1/16-CSRNet",
        "architecture": "csrnet",
        "width": "1/16",
        "precision": "float32",
        "input": "pixels, uint8 RGB, 0 to 255",
        "input_layout": "(batch, height, width, 3)",
        "preprocessing": "inside",
        "mean": "0.485 0.456 0.406",
        "deviation": "0.229 0.224 0.225",
        "checkpoint": "csrnet.pth",
    }
    assert expected.items() <= facts.items()
    assert "heads per 8x8 pixels" in facts["density"] and "heads" in facts["count"]
    assert len(facts["weights_sha256"]) == 64
    for place in (PROJECT, tmp_path, "site-packages"):  # nothing of this machine
        assert str(place) not in path.read_bytes().decode("latin-1")


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_with_a_guard_rates_pictures_as_predict_does(suffix, tmp_path, monkeypatch):
    need_packages(suffix)
    checkpoint = save_student(tmp_path / "a.safetensors", guard=plain_guard(20.0))
    counter, path = read_counter(checkpoint), tmp_path / f"a{suffix}"
    run_export(monkeypatch, checkpoint, path, "--preprocess", "--guard")
    assert "above 1: unlike" in open_exported(path).facts["unlikeness"]
    pixels = torch.cat([random_image(160, 240, seed) for seed in (0, 1)])
    expected = counter.guard.score(read_features(counter.network, normalise(pixels)))
    assert 0.1 < expected.min() < expected.max()
    found = rate(path, prepare(pixels, preprocess=True))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    with pytest.raises(ExportError, match="a.safetensors has no guard; calibrate.py fits one"):
        run_export(monkeypatch, save_student(checkpoint), path, "--guard")


@pytest.mark.parametrize("suffix", FORMATS)
def test_int8_rates_pictures_as_float32_does(suffix, crowd_lists, tmp_path, monkeypatch, capsys):
    need_packages(suffix, int8=True)
    checkpoint = save_student(tmp_path / "a.safetensors", guard=plain_guard(20.0))
    options = ["--preprocess", "--guard", "--int8", crowd_lists[0], "--max-mae-rise", 50]
    run_export(monkeypatch, checkpoint, tmp_path / f"a{suffix}", *options)
    assert "unlikeness changes by at most 0.0" in capsys.readouterr().out
    counter = read_counter(checkpoint)
    pixels = 255 - random_image(160, 240, 3)  # that showed no ranges
    expected = counter.guard.score(read_features(counter.network, normalise(pixels)))
    found = rate(tmp_path / f"a{suffix}", prepare(pixels, preprocess=True))
    np.testing.assert_allclose(found, expected, atol=export.MOST_UNLIKE)
    monkeypatch.setattr(export, "MOST_UNLIKE", 0)
    with pytest.raises(ExportError, match=r"INT8: unlikeness .* by 0; leave out --guard"):
        run_export(monkeypatch, checkpoint, tmp_path / f"b{suffix}", *options)
    assert not (tmp_path / f"b{suffix}").exists()


def rate(path, images):
    """The unlikeness that a file gives, by its own runtime."""
    if path.suffix == ".onnx":
        import onnxruntime

        return onnxruntime.InferenceSession(path).run(["unlikeness"], {"pixels": images})[0]
    import openvino

    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    return openvino.Core().compile_model(path, "CPU", exact)(images)["unlikeness"]


def test_the_onnx_model_has_free_sizes_and_named_ends():
    need_packages(".onnx")
    import onnx

    for preprocess, name, channels in ((False, "images", 1), (True, "pixels", 3)):
        model = onnx_format.export(Deployed(random_network("bl", WIDTH), preprocess))
        onnx.checker.check_model(model)
        (taken,) = model.graph.input
        assert taken.name == name
        assert [output.name for output in model.graph.output] == ["density", "count"]
        shape = list(taken.type.tensor_type.shape.dim)
        assert shape.pop(channels).dim_value == 3
        assert [side.dim_param for side in shape] == ["batch", "height", "width"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_model_that_counts_otherwise_fails_and_leaves_no_file(
    suffix, csrnet, tmp_path, monkeypatch
):
    need_packages(suffix)
    form, path = FORMATS[suffix], tmp_path / f"new/counter{suffix}"

    def export_wrongly(network):
        list_layers(network)[-1].weight.mul_(1.002)
        return real(network)

    def run_rightly(network, images):
        density, count = network(torch.from_numpy(images))
        return density.numpy() / 1.002, count.numpy() / 1.002

    real = form.export
    monkeypatch.setattr(form, "export", export_wrongly)
    monkeypatch.setattr(Deployed, "run", run_rightly)
    list_layers(csrnet[0])[-1].weight *= 1e4  # so that a count is no rounding of none
    save_checkpoint(csrnet[1], csrnet[0].state_dict())
    with pytest.raises(ExportError, match=r"on 1 of 96x160 pixels .* counts .*, not ") as raised:
        run_export(monkeypatch, csrnet[1], path)
    with pytest.raises(SystemExit, match="^error: .*"):
        fail(raised.value)
    assert not list(path.parent.iterdir())


def test_parity_sees_counts_cells_and_shapes():
    network = Deployed(random_network("csrnet", WIDTH))

    def shifted(images):
        density, count = network.run(images)
        density[..., 0, 0] += 1
        density[..., 0, 1] -= 1
        return density, count

    def scaled(images):
        density, count = network.run(images)
        return density, count * 1.01 + 1

    def squeezed(images):
        density, count = network.run(images)
        return density, count.sum()

    check_parity(network.run, network.run, preprocess=False)
    for run, words in (
        (shifted, "the map differs by"),
        (scaled, "counts .*, not"),
        (squeezed, "shapes"),
    ):
        with pytest.raises(ExportError, match=words):
            check_parity(run, network.run, preprocess=False)


def test_pixels_are_restored_exactly():
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(1, 3, 1, 1)
    assert torch.equal(restore(normalise(pixels)), pixels)


@pytest.mark.parametrize(
    ("arch", "layers", "last"),
    [
        ("csrnet", 17, "output_layer"),
        pytest.param("mobile_s", 45, "head.output", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("suffix", [pytest.param(".onnx", marks=pytest.mark.slow), ".xml"])
def test_int8_keeps_the_budget_and_says_how(
    suffix, arch, layers, last, crowd_lists, tmp_path, monkeypatch, capsys
):
    need_packages(suffix, int8=True)
    network, checkpoint = save_random(arch, tmp_path)
    path = tmp_path / f"int8{suffix}"
    options = ["--int8", crowd_lists[0], "--calibrate", crowd_lists[2], "--max-mae-rise", 5]
    run_export(monkeypatch, checkpoint, path, *options)
    assert_rounded(path, network)
    assert f"INT8 with 1 of {layers} layers in float32: MAE" in capsys.readouterr().out
    exported = open_exported(path)
    assert exported.facts["precision"] == "int8"
    assert exported.facts["float32_layers"] == last
    assert exported.facts["calibration"] == f"3 images of {crowd_lists[2].name}"
    assert "in float32" in exported.facts["mae"]
    for height, width in SIZES:
        pixels = torch.cat([random_image(height, width, seed) for seed in (0, 1)])
        density, counts = exported.run(prepare(pixels, False))
        assert density.shape == network(normalise(pixels)).shape
        np.testing.assert_allclose(density.sum((1, 2, 3)), counts, rtol=1e-4, atol=1e-4)
    images = prepare(export.read_pictures(crowd_lists[2], 1)[0], False)
    density, expected = exported.run(images)[0], Deployed(network).run(images)[0]
    assert abs(density - expected).mean() < 0.1 * abs(expected).mean()  # 8 bits a layer


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_budget_that_cannot_be_kept_is_refused_with_the_numbers(
    suffix, csrnet, crowd_lists, tmp_path, monkeypatch
):
    need_packages(suffix, int8=True)
    monkeypatch.setattr(export, "score", growing_errors())
    path = tmp_path / f"new/int8{suffix}"
    monkeypatch.setattr("deploy.int8.MOST_FLOAT", 0.1)
    message = (
        r"raises the MAE of 1\.00 by 1\.00, at least by 1\.00 with up to 2 of 17 layers in "
        r"float32; --max-mae-rise allows 0\.5"
    )
    with pytest.raises(ExportError, match=message):
        run_export(monkeypatch, csrnet[1], path, "--int8", crowd_lists[0], "--max-mae-rise", 0.5)
    assert not path.parent.exists()


def assert_rounded(path, network):
    """Asserts that a file's convolutions have the weights of `round_layers`, the last its own."""
    layers = convolutions(network)
    last = list(layers)[-1]
    means = {name: torch.zeros(layer.in_channels) for name, layer in layers.items()}
    expected = convolutions(Deployed(round_layers(network, means, {last})).network)
    read = read_onnx_weights if path.suffix == ".onnx" else read_openvino_weights
    found = {name: (weight, is_int8) for name, weight, is_int8 in read(path)}
    assert found.keys() == expected.keys()
    for name, (weight, is_int8) in found.items():
        assert is_int8 == (name != last)
        wanted = expected[name].weight.reshape(weight.shape)  # OpenVINO has an axis of groups
        np.testing.assert_allclose(weight, wanted, rtol=1e-5, atol=1e-7)


def read_onnx_weights(path):
    """Yields names and weights of a file's convolutions, and whether they are held as INT8."""
    import onnx

    graph = onnx.load(path).graph
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    for node in graph.node:
        if node.op_type == "Conv":
            name = node.input[1].removeprefix("network.").partition(".weight")[0]
            if node.input[1] in made:
                weight, scale, _ = (values[name] for name in made[node.input[1]].input)
                assert weight.dtype == np.int8
                yield name, weight * scale[:, None, None, None], True
            else:
                yield name, values[node.input[1]], False


def read_openvino_weights(path):
    """Yields the same of an OpenVINO file."""
    import openvino

    def compute(node):
        """Returns a constant expression's value, and whether there is INT8 in it."""
        kind = node.get_type_name()
        if kind == "Constant":
            return node.data, node.data.dtype == np.int8
        (first, is_int8), *others = (compute(value.get_node()) for value in node.input_values())
        if kind == "Convert":
            return first.astype(np.float32), is_int8
        assert kind in ("Multiply", "Subtract")
        ((other, _),) = others
        return (first * other if kind == "Multiply" else first - other), is_int8

    for node in openvino.Core().read_model(path).get_ordered_ops():
        if node.get_type_name() in ("Convolution", "GroupConvolution"):
            name = node.get_friendly_name().partition("/")[0].removeprefix("__module.network.")
            yield name, *compute(node.input_value(1).get_node())


def growing_errors():
    """Scores that are 1, 2, 3, ... whatever was counted."""
    errors = iter(range(1, 100))

    class Scores:
        def __init__(self, results):
            self.mae = next(errors)

    return Scores


def test_the_worst_layers_stay_in_float32_until_the_budget_is_kept():
    errors = {"e": 14.0, "ce": 13.0, "ace": 10.9, "abce": 10.0}
    parts = ("".join, errors.__getitem__, lambda: "cabd", "abcde", {"e"}, 10.0)
    found = quantise_within(*parts, 1.0)
    assert (found.floats, found.mae) == (("a", "c", "e"), 10.9)
    unranked = quantise_within(*parts[:2], pytest.fail, *parts[3:], 4.0)
    assert unranked.floats == ("e",)
    message = "MAE of 10.00 by 4.00, at least by 0.90 with up to 3 of 5"
    with pytest.raises(ExportError, match=message):
        quantise_within(*parts, 0.5)


@pytest.mark.parametrize("arch", ["csrnet", "bl"])
def test_weights_are_rounded_so_that_counts_stay(arch):
    network = random_network(arch, WIDTH)
    images = [normalise(random_image(120, 160, seed)) for seed in range(3)]
    layers = convolutions(network)
    floats = {list(layers)[1], list(layers)[-1]}
    rounded = round_layers(network, measure_means(network, images), floats)
    for name, layer in layers.items():
        other = rounded.get_submodule(name)
        if name in floats:
            assert torch.equal(layer.weight, other.weight) and torch.equal(layer.bias, other.bias)
            continue
        step = layer.weight.abs().amax((1, 2, 3), keepdim=True) / WEIGHT_STEPS
        steps = other.weight / step
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)
        assert (steps.abs().amax((1, 2, 3)).round() == WEIGHT_STEPS).all()
        kernels = ((other.weight - layer.weight) / step).sum((2, 3)).abs()
        assert kernels.mean() < 0.5  # 9 errors that do not cancel have 0.7
    for image in images:
        expected = network(image)
        change = (rounded(image) - expected).sum() / expected.abs().sum()
        assert abs(change) < 0.02


def test_the_layer_that_eight_bits_hurt_is_the_first():
    network = random_network("csrnet", WIDTH)
    images = [normalise(random_image(64, 96, seed)) for seed in range(2)]
    layers = convolutions(network)
    before, layer = list(layers.values())[4:6]
    before.weight[0], before.bias[0] = 0, -1  # what the layer takes there is always 0
    layer.weight[:, 0] = 1e3  # and its weights there are so large that all others round to 0
    ranking = rank_layers(network, images, measure_means(network, images), {"output_layer"})
    assert layers[ranking[0]] is layer
    assert {*ranking, "output_layer"} == layers.keys()


@pytest.mark.parametrize("options", [{}, {"groups": 4, "bias": False}])
def test_the_bias_takes_what_kernels_leave_of_the_mean(options):
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(8, 4, 3, **options).requires_grad_(False)
    images = [5 + torch.randn(1, 8, 40, 60) for _ in range(3)]
    means = measure_means(layer, images)
    kept, lost = (
        round_layers(layer, how, ())
        for how in (means, {name: torch.zeros_like(mean) for name, mean in means.items()})
    )
    changes = [
        torch.stack([(rounded(image) - layer(image)).mean((0, 2, 3)) for image in images]).abs()
        for rounded in (kept, lost)
    ]
    assert changes[0].mean() < 0.1 * changes[1].mean()


@pytest.mark.parametrize(
    ("suffix", "missing"), [(".onnx", "onnxruntime"), (".xml", "openvino"), (".xml", "nncf")]
)
def test_a_missing_package_is_one_line(suffix, missing, csrnet, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(EngineError) as raised:
        run_export(monkeypatch, csrnet[1], tmp_path / f"a{suffix}", "--int8", "list.json")
    expected = f"package {missing} is missing: pip install -r requirements-deploy.txt"
    assert str(raised.value) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["a.pth", "a.pt"], "argument out: must end in .onnx or .xml, got 'a.pt'"),
        (["a.pth", "a.onnx", "--calibrate-images", "3"], "--calibrate-images needs --int8"),
        (["a.pth", "{folder}"], "is a folder"),
        (["a.pth", "a.onnx", "--int8", "b", "--max-mae-rise", "-1"], "number of at least 0"),
    ],
)
def test_wrong_options_end_in_one_line(options, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(SystemExit):
        run_export(monkeypatch, *(o.format(folder=tmp_path / "folder.onnx") for o in options))
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_ranges_are_of_the_emptiest_to_the_fullest_image_or_of_a_folder(crowd_lists, tmp_path):
    fullest, emptiest = export.read_pictures(crowd_lists[2], 2)
    images = {read_image(s.image).tobytes(): s.image.stem for s in read_list(crowd_lists[2])}
    names = [images[p[0].permute(1, 2, 0).numpy().tobytes()] for p in (fullest, emptiest)]
    assert names == ["IMG_1", "IMG_2"]  # of 4, 1 and 2 heads
    assert len(export.read_pictures(read_list(crowd_lists[2])[0].image.parent, 8)) == 3
    with pytest.raises(DataError, match="holds no pictures"):
        export.read_pictures(tmp_path, 8)


@pytest.mark.parametrize("preprocess", [False, True])
def test_an_exported_file_is_an_engine_of_the_test_program(
    preprocess, csrnet, crowd_lists, tmp_path, monkeypatch, capsys
):
    need_packages(".onnx")
    path, file = tmp_path / "counter.onnx", tmp_path / "result.json"
    run_export(monkeypatch, csrnet[1], path, *["--preprocess"] * preprocess)
    options = ["test.py", crowd_lists[2], "-c", csrnet[1], "--engine", path, "--size", "64x96"]
    options += ["--workers", 0, "--cpu", "--json", file]
    monkeypatch.setattr(sys, "argv", list(map(str, options)))
    test_program.main(test_program.parse_args())
    assert "ours: 1/16-CSRNet, counter.onnx" in capsys.readouterr().out
    assert json.loads(file.read_text())["count_difference"] < 1e-3
    save_checkpoint(csrnet[1], random_network("bl", WIDTH).state_dict())
    with pytest.raises(
        EngineError,
        match="was made of other .*: of a 1/16-CSRNet, csrnet.pth",
    ):
        test_program.main(test_program.parse_args())


@pytest.mark.parametrize("suffix", FORMATS)
def test_other_files_are_no_counters(suffix, tmp_path):
    need_packages(suffix)
    path = tmp_path / f"other{suffix}"
    with pytest.raises(EngineError, match="other.* does not exist; export.py writes it"):
        open_exported(path)
    path.write_bytes(b"nothing")
    with pytest.raises(EngineError, match=f"cannot open .*other{suffix}: "):
        open_exported(path)
    form = FORMATS[suffix]
    form.save(form.export(Deployed(random_network("csrnet", WIDTH))), path, {"model": "CSRNet"})
    with pytest.raises(EngineError, match="metadata lack architecture, precision, preprocessing"):
        open_exported(path)
    facts = dict.fromkeys(NEEDED, "given") | {"preprocessing": "elsewhere"}
    form.save(form.export(Deployed(random_network("csrnet", WIDTH))), path, facts)
    with pytest.raises(EngineError, match="has the preprocessing 'elsewhere', unknown here"):
        open_exported(path)


@pytest.mark.slow
def test_the_two_files_of_an_openvino_model_belong_together(counter, tmp_path, monkeypatch):
    need_packages(".xml")
    network, checkpoint = counter
    for name, factor in (("a", 1.0), ("b", 1.01)):
        list_layers(network)[0].weight *= factor
        held = read_checkpoint(checkpoint) | {"model": network.state_dict()}
        save_checkpoint(checkpoint, held)
        run_export(monkeypatch, checkpoint, tmp_path / f"{name}.xml")
    (tmp_path / "b.bin").replace(tmp_path / "a.bin")
    with pytest.raises(EngineError, match="a.bin does not belong to .*a.xml: export both again"):
        open_exported(tmp_path / "a.xml")
    with pytest.raises(EngineError, match="cannot open .*b.xml: .*bin file cannot be found"):
        open_exported(tmp_path / "b.xml")


def test_an_image_that_openvino_cannot_take_has_not_the_last_ones_count(csrnet):
    need_packages(".xml")
    form = FORMATS[".xml"]
    run, _ = form.open_model(form.export(Deployed(csrnet[0])))
    run(np.zeros((1, 3, 64, 96), np.float32))
    with pytest.raises(EngineError, match="openvino cannot run on an image of 3x3"):
        run(np.zeros((1, 3, 3, 3), np.float32))


def test_a_checkpoint_that_counts_no_numbers_is_named(csrnet, tmp_path, monkeypatch):
    need_packages(".onnx")
    for layer in list_layers(csrnet[0])[3:6]:
        layer.weight.fill_(1e30)
    save_checkpoint(csrnet[1], csrnet[0].state_dict())
    with pytest.raises(ExportError, match=r"what it was made of counts \[(nan|inf)\]"):
        run_export(monkeypatch, csrnet[1], tmp_path / "a.onnx")


def test_a_full_disk_is_one_line_and_leaves_what_was_there(csrnet, tmp_path, monkeypatch):
    need_packages(".xml")
    path = tmp_path / "a.xml"
    run_export(monkeypatch, csrnet[1], path)
    before = {file.name: file.read_bytes() for file in tmp_path.glob("a.*")}

    def fill_up(model, path, **options):
        save(model, path, **options)
        path.with_suffix(".bin").write_bytes(b"half")
        raise RuntimeError("Exception from somewhere:\nno space left")

    import openvino

    save = openvino.save_model
    monkeypatch.setattr(openvino, "save_model", fill_up)
    with pytest.raises(OSError, match="OpenVINO cannot write a.xml: no space left"):
        run_export(monkeypatch, csrnet[1], path)
    assert {file.name: file.read_bytes() for file in tmp_path.glob("a.*")} == before
    assert not list(tmp_path.glob(".export-*"))


def test_a_checkpoint_called_bin_is_no_output_of_onnx(csrnet, tmp_path, monkeypatch):
    need_packages(".onnx")
    checkpoint = csrnet[1].rename(tmp_path / "model.bin")
    run_export(monkeypatch, checkpoint, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").exists() and checkpoint.exists()


@pytest.mark.parametrize(("number", "suffix"), [(0, ".onnx"), (1, ".xml")])
def test_the_programs_of_the_page_count_without_this_project(number, suffix, tmp_path, monkeypatch):
    need_packages(suffix)
    network, path = save_random("bl", tmp_path)
    checkpoint = tmp_path / "knowing.safetensors"
    save_weights(checkpoint, read_checkpoint(path)["model"], {"max_side": "300"})
    page = (PROJECT / "docs/export.md").read_text()
    program = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[number]
    preprocess = ["--preprocess"] if '"pixels"' in program else []
    run_export(monkeypatch, checkpoint, tmp_path / f"counter{suffix}", *preprocess)
    pixels = random_image(406, 600)  # twice as large as the network knows
    Image.fromarray(pixels[0].permute(1, 2, 0).numpy()).save(tmp_path / "photo.jpg")
    stored = as_batch(limit_side(read_image(tmp_path / "photo.jpg"), 300))
    result = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    count = float(result.stdout.split(" people")[0])
    assert count == pytest.approx(network(normalise(stored)).sum().item(), rel=1e-3)


def test_batch_normalisation_becomes_part_of_the_layer_before_it():
    network = random_network("mobile_s", WIDTH)
    for norm in network.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    folded = Deployed(network)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    images = normalise(random_image(96, 160))
    density, _ = folded(images)
    torch.testing.assert_close(density, network(images), rtol=1e-4, atol=1e-6)


def test_reading_a_counter_does_not_leave_it_in_training_mode(tmp_path):
    _, path = save_random("mobile_s", tmp_path)
    assert not any(module.training for module in read_counter(path).network.modules())
