"""Several processes are one: torchrun with gloo on the CPU against a single process."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import PROJECT, run_program

from utils.checkpoint import read_checkpoint

OPTIONS = ["--width", "1/16", "--workers", "0", "--cpu", "--crop", "32x48", "--batch-size", "4"]
# Adam divides the first gradient by its own size, so even rounding becomes a whole step. With SGD
# the sums show.
OPTIONS += ["--crops-per-image", "1", "--optimizer", "sgd", "--lr", "1e-5", "--init", "teacher"]
OPTIONS += ["--ema", "0.9"]


def start(processes, program, *arguments):
    """Starts a program in so many processes."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
    return subprocess.Popen(
        list(map(str, [sys.executable, *launch, PROJECT / program, *arguments])),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def distil(processes, lists, teacher, out, *options):
    arguments = [*lists, "-tc", teacher, "--out", out, *OPTIONS, *options]
    if processes == 1:
        result = run_program("SKT_distill.py", *arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout
    process = start(processes, "SKT_distill.py", *arguments)
    printed, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return printed


@pytest.fixture(scope="module")
def runs(crowd_lists, teacher, tmp_path_factory):
    """The folders of a distillation of one epoch, by the number of processes, and its output."""
    folder = tmp_path_factory.mktemp("runs")
    printed = {n: distil(n, crowd_lists, teacher, folder / f"{n}", "--epochs", 1) for n in (1, 2)}
    return folder, printed[2]


def assert_same_training(first, second):
    """Asserts that weights agree to 1e-5 of their change's scale, and the logs' numbers too."""
    one, other = (read_checkpoint(folder / "last.pth") for folder in (first, second))
    for part in ("model", "averaged", "adapters"):
        for name, tensor in one[part].items():
            torch.testing.assert_close(other[part][name], tensor, rtol=1e-5, atol=1e-6)
    one, other = (
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        for folder in (first, second)
    )
    for record, again in zip(one, other, strict=True):
        assert record.keys() == again.keys()
        for name in record.keys() - {"seconds"}:
            assert again[name] == pytest.approx(record[name], rel=1e-4), name


@pytest.mark.slow
def test_two_processes_train_and_count_as_one_does(runs):
    # An epoch has five crops: a whole batch, and one crop that only one of the two can take.
    folder, printed = runs
    assert_same_training(folder / "1", folder / "2")
    one, other = (json.loads((folder / n / "result.json").read_text()) for n in "12")
    assert other["test"]["images"] == 3
    assert other["test"]["mae"] == pytest.approx(one["test"]["mae"], rel=1e-4)
    assert printed.count("chosen on validation") == 1


@pytest.mark.slow
def test_statistics_of_process_0_are_validated_and_saved(crowd_lists, teacher, tmp_path):
    options = ["--arch", "mobile_s", "--init", "kaiming", "--terms", "soft", "--epochs", 5]
    train, val, test = crowd_lists
    distil(2, [train, test, val], teacher, tmp_path / "run", *options, "--crops-per-image", 2)
    record = json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[-1])
    last = ["-c", tmp_path / "run/last.pth", "--json", tmp_path / "test.json", "--cpu"]
    result = run_program("test.py", test, *last, "--size", "64x64")
    assert result.returncode == 0, result.stderr
    tested = json.loads((tmp_path / "test.json").read_text())
    assert tested["images"] > 1 and tested["mae"] == pytest.approx(record["val_mae"], rel=1e-6)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(runs, crowd_lists, teacher, tmp_path):
    for number, processes in (("1", 2), ("2", 1)):
        shutil.copytree(runs[0] / number, tmp_path / number)
        distil(processes, crowd_lists, teacher, tmp_path / number, "--epochs", 2, "--resume")
    assert_same_training(tmp_path / "1", tmp_path / "2")


@pytest.mark.slow
def test_a_killed_process_ends_the_run_with_a_message(crowd_lists, teacher, tmp_path):
    out = tmp_path / "skt"
    arguments = [*crowd_lists, "-tc", teacher, "--out", out, *OPTIONS, "--epochs", 100000]
    arguments += ["--init", "kaiming"]  # in place of a fit
    arguments += ["--workers", 2]  # which inherit the connections, and live some seconds longer
    process = start(2, "SKT_distill.py", *arguments)
    while not (out / "log.jsonl").exists():
        time.sleep(0.1)
        assert process.poll() is None, process.communicate()[1]
    children = subprocess.run(
        ["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True
    ).stdout.split()
    assert len(children) == 2
    os.kill(int(children[1]), signal.SIGKILL)
    began = time.monotonic()
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert time.monotonic() - began < 60
    assert re.search("error: process 0 lost another of the 2 .*--resume continues", errors)
    assert "Traceback" not in errors.split("ChildFailedError")[0].split("torch/distributed")[0]
    assert {"progress", "model"} <= read_checkpoint(out / "last.pth").keys()
