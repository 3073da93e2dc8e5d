"""Teachers that answer once: what crops bring along is what a live teacher would say."""

import re
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
from conftest import assert_one_line_error, run_program
from pictures import write_noise

from datasets.answers import Answers
from datasets.crowd import CrowdDataset
from datasets.cutting import sum_cells
from datasets.splits import DataError
from datasets.transforms import Augmentation, Draw, FixedCrop
from models.build import build_network
from models.counter import Counter
from models.distillation import TERMS, Criterion, density_loss
from models.initial import init_kaiming
from models.taps import Adapters, FeatureReader, ask_kept, ask_live, tap_channels
from training import teaching
from training.teaching import teach_crops
from utils.checkpoint import read_checkpoint
from utils.files import WriteError
from utils.pixels import normalise

CPU = torch.device("cpu")
ARCHS = ("csrnet", "bl")
SIZES = [(64, 96), (61, 90), (40, 32)]  # the last one is smaller than a crop
EIGHTH = Fraction(1, 8)


def build_teacher(arch: str, seed: int = 0) -> Counter:
    torch.manual_seed(seed)
    network = build_network(arch, EIGHTH)
    init_kaiming(network)
    network.eval().requires_grad_(False)
    return Counter(network, arch, EIGHTH, {})


def teach(folder, teachers, augmentation, features=True, sizes=SIZES, **options):
    """Returns crops of noise, for which the teachers' answers are kept."""
    samples = [write_noise(folder, str(i), size, 5) for i, size in enumerate(sizes)]
    crops = CrowdDataset(samples, augmentation)
    cache = folder / "cache"
    options = {"precision": torch.float32, "device": CPU} | options
    assert teach_crops(crops, teachers, features, cache, **options)
    return crops


def passes(monkeypatch):
    """Returns a list that records what teachers are asked from now on."""
    asked = []
    keep = Answers.keep
    monkeypatch.setattr(
        Answers, "keep", lambda self, *one: (asked.append(one[0]), keep(self, *one))
    )
    return asked


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("size", [(64, 96), (61, 90)])
def test_of_a_whole_picture_the_terms_are_the_live_teachers(tmp_path, arch, flip, size):
    teacher = build_teacher(arch)
    whole = Augmentation(FixedCrop(*size), flip)
    batch = teach(tmp_path, [teacher], whole, sizes=[size])[[(0, (1,))]]
    student = build_network(arch, Fraction(1, 16))
    adapters = Adapters(student.taps, tap_channels(student), tap_channels(teacher.network))
    for module in (student, adapters):
        init_kaiming(module)
    network = teacher.network
    live, kept = (
        Criterion(
            list(TERMS), student, density_loss, ask(network, network.taps), student.taps, adapters
        )(batch)
        for ask in (ask_live, ask_kept)
    )
    for name in ("hard", "soft"):  # maps are float32; layouts differ, and so the order of sums
        torch.testing.assert_close(kept[name], live[name], rtol=1e-5, atol=0)
    for name in ("intra", "inter"):  # of features with 8 bits, each off by 0.2 % on the mean
        torch.testing.assert_close(kept[name], live[name], rtol=1e-3, atol=0)


