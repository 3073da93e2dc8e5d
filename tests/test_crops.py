"""Crops: what stays together when a picture, its map and its heads are cut, flipped, resized."""

from dataclasses import replace

import cv2
import h5py
import numpy as np
import pytest
import torch
from pictures import write_noise, write_picture, write_sample
from torch.nn import functional as F

from datasets.corruption import Corruption
from datasets.crowd import CrowdDataset
from datasets.cutting import MEAN_COLOUR, cut_maps, sum_cells
from datasets.pictures import read_image
from datasets.points import BOX_RULES
from datasets.transforms import Augmentation, Draw, FixedCrop, ScaledCrop, parse_crop
from utils.pixels import normalise

PART_A_BOXES = BOX_RULES["SHA"]


def cells_of_dots(crowd):
    """The cells of the map, and of the picture, in which a dot lies."""
    bright = (crowd["image"] == 255).all(1)
    image_cells = F.max_pool2d(bright.float(), 8, ceil_mode=True)[0]
    return (crowd["density"][0, 0] > 0.5).nonzero().tolist(), (image_cells > 0).nonzero().tolist()


@pytest.mark.parametrize("crop", [ScaledCrop(0.5, 1), FixedCrop(40, 40), FixedCrop(80, 112)])
def test_crop_and_flip_keep_a_bright_dot_under_its_head(tmp_path, crop):
    points = [(5, 5), (20, 30), (90, 60), (50, 33), (71, 12)]
    corners = replace(PART_A_BOXES, least=0.2)  # heads in a corner of the crop count, too
    sample = write_sample(tmp_path, points=points)
    dataset = CrowdDataset([sample], Augmentation(crop, flip=0.5), corners)
    seen = 0
    for seed in range(100):
        batch = dataset[[(0, (seed,))]]
        in_map, in_image = cells_of_dots(batch)
        assert in_map == in_image
        seen += len(in_map)
        assert batch["side"] == 64
        assert batch["targets"].tolist() == [[1] * batch["points"].shape[1]]
        dots = (batch["image"][0] == 255).all(0).nonzero().flip(1) + 0.5  # x, y of their middles
        near = torch.cdist(dots.float(), batch["points"][0]) < 1
        assert (near.sum(1) == 1).all()  # heads beside the crop have no dot, dots all have a head
    assert seen > 100


@pytest.mark.parametrize("crop", [ScaledCrop(0.4, 1), FixedCrop(64, 72), FixedCrop(240, 300)])
def test_scaling_keeps_a_bright_square_under_its_head(tmp_path, crop):
    picture = np.full((96, 128, 3), MEAN_COLOUR, np.uint8)  # as what lies beyond it
    picture[44:51, 60:67] = 255
    sample = write_picture(tmp_path, "a", picture, [(63, 47)])  # the middle pixel's corner
    dataset = CrowdDataset([sample], Augmentation(crop, 0.5, scale=(0.5, 2)), PART_A_BOXES)
    sides = []
    for seed in range(100):
        batch = dataset[[(0, (seed,))]]
        grey = batch["image"][0].float().mean(0) - picture[0, 0].mean()
        enlargement = batch["side"].item() / 96
        if grey.sum() < 0.97 * (255 - picture[0, 0].mean()) * (7 * enlargement) ** 2:
            continue  # the square is cut
        sides.append(enlargement)
        y, x = ((torch.arange(n) + 0.5) for n in grey.shape)
        spot = torch.stack([(grey.sum(0) * x).sum(), (grey.sum(1) * y).sum()]) / grey.sum()
        # The head is half a pixel of the picture off the square's middle; the rest is rounding.
        assert (spot - batch["points"][0, 0]).abs().max() < 0.5 * enlargement + 0.6
        density = batch["density"][0, 0]
        y, x = ((8 * torch.arange(n) + 4) for n in density.shape)
        place = torch.stack([(density.sum(0) * x).sum(), (density.sum(1) * y).sum()])
        assert (place - spot).abs().max() < 4.6  # half a cell, and rounding
    assert len(sides) > 20 and min(sides) < 0.7 and max(sides) > 1.4


