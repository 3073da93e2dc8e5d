"""The paper's losses, against their definitions."""

import weakref
from itertools import combinations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from datasets.transforms import LEAST_SIDE
from models import comparison
from models.build import build_network
from models.comparison import (
    INTRA_DISTANCES,
    inter_layer_loss,
    normalise_groups,
    pool_sides,
    relation_groups,
)
from models.csrnet import CSRNET_TAPS, CSRNet
from models.distillation import distillation_terms, intra_layer_loss, squared_error
from models.taps import Adapters, FeatureReader, Tap, tap_channels

TERMS = ("hard", "soft", "intra", "inter")
GROUP_CHANNELS = (3, 4, 5)


def total(predicted: torch.Tensor, _: object) -> torch.Tensor:
    """A hard loss without ground truth."""
    return predicted.sum()


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


def same_adapters(features: list[torch.Tensor]) -> list[nn.Conv2d]:
    """1x1 convolutions that change nothing; the ReLU after them does."""
    adapters = []
    for feature in features:
        channels = feature.shape[1]
        adapter = nn.Conv2d(channels, channels, 1).to(feature.dtype)
        nn.init.dirac_(adapter.weight)
        nn.init.zeros_(adapter.bias)
        adapters.append(adapter)
    return adapters


def intra_of_adapted(
    student: list[torch.Tensor], teacher: list[torch.Tensor], distance: str = "cos"
) -> torch.Tensor:
    """L_intra of features that need no adapter and are not negative."""
    pools = [1] * len(student)
    return intra_layer_loss(student, teacher, same_adapters(student), pools, distance)[0]


def by_definition(
    distance: str, student: torch.Tensor, teacher: torch.Tensor, adapter: nn.Conv2d, pool: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the result of `compare` by the paper's definition, on whole maps."""
    adapted = F.relu(adapter(student))
    distances = {
        "cos": lambda: 1 - F.cosine_similarity(adapted, teacher, dim=1),
        "l2": lambda: (adapted - teacher).square().mean(1),
    }
    return distances[distance]().sum() / len(student), F.max_pool2d(adapted, pool, ceil_mode=True)


@pytest.mark.parametrize("distance", INTRA_DISTANCES)
@pytest.mark.parametrize("pool", [1, 2, 8])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("entries", [1, 1200, 2**20])  # rows at a time, an image, all
@pytest.mark.parametrize(
    ("batch", "dtype", "tolerance"), [(1, torch.float64, 1e-12), (3, torch.float32, 2e-5)]
)
def test_comparison_and_gradients_are_those_of_the_definition(
    monkeypatch, distance, pool, layout, entries, batch, dtype, tolerance
):
    monkeypatch.setattr(comparison, "CPU_ENTRIES", entries)
    torch.manual_seed(0)
    student = torch.randn(batch, 3, 11, 19, dtype=dtype).relu()
    student[0, :, :9] = 0  # with a negative bias below, whole squares without direction
    teacher = torch.randn(batch, 5, 11, 19, dtype=dtype).relu()
    teacher[:, :, 7:, :9] = 0
    student = student.contiguous(memory_format=layout).requires_grad_()
    teacher = teacher.contiguous(memory_format=layout)
    adapter = nn.Conv2d(3, 5, 1).to(dtype)
    nn.init.constant_(adapter.bias, -0.1)
    inputs = [student, *adapter.parameters()]

    def results(compare_by):
        loss, pooled = compare_by(student, teacher, adapter)
        gradients = torch.autograd.grad(2 * loss + pooled.square().sum(), inputs)
        return [loss, pooled, *gradients]

    found = results(lambda *x: comparison.compare(*x, INTRA_DISTANCES[distance], pool))
    expected = results(lambda *x: by_definition(distance, *x, pool))
    for one, other in zip(found, expected, strict=True):
        assert torch.isfinite(one).all()
        # Sums of up to 627 positions: float32 rounds each to 6e-8 of values around 1.
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * len(inputs))


def test_nothing_as_large_as_an_adapted_full_resolution_feature_is_kept():
    torch.manual_seed(0)
    teacher, student = CSRNet(1 / 4).eval().requires_grad_(False), CSRNet(1 / 16)
    adapters = Adapters(CSRNET_TAPS, tap_channels(student), tap_channels(teacher))
    images = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        taught = FeatureReader(teacher, CSRNET_TAPS)(images)
    predicted, features = FeatureReader(student, CSRNET_TAPS)(images)
    theirs = {f.untyped_storage().data_ptr() for f in [*taught[1], *features]}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        distillation_terms(
            TERMS, (predicted, features), taught, list(adapters.values()), total, CSRNET_TAPS
        )
    kept_bytes = [storage.nbytes() for at, storage in kept.items() if at not in theirs]
    adapted = sum(feature.nbytes for feature in taught[1])
    assert max(kept_bytes) < taught[1][0].nbytes / 3
    assert sum(kept_bytes) < adapted  # all six taps' maps, positions and relations together


