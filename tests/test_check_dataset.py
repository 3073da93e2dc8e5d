"""What check_dataset.py says of data sets with and without defects."""

import fcntl
import json
import shutil

import h5py
import numpy as np
import pytest
from conftest import assert_one_line_error, run_program, write_qnrf, write_shanghaitech
from PIL import Image

from preprocess.checks import ERRORS, WARNINGS
from preprocess.pictures import space_bins

CHECK = "preprocess/check_dataset.py"
SIZE = (80, 120)


def write_clean(root, counts=(("train", 4), ("test", 2))):
    """Writes pictures of noise with five heads each, as a data set of one's own."""
    rng = np.random.default_rng(0)
    for split, count in counts:
        for folder in ("images", "annotations"):
            (root / split / folder).mkdir(parents=True)
        for number in range(count):
            write_image(root, split, f"clean{number}", rng)
    return root


def write_image(root, split, name, rng, points=None, size=SIZE, **annotation):
    picture = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(picture).save(root / split / "images" / f"{name}.png")
    if points is None:
        points = rng.uniform(1, 79, (5, 2)).tolist()
    shapes = [{"label": "head", "points": [point]} for point in points]
    write_text(root, split, name, json.dumps({"shapes": shapes} | annotation))


def write_text(root, split, name, text):
    (root / split / "annotations" / f"{name}.json").write_text(text)


def plant_defects(root):
    """Plants every kind of defect at least once; returns kind -> names of the defective files."""
    rng = np.random.default_rng(1)
    images, annotations = root / "train/images", root / "train/annotations"
    for name, points in (
        ("swapped", [[30, 100], [20, 110], [79, 1]]),
        ("shares", [[0.1, 0.2], [0.5, 0.7], [0.9, 0.4]]),
        ("outside", [[30, 30], [-2, 5], [120, 3]]),
        ("all_outside", [[300, 300], [-2, 5]]),
        ("repeated", [[30, 30], [3, 3], [30, 30]]),
        ("empty", []),
        ("lonely", None),
        ("cut_short", None),
        ("broken", None),
        ("not_finite", [[3, float("nan")]]),
        ("turned", None),
        ("coloured", None),
        ("mapped", None),
        ("mapless", None),
        ("locked", None),
    ):
        write_image(root, "train", name, rng, points)
    write_image(root, "train", "tiny", rng, [[3, 3]], size=(8, 90))
    write_image(root, "train", "resized", rng, [[3, 3]], imageHeight=160, imageWidth=240)
    write_text(root, "train", "broken", "[[1, 2]")
    write_text(root, "train", "no_image", "[]")
    (annotations / "lonely.json").unlink()
    image = images / "cut_short.png"
    image.write_bytes(image.read_bytes()[:2000])
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(
        images / "turned.png", exif=exif
    )
    Image.new("RGB", SIZE[::-1], "grey").save(images / "coloured.png")
    (images / "below").mkdir()
    Image.new("RGB", SIZE[::-1], "grey").save(images / "below/nested.png")
    for split, name in (("train", "copy"), ("test", "leaked")):  # the same pixels in another file
        write_image(root, split, name, rng)
        Image.open(images / "clean0.png").save(
            root / split / f"images/{name}.png", compress_level=1
        )
    for name in ("mapped", "locked"):
        with h5py.File(annotations / f"{name}.h5", "w") as file:
            file["density"] = np.zeros(SIZE, np.float32)
            file["points"] = np.zeros((7, 2), np.float32)
    return {
        "image without annotation": ["lonely"],
        "annotation without image": ["no_image"],
        "unreadable image": ["cut_short"],
        "unreadable annotation": ["broken", "not_finite"],
        "image stored turned": ["turned"],
        "annotated at another size": ["resized"],
        "x and y swapped": ["swapped"],
        "coordinates are shares of the sides": ["shares"],
        "image in two splits": ["leaked"],
        "density map of something else": ["mapped"],
        "density map open elsewhere": ["locked"],
        "points outside the image": ["all_outside", "outside"],
        "same point twice": ["repeated"],
        "image without heads": ["all_outside", "empty"],
        "image twice in a split": ["copy"],
        "image of one colour": ["coloured"],
        "image is tiny": ["tiny"],
        "image in a subfolder, left out": ["nested"],
    }


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A defective data set's planted defects, what the command said, and its report."""
    root = write_clean(tmp_path_factory.mktemp("broken"))
    planted = plant_defects(root)
    with (root / "train/annotations/locked.h5").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)  # as HDF5 does while it writes
        result = run_program(CHECK, "--root", root, "--out", root / "report", "--workers", 2)
    return planted, result, root / "report"