@pytest.mark.parametrize("scale", [(0.5, 2), (0.25, 0.9), (1.1, 1.1)])
def test_scaling_keeps_every_head_of_a_whole_image(tmp_path, scale):
    sample = write_noise(tmp_path, "a", (61, 90), heads=50)
    dataset = CrowdDataset(
        [sample], Augmentation(FixedCrop(256, 256), 0.5, scale), replace(PART_A_BOXES, least=0)
    )
    for seed in range(20):
        batch = dataset[[(0, (seed,))]]
        assert batch["image"].shape == (1, 3, 256, 256)
        assert batch["density"].shape == (1, 1, 32, 32)
        assert batch["density"].sum().item() == pytest.approx(50, rel=1e-5)  # float32 cells
        assert (batch["density"] >= 0).all() and batch["targets"].sum() == 50
        x, y = batch["points"][0].T
        height, width = (batch["side"].item() * side / 61 for side in (61, 90))
        assert (x >= 0).all() and x.max() <= width + 1 and (y >= 0).all() and y.max() <= height + 1


def test_a_pixel_between_two_cells_is_shared():
    density = torch.zeros(16, 16)
    density[5, 5] = 1  # of a map stretched by 1.5: from 7.5 to 9, a third of it before pixel 8
    density[0, 15] = 3
    cells = cut_maps([density], [Draw((0, 0, 16, 16), (24, 24))], ["sum"])[0, 0]
    assert cells.shape == (3, 3)
    torch.testing.assert_close(
        cells[:2, :2], torch.tensor([[1 / 9, 2 / 9], [2 / 9, 4 / 9]]), rtol=0, atol=1e-7
    )
    assert cells[0, 2] == 3 and cells.sum() == pytest.approx(4)


def test_scales_are_log_uniform_and_boxes_follow():
    augmentation = Augmentation(FixedCrop(64, 96), scale=(0.5, 2))
    draws = [augmentation.draw((seed,), (400, 500)) for seed in range(1000)]
    logs = np.log2([draw.enlargement for draw in draws])
    assert -1 <= logs.min() < -0.98 and 0.98 < logs.max() <= 1
    assert abs(logs.mean()) < 4 * (1 / 3 / 1000) ** 0.5  # four deviations of a mean
    for draw in draws:
        top, left, height, width = draw.box
        assert draw.size == (64, 96) and top + height <= 400 and left + width <= 500
        assert abs(height - 64 / draw.enlargement) <= 0.5
        assert abs(width - 96 / draw.enlargement) <= 0.5
    draws = [
        replace(augmentation, crop=ScaledCrop(0.1, 0.5)).draw((seed,), (200, 300))
        for seed in range(300)
    ]
    for draw in draws:
        assert min(draw.size) >= 32
        for side, stretched in zip(draw.box[2:], draw.size, strict=True):
            assert abs(stretched - side * draw.enlargement) <= max(0.5, draw.enlargement)


def test_colour_changes_nothing_else_that_is_drawn():
    plain = Augmentation(FixedCrop(64, 96), 0.5, (0.5, 2))
    draws = [replace(plain, colour=0.4).draw((seed,), (100, 100)) for seed in range(300)]
    for seed, draw in enumerate(draws):
        assert replace(draw, colour=None) == plain.draw((seed,), (100, 100))
    factors = np.array([draw.colour for draw in draws])
    assert factors.shape == (300, 3)
    assert (factors.min(0) < 0.63).all() and (factors.max(0) > 1.37).all()
    assert factors.min() >= 0.6 and factors.max() <= 1.4


