"""The Bayesian loss, against a transcription of its formula; and the heads that a crop holds."""

import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from datasets.points import BOX_RULES, BoxRule
from models.bayesian import MOST_ENTRIES, bayesian_loss, build_hard_loss, expected_counts

BACKGROUND, SIGMA, STRIDE = 0.1, 8.0, 8
HEADS = (5, 1, 0, 12)  # of the images of a batch


def loss_by_definition(density, points, targets, side):
    """The loss of one image, cell by cell and head by head, for any number of heads."""
    height, width = density.shape
    if len(points) == 0:
        return density.sum().abs()
    counts, nobody = [0.0] * len(points), 0.0
    for i in range(height):
        for j in range(width):
            x, y = STRIDE * j + STRIDE / 2, STRIDE * i + STRIDE / 2
            squares = [(x - zx) ** 2 + (y - zy) ** 2 for zx, zy in points.tolist()]
            away = (BACKGROUND * side) ** 2 / max(1e-5, min(squares))
            weights = [math.exp(-s / (2 * SIGMA**2)) for s in (*squares, away)]
            for n in range(len(points)):
                counts[n] = counts[n] + weights[n] / sum(weights) * density[i, j]
            nobody = nobody + weights[-1] / sum(weights) * density[i, j]
    return sum(abs(t - c) for t, c in zip(targets.tolist(), counts, strict=True)) + abs(nobody)


def random_batch(dtype=torch.float64, heads=HEADS, size=(6, 9)):
    """Maps, padded points and targets, and sides, as a loader gives them."""
    generator = torch.Generator().manual_seed(0)

    def rand(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64).to(dtype)

    points = torch.full((len(heads), max(heads), 2), torch.inf, dtype=dtype)
    targets = torch.zeros(len(heads), max(heads), dtype=dtype)
    for image, count in enumerate(heads):
        points[image, :count] = rand(count, 2) * STRIDE * torch.tensor(size[::-1])
        targets[image, :count] = rand(count)
    return rand(len(heads), 1, *size), points, targets, 300 + 400 * rand(len(heads))


def loss_of(batch):
    return bayesian_loss(*batch, background=BACKGROUND, sigma=SIGMA, stride=STRIDE)


def loss_and_gradient(batch, loss):
    density = batch[0].detach().clone().requires_grad_()
    value = loss((density, *batch[1:]))
    value.backward()
    return value.detach(), density.grad


def mean_by_definition(batch):
    density, points, targets, sides = batch
    losses = [
        loss_by_definition(density[i, 0], points[i, :count], targets[i, :count], sides[i].item())
        for i, count in enumerate(HEADS)
    ]
    return sum(losses) / len(losses)


def test_the_loss_and_its_gradient_are_the_formulas():
    batch = random_batch()
    expected, gradient = loss_and_gradient(batch, mean_by_definition)
    value, found = loss_and_gradient(batch, loss_of)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(found, gradient, rtol=0, atol=1e-10)
    single = [tensor.float() for tensor in batch]
    value, found = loss_and_gradient(single, loss_of)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.double(), gradient, rtol=0, atol=1e-5)


def test_the_gradient_is_the_losss(monkeypatch):
    density, *rest = random_batch()
    density.requires_grad_()
    for most in (MOST_ENTRIES, 200):  # all rows at once, and few at a time
        monkeypatch.setattr("models.bayesian.MOST_ENTRIES", most)
        assert torch.autograd.gradcheck(lambda d: loss_of((d, *rest)), density)


def test_a_batch_is_the_mean_of_its_images_in_any_order():
    batch = random_batch()
    singles = [
        loss_of([tensor[i : i + 1, :count] if tensor.ndim in (2, 3) else tensor[i : i + 1]
                 for tensor in batch])
        for i, count in enumerate(HEADS)
    ]  # fmt: skip
    torch.testing.assert_close(loss_of(batch), sum(singles) / len(singles))
    torch.testing.assert_close(loss_of([t.flip(0) for t in batch]), loss_of(batch))


def test_expected_counts_share_the_whole_map_out():
    density, points, _, sides = random_batch()
    counts = expected_counts(density, points, BACKGROUND * sides)
    torch.testing.assert_close(counts.sum(1), density.sum((1, 2, 3)))
    assert (counts >= 0).all()
    for image, heads in enumerate(HEADS):
        assert counts[image, heads:-1].abs().sum() == 0  # of the heads that are not there


