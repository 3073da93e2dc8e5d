"""predict.py as a user runs it: counts that are test.py's, whatever is asked for, and mistakes."""

import csv
import glob
import json
import os
import re
import shutil
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import (
    PROJECT,
    collect_lines,
    need_packages,
    plain_guard,
    read_json,
    run_program,
    save_student,
)
from pictures import write_picture
from PIL import Image

import predict
from counting import predictor
from counting.protocols import evaluate
from datasets.loaders import build_evaluation_loader
from datasets.pictures import read_image
from deploy.counter import Counter
from deploy.engines import EngineError, build_eager
from deploy.exported import FORMATS
from models.counter import read_counter
from preprocess.synthetic import draw_scene
from utils import progress
from utils.checkpoint import (
    DEFAULT,
    SHIPPED,
    CheckpointError,
    read_checkpoint,
    read_deployed,
    save_weights,
)
from utils.files import WriteError
from utils.inputs import DataError

CPU = torch.device("cpu")
HALVES = ("--roi", "left:0,0 0.5,0 0.5,1 0,1", "--roi", "right:0.5,0 1,0 1,1 0.5,1")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Pictures of several sizes, colour spaces and depths, with empty density maps."""
    folder, rng = tmp_path_factory.mktemp("samples"), np.random.default_rng(0)
    modes = {"RGB": (64, 96), "L": (61, 83), "CMYK": (200, 120), "RGBA": (33, 50), "P": (40, 40)}
    written = [
        write_picture(folder, mode, rng.integers(0, 256, (*size, 3), dtype=np.uint8), [], mode)
        for mode, size in modes.items()
    ]
    deep = write_picture(folder, "deep", rng.integers(0, 256, (48, 56, 3), dtype=np.uint8), [])
    Image.fromarray(rng.integers(0, 65536, (48, 56), dtype=np.uint16)).save(deep.image)
    return [*written, deep]


def test_counts_are_those_of_test_py(run, samples, student, tmp_path):
    pictures = [sample.image for sample in samples]
    records = tmp_path / "new" / "counts.json"
    assert run(*pictures, "--json", records, "--csv", tmp_path / "counts.csv")[0] == 0
    network = build_eager(read_counter(student).network.eval(), CPU)
    loader = build_evaluation_loader(samples, workers=0)
    expected = [result.predicted for result in evaluate(network, loader, CPU, "whole")]
    assert [record["count"] for record in read_json(records)] == expected
    assert min(expected) > 0 and len(set(expected)) == len(samples)

    (tmp_path / "list.json").write_text(json.dumps(list(map(str, pictures))))
    options = ["-c", student, "--cpu", "--size", "32x32", "--per-image", tmp_path / "test.csv"]
    result = run_program("test.py", tmp_path / "list.json", *options, "--workers", 0)
    assert result.returncode == 0, result.stderr
    with (tmp_path / "test.csv").open() as ours, (tmp_path / "counts.csv").open() as file:
        rows = [row["count"] for row in csv.DictReader(file)]
        assert rows == [row["predicted"] for row in csv.DictReader(ours)]


@pytest.mark.parametrize(
    "engine", [pytest.param("onnxruntime", marks=pytest.mark.slow), "openvino"]
)
def test_engines_count_the_same(run, samples, tmp_path, engine):
    pytest.importorskip(engine)
    counts = []
    for name in ("eager", engine):
        run(samples[0].image, "--engine", name, "--json", tmp_path / name)
        counts.append(read_json(tmp_path / name)[0]["count"])
    assert counts[1] == pytest.approx(counts[0], rel=1e-4)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("preprocess", [False, True])
def test_an_exported_file_counts_the_same(run, samples, student, tmp_path, suffix, preprocess):
    need_packages(suffix)
    file = tmp_path / f"counter{suffix}"
    result = run_program("export.py", student, file, *["--preprocess"] * preprocess)
    assert result.returncode == 0, result.stderr
    pictures, counts = [sample.image for sample in samples], []
    for engine in ("eager", file):
        run(*pictures, "--engine", engine, "--json", tmp_path / "counts.json")
        counts.append([record["count"] for record in read_json(tmp_path / "counts.json")])
    assert counts[1] == pytest.approx(counts[0], rel=1e-3)
    other = tmp_path / "other.safetensors"
    save_weights(other, {n: 1.01 * tensor for n, tensor in read_checkpoint(student).items()}, {})
    with pytest.raises(EngineError, match="counter.* was made of other weights than the check"):
        run(*pictures, "--engine", file, weights=other)


def test_a_picture_is_counted_as_a_viewer_shows_it(run, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x112] = 6  # to be turned by a quarter
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif)
    stored = np.array(Image.open(tmp_path / "a.jpg"))
    Image.fromarray(np.rot90(stored, -1)).save(tmp_path / "upright.png")
    run(tmp_path, "--json", tmp_path / "counts.json", "--npy", tmp_path / "maps")
    turned, upright = read_json(tmp_path / "counts.json")
    assert turned["count"] == upright["count"]
    assert np.load(tmp_path / "maps/a.npy").shape == (12, 8)


def test_16_bits_count_as_their_upper_8(run, tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (60, 90), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "8.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.png")
    run(tmp_path, "--json", tmp_path / "counts.json")
    first, second = read_json(tmp_path / "counts.json")
    assert first["count"] == second["count"]


def test_what_is_written_is_what_is_printed(run, samples, tmp_path):
    folder = samples[0].image.parent
    files = {name: tmp_path / name for name in ("out", "maps", "rows.csv", "rows.json")}
    options = ["--out", files["out"], "--npy", files["maps"]]
    options += ["--csv", files["rows.csv"], "--json", files["rows.json"]]
    code, (*lines, last), _ = run(folder, f"{folder}/R*.png", *options, *HALVES)
    assert last == f"overlays are in {files['out']}"
    records = read_json(files["rows.json"])
    stems = ["CMYK", "L", "P", "RGB", "RGBA", "deep"] + ["RGB_2", "RGBA_2"]
    assert code == 0 and len(lines) == len(records) == 8
    assert {path.name for path in files["maps"].iterdir()} == {f"{stem}.npy" for stem in stems}
    drawn = {f"{stem}_density.jpg" for stem in stems}
    assert {path.name for path in files["out"].iterdir()} == drawn
    with files["rows.csv"].open() as file:
        rows = list(csv.DictReader(file))
    for line, record, row, stem in zip(lines, records, rows, stems, strict=True):
        density, regions = np.load(files["maps"] / f"{stem}.npy"), record["regions"]
        assert density.dtype == np.float32
        assert record["count"] == pytest.approx(density.sum(), rel=1e-5)
        assert sum(regions.values()) == pytest.approx(record["count"], rel=1e-5)
        left, right = regions["left"], regions["right"]
        name, count = record["name"], record["count"]
        assert line == f"{name}: {count:.1f} people  left {left:.1f}  right {right:.1f}"
        assert (row["name"], row["count"]) == (name, f"{count:.4f}")
        assert (row["left"], row["right"]) == (f"{left:.4f}", f"{right:.4f}")
        assert row["frame"] == row["unlikeness"] == row["notes"] == ""
    with Image.open(files["out"] / "RGB_density.jpg") as overlay:
        assert min(overlay.size) > 400 and np.ptp(np.array(overlay)) > 200


def test_records_are_there_as_soon_as_they_are_counted(run, samples, tmp_path, monkeypatch):
    (tmp_path / "link.csv").symlink_to(tmp_path / "rows.csv")
    lines, count_picture = [], predict.count_picture

    def watched(*arguments):
        count_picture(*arguments)
        lines.append(len((tmp_path / "rows.csv").read_text().splitlines()))

    monkeypatch.setattr(predict, "count_picture", watched)
    run(samples[0].image, samples[1].image, "--csv", tmp_path / "link.csv")
    assert lines == [2, 3] and (tmp_path / "link.csv").is_symlink()


def test_a_folder_names_what_it_leaves_out_and_counts_subfolders_on_request(
    run, samples, tmp_path, capsys, monkeypatch
):
    for name in ("b.jfif", "a.png", "2024/c.png", "._a.png", ".trash/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        with Image.open(samples[0].image) as image:
            image.save(tmp_path / name, "JPEG" if name.endswith("jfif") else "PNG")
    (tmp_path / "photo.heic").write_bytes(b"of a phone")
    (tmp_path / "notes.txt").touch()
    monkeypatch.setattr("datasets.pictures._is_decodable", lambda ending: ending != ".heic")
    told = []
    collect_lines(monkeypatch, told.append)
    assert run(tmp_path)[0] == 0
    counted = [Path(line.split(": ")[0]).name for line in told if " people" in line]
    assert counted == ["a.png", "b.jfif"]
    assert any("left out 1 pictures, such as photo.heic: Pillow cannot" in line for line in told)
    assert any("1 subfolders are skipped, such as 2024; --recursive" in line for line in told)
    told.clear()
    assert run(tmp_path, "--recursive")[0] == 0
    counted = [Path(line.split(": ")[0]).name for line in told if " people" in line]
    assert counted == ["c.png", "a.png", "b.jfif"] and not any("skipped" in line for line in told)


def test_linked_folders_count_once_and_closed_ones_are_named(run, samples, tmp_path, monkeypatch):
    for name in ("day/a.png", "elsewhere/b.png", "day/closed/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(samples[0].image, tmp_path / name)
    (tmp_path / "day/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "day/again").symlink_to(tmp_path / "day")
    scan = os.scandir

    def refuse(folder):
        if Path(folder).name in closed:
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    closed = {"closed"}
    code, lines, errors = run(tmp_path / "day", "--recursive")
    assert [Path(line.split(": ")[0]).name for line in lines] == ["a.png", "b.png"]
    assert (code, errors) == (1, [f"error: folder {tmp_path}/day/closed cannot be read"])
    closed = {"day"}
    code, lines, (error,) = run(tmp_path / "day", tmp_path / "elsewhere/b.png", "--recursive")
    assert code == 1 and len(lines) == 1 and "Permission denied" in error


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS refuses such names")
def test_names_of_any_bytes_and_length_are_counted_drawn_and_written(run, samples, tmp_path):
    names = [os.fsdecode(b"pla\xe7a.png"), "\u2461.png", "\u00fc" * 120 + ".png"]
    pictures = [tmp_path / "in" / name for name in names]
    (tmp_path / "in").mkdir()
    for picture in pictures:
        shutil.copyfile(samples[0].image, picture)
    files = ["--csv", tmp_path / "a.csv", "--json", tmp_path / "a.json"]
    code, lines, errors = run(*pictures, *files, "--out", tmp_path / "out", "--npy", tmp_path)
    assert (code, len(lines) - 1, errors) == (0, 3, [])  # the last one says where overlays are
    assert [record["name"] for record in read_json(tmp_path / "a.json")] == list(map(str, pictures))
    rows = (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()
    assert "pla\\udce7a.png" in rows[1] and "\u2461.png" in rows[2]
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_counts_that_are_not_finite_are_an_error(run, samples, tmp_path):
    weights = save_student(tmp_path / "huge.safetensors", "csrnet", bias=3e38)
    code, lines, errors = run(*[sample.image for sample in samples[:2]], weights=weights)
    assert code == 1 and lines == [] and len(errors) == 2
    assert all("the count is not finite; the weights overflow" in error for error in errors)


def test_a_picture_that_needs_too_much_memory_spares_the_others(run, samples, monkeypatch):
    def count(network, image):
        if image.shape[-1] == 96:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        return 1.0, torch.ones(1, 1, 1, 1)

    monkeypatch.setattr(predictor, "predict_whole", count)
    code, lines, (error,) = run(samples[0].image, samples[1].image)
    assert code == 1 and len(lines) == 1
    wanted = f"{samples[0].image}: 64x96 pixels need more memory than is free; a smaller --max-side"
    assert error.startswith(f"error: {wanted}")


def test_overlays_never_lie_where_pictures_are_searched(samples, tmp_path, monkeypatch, capsys):
    shutil.copy(samples[0].image, tmp_path)
    for options, refused in (([], False), (["--recursive"], True)):
        words = ["predict.py", str(tmp_path), "--out", str(tmp_path / "new/o"), *options]
        monkeypatch.setattr(sys, "argv", words)
        if refused:
            with pytest.raises(SystemExit):
                predict.parse_args()
            assert "is where pictures are read" in capsys.readouterr().err
        else:
            predict.parse_args()


def test_what_cannot_be_read_is_named_and_the_rest_goes_on(run, samples, tmp_path):
    good, broken = samples[0].image, tmp_path / "broken.png"
    broken.write_bytes(good.read_bytes()[:900])
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    inputs = [broken, tmp_path / "no.jpg", tmp_path / "empty", f"{tmp_path}/*.gif"]
    code, lines, errors = run(*inputs, tmp_path / "text.mp4", good, "--json", tmp_path / "a.json")
    assert code == 1 and len(lines) == 1 and lines[0].startswith(f"{good}: ")
    assert len(read_json(tmp_path / "a.json")) == 1
    wanted = ["broken.png is not a readable image", "no.jpg does not exist", "empty holds no"]
    wanted += ["no file matches", "text.mp4 is not a readable video"]
    assert len(errors) == len(wanted)
    assert all(any(words in error for error in errors) for words in wanted)


def test_names_that_no_file_can_have_spare_the_others(run, samples, tmp_path):
    names = ["a\0b.jpg", "b\ud800.jpg", str(samples[0].image)]
    (tmp_path / "list.txt").write_text("\n".join([names[0], "x" * 300 + ".jpg", names[2]]))
    (tmp_path / "list.json").write_text(json.dumps(names))
    code, lines, errors = run(tmp_path / "list.txt", tmp_path / "list.json", "y" * 300)
    assert code == 1 and len(lines) == 2 and len(errors) == 5
    assert all("Traceback" not in error for error in errors)
    assert sum("no file can have the name" in error for error in errors) == 3


def test_outputs_that_cannot_be_written_are_named(run, samples, tmp_path, capsys):
    picture = samples[0].image
    (tmp_path / "file").touch()
    for option in ("--out", "--npy"):
        with pytest.raises(SystemExit):
            run(picture, option, tmp_path / "file")
        assert f"{option} must be a folder, {tmp_path}/file is a file" in capsys.readouterr().err
    if Path("/dev/full").exists():
        for option in ("--csv", "--json"):
            with pytest.raises(WriteError, match="/dev/full could not be written .No space left"):
                run(picture, option, "/dev/full")


def test_a_counter_of_python_takes_text_and_is_shared_by_threads(student, samples, tmp_path):
    path = save_student(tmp_path / "a.safetensors", guard=plain_guard(20.0))
    counter = Counter(path, max_side="none", regions=["all:0,0 1,0 1,1 0,1"])
    pictures = [sample.image for sample in samples] * 8
    expected = [counter(picture) for picture in pictures]
    assert expected[0].regions["all"] == pytest.approx(expected[0].count, rel=1e-4)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(counter, pictures)) == expected
    for options, message in (
        ({"engine": "cuda"}, "must be one of eager"),
        ({"max_side": "wide"}, "must be auto, none or pixels"),
        ({"regions": ["door"]}, "must be NAME:X,Y"),
    ):
        with pytest.raises(ValueError, match=message):
            Counter(path, **options)


def test_alarms(run, samples, tmp_path):
    picture = samples[0].image
    run(picture, "--json", tmp_path / "a.json", *HALVES)
    (record,) = read_json(tmp_path / "a.json")
    count, most = record["count"], max(record["regions"].values())
    assert run(picture, "--alarm", count + 1)[0] == 0
    code, (line,), _ = run(picture, "--alarm", count - 0.01, tmp_path / "no.jpg")
    assert code == 3 and line.endswith("  ALARM")
    assert (
        run(picture, "--alarm", most + 0.01, *HALVES)[0] == 0
    )  # the regions' alarm, not the sum's
    assert run(picture, "--alarm", most - 0.01, *HALVES)[0] == 3


def test_a_region_outside_one_picture_spares_the_others(run, samples):
    small, large = samples[3].image, samples[2].image  # 50 and 120 pixels wide
    code, lines, errors = run(small, large, "--roi", "door:60,0 110,0 110,90")
    assert code == 1 and len(lines) == 1 and " door " in lines[0]
    assert "region door encloses nothing of its 50x33 pixels" in errors[0]


def test_large_pictures_are_tiled_and_count_the_same(run, monkeypatch, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (80, 1500, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    counts = []
    for limit in (10**6, 10**4):
        monkeypatch.setattr(predictor, "TILED_PIXELS", limit)
        run(tmp_path / "wide.png", "--json", tmp_path / "a.json", "--engine", "eager")
        counts.append(read_json(tmp_path / "a.json")[0]["count"])
    assert counts[1] == pytest.approx(counts[0], rel=1e-5)
    tiled = []
    monkeypatch.setattr(
        predictor, "predict_tiled", lambda *_: tiled.append(1) or (0, torch.zeros(1, 1, 10, 188))
    )
    run(tmp_path / "wide.png")
    assert tiled


def test_large_pictures_are_counted_at_the_trainings_size(run, student, tmp_path, capsys):
    scene, _ = draw_scene(np.random.default_rng(3), (240, 330))
    small = cv2.resize(scene, (165, 120), interpolation=cv2.INTER_AREA)
    for name, image in (("large", scene), ("small", small)):
        write_picture(tmp_path, name, image, [])
    state, facts = read_deployed(student)
    knowing = tmp_path / "knowing.safetensors"
    save_weights(knowing, state, facts | {"max_side": "165"})
    door = ("--roi", "door:60,40 200,40 200,180 60,180")

    def read(*options, weights=knowing, picture="large"):
        file = tmp_path / "out.json"
        options = [tmp_path / f"{picture}.png", *options, "--json", file, "--out", tmp_path / "o"]
        code, _, errors = run(*options, "--npy", tmp_path / "n", weights=weights)
        assert code == 0 and not errors
        (record,) = read_json(file)
        return record["count"], record["regions"]

    count, regions = read(*door)
    halved = read("--roi", "door:30,20 100,20 100,90 30,90", picture="small")
    assert (count, regions) == halved
    assert np.load(tmp_path / "n/large.npy").shape == (15, 21)
    with Image.open(tmp_path / "o/large_density.jpg") as drawn:
        assert drawn.height > 480 * 640 // 660  # of the picture, not of what was counted
    assert read("--max-side", "165", weights=student)[0] == count
    native = read(weights=student)[0]
    assert read("--max-side", "none")[0] == native != count
    lists = tmp_path / "list.json"
    lists.write_text(json.dumps([str(tmp_path / "large.png")]))
    options = ["-c", knowing, "--cpu", "--size", "32x32", "--json", tmp_path / "test.json"]
    for side, wanted in (("auto", count), ("none", native)):
        result = run_program("test.py", lists, *options, "--workers", 0, "--max-side", side)
        assert result.returncode == 0, result.stderr
        measured = json.loads((tmp_path / "test.json").read_text())
        assert measured["max_side"] == (165 if side == "auto" else None)
        assert measured["mae"] == pytest.approx(wanted)  # of 0 heads


def test_three_lines_of_python_count_as_the_program(run, tmp_path, monkeypatch, capsys):
    page = (PROJECT / "docs/predict.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    scene, _ = draw_scene(np.random.default_rng(3), (96, 128))
    write_picture(tmp_path, "photo", scene, [], "CMYK")  # which makes it a .jpg
    monkeypatch.chdir(tmp_path)
    assert run("photo.jpg", "--json", "a.json", weights=SHIPPED / f"{DEFAULT}.safetensors")[0] == 0
    exec(program, found := {})
    (record,) = read_json(tmp_path / "a.json")
    assert capsys.readouterr().out == f"{record['count']:.1f} people\n"
    reading, density = found["counter"].read(read_image(tmp_path / "photo.jpg"))
    assert reading.count == record["count"] == pytest.approx(density.sum(), rel=1e-5)
    mirrored = read_image(tmp_path / "photo.jpg")[:, ::-1]
    mirrored.setflags(write=False)
    copied = found["counter"](np.ascontiguousarray(mirrored))
    assert found["counter"](mirrored).count == copied.count
    for wrong in (mirrored / 255, mirrored[..., 0], mirrored[:0], mirrored[..., :2]):
        with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8 RGB, got \(\d+, \d+"):
            found["counter"](wrong)
    with pytest.raises(DataError, match="no.jpg"):
        found["counter"]("no.jpg")


def test_that_pictures_are_shrunk_is_said_once(tmp_path, student, monkeypatch, capsys):
    monkeypatch.setattr(progress, "SAID", set())
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    paths = [write_picture(tmp_path, name, noise, []).image for name in "ab"]
    line = "larger pictures are counted at a longer side of 80 pixels; --max-side none counts them"
    for side, times in (("80", 1), ("96", 0)):
        options = [*paths, "--max-side", side, "-c", student, "--cpu"]
        monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, options)])
        assert predict.main(predict.parse_args()) == 0
        assert capsys.readouterr().err.count(line) == times


@pytest.mark.parametrize("side", ["-5", "", "0", "a lot", "１０"])
def test_a_side_that_is_no_number_of_pixels_is_an_error(side, run, student, samples, tmp_path):
    state, facts = read_deployed(student)
    save_weights(tmp_path / "a.safetensors", state, facts | {"max_side": side})
    with pytest.raises(CheckpointError, match="max_side must be a whole number of pixels, got"):
        run(samples[0].image, weights=tmp_path / "a.safetensors")


def test_a_negative_sum_is_reported_as_nobody_here_and_by_test_py(run, samples, tmp_path):
    weights = save_student(tmp_path / "negative.safetensors", "csrnet", bias=-9.0)
    run(samples[0].image, "--json", tmp_path / "a.json", "--npy", tmp_path, weights=weights)
    assert np.load(tmp_path / "RGB.npy").sum() < 0
    assert read_json(tmp_path / "a.json")[0]["count"] == 0
    network = read_counter(weights).network.eval()
    (result,) = evaluate(network, build_evaluation_loader(samples[:1], 0), CPU, "whole")
    assert result.predicted == 0


def test_black_and_white_pictures_show_nobody(run, tmp_path):
    for name, level in (("black", 0), ("white", 255)):
        noise = np.random.default_rng(0).integers(0, 3, (64, 96, 3), dtype=np.uint8)
        Image.fromarray(level ^ noise).save(tmp_path / f"{name}.png")
    code, lines, _ = run(tmp_path, *HALVES)
    assert code == 0 and len(lines) == 2
    assert all(line.endswith(": 0.0 people  left 0.0  right 0.0  nothing to see") for line in lines)


@pytest.mark.parametrize(("threshold", "remark"), [(1e-3, True), (1e6, False)])
def test_a_guard_flags_what_is_too_far(run, samples, tmp_path, threshold, remark):
    weights = save_student(tmp_path / "guarded.safetensors", guard=plain_guard(threshold))
    _, (line,), _ = run(samples[0].image, "--json", tmp_path / "a.json", weights=weights)
    assert line.endswith("unlike the training pictures") == remark
    (record,) = read_json(tmp_path / "a.json")
    assert (record["unlikeness"] > 1) == remark == ("unlike" in record["notes"])


def test_ctrl_c_leaves_whole_files(run, samples, tmp_path, monkeypatch):
    count_picture = predict.count_picture

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        count_picture(*arguments)

    monkeypatch.setattr(predict, "count_picture", interrupted)
    pictures = [sample.image for sample in samples]
    code, lines, _ = run(*pictures, "--json", tmp_path / "a.json")
    assert code == 130 and len(lines) == len(read_json(tmp_path / "a.json")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_overlays_do_not_go_where_pictures_are_read(run, tmp_path, capsys):
    folder = tmp_path / "shots [1]"
    for name in ("a.jpg", "x/b.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32)).save(folder / name)
    escaped = glob.escape(str(folder))
    for text in (folder, f"{escaped}/*.jpg", f"{escaped}/**/*.jpg"):
        with pytest.raises(SystemExit):
            run(text, "--out", tmp_path / "other" / ".." / "shots [1]")
        assert "shots [1] is where pictures are read" in capsys.readouterr().err
    for text in (folder / "a.jpg", folder / "x"):
        assert run(text, "--out", folder)[0] == 0


def test_outputs_never_destroy_what_is_read_or_one_another(run, samples, tmp_path, student):
    picture = tmp_path / "a.png"
    shutil.copyfile(samples[0].image, picture)
    shutil.copyfile(picture, tmp_path / "a_density.jpg")
    weights = shutil.copyfile(student, tmp_path / "w.safetensors")
    both = [picture, tmp_path / "a_density.jpg"]
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for inputs, options, message in (
        ([picture], ["--csv", picture], "--csv .*a.png would overwrite what is read from there"),
        ([picture], ["--json", weights], "--json .*w.safetensors would overwrite"),
        ([picture], ["--csv", tmp_path / "x", "--json", tmp_path / "x"], "--csv and --json would"),
        (both, ["--out", tmp_path], "--out .*a_density.jpg would overwrite"),
    ):
        with pytest.raises(WriteError, match=message):
            run(*inputs, *options, weights=weights)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_old_results_stay_where_nothing_can_be_counted(run, tmp_path):
    (tmp_path / "old.csv").write_text("old")
    (tmp_path / "text.jpg").write_text("no picture")
    code, *_ = run(tmp_path / "no.jpg", tmp_path / "text.jpg", "--csv", tmp_path / "old.csv")
    assert code == 1 and (tmp_path / "old.csv").read_text() == "old"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "the following arguments are required: inputs"),
        (["a.jpg", "--roi", "0,0 1,1"], "argument --roi: must be NAME:X,Y X,Y X,Y"),
        (["a.jpg", *HALVES[:2], *HALVES[:2]], "--roi: each needs a name of its own"),
        (["a.jpg", "--roi", "count:0,0 1,0 1,1"], "--roi: count is another column's name"),
        (["a.jpg", "--alarm", "many"], "argument --alarm: must be a number of at least 0"),
        (["a.mp4", "--every", "0"], "argument --every: must be a whole number of at least 1"),
        (
            ["a.jpg", "--max-side", "7"],
            "argument --max-side: must be auto, none or pixels",
        ),
        (["a.jpg", "--engine", "tpu"], "argument --engine: must be one of eager, compile, "),
    ],
)
def test_wrong_options_end_in_one_line(options, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["predict.py", *options])
    with pytest.raises(SystemExit) as ended:
        predict.parse_args()
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and ended.value.code == 2


def test_without_weights_a_line_says_how_to_get_some(run, samples, tmp_path, monkeypatch):
    monkeypatch.setattr("utils.checkpoint.SHIPPED", tmp_path / "weights")
    with pytest.raises(CheckpointError, match=rf"no weights/{DEFAULT}.safetensors: .* with -c$"):
        run(samples[0].image, weights=DEFAULT)


@pytest.mark.skipif(not (SHIPPED / f"{DEFAULT}.safetensors").exists(), reason="no weights here")
def test_shipped_weights_see_nobody_in_black_and_white_and_flag_noise_and_a_chessboard(
    run, tmp_path
):
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    rows, columns, _ = np.indices(noise.shape)
    chess = (20 + 200 * ((rows // 40 + columns // 40) % 2)).astype(np.uint8)
    pictures = {"black": 0 * noise, "chess": chess, "noise": noise, "white": 0 * noise + 255}
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    _, (black, board, noisy, white), _ = run(tmp_path, weights=DEFAULT)
    for line in (black, white):
        assert line.endswith(": 0.0 people  nothing to see")
    assert board.endswith("unlike the training pictures")
    assert noisy.endswith("unlike the training pictures")