@pytest.mark.parametrize("arch", ARCHS)
def test_crops_bring_the_part_of_the_whole_answer_that_they_show(tmp_path, arch):
    teacher = build_teacher(arch)
    taps = [tap for tap in teacher.network.taps if tap.stride > 1]
    crops = teach(tmp_path, [teacher], Augmentation(FixedCrop(48, 64), 0.5))
    read = FeatureReader(teacher.network, taps)
    grid = max(tap.stride for tap in taps)
    indices = [(number, (seed,)) for number in range(3) for seed in range(4)]
    batch = crops[indices]
    corners, padded = set(), 0
    for i, (number, seed) in enumerate(indices):
        draw = crops._augmentation.draw(seed, SIZES[number])
        top, left = draw.corner(SIZES[number])
        assert top % grid == left % grid == 0
        corners.add((top, left, draw.flip))
        image = crops.image(number)
        density, features = read(normalise(image.flip(-1) if draw.flip else image))
        for stride, whole, crop in [
            (8, density, batch["taught"]),
            *zip((tap.stride for tap in taps), features, batch["features"], strict=True),
        ]:
            part = whole[0, :, top // stride :, left // stride :]
            part = part[:, : crop.shape[2], : crop.shape[3]]
            cut = crop[i, :, : part.shape[1], : part.shape[2]]
            torch.testing.assert_close(cut, part.to(crop.dtype), rtol=1e-6, atol=1e-6)
            padded += part.shape[1:] != crop.shape[2:]
        shown = image.flip(-1) if draw.flip else image
        shown = shown[0, :, top : top + 48, left : left + 64]
        assert torch.equal(batch["image"][i, :, : shown.shape[1], : shown.shape[2]], shown)
    assert len(corners) >= 4 and padded


def test_beyond_a_picture_stands_what_the_teacher_says_of_a_blank_one(tmp_path):
    teacher = build_teacher("csrnet")
    crops = teach(tmp_path, [teacher], Augmentation(FixedCrop(96, 320)), sizes=[(96, 64)])
    batch = crops[[(0, (1,))]]
    image = batch["image"]
    density, features = FeatureReader(teacher.network, teacher.network.taps)(normalise(image))
    far = 64 + teacher.network.margin  # beyond which the picture does not matter, nor the edge
    middle = (96 // 8 // 2, far // 8)
    features = [feature for feature in features if feature.shape[-1] < 320]
    for live, kept in [(density, batch["taught"]), *zip(features, batch["features"], strict=True)]:
        scale = live.shape[-1] / 40
        row, column = (int(place * scale) for place in middle)
        blank = kept[0, :, :, column].float()
        assert (blank == blank[:, :1]).all()
        if scale == 4:  # where zeros beyond the crop's own edges are not seen
            torch.testing.assert_close(blank[:, row], live[0, :, row, column], rtol=1e-2, atol=1e-3)


def test_maps_are_cut_anywhere_at_any_scale_and_keep_their_heads(tmp_path):
    teachers = [build_teacher("csrnet"), build_teacher("bl", 1)]
    augmentation = Augmentation(FixedCrop(32, 40), 0.5, scale=(0.5, 2.0))
    crops = teach(tmp_path, teachers, augmentation, features=False)
    assert crops[[(0, (1,))]]["features"] == []
    assert len({crops._augmentation.draw((i,), SIZES[0]).box[0] % 8 for i in range(20)}) > 4
    whole = [Draw((0, 0, 64, 96), size) for size in ((64, 96), (128, 192), (40, 56))]
    maps = [t.network(normalise(crops.image(0))) for t in teachers]
    for draw in whole:
        cut = crops._cut_answers([0], [draw])["taught"]
        assert tuple(cut.shape[2:]) == tuple(-(-side // 8) for side in draw.size)
        torch.testing.assert_close(cut.sum(), sum(m.sum() for m in maps) / 2, rtol=1e-4, atol=0)
    mean = sum(maps) / 2
    torch.testing.assert_close(crops._cut_answers([0], whole[:1])["taught"], mean)
    half = crops._cut_answers([0], [Draw((4, 0, 16, 96), (16, 96))])["taught"]  # half a cell down
    expected = (mean[:, :, :2] + mean[:, :, 1:3]) / 2
    torch.testing.assert_close(half, expected)


def test_cells_that_an_edge_cuts_are_as_large_as_what_is_left_of_them(tmp_path):
    size = (61, 90)
    answers = Answers(tmp_path, {})
    areas = sum_cells(torch.ones(1, *size))  # one head a pixel
    answers.keep(("even", False), areas[None], [])
    answers.keep(("blank", False), torch.full((1, 1, 1, 1), 32.0), [])  # half a head
    for box in [(0, 0, *size), (3, 5, 57, 61), (0, 32, 57, 58), (20, 40, 57, 61)]:
        top, left, height, width = box
        seen = torch.full((height, width), 0.5)
        seen[: size[0] - top, : size[1] - left] = 1
        cut = answers.cut_map(("even", False), size, Draw(box, (height, width)))
        torch.testing.assert_close(cut, sum_cells(seen[None])[0])
    enlarged = answers.cut_map(("even", False), size, Draw((3, 5, 50, 60), (85, 102)))
    torch.testing.assert_close(enlarged.sum(), torch.tensor(3000.0))


def test_answers_are_shared_and_go_on_where_they_were_interrupted(tmp_path, monkeypatch):
    teacher, other = build_teacher("csrnet"), build_teacher("csrnet", seed=1)
    both = Augmentation(FixedCrop(48, 64), 0.5)
    keep, asked = Answers.keep, []

    def interrupted(self, *one):
        asked.append(one[0])
        if len(asked) == 3:
            raise KeyboardInterrupt
        keep(self, *one)

    monkeypatch.setattr(Answers, "keep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        teach(tmp_path, [teacher], both)
    monkeypatch.setattr(Answers, "keep", keep)
    begun = passes(monkeypatch)
    teach(tmp_path, [teacher], both)
    assert len(begun) == 1 + 2 * 3 - 2  # a blank one, three pictures twice; two were there
    begun.clear()
    teach(tmp_path, [teacher], both)
    teach(tmp_path, [teacher], Augmentation(FixedCrop(32, 32)), features=False)
    assert begun == []  # nothing is asked again, for fewer terms neither
    teach(tmp_path, [teacher], both, sizes=[*SIZES, (50, 50)])
    assert len(begun) == 2  # the new picture
    begun.clear()
    teach(tmp_path, [other], both)
    teach(tmp_path, [teacher], both, precision=torch.bfloat16)
    assert len(begun) == 2 * 7  # another teacher, other numbers
    assert len(list((tmp_path / "cache").iterdir())) == 3
    assert not list((tmp_path / "cache").rglob(".*"))  # nothing half written


def test_a_damaged_answer_is_named(tmp_path):
    crops = teach(tmp_path, [build_teacher("csrnet")], Augmentation(FixedCrop(48, 64)))
    for path in (tmp_path / "cache").rglob("*-features.safetensors"):
        path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match="features.safetensors is missing or damaged"):
        crops[[(0, (1,))]]


def test_what_the_disk_cannot_hold_is_refused_with_the_numbers(tmp_path, monkeypatch, capsys):
    teacher, augmentation = build_teacher("csrnet"), Augmentation(FixedCrop(48, 64), 0.5)
    teach(tmp_path, [teacher], augmentation)
    assert "the teacher's answers are kept: " in capsys.readouterr().out
    files = [p.stat().st_size for p in (tmp_path / "cache").rglob("*.safetensors")]
    monkeypatch.setattr(teaching.shutil, "disk_usage", lambda _: type("Disk", (), {"free": 1000}))
    teach(tmp_path, [teacher], augmentation)  # all is there
    other = build_teacher("csrnet", seed=1)
    with pytest.raises(DataError) as refused:
        teach(tmp_path, [other], augmentation)
    (needed,) = re.findall(
        r"--teacher-cache needs (\S+) GB in .*, where 1e-06 are free", str(refused.value)
    )
    headers = 400 * len(files)
    assert 0 < sum(files) - 1e9 * float(needed) < headers + 0.01 * sum(files)
    with pytest.raises(AssertionError):
        teach(tmp_path, [other], augmentation, optional=True)
    assert "the teacher is asked at every step" in capsys.readouterr().out
    monkeypatch.undo()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WriteError, match="could not be written .No space left"):
        teach(tmp_path, [other], augmentation)


def test_a_memory_that_is_too_small_for_whole_pictures_asks_about_crops(
    tmp_path, monkeypatch, capsys
):
    def out_of_memory(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Answers, "keep", out_of_memory)
    teacher, augmentation = build_teacher("csrnet"), Augmentation(FixedCrop(48, 64))
    with pytest.raises(DataError, match="--teacher-cache: the memory is too small to ask"):
        teach(tmp_path, [teacher], augmentation)
    with pytest.raises(AssertionError):
        teach(tmp_path, [teacher], augmentation, optional=True)
    assert "it is asked about crops, at every step" in capsys.readouterr().out


FAST = ["--workers", 0, "--cpu", "--width", "1/16", "--crop", "32x48", "--batch-size", 2]


def distil(lists, teacher, out, *options):
    return run_program("SKT_distill.py", *lists, "-tc", teacher, "--out", out, *FAST, *options)


def test_a_distillation_from_kept_answers_resumes_to_the_bit(crowd_lists, teacher, tmp_path):
    cached = ["--teacher-cache", tmp_path / "cache", "--scale", "0.8:1.25"]
    for out, stages in (("whole", [2]), ("parts", [1, 2])):
        for epochs in stages:
            more = ["--resume"] if epochs > stages[0] else []
            result = distil(
                crowd_lists, teacher, tmp_path / out, *cached, "--epochs", epochs, *more
            )
            assert result.returncode == 0, result.stderr
            assert "--scale has no effect" in result.stdout
    whole, parts = (read_checkpoint(tmp_path / out / "last.pth") for out in ("whole", "parts"))
    for part in ("model", "adapters"):
        assert all(torch.equal(parts[part][name], t) for name, t in whole[part].items())
    assert (whole["settings"]["answers"], whole["settings"]["scale"]) == ("kept", "None")
    live = distil(crowd_lists, teacher, tmp_path / "parts", "--epochs", 3, "--resume")
    assert_one_line_error(live, "trained with answers kept, not live")


@pytest.mark.parametrize(("free", "answers"), [(0, "live"), (10**12, "kept")])
def test_a_resumed_run_is_taught_as_it_began(
    crowd_lists, teacher, tmp_path, monkeypatch, free, answers
):
    out, auto = tmp_path / "run", ["--teacher-cache", "auto"]
    for epochs, space, more in ((1, free, []), (2, 10**12 - free, ["--resume"])):
        disk = SimpleNamespace(free=space)
        monkeypatch.setattr(teaching.shutil, "disk_usage", lambda _, disk=disk: disk)
        result = distil(crowd_lists, teacher, out, *auto, "--epochs", epochs, *more)
        assert result.returncode == 0, result.stderr
        assert read_checkpoint(out / "last.pth")["settings"]["answers"] == answers
    assert bool(list(tmp_path.rglob("*-map.safetensors"))) == (answers == "kept")


def test_a_cache_without_a_teacher_is_refused(crowd_lists, tmp_path):
    options = ["--terms", "hard", "--teacher-cache", tmp_path, "--out", tmp_path / "alone"]
    result = run_program("SKT_distill.py", *crowd_lists, *FAST, *options)
    assert_one_line_error(result, "--teacher-cache has nothing to teach with --terms hard")