def test_where_nobody_is_the_loss_is_the_absolute_count():
    density = torch.randn(3, 1, 4, 4)
    nobody = torch.full((3, 2, 2), torch.inf), torch.zeros(3, 2), torch.full((3,), 400.0)
    expected = density.sum((1, 2, 3)).abs().mean()
    torch.testing.assert_close(loss_of((density, *nobody)), expected)
    no_points = torch.zeros(3, 0, 2), torch.zeros(3, 0), torch.full((3,), 400.0)
    torch.testing.assert_close(loss_of((density, *no_points)), expected)


def test_a_head_on_a_cells_middle_has_that_cell():
    density, points = torch.zeros(1, 1, 8, 8), torch.tensor([[[20.0, 36.0]]])  # cell (4, 2)
    density[0, 0, 4, 2] = 1
    loss = loss_of((density, points, torch.ones(1, 1), torch.tensor([400.0])))
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_bfloat16_autocast_leaves_the_loss_in_float32():
    density, *rest = random_batch(torch.float32)
    expected = loss_of((density, *rest))
    with torch.autocast("cpu", torch.bfloat16):
        found = loss_of((density, *rest))
        rounded = loss_of((density.bfloat16(), *rest))
    assert found.dtype == rounded.dtype == torch.float32
    assert found == expected
    torch.testing.assert_close(rounded, expected, rtol=2e-3, atol=0)  # of rounding the map alone


class LargestTensor(TorchDispatchMode):
    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, (tuple, list)) else [output]:
            if isinstance(tensor, torch.Tensor):
                self.entries = max(self.entries, tensor.numel())
        return output


def test_memory_is_bounded_for_4000_heads_on_a_512_crop():
    density, points, targets, sides = random_batch(torch.float32, heads=(4000,), size=(64, 64))
    density.requires_grad_()
    with LargestTensor() as largest:
        loss_of((density, points, targets, sides)).backward()
    assert density.grad.abs().sum() > 0
    assert 0 < largest.entries <= MOST_ENTRIES  # a quarter of cells times heads


def test_the_hard_loss_is_chosen_by_name():
    density, points, targets, sides = random_batch()
    batch = {"density": density + 1, "points": points, "targets": targets, "side": sides}
    assert build_hard_loss("density", BACKGROUND, SIGMA)(density, batch).item() == 6 * 9
    found = build_hard_loss("bayesian", BACKGROUND, SIGMA)(density, batch)
    assert found == loss_of((density, points, targets, sides))
    with pytest.raises(ValueError, match="must be one of density, bayesian, got 'l2'"):
        build_hard_loss("l2", BACKGROUND, SIGMA)


CROP = (100, 200, 64, 80)  # top, left, height, width


def hold(rule: BoxRule, points, distance):
    points = np.float32(points).reshape(-1, 2)
    return rule(points, np.full(len(points), distance, np.float32), CROP)


def test_qnrf_counts_the_part_of_a_heads_box_in_the_crop():
    points = [[240, 130], [200, 100], [275, 130], [284, 130], [400, 130]]
    kept, targets = hold(BOX_RULES["QNRF"], points, distance=20)
    # inside; a corner of the crop, a quarter and so under 0.3; 3/4 across; 0.3 across; far away
    assert kept.tolist() == [[40, 30], [75, 30], [84, 30]]
    np.testing.assert_allclose(targets, [1, 0.75, 0.3])
    _, (least,) = hold(BOX_RULES["QNRF"], [[201, 132]], distance=0.1)  # a box of 4 pixels
    assert least == pytest.approx(0.75)
    _, (most,) = hold(BOX_RULES["QNRF"], [[240, 132]], distance=np.inf)  # a box of 128
    assert most == pytest.approx(64 * 80 / 128**2)


def test_part_a_counts_a_head_whole_where_half_its_box_is_inside():
    kept, targets = hold(BOX_RULES["SHA"], [[240, 130], [281, 130], [279, 130]], distance=25)
    assert kept.tolist() == [[40, 30], [79, 30]]  # boxes of 20 pixels
    assert targets.tolist() == [1, 1]
    assert len(hold(BOX_RULES["SHA"], [], distance=25)[0]) == 0
    kept, _ = hold(BOX_RULES["SHA"], [[299, 130]], distance=np.inf)  # a box of 40, 1 of it inside
    assert len(kept) == 0