def test_losses_are_float32_under_autocast_and_near_those_without():
    torch.manual_seed(0)
    teacher, student = CSRNet(1 / 4).eval().requires_grad_(False), CSRNet(1 / 8)
    adapters = Adapters(CSRNET_TAPS, tap_channels(student), tap_channels(teacher))
    trained = [*student.parameters(), *adapters.parameters()]
    for parameter in [*trained, *teacher.parameters()]:
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter)
    readers = [FeatureReader(network, CSRNET_TAPS) for network in (student, teacher)]
    images, density = torch.rand(2, 3, 64, 48), torch.rand(2, 1, 8, 6)

    def terms(enabled: bool) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            seen, taught = (reader(images) for reader in readers)
            losses = distillation_terms(
                TERMS,
                seen,
                taught,
                list(adapters.values()),
                lambda predicted, _: squared_error(predicted, density),
                CSRNET_TAPS,
            )
        gradients = torch.autograd.grad(sum(losses.values()), trained)
        return losses, torch.cat([g.flatten() for g in gradients])

    (reduced, its_gradient), (full, gradient) = terms(True), terms(False)
    for name in TERMS:
        assert reduced[name].dtype == torch.float32
        # bfloat16 rounds every layer's result to 4e-3.
        torch.testing.assert_close(reduced[name], full[name], rtol=0.05, atol=0)
    assert F.cosine_similarity(its_gradient, gradient, dim=0) > 0.99


@pytest.mark.slow
def test_reading_and_comparing_compile_without_a_break():
    torch.manual_seed(0)
    teacher, student = CSRNet(1 / 8).eval().requires_grad_(False), CSRNet(1 / 16)
    adapters = Adapters(CSRNET_TAPS, tap_channels(student), tap_channels(teacher))
    readers = [FeatureReader(network, CSRNET_TAPS) for network in (student, teacher)]

    def loss(images: torch.Tensor) -> torch.Tensor:
        seen, taught = (reader(images) for reader in readers)
        terms = distillation_terms(TERMS, seen, taught, list(adapters.values()), total, CSRNET_TAPS)
        return sum(terms.values())

    images = torch.rand(1, 3, 32, 48)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    trained = [*student.parameters(), *adapters.parameters()]
    expected = torch.autograd.grad(loss(images), trained)
    for found, gradient in zip(
        torch.autograd.grad(compiled(images), trained), expected, strict=True
    ):
        torch.testing.assert_close(found, gradient)


def test_inter_layer_loss_is_the_sum_over_all_pairs_of_every_image():
    student, teacher = random_groups(0), random_groups(1)
    expected = 0.0
    for image in range(2):
        for i, j in combinations(range(len(GROUP_CHANNELS)), 2):
            s = relation_by_definition(student[i][image], student[j][image])
            t = relation_by_definition(teacher[i][image], teacher[j][image])
            expected += (s - t).square().sum() / 2  # mean over the batch of two
    torch.testing.assert_close(inter_layer_loss(student, teacher), expected)


@pytest.mark.parametrize("batch", [1, 2])
def test_gradients_of_the_inter_layer_loss_are_those_of_the_definition(batch):
    student, teacher = random_groups(0, batch), random_groups(1, batch)
    for group in student:
        group.requires_grad_()
    expected = sum(
        (relation_by_definition(s[0][i], s[1][i]) - relation_by_definition(t[0][i], t[1][i]))
        .square()
        .sum()
        / batch
        for s, t in zip(combinations(student, 2), combinations(teacher, 2), strict=True)
        for i in range(batch)
    )
    found = torch.autograd.grad(3 * inter_layer_loss(student, teacher), student)
    torch.testing.assert_close(found, torch.autograd.grad(3 * expected, student))


def test_relation_of_a_hand_computed_2x2_case():
    rising = torch.tensor([[[[-1.0, -1.0], [1.0, 1.0]]]])
    groups = [rising, torch.cat([rising, -rising, torch.zeros_like(rising)], 1)]
    stack = normalise_groups(groups)
    relation = stack[:, 1:] @ stack[:, :1].mT
    # Normalised to unit variance, the products are 1, -1 and, of the constant, 0.
    torch.testing.assert_close(relation, torch.tensor([[[1.0], [-1.0], [0.0]]]), atol=2e-5, rtol=0)