def test_corruption_changes_nothing_else_that_is_drawn():
    plain = Augmentation(FixedCrop(64, 96), 0.5, (0.5, 2), 0.3)
    draws = [replace(plain, corrupt=0.2).draw((seed,), (100, 100)) for seed in range(1000)]
    for seed, draw in enumerate(draws):
        assert replace(draw, corruption=None) == plain.draw((seed,), (100, 100))
    kinds = [
        (c.grey, c.blur is not None, c.noise is not None, c.quality is not None)
        for c in (draw.corruption for draw in draws)
    ]
    shares = np.mean(kinds, 0)
    assert (abs(shares - 0.2) < 4 * (0.2 * 0.8 / 1000) ** 0.5).all()  # four deviations
    assert 0 < (np.sum(kinds, 1) > 1).mean() < 0.3  # some crops have several


def test_each_corruption_does_what_it_says():
    image = torch.randint(60, 200, (3, 96, 128), dtype=torch.uint8)
    flat = torch.full_like(image, 128)
    same = Corruption(seed=5)
    assert torch.equal(same.apply(image), image)
    red = torch.zeros_like(image)
    red[0] = 255
    assert (Corruption(grey=True).apply(red) == 76).all()  # 0.299 of 255
    # White noise of deviation 1 keeps 1 / (2 sigma sqrt(pi)) of it under a Gaussian blur.
    blurred = Corruption(blur=1.5).apply(image).float()[:, 8:-8, 8:-8]
    assert blurred.std() / image.float().std() == pytest.approx(0.188, abs=0.02)
    noisy = Corruption(noise=10.0, seed=1).apply(flat).float()
    assert noisy.std() == pytest.approx(10, rel=0.02) and abs(noisy.mean() - 128) < 0.2
    assert torch.equal(Corruption(noise=10.0, seed=1).apply(flat).float(), noisy)
    compressed = Corruption(quality=30).apply(red).float()
    assert (compressed - red.float()).abs().max() <= 3  # red stays red
    assert not torch.equal(Corruption(quality=30).apply(image), image)


@pytest.mark.parametrize("share", [0, 0.2, 0.5, 1])
def test_flips_come_as_often_as_asked_for(tmp_path, share):
    sample = write_sample(tmp_path, points=[(0, 0)])
    dataset = CrowdDataset([sample], Augmentation(FixedCrop(64, 96), flip=share))
    batch = dataset[[(0, (0, seed)) for seed in range(500)]]
    flips = (batch["density"][:, 0, 0, -1] > 0).sum().item()
    assert abs(flips - 500 * share) <= 4 * (500 * share * (1 - share)) ** 0.5  # four deviations


