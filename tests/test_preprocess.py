"""The commands that run once: density maps and lists, their layouts and their errors."""

import faulthandler
import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time

import h5py
import numpy as np
import pytest
import scipy.io
from conftest import assert_one_line_error, run_program, write_qnrf, write_shanghaitech
from PIL import Image

from datasets.splits import DataError, read_list
from preprocess import ShanghaiTech_GT_generation, UCF_GT_generation, check_dataset, checks, maps
from preprocess.annotations import (
    read_shanghaitech_points,
    read_ucf_points,
    write_shanghaitech_points,
)
from preprocess.formats import Annotation
from preprocess.processes import run_in_processes
from preprocess.rescaling import rescaled_size

GENERATE = "preprocess/ShanghaiTech_GT_generation.py"
GENERATE_UCF = "preprocess/UCF_GT_generation.py"
MAKE_JSON = "preprocess/make_json.py"
HEADS = {"train_data": [0, 1, 2, 3, 40], "test_data": [5, 6]}


@pytest.mark.parametrize(
    ("part", "gt_folder", "ending"),
    [
        ("part_A_final", "ground_truth", ".jpg"),
        ("part_A", "ground-truth", ".JPG"),
        ("part_B_final", "ground_truth", ".jpeg"),
        ("part_B", "ground-truth", ".jpg"),
    ],
)
def test_every_folder_spelling_gives_maps_and_lists(tmp_path, part, gt_folder, ending):
    root = write_shanghaitech(
        tmp_path / "data", HEADS, part=part, gt_folder=gt_folder, ending=ending
    )
    letter = part[5]
    result = run_program(GENERATE, "--root", root, "--part", letter, "--workers", 2)
    assert result.returncode == 0, result.stderr
    assert "5 density maps written" in result.stdout
    for split, counts in HEADS.items():
        for number, count in enumerate(counts, start=1):
            with h5py.File(root / part / split / gt_folder / f"IMG_{number}.h5") as file:
                assert file["density"].shape == (64, 96)
                assert file["density"].dtype == file["points"].dtype == np.float32
                assert file["density"][:].sum(dtype=float) == pytest.approx(count, abs=1e-4)
                assert file["points"].shape == (count, 2)
                assert file.attrs["border"] == "renormalise"
                assert file.attrs["sigma"] == ("0.1*(d1+d2+d3)" if letter == "A" else "15")
    result = run_program(MAKE_JSON, "--root", root, "--dataset", f"SH{letter}", "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    assert "published" in result.stdout and "missing" in result.stdout
    lists = [json.loads((tmp_path / f"{letter}_{s}.json").read_text()) for s in ("train", "val")]
    assert all(isinstance(entry, str) for entry in [*lists[0], *lists[1]])
    assert len(lists[0]) + len(lists[1]) == 5
    assert len(read_list(tmp_path / f"{letter}_test.json")) == 2


def test_a_root_may_be_the_part_itself(tmp_path):
    root = write_shanghaitech(tmp_path, HEADS)
    assert run_program(GENERATE, "--root", root / "part_A_final").returncode == 0


def test_maps_under_another_root_leave_the_data_set_alone(tmp_path):
    root = write_shanghaitech(tmp_path / "data", HEADS)
    before = sorted(root.rglob("*"))
    maps = tmp_path / "maps"
    assert run_program(GENERATE, "--root", root, "--out", maps).returncode == 0
    result = run_program(MAKE_JSON, "--root", root, "--gt-root", maps, "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    assert sorted(root.rglob("*")) == before
    samples = read_list(tmp_path / "A_test.json")
    assert samples[0].density == maps / "part_A_final/test_data/ground_truth/IMG_1.h5"


def test_maps_under_another_root_are_made_like_those_beside_the_annotations(tmp_path):
    root = write_shanghaitech(tmp_path / "data", HEADS)
    assert run_program(GENERATE, "--root", root, "--original").returncode == 0
    for out in (["--out", tmp_path / "maps"], ["--out", tmp_path / "others", "--no-original"]):
        result = run_program(GENERATE, "--root", root, *out)
        assert ("the maps stay the published code's" in result.stdout) == (len(out) == 2)


def test_what_is_up_to_date_is_skipped_and_what_is_not_is_made_again(tmp_path):
    root = write_shanghaitech(tmp_path, HEADS)
    folder = root / "part_A_final/train_data/ground_truth"
    assert "5 density maps written, 0 up to date" in run_program(GENERATE, "--root", root).stdout
    (folder / "IMG_1.h5").write_bytes(b"cut short")
    past, future = 1e9, time.time() + 1e6
    write_shanghaitech_points(folder / "GT_IMG_2.mat", np.array([[7, 7]]))
    os.utime(folder / "GT_IMG_2.mat", (past, past))  # older than its map, but other heads
    os.utime(folder / "GT_IMG_3.mat", (future, future))
    result = run_program(GENERATE, "--root", root)
    assert "2 density maps written, 3 up to date" in result.stdout
    with h5py.File(folder / "IMG_2.h5") as file:
        assert file["points"][:].tolist() == [[7, 7]]
    assert "5 density maps written" in run_program(GENERATE, "--root", root, "--original").stdout
    kept = run_program(GENERATE, "--root", root).stdout
    assert kept.startswith("the maps stay the published code's; --no-original makes ours\n")
    assert "0 density maps written, 5 up to date" in kept
    with h5py.File(folder / "IMG_1.h5", "a") as file:
        file.attrs["merge"] = [True, True]  # nobody's recipe; the next map's is taken
    assert "1 density maps written, 4 up to date" in run_program(GENERATE, "--root", root).stdout
    assert "5 density maps written" in run_program(GENERATE, "--root", root, "--no-original").stdout
    assert not list(root.rglob("*.tmp"))


def test_original_merges_loses_and_says_so(tmp_path):
    root = write_shanghaitech(tmp_path, {"train_data": [1], "test_data": [1]})
    points = np.array([[10.2, 10.2], [10.7, 10.7], [0, 0], [90, 60]])
    annotation = root / "part_A_final/train_data/ground_truth/GT_IMG_1.mat"
    write_shanghaitech_points(annotation, points)
    assert run_program(GENERATE, "--root", root, "--original").returncode == 0
    with h5py.File(annotation.with_name("IMG_1.h5")) as file:
        assert file["density"][:].sum() < 3  # two merged, one beyond the border in parts
        assert file["points"].shape == (4, 2)
        assert file.attrs["border"] == "constant" and file.attrs["shrink"] == "bicubic"


def test_qnrf_with_heads_outside_the_image(tmp_path):
    write_qnrf(tmp_path, "Train", [[[5, 5], [-3, 5], [200, 5], [9, 8]], [], [[1, 1]]])
    write_qnrf(tmp_path, "Test", [[[8, 8], [9, 9]]])
    for mode in ("train", "test"):
        result = run_program(GENERATE_UCF, "--root", tmp_path, "--mode", mode)
        assert result.returncode == 0, result.stderr
    with h5py.File(tmp_path / "Train/img_0001.h5") as file:
        assert file["density"][:].sum() == pytest.approx(2, abs=1e-5)
        assert file["points"].shape == (4, 2)
        np.testing.assert_array_equal(file["distances"], np.float32([5, np.nan, np.nan, 5]))
    with h5py.File(tmp_path / "Train/img_0003.h5") as file:
        assert file["distances"][:].tolist() == [np.inf]  # one head alone
    result = run_program(
        MAKE_JSON, "--root", tmp_path, "--dataset", "QNRF", "--out", tmp_path / "lists"
    )
    assert result.returncode == 0, result.stderr
    assert len(read_list(tmp_path / "lists/QNRF_train.json")) == 2


def test_maps_of_other_sizes_or_without_distances_are_brought_up_to_date(tmp_path):
    write_qnrf(tmp_path, "Train", [[[5, 5], [9, 8]]])
    path = tmp_path / "Train/img_0001.h5"
    for _ in range(2):
        result = run_program(GENERATE_UCF, "--root", tmp_path, "--mode", "train")
        assert "1 density maps written, 0 up to date" in result.stdout, result.stderr
        with h5py.File(path, "a") as file:
            del file["distances"]  # as older versions wrote it
    result = run_program(GENERATE_UCF, "--root", tmp_path, "--mode", "train")
    with h5py.File(path, "a") as file:
        del file["density"]
        file["density"] = np.zeros((7, 9), np.float32)  # of another rescaling
    result = run_program(GENERATE_UCF, "--root", tmp_path, "--mode", "train")
    assert "1 density maps written, 0 up to date" in result.stdout


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((300, 400), (512, 683)),
        ((512, 2048), (512, 2048)),
        ((2032, 2912), (2032, 2912)),
        ((5779, 3890), (3043, 2048)),
        ((100, 100), (512, 512)),
    ],
)
def test_the_short_side_comes_within_its_limits(size, expected):
    assert rescaled_size(size, (512, 2048)) == expected


