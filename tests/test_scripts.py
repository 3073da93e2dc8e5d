"""The shell scripts, end to end on a tiny demonstration crowd."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT

from datasets.splits import read_list


def run_script(script: str, *options: str, **settings: object) -> subprocess.CompletedProcess:
    """Runs a script from another folder, with settings in its environment."""
    environment = {name: str(value) for name, value in settings.items()}
    return subprocess.run(
        ["bash", PROJECT / script, *options],
        capture_output=True,
        text=True,
        timeout=280,
        cwd="/",
        env=os.environ | {"PYTHON": sys.executable} | environment,
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder of a whole demonstration, and what SKT_distill.sh printed."""
    folder = tmp_path_factory.mktemp("demo")
    result = run_script("SKT_distill.sh", **settings(folder))
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


def settings(folder: Path) -> dict[str, object]:
    small = {"DATASET": "DEMO", "DEMO_TRAIN": 12, "DEMO_TEST": 3, "DEMO_SIZE": "112x144"}
    return {
        "ROOT": folder / "data",
        "RUNS": folder / "runs",
        "TEACHER_EPOCHS": 2,
        "EPOCHS": 2,
    } | small


def test_one_command_goes_from_nothing_to_a_result_table(demo):
    folder, printed = demo
    student = folder / "runs/skt_csrnet_demo"
    for stage in (
        "Demonstration crowd",
        "Density maps",
        "Lists",
        "Teacher",
        "Distillation",
        "Test",
    ):
        assert stage in printed
    assert "ours: 1/3-CSRNet" in printed and "ours: 1/4-CSRNet" in printed
    log = [json.loads(line) for line in (student / "log.jsonl").read_text().splitlines()]
    assert all(log[-1][term] < log[0][term] for term in ("hard", "soft", "intra", "inter"))
    tested = json.loads((student / "test.json").read_text())
    result = json.loads((student / "result.json").read_text())
    assert tested["mae"] == pytest.approx(result["test"]["mae"], rel=1e-5)
    assert len(list((student / "maps").glob("*.png"))) == 3
    train, test = (read_list(folder / f"runs/lists_demo/demo_{s}.json") for s in ("train", "test"))
    assert len(train) == 10 and len(test) == 3


def test_the_test_script_measures_the_student_again(demo):
    folder, _ = demo
    checkpoint = folder / "runs/skt_csrnet_demo/model.safetensors"
    result = run_script("test.sh", "--size", "64x64", CHECKPOINT=checkpoint, **settings(folder))
    assert result.returncode == 0, result.stderr
    assert "ours: 1/4-CSRNet" in result.stdout
    assert (folder / "runs/test_demo/test.csv").exists()


def test_a_second_run_is_refused_and_loses_nothing(demo):
    folder, _ = demo
    log = folder / "runs/skt_csrnet_demo/log.jsonl"
    before = log.read_text()
    result = run_script("SKT_distill.sh", **settings(folder))
    assert result.returncode != 0
    assert "already holds a run" in result.stderr.strip().splitlines()[-1]
    assert log.read_text() == before


@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        ([], {"DATASET": "SHC"}, "DATASET must be SHA, SHB, QNRF or DEMO, got SHC"),
        ([], {"ROOT": "/data"}, "ROOT=/data is set: name its DATASET as well"),
        ([], {"TRAIN_ON_VAL": "yes"}, "TRAIN_ON_VAL must be 1, 0 or empty, got yes"),
        (["--out", "x"], {}, "set OUT=... in place of --out"),
        (["--cpu"], {}, "set GPU=... (a number, or cpu) in place of --cpu"),
        ([], {"PYTHON": "/bin/false"}, "PYTHON=/bin/false lacks one of"),
    ],
)
def test_wrong_settings_are_refused_at_once(options, settings, message, tmp_path):
    result = run_script("SKT_distill.sh", *options, RUNS=tmp_path, **settings)
    assert result.returncode == 1
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith(f"error: {message}")
