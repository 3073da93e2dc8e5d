"""What a training step receives: lists, crops, flips, padding, and one seed for all of it."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from datasets.crowd import CropSampler, CrowdDataset
from datasets.files import read_image
from datasets.loaders import build_evaluation_loader, build_training_loader
from datasets.points import BOX_RULES
from datasets.splits import (
    PART_A_VALIDATION,
    DataError,
    Sample,
    read_list,
    read_splits,
    write_list,
)
from datasets.transforms import (
    FixedCrop,
    ScaledCrop,
    parse_crop,
    resize_bicubic,
    sum_cells,
)
from utils.pixels import normalise

PART_A_BOXES = BOX_RULES["SHA"]


def write_sample(folder, name="a", size=(64, 96), points=((20, 30),), mode="RGB", **attributes):
    """Writes a dark picture with a bright dot under every point, and the map of these dots."""
    folder.mkdir(exist_ok=True)
    picture, density = np.zeros((*size, 3), np.uint8), np.zeros(size, np.float32)
    for x, y in points:
        picture[y, x] = 255
        density[y, x] = 1
    Image.fromarray(picture).convert(mode).save(
        folder / f"{name}.{'jpg' if mode == 'CMYK' else 'png'}"
    )
    with h5py.File(folder / f"{name}.h5", "w") as file:
        file["density"], file["points"] = density, np.float32(points).reshape(-1, 2)
        file["distances"] = np.full(len(points), 5, np.float32)
        file.attrs.update(attributes)
    return Sample(folder / f"{name}.{'jpg' if mode == 'CMYK' else 'png'}", folder / f"{name}.h5")


def cells_of_dots(crowd):
    """The cells of the map, and of the picture, in which a dot lies."""
    bright = (crowd["image"] == 255).all(0)
    image_cells = torch.nn.functional.max_pool2d(bright[None].float(), 8, ceil_mode=True)[0]
    return (crowd["density"][0] > 0.5).nonzero().tolist(), (image_cells > 0).nonzero().tolist()


@pytest.mark.parametrize("crop", [ScaledCrop(0.5, 1), FixedCrop(40, 40), FixedCrop(80, 112)])
def test_crop_and_flip_keep_a_bright_dot_under_its_head(tmp_path, crop):
    points = [(5, 5), (20, 30), (90, 60), (50, 33), (71, 12)]
    corners = replace(PART_A_BOXES, least=0.2)  # heads in a corner of the crop count, too
    dataset = CrowdDataset([write_sample(tmp_path, points=points)], crop, 0.5, corners)
    seen = 0
    for seed in range(100):
        item = dataset[0, (seed,)]
        in_map, in_image = cells_of_dots(item)
        assert in_map == in_image
        seen += len(in_map)
        assert item["side"] == 64 and item["targets"].tolist() == [1] * len(item["points"])
        dots = (item["image"] == 255).all(0).nonzero().flip(1) + 0.5  # x, y of their middles
        near = torch.cdist(dots.float(), item["points"]) < 1
        assert (near.sum(1) == 1).all()  # heads beside the crop have no dot, dots all have a head
    assert seen > 100


@pytest.mark.parametrize("share", [0, 0.2, 0.5, 1])
def test_flips_come_as_often_as_asked_for(tmp_path, share):
    sample = write_sample(tmp_path, points=[(0, 0)])
    dataset = CrowdDataset([sample], FixedCrop(64, 96), flip=share)
    flips = sum(dataset[0, (0, seed)]["density"][0, 0, -1].item() > 0 for seed in range(500))
    assert abs(flips - 500 * share) <= 4 * (500 * share * (1 - share)) ** 0.5  # four deviations


def test_small_images_are_padded_and_never_stretched(tmp_path):
    sample = write_sample(tmp_path, size=(20, 30), points=[(25, 10)])
    for flip, x in ((0, 25), (1, 5)):
        crowd = CrowdDataset([sample], FixedCrop(64, 64), flip, PART_A_BOXES)[0, (0, 0)]
        assert crowd["image"].shape == (3, 64, 64) and crowd["density"].shape == (1, 8, 8)
        assert crowd["density"].sum() == crowd["density"][0, 1, x // 8] == 1
        assert crowd["points"].tolist() == [[x, 10]]
        values = normalise(crowd["image"][None])[0]
        assert values[:, 20:].abs().max() < 0.01 and values[:, :, 30:].abs().max() < 0.01
        assert (values[:, :20, :30].abs() > 1).all()


def test_scaled_crops_keep_the_images_proportions():
    rng = np.random.default_rng(0)
    boxes = np.array([ScaledCrop(0.5, 1)(rng, (400, 800)) for _ in range(500)])
    top, left, height, width = boxes.T
    assert (np.abs(width - 2 * height) <= 1).all()
    assert 200 <= height.min() < 215 and 385 < height.max() <= 400
    assert (top + height <= 400).all() and (left + width <= 800).all()
    assert 280 < height.mean() < 320
    assert ScaledCrop(0.5, 0.5)(rng, (16, 10)) == (0, 0, 32, 32)  # padded, two cells at least


@pytest.mark.parametrize("size", [(64, 96), (61, 90), (8, 8), (1, 1)])
def test_shrinking_keeps_every_head(size):
    density = np.random.default_rng(0).random(size, np.float32)
    cells = sum_cells(density, 8)
    assert cells.shape == (-(-size[0] // 8), -(-size[1] // 8))
    assert cells.sum() == pytest.approx(density.sum(), rel=1e-5)
    assert cells[0, 0] == pytest.approx(density[:8, :8].sum(), rel=1e-5)


def test_original_maps_shrink_bicubically(tmp_path):
    points = [(20, 30), (70, 40)]
    plain = CrowdDataset([write_sample(tmp_path / "new", points=points, shrink="sum")])[0]
    original = CrowdDataset([write_sample(tmp_path / "old", points=points, shrink="bicubic")])[0]
    density = np.zeros((64, 96), np.float32)
    density[30, 20] = density[40, 70] = 1
    np.testing.assert_array_equal(original["density"][0], resize_bicubic(density, 8))
    assert plain["density"].sum() == 2 and original["density"].sum() != 2


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P"])
def test_every_colour_space_becomes_rgb(tmp_path, mode):
    crowd = CrowdDataset([write_sample(tmp_path, mode=mode)])[0]
    assert crowd["image"].shape == (3, 64, 96)
    assert read_image(tmp_path / f"a.{'jpg' if mode == 'CMYK' else 'png'}").dtype == np.uint8


def test_normalisation_is_imagenets():
    images = torch.tensor([255, 0, 51], dtype=torch.uint8).view(1, 3, 1, 1).repeat(2, 1, 4, 5)
    values = normalise(images)
    assert values.shape == images.shape and images.float().mean() == 102  # left as they were
    assert values.is_contiguous(memory_format=torch.channels_last)
    pixel = values[1, :, 3, 2]
    expected = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    np.testing.assert_allclose(pixel, expected, rtol=1e-5)


def test_heads_outside_the_image_do_not_count(tmp_path):
    sample = write_sample(tmp_path)
    with h5py.File(sample.density, "a") as file:
        del file["points"]
        file["points"] = np.float32([[20, 30], [-1, 2], [96, 2], [2, 64]])
    with pytest.raises(DataError, match="4 points have 1 distances"):
        CrowdDataset([sample])
    with h5py.File(sample.density, "a") as file:
        del file["distances"]
        file["distances"] = np.float32([5, 5, 5, 5])
    (crowd,) = CrowdDataset([sample], boxes=PART_A_BOXES)
    assert crowd["heads"] == 1 and crowd["points"].tolist() == [[20, 30]]


def test_an_epoch_passes_every_image_equally_and_another_order_each_time():
    sampler = CropSampler(images=5, crops_per_image=4, seed=1)
    first = list(sampler)
    assert len(first) == len(sampler) == 20
    assert sorted(image for image, _ in first) == sorted(list(range(5)) * 4)
    assert len({seed for _, seed in first}) == 20
    assert list(sampler) == first
    sampler.start = 7
    assert list(sampler) == first[7:] and len(sampler) == 13
    sampler.epoch, sampler.start = 1, 0
    assert [image for image, _ in sampler] != [image for image, _ in first]
    assert not {seed for _, seed in sampler} & {seed for _, seed in first}


def test_one_seed_fixes_a_run_whatever_the_workers(tmp_path):
    samples = [write_sample(tmp_path, name=str(i), points=[(i, i)]) for i in range(4)]

    def draw(seed: int, workers: int) -> list[dict]:
        crop = FixedCrop(32, 32)
        return list(build_training_loader(samples, crop, 0.5, PART_A_BOXES, 2, 3, seed, workers))

    reference = draw(0, 0)
    assert [len(batch["name"]) for batch in reference] == [3, 3, 2]
    for other in (draw(0, 0), draw(0, 1), draw(0, 2)):
        for batch, same in zip(reference, other, strict=True):
            assert batch["name"] == same["name"]
            for name in ("image", "density", "points", "targets", "side"):
                assert torch.equal(batch[name], same[name])
    assert [batch["name"] for batch in draw(1, 0)] != [batch["name"] for batch in reference]


def test_a_batch_fills_up_its_points_with_infinitely_far_ones(tmp_path):
    points = [[(5, 5), (40, 30), (90, 60)], [], [(50, 33)]]
    samples = [write_sample(tmp_path, name=str(i), points=p) for i, p in enumerate(points)]
    crop = FixedCrop(64, 96)
    (batch,) = build_training_loader(samples, crop, 0, PART_A_BOXES, 1, 3, 0, 0)
    assert batch["points"].shape == (3, 3, 2) and batch["targets"].shape == (3, 3)
    for name, found, targets in zip(batch["name"], batch["points"], batch["targets"], strict=True):
        expected = points[int(name[-5])]
        assert found[: len(expected)].tolist() == [list(point) for point in expected]
        assert found[len(expected) :].isinf().all()
        assert targets.tolist() == [1] * len(expected) + [0] * (3 - len(expected))
    (batch,) = build_training_loader(samples[1:2], crop, 0, PART_A_BOXES, 1, 1, 0, 0)
    assert batch["points"].shape == (1, 0, 2)  # nobody in all of it
    (batch,) = build_training_loader(samples, crop, 0, None, 1, 3, 0, 0)
    assert not {"points", "targets", "side"} & batch.keys()


def test_points_without_distances_serve_maps_and_not_the_bayesian_loss(tmp_path):
    sample = write_sample(tmp_path)
    with h5py.File(sample.density, "a") as file:
        del file["distances"]  # as older files have it
    assert CrowdDataset([sample])[0]["heads"] == 1
    with pytest.raises(DataError, match=r"a.h5 has points without distances.*GT generation"):
        CrowdDataset([sample], FixedCrop(32, 32), 0.5, PART_A_BOXES)


def test_an_evaluation_passes_whole_images_in_order(tmp_path):
    samples = [write_sample(tmp_path, name=str(i), size=(40 + i, 50)) for i in range(3)]
    batches = list(build_evaluation_loader(samples, workers=1))
    assert [batch["name"][0] for batch in batches] == [str(s.image) for s in samples]
    assert [tuple(batch["image"].shape) for batch in batches] == [
        (1, 3, 40 + i, 50) for i in range(3)
    ]


@pytest.mark.parametrize("text", ["0", "1:0.5", "0.5:1.5", "8x8", "64x", "wide", "-0.5", "nan"])
def test_crops_out_of_range_are_refused(text):
    with pytest.raises(ValueError, match="crop must be HEIGHTxWIDTH"):
        parse_crop(text)
    assert parse_crop("64x128") == FixedCrop(64, 128)
    assert parse_crop("0.5") == ScaledCrop(0.5, 0.5)
    assert parse_crop("0.5:1") == ScaledCrop(0.5, 1)


def test_crops_of_different_sizes_make_no_batch(tmp_path):
    with pytest.raises(DataError, match="--batch-size 2 needs crops of one size"):
        sample, crop = write_sample(tmp_path), ScaledCrop(0.5, 1)
        build_training_loader([sample], crop, 0.5, None, 1, 2, 0, 0)


def test_both_forms_of_lists_are_read(tmp_path):
    beside = write_sample(tmp_path / "images")
    away = write_sample(tmp_path / "elsewhere", name="b")
    moved = Sample(beside.image.with_name("c.png"), away.density)
    moved.image.write_bytes(beside.image.read_bytes())
    write_list(tmp_path / "list.json", [beside, moved])
    entries = json.loads((tmp_path / "list.json").read_text())
    assert [type(entry) for entry in entries] == [str, dict]
    assert read_list(tmp_path / "list.json") == [beside, moved]
    (tmp_path / "relative.json").write_text('["images/a.png"]')
    assert read_list(tmp_path / "relative.json") == [beside]


def test_a_list_leads_to_the_very_map_that_was_meant(tmp_path):
    image = write_sample(tmp_path / "images").image  # with a stale map beside it
    meant = write_sample(tmp_path / "ground_truth").density
    write_list(tmp_path / "list.json", [Sample(image, meant)])
    assert read_list(tmp_path / "list.json") == [Sample(image, meant)]


def test_bad_lists_are_refused_by_name(tmp_path):
    path = tmp_path / "list.json"
    with pytest.raises(DataError, match=r"list.json does not exist; .*make_json"):
        read_list(path)
    for text, reason in [
        ("[]", "at least one image"),
        ("{}", "at least one image"),
        ("[", "is not JSON"),
        ("[3]", "an entry must be"),
        ('[{"density": "a"}]', "an entry must be"),
        ('[{"image": 3}]', "an entry must be"),
        ('["no.jpg"]', "no.jpg does not exist"),
    ]:
        path.write_text(text)
        with pytest.raises(DataError, match=reason):
            read_list(path)
    sample = write_sample(tmp_path)
    sample.density.unlink()
    path.write_text('["a.png"]')
    with pytest.raises(DataError, match=r"a.png has no density map .*a.h5"):
        read_list(path)


def test_damaged_files_are_found_before_the_first_step(tmp_path):
    sample = write_sample(tmp_path)
    whole = sample.density.read_bytes()
    sample.density.write_bytes(whole[:1000])
    with pytest.raises(DataError, match="a.h5 is not a readable density map"):
        CrowdDataset([sample])
    sample.density.write_bytes(whole)
    with h5py.File(sample.density, "a") as file:
        del file["points"]
    with pytest.raises(DataError, match="a.h5 has no dataset 'points'"):
        CrowdDataset([sample])
    sample.density.write_bytes(whole)
    Image.new("RGB", (96, 65)).save(sample.image)
    with pytest.raises(DataError, match="density is 64x96, its image 65x96"):
        CrowdDataset([sample])
    sample.image.write_bytes(b"no picture")
    with pytest.raises(DataError, match="a.png is not a readable image"):
        CrowdDataset([sample])


def test_lists_may_share_validation_images_only_on_request(tmp_path):
    for name in "abc":
        write_sample(tmp_path, name=name)
    lists = {}
    for name in ("a", "ab", "b", "c"):
        lists[name] = tmp_path / f"{name}.json"
        lists[name].write_text(json.dumps([f"{letter}.png" for letter in name]))
    assert len(read_splits(lists["a"], lists["b"], lists["c"], train_on_val=False)[0]) == 1
    with pytest.raises(DataError, match=r"1 images .*training and the validation.*--train-on-val"):
        read_splits(lists["ab"], lists["b"], lists["c"], train_on_val=False)
    read_splits(lists["ab"], lists["b"], lists["c"], train_on_val=True)
    with pytest.raises(DataError, match="--train-on-val: no image of"):
        read_splits(lists["a"], lists["b"], lists["c"], train_on_val=True)
    with pytest.raises(DataError, match="training and the test"):
        read_splits(lists["ab"], lists["c"], lists["a"], train_on_val=True)


def test_part_a_validates_on_59_of_its_300_training_images():
    assert len(PART_A_VALIDATION) == 59
    assert min(PART_A_VALIDATION) == 3 and max(PART_A_VALIDATION) == 299
    assert sum(PART_A_VALIDATION) == 8193
