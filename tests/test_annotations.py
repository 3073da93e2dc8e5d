"""Every annotation format, from its file to points, and what becomes a data set of one's own."""

import json
import os
import shutil
import subprocess
import sys
import unicodedata
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from conftest import PROJECT, assert_one_line_error, run_program
from PIL import Image

from datasets.catalogue import DATASETS
from datasets.splits import DataError, read_splits
from preprocess import make_dataset
from preprocess.annotations import (
    read_annotation,
    read_annotations,
    write_shanghaitech_points,
    write_ucf_points,
)
from preprocess.layouts import find_images
from preprocess.matching import Source, match
from training.recipes import student_recipe, teacher_recipe

MAKE_DATASET = "preprocess/make_dataset.py"
SIZE = (64, 96)
HEADS = {"a.jpg": [[3.5, 4.25], [95, 63], [0, 0]], "b.png": [], "c.jpg": [[50, 20.5]]}


def write_csv(path, heads):
    lines = ["image,x,y"]
    for image, points in heads.items():
        lines += [f"{image},{x},{y}" for x, y in points] or [f"{image},,"]
    path.write_text("\n".join(lines))


def write_spreadsheet(path, heads):
    """With a byte order mark, semicolons, other columns, and in another order."""
    lines = ["Y;label;X;Filename"]
    for image, points in heads.items():
        lines += [f"{y};head;{x};C:\\photos\\{image}" for x, y in points] or [f";;;{image}"]
    path.write_text("\n".join(lines), encoding="utf-8-sig")


def write_plain_json(path, heads):
    path.write_text(json.dumps(heads))


def write_json_entries(path, heads):
    entries = [
        {"image": f"photos/{image}", "points": [{"x": x, "y": y} for x, y in points]}
        for image, points in heads.items()
    ]
    path.write_text(json.dumps(entries))


def write_coco(path, heads, annotate, **category):
    images = [
        {"id": 7 + n, "file_name": image, "height": SIZE[0], "width": SIZE[1]}
        for n, image in enumerate(heads)
    ]
    places = [(7 + n, point) for n, points in enumerate(heads.values()) for point in points]
    annotations = [
        {"id": n, "image_id": image, "category_id": 1, "iscrowd": 0} | annotate(*point)
        for n, (image, point) in enumerate(places)
    ]
    categories = [{"id": 0, "name": "unused"}, {"id": 1, "name": "person"} | category]
    data = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(data))


def write_coco_boxes(path, heads):
    write_coco(path, heads, lambda x, y: {"bbox": [x - 4, y - 6, 8, 12]})


def write_coco_keypoints(path, heads):
    """The head is not the first keypoint, and not the centre of the box."""
    write_coco(
        path,
        heads,
        lambda x, y: {"keypoints": [1, 1, 2, 9, 9, 0, x, y, 1], "bbox": [0, 0, 90, 60]},
        keypoints=["left_ankle", "nose", "left_eye"],
    )


MANY = [write_csv, write_spreadsheet, write_plain_json, write_json_entries]
MANY += [write_coco_boxes, write_coco_keypoints]


def write_table(path, points):
    path.write_text("".join(f"{x} {y}\n" for x, y in points))


def write_points_json(path, points):
    path.write_text(json.dumps(points))


def write_nwpu(path, points):
    boxes = [[x - 1, y - 1, x + 1, y + 1] for x, y in points]
    data = {"img_id": "other.jpg", "human_num": len(points), "points": points, "boxes": boxes}
    path.write_text(json.dumps(data))


def write_labelme(path, points):
    shapes = [{"label": "head", "points": [p], "shape_type": "point"} for p in points[1:]]
    for x, y in points[:1]:  # a box counts by its centre
        corners = [[x - 2, y - 3], [x + 2, y + 3]]
        shapes.append({"label": "head", "points": corners, "shape_type": "rectangle"})
    size = {"imageHeight": SIZE[0], "imageWidth": SIZE[1]}
    path.write_text(json.dumps({"version": "5.4.1", "shapes": shapes} | size))


ONE = [
    (write_table, "{}.txt"),
    (write_points_json, "{}.json"),
    (write_nwpu, "{}.json"),
    (write_labelme, "{}.json"),
    (write_shanghaitech_points, "GT_{}.mat"),
    (write_ucf_points, "{}_ann.mat"),
]


