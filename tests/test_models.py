"""The networks: their sizes at every width, and how they begin."""

from fractions import Fraction

import pytest
import torch
from torch import nn

from deploy.complexity import measure_cost
from models.build import ARCHITECTURES, build_network, parse_width
from models.initial import init_kaiming, init_normal
from models.taps import FeatureReader, tap_channels
from models.vgg import convolutions, fill_imagenet, scale_plan, vgg_indices

QUARTER = Fraction(1, 4)
VGGS = ("csrnet", "bl")
COSTS = [  # exact parameters, and FLOPs to the last digit that the paper prints
    ("csrnet", 1, (576, 864), 16_263_489, 205.88),
    ("csrnet", QUARTER, (576, 864), 1_017_681, 13.09),
    ("bl", 1, (576, 864), 21_499_457, 205.32),
    ("bl", QUARTER, (576, 864), 1_345_169, 13.06),
    ("csrnet", 1, (2032, 2912), 16_263_489, 2447.91),
    ("csrnet", QUARTER, (2032, 2912), 1_017_681, 155.69),
    ("bl", 1, (2032, 2912), 21_499_457, 2441.23),
    ("bl", QUARTER, (2032, 2912), 1_345_169, 155.30),
]


@pytest.mark.parametrize(("arch", "width", "size", "parameters", "flops"), COSTS)
def test_cost_is_the_papers(arch, width, size, parameters, flops):
    cost = measure_cost(build_network(arch, width), size)
    assert cost.parameters == parameters
    assert round(cost.flops / 1e9, 2) == flops
    assert cost.macs < cost.flops


@pytest.mark.parametrize("relu", [nn.ReLU, nn.ReLU6])
def test_every_relu_output_counts_one(relu):
    network = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), relu(), relu(inplace=True))
    cost = measure_cost(network, (5, 7))
    assert cost.macs == 3 * 4 * 35 and cost.flops == cost.macs + 2 * 4 * 35


@pytest.mark.parametrize(
    ("width", "channels"),
    [
        ("1/2", [32, 64, 128, 256]),
        ("1/3", [21, 43, 85, 171]),
        ("1/4", [16, 32, 64, 128]),
        ("1/5", [13, 26, 51, 102]),
    ],
)
def test_widths_round_as_published(width, channels):
    assert scale_plan((64, 128, 256, 512), parse_width(width)) == channels


@pytest.mark.parametrize("text", ["0", "-1", "2", "1/0", "wide", "nan", "inf", "", "1e-99999999"])
def test_a_width_out_of_range_is_refused(text):
    with pytest.raises(ValueError, match="width must be a number in"):
        parse_width(text)
    with pytest.raises(ValueError, match="width must be in"):
        build_network("csrnet", 1.5)
    with pytest.raises(ValueError, match="of csrnet, bl, mobile_s, mobile_l, lite_s, got 'vgg'"):
        build_network("vgg")


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("size", [(64, 96), (57, 75), (17, 130), (1, 1), (40, 33)])
def test_the_map_has_the_stride_8_grid_in_every_mode(arch, size):
    network = build_network(arch, 1 / 8)
    for mode in (True, False):
        density = network.train(mode)(torch.rand(2, 3, *size))
        assert density.shape == (2, 1, -(-size[0] // 8), -(-size[1] // 8))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_an_image_counts_the_same_alone_and_in_a_batch(arch):
    torch.manual_seed(0)
    network = build_network(arch, 1 / 4).eval()
    images = torch.rand(3, 3, 50, 66)
    together = network(images)
    for image, density in zip(images, together, strict=True):
        # The convolutions of one and of three images add in another order.
        torch.testing.assert_close(network(image[None])[0], density, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("size", [(64, 96), (53, 75)])
def test_teacher_and_student_taps_match_in_everything_but_channels(arch, size):
    sizes = []
    for width in (1 / 2, 1 / 8):
        network = build_network(arch, width)
        _, features = FeatureReader(network.eval(), network.taps)(torch.rand(1, 3, *size))
        sizes.append([feature.shape[2:] for feature in features])
        strides = [tap.stride for tap in network.taps]
        assert sizes[-1] == [torch.Size(-(-s // stride) for s in size) for stride in strides]
    assert sizes[0] == sizes[1]
    assert len(set(tap.name for tap in network.taps)) == len(tap_channels(network)) >= 5


def test_bl_counts_are_never_negative():
    torch.manual_seed(0)
    network = build_network("bl", 1 / 8)
    assert (network(torch.randn(1, 3, 64, 64)) >= 0).all()


@pytest.mark.parametrize("arch", VGGS)
def test_beginnings_have_their_deviation(arch):
    network = build_network(arch, 1 / 2)
    init_normal(network)
    for convolution in convolutions(network).values():
        assert convolution.bias.abs().max() == 0
        if convolution.weight.numel() > 10_000:
            assert convolution.weight.std().item() == pytest.approx(0.01, rel=0.05)
    init_kaiming(network)
    for convolution in convolutions(network).values():
        if convolution.weight.numel() > 10_000:
            fan_out = convolution.out_channels * 9
            expected = (2 / fan_out) ** 0.5
            assert convolution.weight.std().item() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("arch", VGGS)
def test_imagenet_fills_the_front_and_nothing_else(arch):
    network = build_network(arch)
    front = getattr(network, network.pretrained)
    vgg = {}
    for name, index in vgg_indices(front).items():
        layer = front.get_submodule(name)
        vgg[f"features.{index}.weight"] = torch.full_like(layer.weight, index)
        vgg[f"features.{index}.bias"] = torch.full_like(layer.bias, -index)
    vgg["classifier.0.weight"] = torch.zeros(1)
    behind = [c for n, c in convolutions(network).items() if not n.startswith(network.pretrained)]
    before = [c.weight.clone() for c in behind]
    fill_imagenet(network, vgg)
    for name, index in vgg_indices(front).items():
        assert (front.get_submodule(name).weight == index).all()
        assert (front.get_submodule(name).bias == -index).all()
    assert all((a.weight == b).all() for a, b in zip(behind, before, strict=True))

    del vgg["features.19.weight"]
    with pytest.raises(ValueError, match=r"features.19.weight must have the shape .* found none"):
        fill_imagenet(network, vgg)