def test_qnrf_rescaled_for_bl_is_a_data_set_of_its_own(tmp_path):
    root, out = tmp_path / "qnrf", tmp_path / "rescaled"
    heads = [[1000, 500], [1010, 500], [3889, 5778], [-5, 3]]
    write_qnrf(root, "Train", [heads], size=(5779, 3890))  # a real size of UCF-QNRF
    write_qnrf(root, "Train", [[[200, 150]], []], size=(300, 400))
    write_qnrf(root, "Test", [[[30, 30]]], size=(600, 520))
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    options = ["--root", root, "--short-side", "512:2048", "--out", out]
    result = run_program(GENERATE_UCF, *options)
    assert result.returncode == 0, result.stderr
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    with Image.open(out / "Train/img_0001.jpg") as image:
        assert image.size == (2048, 3043)
    scale = np.array([2048 / 3890, 3043 / 5779])
    points = read_ucf_points(out / "Train/img_0001_ann.mat")
    np.testing.assert_allclose(points, heads * scale, rtol=1e-5)
    with h5py.File(out / "Train/img_0001.h5") as file:
        assert file["density"].shape == (3043, 2048)
        assert file["density"][:].sum(dtype=float) == pytest.approx(3, abs=1e-4)
    test = "Test/img_0001.jpg"
    assert (out / test).read_bytes() == (root / test).read_bytes()  # not compressed again

    result = run_program(MAKE_JSON, "--root", out, "--dataset", "QNRF", "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    assert read_list(tmp_path / "QNRF_test.json")[0].image == out / test

    (out / "Train/.77.img_0002.jpg").write_bytes(b"of a writer that was killed")
    assert (
        run_program(MAKE_JSON, "--root", out, "--dataset", "QNRF", "--out", tmp_path).returncode
        == 0
    )
    (out / "Train/.77.img_0002.jpg").unlink()

    written = (out / "Train/img_0001.jpg").stat().st_mtime_ns
    mended = out / "Train/img_0002.jpg", out / "Train/img_0002_ann.mat"
    wanted = [path.read_bytes() for path in mended]
    mended[0].write_bytes(b"cut short")
    time.sleep(1)  # scipy's .mat files tell the second
    result = run_program(GENERATE_UCF, *options)
    assert "0 density maps written, 3 up to date" in result.stdout, result.stderr
    assert [path.read_bytes() for path in mended] == wanted
    assert (out / "Train/img_0001.jpg").stat().st_mtime_ns == written
    assert not list(out.rglob(".*"))

    write_qnrf(tmp_path / "fewer", "Train", [[[5, 5]]])
    write_qnrf(tmp_path / "fewer", "Test", [[[5, 5]]])
    result = run_program(GENERATE_UCF, "--root", tmp_path / "fewer", *options[2:])
    assert_one_line_error(result, "holds 2 images that --root does not", "Train/img_0002.jpg")


def test_mistakes_in_rescaling_end_in_one_line_and_lose_nothing(tmp_path):
    write_qnrf(tmp_path, "Train", [[[5, 5]]])
    write_qnrf(tmp_path, "Test", [[[5, 5]]])
    for options, word in (
        (["--short-side", "512:2048"], "--short-side needs --out"),
        (["--short-side", "512:2048", "--out", tmp_path], "another folder than --root"),
        (["--short-side", "2048:512", "--out", tmp_path / "out"], "LOW:HIGH in pixels"),
        (["--workers", 0], "at least 1"),
    ):
        result = run_program(GENERATE_UCF, "--root", tmp_path, *options)
        assert result.returncode == 2 and word in result.stderr.splitlines()[-1]
    options = ["--dataset", "SHA", "--root", tmp_path, "--short-side", "512:2048", "--out", "new"]
    result = run_program("preprocess/make_maps.py", *options)
    assert_one_line_error(result, "--short-side is for data sets in UCF-QNRF's layout alone")
    image = tmp_path / "Train/img_0001.jpg"
    image.write_bytes(image.read_bytes()[:-200])
    options = ["--root", tmp_path, "--short-side", "512:2048", "--out", tmp_path / "out"]
    result = run_program(GENERATE_UCF, *options)
    assert_one_line_error(result, "img_0001.jpg is not a readable image")
    assert [path.parent.name for path in (tmp_path / "out").rglob("*.jpg")] == ["Test"]


def test_part_a_validates_on_the_published_images(tmp_path):
    root = write_shanghaitech(tmp_path, {"train_data": [1] * 10, "test_data": [1]}, size=(16, 16))
    assert run_program(GENERATE, "--root", root).returncode == 0
    names = {}
    for option in ([], ["--train-on-val"]):
        assert run_program(MAKE_JSON, "--root", root, "--out", tmp_path, *option).returncode == 0
        for split in ("train", "val"):
            names[split] = {s.image.stem for s in read_list(tmp_path / f"A_{split}.json")}
        assert names["val"] == {"IMG_3", "IMG_8", "IMG_9"}
        assert len(names["train"]) == (10 if option else 7)
    result = run_program(MAKE_JSON, "--root", root, "--out", tmp_path, "--seed", 1)
    assert_one_line_error(result, "--seed chooses nothing", "has published validation images")


def test_a_validation_share_leaves_images_to_train_on(tmp_path):
    root = write_shanghaitech(tmp_path, {"train_data": [1] * 6, "test_data": [1]}, size=(16, 16))
    assert run_program(GENERATE, "--root", root).returncode == 0
    options = ["--dataset", "DEMO", "--out", tmp_path, "--val-share", 0.95]
    result = run_program(MAKE_JSON, "--root", root, *options)
    assert result.returncode == 0, result.stderr
    lists = [read_list(tmp_path / f"demo_{split}.json") for split in ("train", "val")]
    assert [len(samples) for samples in lists] == [1, 5]


def test_a_split_is_fixed_by_its_seed(tmp_path):
    root = write_shanghaitech(tmp_path, {"train_data": [1] * 20, "test_data": [1]}, size=(16, 16))
    assert run_program(GENERATE, "--root", root).returncode == 0
    lists = []
    for seed in (0, 0, 1):
        options = ["--dataset", "DEMO", "--root", root, "--out", tmp_path, "--seed", seed]
        assert run_program(MAKE_JSON, *options).returncode == 0
        lists.append((tmp_path / "demo_val.json").read_text())
    assert lists[0] == lists[1] != lists[2]
    assert len(json.loads(lists[0])) == 4


def test_user_mistakes_end_in_one_line(tmp_path):
    assert_one_line_error(run_program(GENERATE, "--root", tmp_path / "no"), str(tmp_path / "no"))
    assert_one_line_error(run_program(GENERATE, "--root", tmp_path), "part_A", "none")
    root = write_shanghaitech(tmp_path / "data", HEADS)
    assert_one_line_error(run_program(MAKE_JSON, "--root", root), "5 density maps are missing")
    train = root / "part_A_final/train_data"

    annotation = train / "ground_truth/GT_IMG_2.mat"
    kept = annotation.read_bytes()
    annotation.unlink()
    assert_one_line_error(run_program(GENERATE, "--root", root), "IMG_2.jpg has no annotation")
    scipy.io.savemat(annotation, {"other": 1})
    assert_one_line_error(run_program(GENERATE, "--root", root), "'image_info'", "found other")
    annotation.write_bytes(kept[:100])
    assert_one_line_error(run_program(GENERATE, "--root", root), "not a readable .mat")
    annotation.write_bytes(kept)

    image = train / "images/IMG_3.jpg"
    kept = image.read_bytes()
    image.write_bytes(kept[: len(kept) // 2])
    assert_one_line_error(run_program(GENERATE, "--root", root), "IMG_3.jpg", "truncated")
    image.write_bytes(kept)
    shutil.copy(annotation, annotation.with_name("GT_IMG_9.mat"))
    assert_one_line_error(run_program(GENERATE, "--root", root), "GT_IMG_9.mat has no image")
    assert not list(root.rglob("*.tmp"))


def test_points_survive_the_annotation_file(tmp_path):
    for points in ([], [[1.5, 2.25]], [[0, 0], [7, 3], [-2, 9]]):
        points = np.array(points, np.float32).reshape(-1, 2)
        write_shanghaitech_points(tmp_path / "GT_IMG_1.mat", points)
        np.testing.assert_array_equal(read_shanghaitech_points(tmp_path / "GT_IMG_1.mat"), points)
    scipy.io.savemat(tmp_path / "nan.mat", {"annPoints": np.array([[1, np.nan]])})
    with pytest.raises(DataError, match="not a finite number"):
        read_ucf_points(tmp_path / "nan.mat")


def run_main(command, monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["", *map(str, options), "--workers", "1"])
    command.main(command.parse_args())


def test_files_that_cannot_be_read_are_all_named_and_the_maps_of_others_made(
    tmp_path, monkeypatch, capsys
):
    root = write_shanghaitech(tmp_path, {"train_data": [1] * 5, "test_data": [1] * 2})
    train, test = (root / f"part_A_final/{split}_data" for split in ("train", "test"))
    (train / "ground_truth/GT_IMG_1.mat").write_bytes(b"damaged")
    (train / "images/IMG_2.jpg").write_bytes(b"damaged")
    (train / "ground_truth/GT_IMG_3.mat").unlink()
    os.mkfifo(train / "ground_truth/GT_IMG_3.mat")
    scipy.io.savemat(test / "ground_truth/GT_IMG_1.mat", {"image_info": np.ones((2, 2))})
    with pytest.raises(DataError) as error:
        run_main(ShanghaiTech_GT_generation, monkeypatch, "--root", root)
    words = ["GT_IMG_1.mat is not a readable", "IMG_2.jpg is not a readable image"]
    words += ["GT_IMG_3.mat is no regular file", "GT_IMG_1.mat: image_info is no struct"]
    for line, word in zip(str(error.value).splitlines(), words, strict=True):
        assert word in line
    printed = capsys.readouterr().out
    assert "train: 5 images, 2 heads; 2 density maps written, 0 up to date, 3 failed" in printed
    made = sorted(path.name for path in root.rglob("*.h5"))
    assert made == ["IMG_2.h5", "IMG_4.h5", "IMG_5.h5"]


def test_a_crash_of_the_reader_is_blamed_on_its_file(tmp_path, monkeypatch, capsys):
    if multiprocessing.get_start_method() != "fork":
        pytest.skip("the replaced reader reaches forked processes only")
    root = write_shanghaitech(tmp_path, {"train_data": [1] * 3, "test_data": [1]})

    def crash(path):  # as scipy does on some damaged files
        if path.name == "GT_IMG_2.mat":
            faulthandler.disable()  # pytest's, which would print a stack
            os.kill(os.getpid(), signal.SIGSEGV)
        return np.ones((1, 2), np.float32)

    monkeypatch.setitem(maps.READERS, "shanghaitech", crash)
    with pytest.raises(DataError, match=r"GT_IMG_2.mat, or .* IMG_2.jpg: .*\(SIGSEGV\)") as error:
        run_main(ShanghaiTech_GT_generation, monkeypatch, "--root", root)
    assert len(str(error.value).splitlines()) == 1 and len(list(root.rglob("*.h5"))) == 3
    monkeypatch.setattr(checks, "read_annotation", lambda path: Annotation(crash(path)))
    jobs, _ = check_dataset.find_jobs("SHA", root, None)
    outcomes = run_in_processes(checks.check_image, jobs[:2], 1, "", name=lambda job: job.pair)
    blamed = check_dataset.blame(jobs[1], outcomes[1])
    assert [defect.kind for defect in blamed.defects] == ["unreadable annotation"]


def test_a_map_that_is_in_use_is_left_alone(tmp_path, monkeypatch, capsys):
    root = write_shanghaitech(tmp_path, {"train_data": [1] * 2, "test_data": [1]})
    run_main(ShanghaiTech_GT_generation, monkeypatch, "--root", root)
    path = root / "part_A_final/train_data/ground_truth/IMG_1.h5"
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="IMG_1.h5 is open in another program"):
            run_main(ShanghaiTech_GT_generation, monkeypatch, "--root", root, "--original")
    assert "1 density maps written, 0 up to date, 1 failed" in capsys.readouterr().out


def test_rescaled_files_follow_content_and_not_the_clock(tmp_path, monkeypatch, capsys):
    root, out = tmp_path / "qnrf", tmp_path / "rescaled"
    write_qnrf(root, "Train", [[[5, 5]], [[6, 6]]])
    write_qnrf(root, "Test", [[[7, 7]]])
    options = ["--root", root, "--short-side", "35:35", "--out", out]
    run_main(UCF_GT_generation, monkeypatch, *options)
    os.utime(root / "Train/img_0002_ann.mat", (4e9, 4e9))
    scipy.io.savemat(root / "Train/img_0001_ann.mat", {"annPoints": [[9, 9]]})
    os.utime(root / "Train/img_0001_ann.mat", (1e9, 1e9))
    kept = (out / "Train/img_0002_ann.mat").stat().st_mtime_ns
    for written in (1, 0):
        capsys.readouterr()
        run_main(UCF_GT_generation, monkeypatch, *options)
        assert f"{written} density maps written, {2 - written} up to" in capsys.readouterr().out
    assert read_ucf_points(out / "Train/img_0001_ann.mat").tolist() == [[4.5, 4.5]]
    assert (out / "Train/img_0002_ann.mat").stat().st_mtime_ns == kept