def write_images(folder, names=HEADS):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(folder / name)
    return folder


def assert_heads(annotations):
    assert {str(image) for image in annotations} == HEADS.keys()
    for image, annotation in annotations.items():
        expected = np.array(HEADS[str(image)], np.float32).reshape(-1, 2)
        assert annotation.points.dtype == np.float32
        np.testing.assert_array_equal(np.sort(annotation.points, 0), np.sort(expected, 0))


@pytest.mark.parametrize("write", MANY)
def test_one_file_of_all_images_round_trips(write, tmp_path):
    file = tmp_path / ("all.csv" if write in MANY[:2] else "all.json")
    write(file, HEADS)
    annotations = match(Source(write_images(tmp_path / "images"), file))
    assert_heads(annotations)
    coco = write in (write_coco_boxes, write_coco_keypoints)
    assert {a.size for a in annotations.values()} == {SIZE if coco else None}


@pytest.mark.parametrize(("write", "name"), ONE)
def test_one_file_an_image_round_trips(write, name, tmp_path):
    folder = tmp_path / "annotations"
    folder.mkdir()
    for image, points in HEADS.items():
        write(folder / name.format(image[0]), points)
    (folder / "README.txt").write_text("exported by a tool\n")
    annotations = match(Source(write_images(tmp_path / "images"), folder))
    assert_heads(annotations)
    size = SIZE if write is write_labelme else None
    assert {a.size for a in annotations.values()} == {size}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "x,y\n1,2\n3,four\n", "a.csv, line 3: x and y must be numbers, got 3, four"),
        ("a.csv", "1,2\n\n3\n", "a.csv, line 3: 1 columns, but the first line has 2"),
        ("a.csv", "1,nan\n", "a.csv, line 1: a point is not a finite number"),
        ("a.csv", "left,top\n1,2\n", "a.csv, line 1: x and y must be numbers, got left, top"),
        ("a.csv", "x,y,width,height\n1,2,3,4\n",
         "a.csv: columns x and y of boxes (width, height) are corners, not heads"),
        ("a.csv", "a,b,c,d\n", "a.csv, line 1: must be a header with x and y, or a point"),
        ("a.json", "[[1, 2]", "a.json is not JSON"),
        ("a.json", "[[1, 2, 3, 4]]", "a.json: a point must be [x, y]"),
        ("a.json", '{"faces": 3}', "a.json: must be of the form"),
        ("a.json", '{"points": [[1, 2]], "human_num": 2}', "human_num is 2, of 1 points"),
        ("a.json", '{"shapes": [{"shape_type": "polygon", "points": [[1, 2], [3, 4], [5, 6]]}]}',
         "a.json, shape 1: must be a point or a rectangle, got a polygon"),
        ("a.json", '{"images": [], "annotations": [{"id": 3}]}', "annotation 3 has neither"),
        ("a.json", '{"shapes": [3]}', "a.json is incomplete or damaged"),
        ("a.json", '{"images": [], "annotations": [{"category_id": 1, "keypoints": []}], '
         '"categories": [{"id": 1, "keypoints": ["nose"]}]}', "a.json is incomplete or damaged"),
        ("a.json", '{"images": [], "annotations": [{"bbox": [0, 0, 1, 1]}]}', "'image_id'"),
        ("a.json", '{"images": [], "annotations": [{"id": 3, "iscrowd": 1}]}', "region of many"),
        ("a.xml", "<annotation/>", "annotations end in .mat, .json, .csv"),
        ("a.mat", "no MATLAB", "a.mat is not a readable .mat"),
        ("a.csv", "a.jpg,1,2\nb.jpg,3,4\n", "a.csv annotates 2 images, not one"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as error:
        read_annotation(tmp_path / name)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_only_the_chosen_labels_are_heads(tmp_path):
    shapes = [{"label": label, "points": [[n, 1]]} for n, label in enumerate(["car", "man", "boy"])]
    (tmp_path / "a.json").write_text(json.dumps({"shapes": shapes}))
    with pytest.raises(DataError, match="has labels boy, car, man; --labels says which count"):
        read_annotations(tmp_path / "a.json")
    (annotation,) = read_annotations(tmp_path / "a.json", labels=["man", "boy"])
    assert annotation.points.tolist() == [[1, 1], [2, 1]]
    images = write_images(tmp_path / "images", ["a.jpg", "b.jpg"])
    for image, label in (("a", "car"), ("b", "man")):
        shapes = [{"label": label, "points": [[1, 1]]}]
        (tmp_path / f"{image}.json").write_text(json.dumps({"shapes": shapes}))
    with pytest.raises(DataError, match="has labels car, man"):
        match(Source(images, tmp_path))
    for labels in (["mann"], ["man", "mann"]):
        with pytest.raises(DataError, match="has no label mann$"):
            match(Source(images, tmp_path, labels))
    counts = [len(a.points) for a in match(Source(images, tmp_path, ["man"])).values()]
    assert counts == [0, 1]


def test_files_of_one_name_in_two_folders_are_told_apart(tmp_path):
    images = write_images(tmp_path / "images", ["train/1.jpg", "val/1.jpg"])
    for split, x in (("train", 1), ("val", 2)):
        write_plain_json(tmp_path / f"instances_{split}2017.json", {"1.jpg": [[x, x]]})
    annotations = match(Source(images, tmp_path))
    assert [a.points[0, 0] for a in annotations.values()] == [1, 2]
    (tmp_path / "instances_val2017.json").rename(tmp_path / "other.json")
    with pytest.raises(DataError, match="it must name the folder, too"):
        match(Source(images, tmp_path))


@pytest.mark.slow
def test_the_shell_scripts_prepare_what_the_command_made(tmp_path):
    names = [f"{n}.jpg" for n in range(10)]
    heads = {name: [[n + 1, 2], [-5, 3], [8 * n, 40]] for n, name in enumerate(names)}
    write_images(tmp_path / "raw", names)
    write_csv(tmp_path / "heads.csv", heads)
    root, options = tmp_path / "mine", ["--sigma", "15", "--workers", 1]
    source = ["--images", tmp_path / "raw", "--annotations", tmp_path / "heads.csv"]
    result = run_program(MAKE_DATASET, "--root", root, *source, *options)
    assert result.returncode == 0, result.stderr
    made = [root / f"mine_{split}.json" for split in ("train", "val", "test")]
    assert [len(samples) for samples in read_splits(*made, train_on_val=False)] == [6, 2, 2]

    precious = made[0].write_text(json.dumps(json.loads(made[0].read_text())[:2]))
    first = find_images(DATASETS["MINE"], root, "test")[0]
    first.density_path(root, None).unlink()
    prepare = '. preprocess/prepare.sh; begin; prepare; printf "%s\n" "${lists[@]}" "$DATASET"'
    settings = {"DATASET": "mine", "ROOT": root, "RUNS": tmp_path / "runs"}
    settings |= {"PYTHON": sys.executable}

    def run_prepare(**changes):
        return subprocess.run(
            ["bash", "-euc", prepare],
            capture_output=True,
            text=True,
            cwd=PROJECT,
            env=os.environ | {name: str(value) for name, value in (settings | changes).items()},
        )

    result = run_prepare()
    assert result.returncode == 0, result.stderr
    assert made[0].stat().st_size == precious  # scripts have lists of their own
    assert "8 up to date" in result.stdout and "1 density maps written" in result.stdout
    *lists, dataset = result.stdout.splitlines()[-4:]
    assert dataset == "MINE" and lists[0] == str(tmp_path / "runs/lists_mine/mine_train.json")
    lists = [Path(name) for name in lists]
    for samples, count in zip(read_splits(*lists, train_on_val=False), (6, 2, 2), strict=True):
        assert len(samples) == count
        for sample in samples:
            assert sample.image.samefile(tmp_path / "raw" / sample.image.name)
            with h5py.File(sample.density) as file:
                assert file.attrs["sigma"] == "15"  # as it was made
                assert file["points"][:].tolist() == heads[sample.image.name]
                assert file["density"][:].sum() == pytest.approx(2, abs=1e-4)  # one outside

    other = tmp_path / "other"
    shutil.copytree(root, other, symlinks=True)
    for lists_of_their_own in ({}, {"TRAIN_ON_VAL": "1"}):
        again = run_prepare(ROOT=other, **lists_of_their_own)
        assert again.returncode == 1
        message = f"runs has trainings on {root}, ROOT is {other}: set another RUNS"
        assert again.stderr.splitlines()[-1].endswith(message)
    result = run_prepare(TRAIN_ON_VAL="1")
    assert str(tmp_path / "runs/lists_mine_on_val/mine_train.json") in result.stdout
    assert read_splits(*lists, train_on_val=False)  # which stay as they are


def test_own_data_take_part_as_recipe():
    for recipe in (teacher_recipe, student_recipe):
        for arch in ("csrnet", "bl"):
            assert recipe(arch, "MINE") == recipe(arch, "SHA")


def test_folders_called_like_splits_remain_splits(tmp_path):
    names = ["Train/x/1.jpg", "Train/2.jpg", "valid/1.jpg", "test_data/images/1.jpg"]
    raw = write_images(tmp_path / "raw", names)
    for name in names:  # beside the images, as LabelMe leaves them
        write_labelme((raw / name).with_suffix(".json"), [[5, 6]])
    result = run_program(MAKE_DATASET, "--root", tmp_path / "mine", "--images", raw)
    assert result.returncode == 0, result.stderr
    lists = [tmp_path / f"mine/mine_{split}.json" for split in ("train", "val", "test")]
    found = [sorted(s.image.name for s in part) for part in read_splits(*lists, train_on_val=False)]
    assert found == [["2.jpg", "x_1.jpg"], ["1.jpg"], ["1.jpg"]]
    options = ["--root", tmp_path / "again", "--images", raw, "--test-share", 0.5]
    assert_one_line_error(run_program(MAKE_DATASET, *options), "--test-share chooses nothing")
    options = ["--dataset", "mine", "--root", tmp_path / "mine", "--out", tmp_path]
    result = run_program("preprocess/make_json.py", *options, "--train-on-val")
    assert result.returncode == 0, result.stderr
    lists = [tmp_path / f"mine_{split}.json" for split in ("train", "val", "test")]
    assert [len(part) for part in read_splits(*lists, train_on_val=True)] == [3, 1, 1]


def test_images_are_copied_on_request_and_what_is_no_image_is_named(tmp_path):
    raw = write_images(tmp_path / "raw", ["1.webp", "2.jpg", "3.png"])
    write_plain_json(raw / "heads.json", {"1.webp": [[5, 6]], "2.jpg": [], "3.png": [[1, 1]]})
    for name in ("4.heic", ".DS_Store"):
        (raw / name).write_bytes(b"no image known here")
    result = run_program(MAKE_DATASET, "--root", tmp_path / "mine", "--images", raw, "--copy")
    assert result.returncode == 0, result.stderr
    line = "left out, as no images known here (.bmp .jpeg .jpg .png .webp): 1, such as 4.heic"
    assert line in result.stdout
    images = [path for path in (tmp_path / "mine").rglob("images/*")]
    assert len(images) == 3 and not any(image.is_symlink() for image in images)
    assert all(image.read_bytes() == (raw / image.name).read_bytes() for image in images)


def test_turned_photographs_become_upright_under_their_heads(tmp_path):
    raw = write_images(tmp_path / "raw", ["1.jpg", "2.jpg", "3.jpg"])
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees, clockwise
    stored = np.zeros((*SIZE, 3), np.uint8)
    stored[40:48, 16:24] = 255
    Image.fromarray(stored).save(raw / "2.jpg", exif=exif, quality=95)
    heads = {"1.jpg": [[1, 1]], "2.jpg": [[20, 20]], "3.jpg": [[1, 1]]}  # where viewers show it
    write_plain_json(tmp_path / "heads.json", heads)
    source = ["--images", raw, "--annotations", tmp_path / "heads.json"]
    result = run_program(MAKE_DATASET, "--root", tmp_path / "mine", *source)
    assert result.returncode == 0, result.stderr
    (copy,) = (tmp_path / "mine").rglob("2.jpg")
    with Image.open(copy) as image:
        assert (image.height, image.width) == SIZE[::-1] and 0x0112 not in image.getexif()
        assert np.asarray(image)[20, 20].min() > 200 and np.asarray(image)[60, 40].max() < 50
    copy.unlink()
    copy.symlink_to(raw / "2.jpg")
    result = run_program(MAKE_DATASET, "--root", tmp_path / "mine")
    assert_one_line_error(result, "2.jpg is stored turned", "--images")


def test_mistakes_end_in_one_line_and_leave_nothing(tmp_path):
    raw, heads = write_images(tmp_path / "raw"), tmp_path / "heads.json"
    write_coco_boxes(heads, HEADS)
    before = sorted(tmp_path.rglob("*"))

    def refused(*words, **changes):
        options = {"root": tmp_path / "mine", "images": raw, "annotations": heads} | changes
        given = [v for k, value in options.items() for v in (f"--{k}", value)]
        assert_one_line_error(run_program(MAKE_DATASET, *given), *words)
        assert sorted(tmp_path.rglob("*")) == before

    Image.new("RGB", (30, 40)).save(raw / "a.jpg")
    refused("a.jpg is 40x30 (height x width), its annotation 64x96")
    write_images(raw)
    image = raw / "c.jpg"
    image.write_bytes(image.read_bytes()[:-100])
    refused("c.jpg is not a readable image")
    write_plain_json(heads, {"a.jpg": []})
    refused("2 of 3 images have no annotation, such as b.png")
    write_plain_json(heads, HEADS | {"z.jpg": []})
    refused("heads.json annotates z.jpg, which is not among the images")
    refused("exists already", root=raw)
    result = run_program(MAKE_DATASET, "--root", raw, "--seed", 1)
    assert result.returncode == 2 and "--seed needs --images" in result.stderr
    result = run_program(MAKE_DATASET, "--root", raw)
    assert_one_line_error(result, "must hold one folder train, found none; make_dataset.py")


def test_a_layout_made_by_hand_needs_the_command_only_for_its_maps(tmp_path):
    root, maps = tmp_path / "mine", tmp_path / "maps"
    for split, names in (("train", ["1.jpg", "2.jpg"]), ("test", ["1.jpg"])):
        folder = write_images(root / split / "images", names)
        (root / split / "annotations").mkdir()
        for name in names:
            write_table(folder.with_name("annotations") / f"{name[0]}.csv", [[9, 9]])
    before = sorted(root.rglob("*"))
    result = run_program(MAKE_DATASET, "--root", root, "--out", maps)
    assert result.returncode == 0, result.stderr
    assert sorted(root.rglob("*")) == before  # it may be read-only
    lists = [maps / f"mine_{split}.json" for split in ("train", "val", "test")]
    train, val, test = read_splits(*lists, train_on_val=False)
    assert len(train) == len(val) == 1 and test[0].density == maps / "test/annotations/1.h5"
    with h5py.File(test[0].density) as file:
        assert file.attrs["sigma"] == "0.1*(d1+d2+d3)"


def test_images_in_subfolders_are_left_out_and_said_to_be(tmp_path):
    for split in ("train", "test"):
        images = write_images(tmp_path / split / "images", ["1.jpg", "2.jpg"])
        for name in "12":
            write_table(images / f"{name}.csv", [[9, 9]])
    write_images(images / "cam2", ["3.jpg"])
    result = run_program(MAKE_DATASET, "--root", tmp_path)
    assert result.returncode == 0, result.stderr
    said = f"1 pictures in subfolders of {images} are left out, such as {images / 'cam2/3.jpg'}; "
    assert said in result.stderr


def test_images_that_would_share_a_map_are_refused(tmp_path):
    for split, names in (("train", ["1.jpg", "1.png"]), ("test", ["1.jpg"])):
        images = write_images(tmp_path / split / "images", names)
        for name, annotation in zip(names, ("1.csv", "GT_1.csv"), strict=False):
            write_table(images / annotation, [[len(name), 9]])
    result = run_program(MAKE_DATASET, "--root", tmp_path)
    assert_one_line_error(result, "1.jpg and 1.png would share a density map; rename one")


def test_files_that_spreadsheets_leave_are_read(tmp_path):
    table = tmp_path / "heads.csv"
    table.write_text("img,x,y\na.jpg,1,2\nb.jpg,,\na.jpg,3,4\n,,\n,,\n", encoding="utf-8-sig")
    found = {a.image: a.points.tolist() for a in read_annotations(table)}
    assert found == {"a.jpg": [[1, 2], [3, 4]], "b.jpg": []}
    table.write_text("Bild;x;y;label\na.jpg;1;2;head\n;;;\n")  # a header that nobody foresaw
    assert [a.image for a in read_annotations(table)] == ["a.jpg"]
    table.write_text("image,x,y\n,1,2\n")
    with pytest.raises(DataError, match="line 2: no image is named"):
        read_annotations(table)
    table.write_text("1,2\n,\n")
    assert read_annotation(table).points.tolist() == [[1, 2]]


def test_a_coco_file_that_annotates_nothing_is_no_data_set_unless_allowed(tmp_path):
    file, images = tmp_path / "all.json", write_images(tmp_path / "images")
    write_coco_boxes(file, dict.fromkeys(HEADS, []))
    with pytest.raises(DataError, match="names 3 images but annotates none; --allow-empty"):
        match(Source(images, file))
    allowed = match(Source(images, file, allow_empty=True))
    assert [len(annotation.points) for annotation in allowed.values()] == [0, 0, 0]


def test_a_rectangle_of_four_corners_counts_by_its_centre(tmp_path):
    corners = [[2, 3], [6, 3], [6, 9], [2, 9]]
    shape = {"label": "head", "shape_type": "rectangle"}
    (tmp_path / "a.json").write_text(json.dumps({"shapes": [shape | {"points": corners}]}))
    assert read_annotation(tmp_path / "a.json").points.tolist() == [[4, 6]]
    (tmp_path / "a.json").write_text(json.dumps({"shapes": [shape | {"points": corners[:3]}]}))
    with pytest.raises(DataError, match="must be a point or a rectangle"):
        read_annotation(tmp_path / "a.json")


def test_mat_files_of_other_shapes(tmp_path):
    path, points = tmp_path / "a.mat", np.array([[1, 2], [3, 4], [5, 6]], float)
    scipy.io.savemat(path, {"image_info": {"location": points, "number": 3}})  # in no cell
    assert read_annotation(path).points.tolist() == points.tolist()
    scipy.io.savemat(path, {"annPoints": points[:2]})
    assert read_annotation(path).points.tolist() == points[:2].tolist()
    for content, message in (
        ({"annPoints": points.T}, r"points of shape \(2, 3\) look transposed; N x 2"),
        ({"image_info": {"location": points.T}}, "look transposed"),
        ({"image_info": points}, "image_info is no struct"),
        ({"annPoints": points + 1j}, "must be an N x 2 array.* of complex128"),
        ({"annPoints": "many heads"}, "must be an N x 2 array"),
        ({"annPoints": points * np.nan}, "not a finite number"),
        ({"annPoints": points * 1e300}, "not a finite number"),
    ):
        scipy.io.savemat(path, content)
        with warnings.catch_warnings(), pytest.raises(DataError, match=message):
            warnings.simplefilter("error")
            read_annotation(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "is nested too deeply"),
        ("[[1, " + "9" * 5_000 + "]]", "a number has thousands of digits"),
        ("[[1, " + "9" * 4_000 + "]]", r"a point must be \[x, y\]"),
        ("[[1, Infinity]]", "not a finite number"),
        ("[[NaN, 1]]", "not a finite number"),
        ("[[1, 1e99]]", "not a finite number"),
        ('{"shapes": [], "imageHeight": 1e999, "imageWidth": 9}', "cannot be inf x 9 pixels"),
        ('{"shapes": [], "imageHeight": 9, "imageWidth": -3}', "cannot be 9 x -3 pixels"),
        ('{"shapes": [], "imageHeight": 9, "imageWidth": ' + "9" * 4_000 + "}", "9 x 99999"),
        ('{"shapes": [], "imageHeight": "high", "imageWidth": [9]}', "cannot be 'high' x"),
        (
            '{"images": [{"id": 1, "file_name": "a", "height": 1e12, "width": 9}], '
            '"annotations": [{"id": 1, "image_id": 1, "bbox": [1, 2, 3, 4]}]}',
            "a.json, a: an image cannot be 1000000000000.0 x 9 pixels",
        ),
    ],
)
def test_absurd_json_is_refused_in_one_short_line(text, message, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with warnings.catch_warnings(), pytest.raises(DataError, match=message) as error:
        warnings.simplefilter("error")
        read_annotations(tmp_path / "a.json")
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_spellings_of_a_name_are_told_apart_only_where_they_must(tmp_path):
    accented = "caf\u00e9.jpg"
    decomposed = unicodedata.normalize("NFD", accented)
    assert accented != decomposed
    images = write_images(tmp_path / "images", [decomposed, "B.JPG", "c.jpg", "C.jpg", "d/1.jpg"])
    heads = {accented: 1, "b.jpg": 2, "c.jpg": 3, "C.jpg": 4, "D/1.JPG": 5}
    file = tmp_path / "heads.json"
    write_plain_json(file, {name: [[x, 1]] for name, x in heads.items()})
    found = {str(i): a.points[0, 0] for i, a in match(Source(images, file)).items()}
    assert found == {decomposed: 1, "B.JPG": 2, "c.jpg": 3, "C.jpg": 4, "d/1.jpg": 5}
    write_plain_json(file, {"c.JPG": []})
    with pytest.raises(DataError, match=r"annotates c.JPG, which may be C.jpg or c.jpg"):
        match(Source(images, file))


def test_annotations_of_a_layout_are_found_in_other_spellings(tmp_path):
    decomposed = unicodedata.normalize("NFD", "caf\u00e9")
    images = write_images(tmp_path / "train/images", ["caf\u00e9.jpg", "A.JPG", "b.jpg", "B.jpg"])
    folder = images.with_name("annotations")
    folder.mkdir()
    for name in (decomposed, "a", "b", "B"):
        write_table(folder / f"{name}.csv", [[1, 2]])
    pairs = find_images(DATASETS["MINE"], tmp_path, "train")
    found = {pair.image.name: pair.annotation.name for pair in pairs}
    assert found == {
        "caf\u00e9.jpg": f"{decomposed}.csv",
        "A.JPG": "a.csv",
        "b.jpg": "b.csv",
        "B.jpg": "B.csv",
    }
    write_table(folder / "GT_B.csv", [[1, 2]])
    with pytest.raises(DataError, match="GT_B.csv has no image"):
        find_images(DATASETS["MINE"], tmp_path, "train")


def test_pipes_are_refused_and_never_waited_for(tmp_path):
    images, pipes = write_images(tmp_path / "images"), tmp_path / "pipes"
    pipes.mkdir()
    for name in ("a.csv", "a.json", "a.mat"):
        os.mkfifo(pipes / name)
        with pytest.raises(DataError, match=f"{name} is no regular file"):
            read_annotation(pipes / name)
    with pytest.raises(DataError, match="a.csv is neither a file nor a folder of annotations"):
        match(Source(images, pipes / "a.csv"))
    os.mkfifo(images / "d.jpg")
    with pytest.raises(DataError, match="d.jpg is no regular file"):
        match(Source(images, images))


def test_all_unreadable_annotations_are_named(tmp_path):
    images = write_images(tmp_path / "images")
    for name, text in (("a", "[[1, 2]"), ("b", "[]"), ("c", '{"shapes": 3}')):
        (tmp_path / f"{name}.json").write_text(text)
    with pytest.raises(DataError) as error:
        match(Source(images, tmp_path))
    first, second = str(error.value).splitlines()
    assert "a.json is not JSON" in first and "c.json: must be of the form" in second


def test_make_dataset_warns_of_swapped_axes(tmp_path, monkeypatch, capsys):
    images = write_images(tmp_path / "raw", [f"{n}.jpg" for n in range(3)])
    heads = {f"{n}.jpg": [[60, 90], [50, 80], [3, 4]] for n in range(2)}  # y, x of 64 x 96
    write_plain_json(tmp_path / "heads.json", heads | {"2.jpg": [[90, 60]]})
    command = ["", "--root", tmp_path / "mine", "--images", images, "--workers", 1]
    command += ["--annotations", tmp_path / "heads.json"]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    make_dataset.main(make_dataset.parse_args())
    warned = [line for line in capsys.readouterr().err.splitlines() if "warning: " in line]
    assert sum("most points lie outside" in line for line in warned) == len(warned) > 0
    assert all("(2 of 3; 0 if x and y were swapped)" in line for line in warned)
