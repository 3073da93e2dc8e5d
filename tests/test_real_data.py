"""Checks on the real ShanghaiTech Part A, where SHANGHAITECH names its folder."""

import os
from pathlib import Path

import h5py
import pytest
from conftest import run_program

from datasets.catalogue import DATASETS
from datasets.splits import read_list
from preprocess.layouts import find_images

ROOT = os.environ.get("SHANGHAITECH")
pytestmark = pytest.mark.skipif(ROOT is None, reason="SHANGHAITECH names no data set")


def test_part_a_keeps_every_published_head(tmp_path):
    maps, lists = tmp_path / "maps", tmp_path / "lists"
    command = "preprocess/ShanghaiTech_GT_generation.py"
    result = run_program(command, "--root", ROOT, "--out", maps)
    assert result.returncode == 0, result.stderr
    assert "300 images, 162413 heads" in result.stdout
    assert "182 images, 78862 heads" in result.stdout
    root = Path(ROOT)
    for split in ("train", "test"):
        for pair in find_images(DATASETS["SHA"], root, split):
            with h5py.File(pair.density_path(root, maps)) as file:
                heads = len(file["points"])
                assert file["density"][:].sum(dtype=float) == pytest.approx(heads, rel=1e-6)
    result = run_program(
        "preprocess/make_json.py", "--root", ROOT, "--gt-root", maps, "--out", lists
    )
    assert result.returncode == 0 and "59 images (the published 59)" in result.stdout
    sizes = [len(read_list(lists / f"A_{split}.json")) for split in ("train", "val", "test")]
    assert sizes == [241, 59, 182]
