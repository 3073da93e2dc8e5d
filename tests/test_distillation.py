"""The paper's losses, against their definitions."""

from itertools import combinations

import pytest
import torch

from datasets.transforms import LEAST_SIDE
from models.build import build_network
from models.csrnet import CSRNET_TAPS, CSRNet
from models.distillation import (
    distillation_terms,
    inter_layer_loss,
    intra_layer_loss,
    relation_groups,
    relation_matrices,
    squared_error,
)
from models.taps import Adapters, FeatureReader, Tap, tap_channels

TERMS = ("hard", "soft", "intra", "inter")
GROUP_CHANNELS = (3, 4, 5)


def random_groups(seed: int, batch: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, c, 6, 7, generator=generator, dtype=torch.float64)
        for c in GROUP_CHANNELS
    ]


def relation_by_definition(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """(C, h, w) and (D, h, w) of one image give (C, D), spelt out."""

    def normalise(x: torch.Tensor) -> torch.Tensor:
        mean = x.mean((1, 2), keepdim=True)
        return (x - mean) / (x.var((1, 2), unbiased=False, keepdim=True) + 1e-5).sqrt()

    x, y = normalise(first).flatten(1), normalise(second).flatten(1)
    return x @ y.T / x.shape[1]


def test_inter_layer_loss_is_the_sum_over_all_pairs_of_every_image():
    student, teacher = random_groups(0), random_groups(1)
    expected = 0.0
    for image in range(2):
        for i, j in combinations(range(len(GROUP_CHANNELS)), 2):
            s = relation_by_definition(student[i][image], student[j][image])
            t = relation_by_definition(teacher[i][image], teacher[j][image])
            expected += (s - t).square().sum() / 2  # mean over the batch of two
    torch.testing.assert_close(inter_layer_loss(student, teacher), expected)


def test_relation_of_a_hand_computed_2x2_case():
    rising = torch.tensor([[[[-1.0, -1.0], [1.0, 1.0]]]])
    groups = [rising, torch.cat([rising, -rising, torch.zeros_like(rising)], 1)]
    (relation,) = relation_matrices(groups)
    # Normalised to unit variance, the products are 1, -1 and, of the constant, 0.
    torch.testing.assert_close(relation, torch.tensor([[[1.0], [-1.0], [0.0]]]), atol=2e-5, rtol=0)


def test_intra_layer_loss_counts_angles_and_not_lengths():
    x = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 3, 4)
    y = torch.tensor([0.0, 5.0]).view(1, 2, 1, 1).expand(1, 2, 3, 4)
    assert intra_layer_loss([x], [7 * x]).item() == pytest.approx(0, abs=1e-5)
    assert intra_layer_loss([x], [y]).item() == pytest.approx(12)  # positions
    assert intra_layer_loss([x], [-x]).item() == pytest.approx(24)
    assert intra_layer_loss([x, x], [y, -x]).item() == pytest.approx(36)


@pytest.mark.parametrize("loss", [inter_layer_loss, intra_layer_loss])
def test_a_batch_of_two_is_the_mean_of_its_singles_in_any_order(loss):
    student, teacher = random_groups(2), random_groups(3)
    singles = [
        loss([g[i : i + 1] for g in student], [g[i : i + 1] for g in teacher]) for i in (0, 1)
    ]
    torch.testing.assert_close(loss(student, teacher), sum(singles) / 2)
    turned = loss([g.flip(0) for g in student], [g.flip(0) for g in teacher])
    torch.testing.assert_close(loss(student, teacher), turned)


def test_l2_takes_the_lengths_too_and_no_part_of_how_wide_a_layer_is():
    x, y = torch.ones(1, 4, 3, 5), torch.full((1, 4, 3, 5), 3.0)
    assert intra_layer_loss([x], [y], "l2").item() == 4 * 15
    wide = [x.repeat(1, 8, 1, 1)], [y.repeat(1, 8, 1, 1)]
    assert intra_layer_loss(*wide, "l2").item() == 4 * 15


def test_squared_error_is_a_sum_over_positions_and_a_mean_over_images():
    zeros, ones = torch.zeros(4, 1, 3, 5), torch.ones(4, 1, 3, 5)
    assert squared_error(zeros, 2 * ones).item() == 60


