"""The mobile counters: what is not like the VGGs, and their losses."""

import math
from fractions import Fraction

import pytest
import torch
from conftest import assert_one_line_error, run_program
from torch import nn

from deploy.complexity import measure_cost
from models.build import build_network
from models.counter import load_counter
from models.distillation import TERMS, Criterion, count_error, density_loss
from models.mobile import fill_imagenet
from models.mobilenet import build_blocks
from models.taps import Adapters, ask_live, match_taps, tap_channels
from training.recipes import student_recipe
from utils.checkpoint import read_checkpoint, save_checkpoint

MOBILES = ("mobile_s", "mobile_l")


@pytest.mark.parametrize(
    ("arch", "parameters", "macs"), [("mobile_s", 563_297, 2.18e9), ("mobile_l", 1_863_393, 2.89e9)]
)
def test_size_and_cost(arch, parameters, macs):
    cost = measure_cost(build_network(arch), (576, 864))
    assert cost.parameters == parameters
    assert cost.macs == pytest.approx(macs, rel=0.005)


@pytest.mark.parametrize("arch", MOBILES)
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

    theirs, ours = mobilenet_v2(width_mult=float(width)).features[:18], build_blocks(width)
    ours = nn.Sequential(*ours)
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
    for more in (["--epochs", 1, "--no-cosine"], ["--epochs", 2, "--no-cosine", "--resume"]):
        result = run_program("SKT_distill.py", *crowd_lists, *options, *more)
        assert result.returncode == 0, result.stderr
    model = read_checkpoint(tmp_path / "run/last.pth")["model"]
    assert torch.equal(model["trunk.block3.conv.0.0.weight"], features["3.conv.0.0.weight"])
    assert not torch.equal(model["trunk.block3.conv.0.1.running_mean"], torch.zeros(144))
    result = run_program("SKT_distill.py", *crowd_lists, *options, "--epochs", 2, "--resume")
    assert_one_line_error(result, "was trained with")


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
    assert (recipe["init"], recipe["batch_size"], recipe["cosine"]) == ("imagenet", 8, True)
    assert recipe["hard"] == "bayesian"