def test_intra_layer_loss_counts_angles_and_not_lengths():
    x = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 3, 4)
    y = torch.tensor([0.0, 5.0]).view(1, 2, 1, 1).expand(1, 2, 3, 4)
    assert intra_of_adapted([x], [7 * x]).item() == pytest.approx(0, abs=1e-5)
    assert intra_of_adapted([x], [y]).item() == pytest.approx(12)  # positions
    assert intra_of_adapted([x], [-x]).item() == pytest.approx(24)
    assert intra_of_adapted([x, x], [y, -x]).item() == pytest.approx(36)


@pytest.mark.parametrize("loss", [inter_layer_loss, intra_of_adapted])
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
    whole = pytest.approx(4 * 15, rel=1e-6)  # lengths are roots, and rounded
    assert intra_of_adapted([x], [y], "l2").item() == whole
    wide = [x.repeat(1, 8, 1, 1)], [y.repeat(1, 8, 1, 1)]
    assert intra_of_adapted(*wide, "l2").item() == whole


def test_squared_error_is_a_sum_over_positions_and_a_mean_over_images():
    zeros, ones = torch.zeros(4, 1, 3, 5), torch.ones(4, 1, 3, 5)
    assert squared_error(zeros, 2 * ones).item() == 60


@pytest.mark.parametrize(("arch", "stride"), [("csrnet", 8), ("bl", 16)])
@pytest.mark.parametrize("size", [(64, 96), (53, 75), (LEAST_SIDE, LEAST_SIDE), (57, 121)])
def test_groups_share_the_coarsest_grid_for_odd_sizes_too(arch, stride, size):
    network = build_network(arch, 1 / 8)
    density, features = FeatureReader(network, network.taps)(torch.rand(2, 3, *size))
    groups = relation_groups([density, *features], pool_sides(network.taps))
    assert len(groups) == 7
    assert {tuple(g.shape[2:]) for g in groups} == {tuple(-(-side // stride) for side in size)}
    pairs = list(combinations([g.double() for g in groups], 2))
    assert len(pairs) == 21
    expected = sum(
        relation_by_definition(first[i], second[i]).square().sum() / 2
        for first, second in pairs
        for i in range(2)
    )
    silent = [torch.zeros_like(g) for g in groups]  # relations of 0
    torch.testing.assert_close(inter_layer_loss(groups, silent), expected.float())


def test_coarser_taps_than_the_map_pool_the_map():
    taps = [Tap("a", 8), Tap("b", 16)]
    features = [torch.rand(1, 2, 5, 7), torch.rand(1, 2, 3, 4)]
    groups = relation_groups([torch.rand(1, 1, 5, 7), *features], pool_sides(taps))
    assert [tuple(g.shape[2:]) for g in groups] == [(3, 4)] * 3


def test_student_equal_to_teacher_has_no_loss():
    torch.manual_seed(0)
    network = CSRNet(1 / 8)
    seen = FeatureReader(network, network.taps)(torch.rand(2, 3, 48, 64))
    terms = distillation_terms(
        TERMS, seen, seen, same_adapters(seen[1]), lambda p, _: squared_error(p, p), CSRNET_TAPS
    )
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
    terms = distillation_terms(["soft"], seen, seen, [], total, CSRNET_TAPS)
    assert list(terms) == ["soft"]
    with pytest.raises(ValueError, match="unknown loss term 'sofd'; there are hard, soft"):
        distillation_terms(["sofd"], seen, seen, [], total, CSRNET_TAPS)


def test_gradients_reach_student_and_adapters_but_not_the_teacher():
    torch.manual_seed(0)
    teacher = CSRNet(1 / 4).eval().requires_grad_(False)
    student = CSRNet(1 / 8)
    adapters = Adapters(CSRNET_TAPS, tap_channels(student), tap_channels(teacher))
    images = torch.rand(1, 3, 48, 48)
    taught = FeatureReader(teacher, CSRNET_TAPS)(images)
    predicted, features = FeatureReader(student, CSRNET_TAPS)(images)
    terms = distillation_terms(
        ["inter", "intra"],
        (predicted, features),
        taught,
        list(adapters.values()),
        total,
        CSRNET_TAPS,
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
    seen = []
    network.backend.register_forward_hook(lambda *call: seen.append(weakref.ref(call[2])))
    network(torch.rand(1, 3, 32, 32))  # as a validation does between two epochs
    assert seen[0]() is None
    assert len(reader(torch.rand(1, 3, 32, 32))[1]) == 6
    reader.remove()
    network.backend._forward_hooks.clear()
    assert not any(module._forward_hooks for module in network.modules())