def test_small_images_are_padded_and_never_stretched(tmp_path):
    sample = write_sample(tmp_path, size=(20, 30), points=[(25, 10)])
    for flip, x in ((0, 25), (1, 5)):
        dataset = CrowdDataset([sample], Augmentation(FixedCrop(64, 64), flip), PART_A_BOXES)
        crowd = dataset[[(0, (0, 0))]]
        assert crowd["image"].shape == (1, 3, 64, 64) and crowd["density"].shape == (1, 1, 8, 8)
        assert crowd["density"].sum() == crowd["density"][0, 0, 1, x // 8] == 1
        assert crowd["points"].tolist() == [[[x, 10]]]
        values = normalise(crowd["image"])[0]
        assert values[:, 20:].abs().max() < 0.01 and values[:, :, 30:].abs().max() < 0.01
        assert (values[:, :20, :30].abs() > 1).all()


def test_scaled_crops_keep_the_images_proportions():
    rng = np.random.default_rng(0)
    boxes = np.array([ScaledCrop(0.5, 1)(rng, (400, 800))[0] for _ in range(500)])
    top, left, height, width = boxes.T
    assert (np.abs(width - 2 * height) <= 1).all()
    assert 200 <= height.min() < 215 and 385 < height.max() <= 400
    assert (top + height <= 400).all() and (left + width <= 800).all()
    assert 280 < height.mean() < 320
    padded = ScaledCrop(0.5, 0.5)(rng, (16, 10))
    assert padded == ((0, 0, 32, 32), (32, 32))  # two cells at least


@pytest.mark.parametrize("size", [(64, 96), (61, 90), (8, 8), (1, 1)])
def test_shrinking_keeps_every_head(size):
    density = torch.from_numpy(np.random.default_rng(0).random((2, *size), np.float32))
    cells = sum_cells(density)
    assert cells.shape == (2, -(-size[0] // 8), -(-size[1] // 8))
    torch.testing.assert_close(cells.sum((1, 2)), density.sum((1, 2)))
    torch.testing.assert_close(cells[:, 0, 0], density[:, :8, :8].sum((1, 2)))
    torch.testing.assert_close(cells[:, -1, -1], density[:, (size[0] - 1) // 8 * 8 :][
        :, :, (size[1] - 1) // 8 * 8 :
    ].sum((1, 2)))  # fmt: skip


@pytest.mark.parametrize("size", [(64, 96), (61, 90), (200, 33)])
def test_original_maps_shrink_as_opencv_does_it(tmp_path, size):
    points = [(20, 30), (32, 40), (32, 41)]
    plain = write_sample(tmp_path / "new", size=size, points=points, shrink="sum")
    sample = write_sample(tmp_path / "old", size=size, points=points, shrink="bicubic")
    density = np.zeros(size, np.float32)
    for x, y in points:
        density[y, x] = 1
    grid = (-(-size[1] // 8), -(-size[0] // 8))
    expected = cv2.resize(density, grid, interpolation=cv2.INTER_CUBIC) * 64
    original = CrowdDataset([sample])[[0]]["density"]
    np.testing.assert_allclose(original[0, 0], expected, atol=2e-5)  # of 64, in float32
    assert CrowdDataset([plain])[[0]]["density"].sum() == 3 and original.sum() != 3
    mixed = CrowdDataset([plain, sample], Augmentation(FixedCrop(*size)))
    both = mixed[[(0, (0,)), (1, (0,))]]["density"]
    assert both[0].sum() == 3 and torch.equal(both[1], original[0])


@pytest.mark.parametrize("text", ["0", "1:0.5", "0.5:1.5", "8x8", "64x", "wide", "-0.5", "nan"])
def test_crops_out_of_range_are_refused(text):
    with pytest.raises(ValueError, match="crop must be HEIGHTxWIDTH"):
        parse_crop(text)
    assert parse_crop("64x128") == FixedCrop(64, 128)
    assert parse_crop("0.5") == ScaledCrop(0.5, 0.5)
    assert parse_crop("0.5:1") == ScaledCrop(0.5, 1)


@pytest.mark.parametrize("size", [(120, 150), (50, 200), (40, 30)])
def test_plain_crops_are_the_first_releases(tmp_path, size):
    """Draws, cuts and cells as they were written first, in NumPy: equal to the bit."""
    sample = write_noise(tmp_path, "a", size, heads=30)
    whole, heads = read_image(sample.image), np.random.default_rng(0).random(size, np.float32)
    with h5py.File(sample.density, "a") as file:
        file["density"][:] = heads
    dataset = CrowdDataset([sample], Augmentation(FixedCrop(48, 72), 0.3))
    for position in range(40):
        seed = (7, 3, position)
        rng = np.random.default_rng(seed)
        top, left = (int(rng.integers(max(0, s - c) + 1)) for s, c in zip(size, (48, 72)))  # noqa: B905
        mirror = -1 if rng.random() < 0.3 else 1
        image = np.full((48, 72, 3), (124, 116, 104), np.uint8)
        part = whole[top : top + 48, left : left + 72]
        image[: part.shape[0], : part.shape[1]] = part[:, ::mirror]
        density = np.zeros((48, 72), np.float32)
        density[: part.shape[0], : part.shape[1]] = heads[top : top + 48, left : left + 72][
            :, ::mirror
        ]
        batch = dataset[[(0, seed)]]
        np.testing.assert_array_equal(batch["image"][0].permute(1, 2, 0), image)
        cells = density.reshape(6, 8, 9, 8).sum((1, 3))
        np.testing.assert_array_equal(batch["density"][0, 0], cells)
        assert batch.keys() == {"image", "density", "heads", "name"}
