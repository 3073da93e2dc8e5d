"""A toy architecture, loss term and data set, added from outside by one entry each."""

import json
import re
import sys
from fractions import Fraction
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import PROJECT, need_packages, run_program, write_shanghaitech
from torch import Tensor, nn
from torch.nn import functional as F

import export
import SKT_distill
import test
import train_teacher
from datasets.catalogue import DATASETS, Dataset
from datasets.points import BOX_RULES
from models.architecture import Architecture
from models.build import ARCHITECTURES
from models.counter import read_counter
from models.csrnet import ARCHITECTURE as CSRNET
from models.distillation import TERMS, Compared, Term
from models.taps import Tap
from preprocess.annotations import READERS
from preprocess.density import BORDERS, SIGMA_RULES
from preprocess.layouts import LAYOUTS
from preprocess.lists import Validation, make_lists
from preprocess.maps import make_maps
from report.release import release
from training.describe import describe
from training.recipes import student_recipe
from utils.checkpoint import read_checkpoint
from utils.version import VERSION

ALL = ",".join([*TERMS, "peak"])


class Toy(nn.Module):
    """Unlike VGG: strided and depthwise convolutions without biases, and batch normalisation."""

    stride, margin = 8, 64
    taps = (Tap("stem", 2), Tap("narrow", 4), Tap("deep", 8))

    def __init__(self, width: float | Fraction = 1):
        super().__init__()
        channels = max(2, round(16 * width))

        def block(source: int, groups: int = 1) -> nn.Sequential:
            convolution = nn.Conv2d(source, channels, 3, 2, 1, groups=groups, bias=False)
            return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU6())

        self.stem, self.narrow, self.deep = block(3), block(channels, channels), block(channels)
        self.head = nn.Conv2d(channels, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        return F.softplus(self.head(self.deep(self.narrow(self.stem(images)))))

    def forward_part(self, images: Tensor, corner: tuple[int, int], size: tuple[int, int]):
        return self(images)


def fill_stem(network: Toy, state: dict[str, Tensor]) -> None:
    network.stem.load_state_dict(state)


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Architecture(
        Toy,
        imagenet="none",
        fill_imagenet=fill_stem,
        recipe=CSRNET.recipe,
        fast_teacher={},
        demo_teacher={},
    )
    peak = Term(
        lambda seen: (seen.predicted.amax() - seen.batch["density"].amax()).square(),
        weight=0.25,
        options=("--lamb_peak",),
        meaning="the densest cell",
        taught=False,
        published=False,
    )
    monkeypatch.setitem(ARCHITECTURES, "toy", entry)
    monkeypatch.setitem(TERMS, "peak", peak)
    data = Dataset("toy", "data/toy", "shanghaitech", part="A", sigma="15", size=(64, 96))
    monkeypatch.setitem(DATASETS, "TOY", data)


@pytest.fixture
def lists(toys: None, tmp_path: Path) -> list[Path]:
    root = write_shanghaitech(tmp_path / "toy", {"train_data": [5, 2, 9, 4], "test_data": [4, 7]})
    make_maps(DATASETS["TOY"], ["train", "test"], "toy", root, None, False, workers=1)
    make_lists("TOY", root, None, root, Validation())
    return [root / f"toy_{split}.json" for split in ("train", "val", "test")]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch):
    def start(program, *arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", [program.__name__, *map(str, arguments)])
        program.main(program.parse_args())

    return start


def test_toys_are_trained_resumed_tested_and_exported(lists, start, teacher, tmp_path, capsys):
    need_packages(".onnx")
    options = ["--arch", "toy", "--dataset", "TOY", "--crop", "64x64", "--batch-size", 2, "--cpu"]
    options += ["--width", "1/2", "--workers", 0, "--crops-per-image", 1, "--ema", 0.9]
    distil = partial(start, SKT_distill, *lists, *options, "-tc", teacher, "--terms", ALL)
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    distil("--epochs", 2, "--out", whole)
    distil("--epochs", 1, "--out", halves)
    distil("--epochs", 2, "--out", halves, "--resume")

    record = json.loads((whole / "log.jsonl").read_text().splitlines()[0])
    assert record.keys() >= set(TERMS)
    one, other = (read_checkpoint(out / "last.pth") for out in (whole, halves))
    for part in ("model", "averaged", "adapters"):
        for name, tensor in one[part].items():
            torch.testing.assert_close(other[part][name], tensor, rtol=1e-4, atol=1e-7)
    assert list(one["adapters"]) == [
        f"{tap.name}.{kind}" for tap in Toy.taps for kind in ("weight", "bias")
    ]
    # The network was in training mode for its steps alone: validations left the statistics alone.
    assert one["model"]["stem.1.num_batches_tracked"] == one["progress"]["steps"] == 4
    assert one["averaged"]["stem.1.num_batches_tracked"] == 4
    assert not torch.equal(one["averaged"]["stem.1.running_mean"], torch.zeros(8))

    counter = read_counter(whole / "best_mae.pth")
    assert (counter.arch, counter.label) == ("toy", "1/2-Toy")
    result = json.loads((whole / "result.json").read_text())
    weights = tmp_path / "toy.safetensors"
    release([whole / "best_mae.pth"], weights)
    for checkpoint, rounded in (("best_mae.pth", 0), ("model.safetensors", 0), (weights, 1e-2)):
        start(test, lists[2], "-c", whole / checkpoint, "-d", "TOY", "--json", whole / "test.json",
              "--workers", 0, "--cpu")  # fmt: skip
        tested = json.loads((whole / "test.json").read_text())
        assert tested["mae"] == pytest.approx(result["test"]["mae"], rel=rounded or 1e-6)
        assert tested["size"] == [64, 96]
    start(export, whole / "model.safetensors", tmp_path / "toy.onnx", "--preprocess")
    assert "counts agree with PyTorch's" in capsys.readouterr().out


def test_a_toy_teacher_may_teach_the_published_students(lists, start, tmp_path):
    options = ["--dataset", "TOY", "--crop", "64x64", "--cpu", "--workers", 0, "--epochs", 1]
    start(train_teacher, *lists, *options, "--arch", "toy", "--init", "kaiming", "--width", "1/2",
          "--out", tmp_path / "teacher")  # fmt: skip
    taught = tmp_path / "teacher/model.safetensors"
    for arch in ("csrnet", "bl"):
        out = tmp_path / arch
        start(SKT_distill, *lists, *options, "--arch", arch, "--width", "1/16", "-tc", taught,
              "--teacher-cache", tmp_path / "answers", "--out", out)  # fmt: skip
        adapters = read_checkpoint(out / "last.pth")["adapters"]
        taps = [name.removesuffix(".weight") for name in adapters if "weight" in name]
        assert taps == ["pool1", "pool2", "pool3"]  # of strides 2, 4 and 8


def test_additions_change_no_published_default(toys, lists, start, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["SKT_distill.py", *map(str, lists), "-tc", "t.pth"])
    args = SKT_distill.parse_args()
    assert args.terms == ("hard", "soft", "intra", "inter")
    assert (args.arch, args.dataset, args.lamb_peak) == ("csrnet", "SHA", 0.25)
    assert describe("toy", "TOY") == {
        "prefix": "toy",
        "default_root": "data/toy",
        "short_side": "",
        "teacher_arch": "toy",
        "student_width": "1/4",
        "untaught": "hard count peak",
    }
    with pytest.raises(ValueError, match="arch must be one of csrnet, bl, .*, toy, got 'vgg'"):
        describe("vgg", "TOY")


def test_the_documented_additions_work(monkeypatch):
    page = (PROJECT / "docs/extending.md").read_text(encoding="utf-8")
    _, *blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {"TERMS": dict(TERMS), "Term": Term, "DATASETS": dict(DATASETS), "Dataset": Dataset}
    for block in blocks:
        exec(block, names)
    maps = torch.full((2, 1, 3, 4), 0.5), torch.full((2, 1, 3, 4), 0.25)
    seen = Compared(*maps, (), (), None, None, {})
    assert names["TERMS"]["total"].compute(seen) == 3
    assert names["DATASETS"]["STATION"].sigma in SIGMA_RULES
    assert names["DATASETS"]["STATION"].layout in LAYOUTS


@pytest.mark.parametrize("name", DATASETS)
def test_entries_of_data_sets_name_what_there_is(name):
    entry = DATASETS[name]
    assert entry.sigma in SIGMA_RULES and entry.original_border in BORDERS
    assert entry.layout in LAYOUTS and entry.layout in READERS
    assert entry.boxes in BOX_RULES
    for arch in ARCHITECTURES:
        assert student_recipe(arch, name).keys() >= student_recipe("csrnet", "SHA").keys()


def test_the_version_stands_in_one_place():
    citation = (PROJECT / "CITATION.cff").read_text(encoding="utf-8")
    changes = (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f'version: "{VERSION}"' in citation
    assert re.findall(r"^## \[(.+?)\]", changes, re.MULTILINE)[0] == VERSION
    for program in ("SKT_distill.py", "test.py", "predict.py"):
        assert run_program(program, "--version").stdout == f"SKT {VERSION}\n"


def test_a_file_that_names_an_unknown_architecture_is_refused(toys, monkeypatch, tmp_path):
    torch.save({"model": Toy().state_dict(), "arch": "toy", "width": "1"}, tmp_path / "toy.pth")
    assert read_counter(tmp_path / "toy.pth").arch == "toy"
    monkeypatch.delitem(ARCHITECTURES, "toy")
    with pytest.raises(ValueError, match=r"toy.pth: arch must be one of csrnet, bl, .*got 'toy'"):
        read_counter(tmp_path / "toy.pth")
