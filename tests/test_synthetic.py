"""The demonstration crowd: its layout, its seed, and that counting it takes more than its light."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_one_line_error, run_program
from PIL import Image

from datasets.catalogue import DATASETS
from preprocess.annotations import read_shanghaitech_points
from preprocess.layouts import find_images
from preprocess.synthetic import draw_scene
from utils.files import MACHINE, UNFINISHED

DRAW = "preprocess/synthetic.py"


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*.jpg")
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    result = run_program(DRAW, "--out", root, "--train", 60, "--test", 3, "--size", "96x144")
    assert result.returncode == 0, result.stderr
    return root


def test_it_is_laid_out_as_shanghaitech_with_heads_inside(drawn):
    demo = DATASETS["DEMO"]
    assert [len(find_images(demo, drawn, split)) for split in ("train", "test")] == [60, 3]
    for pair in find_images(DATASETS["DEMO"], drawn, "train"):
        points = read_shanghaitech_points(pair.annotation)
        assert Image.open(pair.image).size == (144, 96)
        assert ((points >= 0) & (points < (144, 96))).all()


def test_counts_are_broad_and_neither_light_nor_darkness_tells_them(drawn):
    counts, light = [], []
    for pair in find_images(DATASETS["DEMO"], drawn, "train"):
        counts.append(len(read_shanghaitech_points(pair.annotation)))
        light.append(np.asarray(Image.open(pair.image).convert("L")).mean())
    assert min(counts) == 0 and max(counts) > 150
    assert np.std(counts) > 0.7 * np.mean(counts)
    assert abs(np.corrcoef(counts, light)[0, 1]) < 0.5


def test_the_seed_alone_fixes_the_pictures(drawn, tmp_path):
    options = ["--size", "96x144", "--train", 4, "--test", 1, "--workers", 1]
    for folder, seed in (("same", 0), ("other", 1)):
        assert (
            run_program(DRAW, "--out", tmp_path / folder, *options, "--seed", seed).returncode == 0
        )
    reference, same, other = (digests(d) for d in (drawn, tmp_path / "same", tmp_path / "other"))
    assert len(same) == 5 and all(reference[name] == digest for name, digest in same.items())
    assert all(reference[name] != digest for name, digest in other.items())


def test_heads_are_where_their_points_are():
    image, points = draw_scene(np.random.default_rng(5), (256, 384))
    assert image.shape == (256, 384, 3) and image.dtype == np.uint8
    assert points.dtype == np.float32 and len(points) > 0
    gaps = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1)) + 99 * np.eye(len(points))
    assert gaps.min() > 1  # no two annotations on one head


def test_it_draws_only_what_is_missing_and_never_over_a_users_files(tmp_path):
    options = ["--out", tmp_path, "--size", "96x144", "--train", 2, "--test", 1]
    assert run_program(DRAW, *options).returncode == 0
    assert "up to date" in run_program(DRAW, *options).stdout
    before = digests(tmp_path)
    (tmp_path / "part_A/demo.json").unlink()
    assert_one_line_error(run_program(DRAW, *options), "holds files that this command did not make")
    assert digests(tmp_path) == before


def test_what_a_killed_start_left_is_no_file_of_a_users(tmp_path):
    (tmp_path / "part_A").mkdir()
    (tmp_path / f"part_A/{UNFINISHED}{MACHINE}-99999999-0.json").touch()  # of its first write
    result = run_program(DRAW, "--out", tmp_path, "--size", "96x144", "--train", 1, "--test", 1)
    assert result.returncode == 0, result.stderr
    assert not list(tmp_path.rglob(f"{UNFINISHED}*"))


def test_bad_sizes_are_refused(tmp_path):
    result = run_program(DRAW, "--out", tmp_path, "--size", "wide")
    assert result.returncode == 2 and "HEIGHTxWIDTH" in result.stderr.strip().splitlines()[-1]