@pytest.mark.parametrize(("arch", "stride"), [("csrnet", 8), ("bl", 16)])
@pytest.mark.parametrize("size", [(64, 96), (53, 75), (LEAST_SIDE, LEAST_SIDE), (57, 121)])
def test_groups_share_the_coarsest_grid_for_odd_sizes_too(arch, stride, size):
    network = build_network(arch, 1 / 8)
    density, features = FeatureReader(network, network.taps)(torch.rand(2, 3, *size))
    groups = relation_groups(features, density, network.taps)
    assert len(groups) == 7
    assert {tuple(g.shape[2:]) for g in groups} == {tuple(-(-side // stride) for side in size)}
    assert len(relation_matrices(groups)) == 6
    pairs = sum(m.shape[1] * m.shape[2] for m in relation_matrices(groups))
    channels = [g.shape[1] for g in groups]
    assert pairs == sum(a * b for a, b in combinations(channels, 2))  # 21 of them


def test_coarser_taps_than_the_map_pool_the_map():
    taps = [Tap("a", 8), Tap("b", 16)]
    features = [torch.rand(1, 2, 5, 7), torch.rand(1, 2, 3, 4)]
    groups = relation_groups(features, torch.rand(1, 1, 5, 7), taps)
    assert [tuple(g.shape[2:]) for g in groups] == [(3, 4)] * 3


def test_student_equal_to_teacher_has_no_loss():
    torch.manual_seed(0)
    network = CSRNet(1 / 8)
    seen = FeatureReader(network, network.taps)(torch.rand(2, 3, 48, 64))
    terms = distillation_terms(TERMS, seen, seen, lambda p: squared_error(p, p), CSRNET_TAPS)
    assert set(terms) == set(TERMS)
    positions = sum(f.shape[0] * f.shape[2] * f.shape[3] for f in seen[1])
    for name, term in terms.items():
        # float32 cosine similarities of equal vectors miss 1 by a rounding or two; dead
        # positions, all zero after ReLU, have similarity 0 by definition and are counted out.
        dead = sum((f.abs().sum(1) == 0).sum().item() for f in seen[1]) / 2
        allowed = dead + 2e-7 * positions if name == "intra" else 0
        assert term.item() <= allowed, name


def test_a_term_that_is_off_is_absent_and_an_unknown_one_refused():
    network = CSRNet(1 / 8)
    seen = FeatureReader(network, network.taps)(torch.rand(1, 3, 32, 32))
    terms = distillation_terms(["soft"], seen, seen, lambda p: p.sum(), CSRNET_TAPS)
    assert list(terms) == ["soft"]
    with pytest.raises(ValueError, match="unknown loss term 'sofd'; there are hard, soft"):
        distillation_terms(["sofd"], seen, seen, lambda p: p.sum(), CSRNET_TAPS)


def test_gradients_reach_student_and_adapters_but_not_the_teacher():
    torch.manual_seed(0)
    teacher = CSRNet(1 / 4).eval().requires_grad_(False)
    student = CSRNet(1 / 8)
    adapters = Adapters(CSRNET_TAPS, tap_channels(student), tap_channels(teacher))
    images = torch.rand(1, 3, 48, 48)
    taught = FeatureReader(teacher, CSRNET_TAPS)(images)
    predicted, features = FeatureReader(student, CSRNET_TAPS)(images)
    terms = distillation_terms(
        ["inter", "intra"], (predicted, adapters(features)), taught, lambda p: p.sum(), CSRNET_TAPS
    )
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in [*student.parameters(), *adapters.parameters()])
    assert all(p.grad is None for p in teacher.parameters())


def test_taps_name_layers_that_exist_with_their_stride():
    network = CSRNet(1 / 4)
    _, features = FeatureReader(network, CSRNET_TAPS)(torch.rand(1, 3, 64, 128))
    assert tap_channels(network) == [16, 16, 32, 64, 128, 64]
    for tap, feature in zip(CSRNET_TAPS, features, strict=True):
        assert tuple(feature.shape[2:]) == (64 // tap.stride, 128 // tap.stride), tap
    with pytest.raises(ValueError, match="no layer 'frontend.conv9_9'"):
        FeatureReader(network, [Tap("frontend.conv9_9", 1)])


def test_features_are_read_for_one_image_and_then_forgotten():
    network = CSRNet(1 / 8)
    reader = FeatureReader(network, CSRNET_TAPS)
    assert len(reader(torch.rand(1, 3, 32, 32))[1]) == 6
    network(torch.rand(1, 3, 32, 32))  # as a validation does between two epochs
    assert len(reader(torch.rand(1, 3, 32, 32))[1]) == 6
    assert not any(module._forward_hooks for module in network.modules())
