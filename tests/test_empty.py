"""Pictures that show nobody: drawn by make_empty.py, learnt from with --empty."""

import re
from collections import Counter as Tally

import numpy as np
import pytest
import torch
from conftest import assert_one_line_error, run_program
from pictures import options, write_noise
from PIL import Image
from test_answers import build_teacher
from torch import nn

from datasets.crowd import CrowdDataset
from datasets.loaders import build_loaders
from datasets.sampler import CropSampler
from datasets.splits import DataError, read_empty
from datasets.transforms import Augmentation, FixedCrop
from models.distillation import Criterion, density_loss
from preprocess import make_empty
from preprocess.make_empty import KINDS, draw_empty
from preprocess.synthetic import draw_scene
from training.teaching import teach_crops

EMPTY = "preprocess/make_empty.py"


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A folder of four pictures that show nobody, one of them in a subfolder."""
    folder = tmp_path_factory.mktemp("empty")
    (folder / "sub").mkdir()
    for name in ("a.png", "b.JPG", "c.webp", "sub/d.png"):
        Image.new("RGB", (60, 50), "blue").save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.mark.parametrize("processes", [1, 2])
def test_every_batch_has_its_share_and_all_pictures_take_turns(processes):
    samplers = [
        CropSampler(10, 2, 8, 5, rank, processes, empty=3, empty_crops=2)
        for rank in range(processes)
    ]
    steps = [sum(parts, []) for parts in zip(*map(list, samplers), strict=True)]
    assert len(steps) == len(samplers[0]) == 4  # 20 crops, 6 of them a step
    assert [len(step) for step in steps] == [8, 8, 8, 4]
    shown = Tally(number for step in steps for number, _ in step)
    assert all(shown[number] == 2 for number in range(10))
    assert sorted(shown[number] for number in (10, 11, 12)) == [2, 3, 3]
    assert all(sum(number >= 10 for number, _ in step) == 2 for step in steps)
    assert len({seed for step in steps for _, seed in step}) == 28  # crops of their own
    for step in range(4):
        assert sum(s.share(step) for s in samplers) == pytest.approx(processes)


@pytest.mark.parametrize("truth", ["density", "bayesian"])
def test_crops_of_them_have_no_heads_and_are_marked(tmp_path, empty, truth):
    train = [write_noise(tmp_path, f"t{i}", (50, 60), heads=4) for i in range(3)]
    val, test = ([write_noise(tmp_path, name, (50, 60), heads=4)] for name in "vw")
    chosen = options(train, val, test, batch_size=4, empty=empty, empty_share=0.5)
    loader, *_ = build_loaders(chosen, [truth])
    assert loader.dataset.heads == [4, 4, 4]  # the mean count is that of crowds
    for batch in loader:
        assert batch["empty"].sum() == 2
        assert all(
            ("empty" in name) == e for name, e in zip(batch["name"], batch["empty"], strict=True)
        )
        truth_of = batch["density"] if truth == "density" else batch["targets"]
        assert truth_of[batch["empty"]].sum() == 0
        assert (batch["heads"] > 0).tolist() == (~batch["empty"]).tolist()


@pytest.mark.parametrize(("batch", "share", "shown"), [(8, 0.125, 1), (8, 0.25, 2), (2, 0.9, 1)])
def test_a_share_leaves_room_for_crowds(tmp_path, empty, batch, share, shown):
    train, val, test = ([write_noise(tmp_path, name, (50, 60), heads=4)] for name in "uvw")
    chosen = options(
        train, val, test, crops_per_image=9, batch_size=batch, empty=empty, empty_share=share
    )
    first = next(iter(build_loaders(chosen, ["density"])[0]))
    assert first["empty"].sum() == shown and len(first["empty"]) == batch


def test_the_teacher_is_not_believed_where_nobody_is():
    student = nn.Conv2d(3, 1, 8, 8)
    nn.init.zeros_(student.weight), nn.init.zeros_(student.bias)

    def ask(images, batch):
        return torch.ones(2, 1, 4, 4), []

    criterion = Criterion(["soft"], student, density_loss, ask)
    batch = {"image": torch.zeros(2, 3, 32, 32, dtype=torch.uint8)}
    believed = criterion(batch)["soft"].item()
    empty = criterion(batch | {"empty": torch.tensor([False, True])})["soft"].item()
    assert empty == pytest.approx(believed / 2) and believed > 0


def test_it_is_trained_with_and_resumed(crowd_lists, empty, tmp_path, teacher):
    run = ["--out", tmp_path / "run", "--crop", "64x64", "--batch-size", 2, "--workers", 0, "--cpu"]
    run += ["-tc", teacher, "--teacher-cache", tmp_path / "kept", "--empty", empty]
    for more in (["--epochs", 1], ["--epochs", 2, "--resume"]):
        result = run_program("SKT_distill.py", *crowd_lists, *run, *more)
        assert result.returncode == 0, result.stderr
    others = [*run[:-1], tmp_path, "--epochs", 3, "--resume"]
    result = run_program("SKT_distill.py", *crowd_lists, *others)
    assert_one_line_error(result, "was trained with empty")


def test_user_mistakes_with_them(crowd_lists, empty, tmp_path):
    (tmp_path / "bare").mkdir()

    def refuse(words, *given):
        run = ["--terms", "hard", "--crop", "32x32", "--out", tmp_path / "run", "--cpu", *given]
        assert_one_line_error(run_program("SKT_distill.py", *crowd_lists, *run), words)

    refuse("absent is not a folder", "--empty", tmp_path / "absent", "--batch-size", 4)
    refuse("bare holds no pictures", "--empty", tmp_path / "bare", "--batch-size", 4)
    refuse("needs a --batch-size of at least 2", "--empty", empty)
    refuse("--empty-share needs --empty", "--empty-share", 0.5)


def test_drawn_ones_are_of_all_kinds_and_the_same_again(tmp_path):
    drawn = [draw_empty(np.random.default_rng(i), (48, 64), i) for i in range(len(KINDS))]
    again = [draw_empty(np.random.default_rng(i), (48, 64), i) for i in range(len(KINDS))]
    for seed in range(4):
        assert len(draw_scene(np.random.default_rng(seed), (48, 64), most=0)[1]) == 0
    for image, same in zip(drawn, again, strict=True):
        assert image.shape == (48, 64, 3) and image.dtype == np.uint8
        assert np.array_equal(image, same)
    asked = ["--out", tmp_path / "new", "--pictures", 3, "--size", "48x64", "--workers", 1]
    result = run_program(EMPTY, *asked)
    assert re.search("new: 3 pictures that show nobody", result.stdout), result.stderr
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        f"empty_{i}.jpg" for i in (1, 2, 3)
    ]
    assert_one_line_error(run_program(EMPTY, *asked), "new is not empty; choose another --out")
    refused = run_program(EMPTY, "--out", tmp_path / "other", "--size", "48")
    assert_one_line_error(refused, "must be HEIGHTxWIDTH", "'48'")


def test_drawn_ones_are_all_there_or_none(call, tmp_path, monkeypatch):
    def fail(rng, size, number):
        if number == 2:
            raise OSError("the disk is full")
        return draw_empty(rng, size, number)

    monkeypatch.setattr(make_empty, "draw_empty", fail)
    asked = ["--out", tmp_path / "new", "--pictures", 3, "--size", "48x64", "--workers", 1]
    with pytest.raises(DataError, match="the disk is full"):
        call(make_empty, *asked)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    (tmp_path / "new").mkdir()  # an empty folder is none
    call(make_empty, *asked)
    assert len(list((tmp_path / "new").iterdir())) == 3


def test_no_teacher_is_asked_for_the_map_of_a_place_without_people(tmp_path, empty):
    crowd = write_noise(tmp_path, "crowd", (50, 60), heads=4)
    augmentation = Augmentation(FixedCrop(32, 40))
    dataset = CrowdDataset([crowd, *read_empty(empty)], augmentation, density=False)
    teacher = build_teacher("csrnet")
    whole = {"precision": torch.float32, "device": torch.device("cpu")}
    teach_crops(dataset, [teacher], False, tmp_path / "maps", **whole)
    assert len(list(tmp_path.glob("maps/*/*-map.safetensors"))) == 2  # crowd and blank
    batch = dataset[[(0, (0,)), (1, (0,))]]
    assert batch["taught"].shape == (2, 1, 4, 5)
    assert (batch["taught"] != 0).flatten(1).any(1).tolist() == [True, False]