def test_every_planted_defect_is_found_and_named_and_nothing_else(broken):
    planted, result, out = broken
    assert planted.keys() == {*ERRORS, *WARNINGS} and len(planted) >= 10
    assert result.returncode == 1, result.stderr
    found = {}
    for defect in json.loads((out / "report.json").read_text())["defects"]:
        name = defect["name"].split("/")[-1].split(".")[0]
        found.setdefault(defect["kind"], []).append(name)
    assert {kind: sorted(names) for kind, names in found.items()} == planted
    for kind, names in planted.items():
        severity = "error" if kind in ERRORS else "warning"
        (line,) = [line for line in result.stdout.splitlines() if f": {kind}: " in line]
        assert line.startswith(f"{severity}: {kind}: {len(names)}: ")
        assert all(f"{name}." in line for name in names)
    assert result.stdout.splitlines()[-1] == "11 errors, 10 warnings"


def test_the_report_has_distributions_and_pictures(broken):
    _, result, out = broken
    train = json.loads((out / "report.json").read_text())["splits"]["train"]
    assert train["images"] == 21 and train["least"] == 0 and train["most"] == 5
    assert train["height"] == "8-120"
    assert "test: images 3, heads 15, least 5, median 5.0, most 5" in result.stdout
    assert sorted(p.name for p in out.iterdir()) == [
        "contact_sheet.jpg",
        "distributions.png",
        "report.json",
    ]
    with Image.open(out / "contact_sheet.jpg") as sheet:
        yellow = (np.asarray(sheet).astype(int) @ (1, 1, -2) > 300).sum()
        red = (np.asarray(sheet).astype(int) @ (2, -1, -1) > 300).sum()
    assert yellow > 100 and red > 20  # heads inside and outside are dots


def test_a_histogram_has_every_image():
    for most in range(1, 500):
        heads = range(1 + most // 3, most + 1)
        assert np.histogram(heads, space_bins(heads))[0].sum() == len(heads)


def test_warnings_alone_end_with_zero_and_a_clean_data_set_is_silent(tmp_path):
    root = write_clean(tmp_path, (("train", 3), ("val", 1), ("test", 1)))
    result = run_program(CHECK, "--root", root, "--workers", 1)
    assert result.returncode == 0
    *splits, last = result.stdout.splitlines()
    assert [line.split(":")[0] for line in splits] == ["train", "val", "test"]
    assert last == "0 errors, 0 warnings"
    write_image(root, "val", "empty", np.random.default_rng(2), [])
    result = run_program(CHECK, "--root", root, "--workers", 1)
    assert result.returncode == 0
    assert result.stdout.splitlines()[-2:] == [
        "warning: image without heads: 1: val/images/empty.png",
        "0 errors, 1 warnings",
    ]


def test_a_folder_that_is_no_data_set_is_an_error_in_one_line(tmp_path):
    assert_one_line_error(run_program(CHECK, "--root", tmp_path), "must hold one folder train")
    (tmp_path / "train").mkdir()
    assert_one_line_error(run_program(CHECK, "--root", tmp_path), "holds no images of this split")


def test_the_published_layouts_are_checked_as_well(tmp_path):
    root = write_shanghaitech(tmp_path / "A", {"train_data": [3, 4], "test_data": [5]}, size=SIZE)
    train, test = (root / f"part_A_final/{split}_data" for split in ("train", "test"))
    shutil.copy(train / "images/IMG_1.jpg", test / "images/IMG_1.jpg")
    (train / "ground_truth/GT_IMG_2.mat").write_bytes(b"damaged")
    result = run_program(CHECK, "--root", root, "--dataset", "sha", "--workers", 1)
    assert result.returncode == 1
    assert "error: image in two splits: 1: part_A_final/test_data/" in result.stdout
    assert "error: unreadable annotation: 1: " in result.stdout
    assert result.stdout.splitlines()[-1] == "2 errors, 0 warnings"

    write_qnrf(tmp_path / "Q", "Train", [[[5, 5], [-3, 5]]])
    write_qnrf(tmp_path / "Q", "Test", [[[5, 5]]])
    result = run_program(CHECK, "--root", tmp_path / "Q", "--dataset", "QNRF", "--workers", 1)
    assert "points outside the image: 1: Train/img_0001.jpg (1 of 2" in result.stdout
    result = run_program(CHECK, "--root", tmp_path / "Q")
    assert result.returncode == 1 and "error: image in two splits" in result.stdout
