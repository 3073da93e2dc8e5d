"""Lists, images and heads: what is read, what counts, and what is refused by name."""

import json

import h5py
import numpy as np
import pytest
from pictures import write_sample
from PIL import Image

from datasets.crowd import CrowdDataset
from datasets.loaders import build_evaluation_loader
from datasets.pictures import read_image
from datasets.points import BOX_RULES
from datasets.splits import (
    PART_A_VALIDATION,
    DataError,
    Sample,
    read_list,
    read_splits,
    write_list,
)
from datasets.transforms import Augmentation, FixedCrop

PART_A_BOXES = BOX_RULES["SHA"]


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P"])
def test_every_colour_space_becomes_rgb(tmp_path, mode):
    crowd = CrowdDataset([write_sample(tmp_path, mode=mode)])[[0]]
    assert crowd["image"].shape == (1, 3, 64, 96)
    assert read_image(tmp_path / f"a.{'jpg' if mode == 'CMYK' else 'png'}").dtype == np.uint8


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
    crowd = CrowdDataset([sample], boxes=PART_A_BOXES)[[0]]
    assert crowd["heads"] == 1 and crowd["points"].tolist() == [[[20, 30]]]


def test_points_without_distances_serve_maps_and_not_the_bayesian_loss(tmp_path):
    sample = write_sample(tmp_path)
    with h5py.File(sample.density, "a") as file:
        del file["distances"]  # as older files have it
    assert CrowdDataset([sample])[[0]]["heads"] == 1
    with pytest.raises(DataError, match=r"a.h5 has points without distances.*GT generation"):
        CrowdDataset([sample], Augmentation(FixedCrop(32, 32), 0.5), PART_A_BOXES)


def test_an_evaluation_passes_whole_images_in_order(tmp_path):
    samples = [write_sample(tmp_path, name=str(i), size=(40 + i, 50)) for i in range(3)]
    batches = list(build_evaluation_loader(samples, workers=1))
    assert [batch["name"][0] for batch in batches] == [str(s.image) for s in samples]
    assert [tuple(batch["image"].shape) for batch in batches] == [
        (1, 3, 40 + i, 50) for i in range(3)
    ]


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
    with pytest.raises(DataError, match="is a folder; .*make_json.py makes lists"):
        read_list(tmp_path)
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
        file.attrs["shrink"] = "nearest"
    with pytest.raises(DataError, match="shrink must be one of sum, bicubic, got 'nearest'"):
        CrowdDataset([sample])
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
