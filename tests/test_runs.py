"""A run's folder is new or can be resumed, whatever happened to it; only one training uses it."""

import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PROJECT

import SKT_distill
import test
from counting.protocols import evaluate
from datasets.splits import read_list
from training import runlog
from training.experiment import Training
from training.runlog import FILES, RunError, RunFolder
from utils.checkpoint import CheckpointError, read_checkpoint
from utils.files import WriteError

OPTIONS = ["--workers", 0, "--cpu", "--width", "1/16", "--terms", "hard", "--crop", "32x32"]
OPTIONS += ["--batch-size", 2, "--precision", "float32"]


@pytest.fixture(scope="module")
def finished(crowd_lists, tmp_path_factory):
    """A finished run of two epochs."""
    out = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", list(map(str, ["", *arguments(crowd_lists, out, 2)])))
        SKT_distill.main(SKT_distill.parse_args())
    return out


def arguments(lists: list[Path], out: Path, epochs: int) -> list:
    return [*lists, *OPTIONS, "--epochs", epochs, "--out", out]


def copy_of(run: Path, folder: Path) -> Path:
    """Returns a copy of a run's files."""
    folder.mkdir()
    for name in FILES:
        (folder / name).write_bytes((run / name).read_bytes())
    return folder


def test_curves_are_drawn_now_and_then_and_at_the_end(tmp_path, monkeypatch):
    drawn, clock = [], [0.0]
    monkeypatch.setattr(runlog, "draw_curves", lambda records, _: drawn.append(len(records)))
    monkeypatch.setattr(runlog, "time", Namespace(monotonic=lambda: clock[0]))
    folder = RunFolder(tmp_path / "run", resume=False)
    for epoch in range(1, 25):
        clock[0] += 1
        validation = {"val_mae": 1.0} if epoch % 2 else {}
        folder.log({"epoch": epoch, "seconds": clock[0], **validation})
    assert drawn == [11, 22]
    for _ in range(2):
        folder.draw()
    assert drawn == [11, 22, 24]
    folder.close()


@pytest.mark.parametrize("lost", ["model.safetensors", "result.json", "both", "an empty result"])
def test_a_training_killed_at_its_end_is_ended_again(call, crowd_lists, finished, tmp_path, lost):
    out = copy_of(finished, tmp_path / "run")
    wanted = json.loads((out / "result.json").read_text())
    for name in ("model.safetensors", "result.json"):
        if lost in (name, "both"):
            (out / name).unlink()
    if lost == "an empty result":
        (out / "result.json").write_text("")
    call(SKT_distill, *arguments(crowd_lists, out, 2), "--resume")
    assert json.loads((out / "result.json").read_text()) == wanted
    weights, expected = (read_checkpoint(f / "model.safetensors") for f in (out, finished))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_what_time_has_ended_stays_ended_though_some_is_left(
    call, crowd_lists, tmp_path, monkeypatch, capsys
):
    out, epochs = tmp_path / "run", 10**6
    budget = ["--max-minutes", 0.02, "--eval-every", epochs]  # so that the end is reserved roughly
    call(SKT_distill, *arguments(crowd_lists, out, epochs), *budget)
    kept = {name: (out / name).read_bytes() for name in FILES}
    steps = read_checkpoint(out / "last.pth")["progress"]["steps"]
    monkeypatch.setattr("training.schedule.Schedule.plan", lambda *_: steps + 9)
    call(SKT_distill, *arguments(crowd_lists, out, epochs), *budget, "--resume")
    assert f"{out} is finished already" in capsys.readouterr().out
    assert {name: (out / name).read_bytes() for name in FILES} == kept


def test_the_result_is_written_last(call, crowd_lists, tmp_path, monkeypatch):
    def full(path, *_):
        raise WriteError(f"{path} could not be written")

    monkeypatch.setattr("training.result.save_weights", full)
    with pytest.raises(WriteError):
        call(SKT_distill, *arguments(crowd_lists, tmp_path / "run", 1))
    assert not (tmp_path / "run/result.json").exists()


def test_a_run_killed_before_its_first_validation_resumes(call, crowd_lists, tmp_path, monkeypatch):
    log = RunFolder.log

    def killed(self, record):
        log(self, record)
        raise KeyboardInterrupt

    out, rare = tmp_path / "run", ["--eval-every", 3]
    monkeypatch.setattr(RunFolder, "log", killed)
    with pytest.raises(KeyboardInterrupt):
        call(SKT_distill, *arguments(crowd_lists, out, 4), *rare)
    assert len((out / "log.jsonl").read_text().splitlines()) == 1
    monkeypatch.setattr(RunFolder, "log", log)
    call(SKT_distill, *arguments(crowd_lists, out, 4), *rare, "--resume")
    epochs = [json.loads(line)["epoch"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert epochs == [1, 2, 3, 4]


def test_a_resumed_run_that_ends_before_its_first_validation_is_validated(
    call, crowd_lists, tmp_path, monkeypatch
):
    out, rare = tmp_path / "run", ["--eval-every", 9]
    keep = Training.keep

    def killed(self, scores):
        keep(self, scores)
        raise KeyboardInterrupt

    monkeypatch.setattr(Training, "keep", killed)
    with pytest.raises(KeyboardInterrupt):
        call(SKT_distill, *arguments(crowd_lists, out, 4), *rare)
    monkeypatch.setattr(Training, "keep", keep)
    call(SKT_distill, *arguments(crowd_lists, out, 1), *rare, "--resume")
    result = json.loads((out / "result.json").read_text())
    assert (result["epoch"], result["epochs"]) == (1, 1) and result["val_mae"] < 1000


def test_a_last_epoch_that_time_cut_short_stays_logged(call, crowd_lists, tmp_path, monkeypatch):
    out = tmp_path / "run"
    monkeypatch.setattr("training.schedule.Schedule.plan", lambda *_: 1)  # step, of several
    call(SKT_distill, *arguments(crowd_lists, out, 3))
    log = (out / "log.jsonl").read_text()
    (out / "result.json").unlink()
    call(SKT_distill, *arguments(crowd_lists, out, 3), "--resume")
    assert (out / "log.jsonl").read_text() == log and "val_mae" in log
    (out / "result.json").unlink()
    monkeypatch.undo()
    call(SKT_distill, *arguments(crowd_lists, out, 3), "--resume")
    epochs = [json.loads(line)["epoch"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert epochs == [1, 2, 3]


def test_a_run_goes_on_with_its_images_alone(call, crowd_lists, finished, tmp_path):
    out, other = copy_of(finished, tmp_path / "run"), tmp_path / crowd_lists[0].name
    images = [str(sample.image) for sample in read_list(crowd_lists[0])]
    other.write_text(json.dumps(images[::-1]))  # whose crops would come in another order
    lists = [other, *crowd_lists[1:]]
    with pytest.raises(CheckpointError, match="was trained with lists of images .*, not of images"):
        call(SKT_distill, *arguments(lists, out, 3), "--resume")


def test_a_run_goes_on_without_what_it_began_with(call, crowd_lists, finished, tmp_path):
    start, out = tmp_path / "start.safetensors", tmp_path / "run"
    start.write_bytes((finished / "model.safetensors").read_bytes())
    options = ["--student_ckpt", start]
    call(SKT_distill, *arguments(crowd_lists, out, 1), *options)
    start.unlink()
    call(SKT_distill, *arguments(crowd_lists, out, 2), *options, "--resume")
    assert json.loads((out / "result.json").read_text())["epochs"] == 2


def test_the_end_is_counted_in_float32_without_tf32(call, crowd_lists, tmp_path, monkeypatch):
    counted = []

    def count(network, images, device, protocol):
        counted.append(torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)
        return evaluate(network, images, device, protocol)

    monkeypatch.setattr("training.result.evaluate", count)
    call(SKT_distill, *arguments(crowd_lists, tmp_path / "run", 1), "--precision", "bfloat16")
    assert counted == [False, False]


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    folder = RunFolder(tmp_path / "run", resume=False)
    (tmp_path / "run/tensorboard").touch()
    with pytest.raises(WriteError, match="run/tensorboard could not be written"):
        folder.log({"epoch": 1, "seconds": 1.0})
    folder.close()


@pytest.mark.parametrize("name", FILES)
def test_a_folder_with_any_file_of_a_run_is_not_overwritten(call, crowd_lists, tmp_path, name):
    (tmp_path / name).write_text("precious")
    advice = "continue it with --resume, or " if name == "last.pth" else ""
    message = rf"already holds a run \({name}\); {advice}name another"
    with pytest.raises(RunError, match=message):
        call(SKT_distill, *arguments(crowd_lists, tmp_path, 1))
    assert (tmp_path / name).read_text() == "precious"


def test_a_second_training_in_a_folder_is_refused_until_the_first_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(runlog, "LINGER_S", 0.1)
    first = RunFolder(tmp_path / "run", resume=False)
    with pytest.raises(RunError, match="another training is at work in .*run; name another --out"):
        RunFolder(tmp_path / "run", resume=False)
    first.close()
    RunFolder(tmp_path / "run", resume=False).close()


def test_a_killed_training_frees_its_folder(tmp_path):
    lines = ["import sys, time, pathlib", "from training.runlog import RunFolder"]
    lines += ["folder = RunFolder(pathlib.Path(sys.argv[1]), False)", "print('held', flush=True)"]
    command = [sys.executable, "-c", "; ".join([*lines, "time.sleep(60)"]), tmp_path / "run"]
    other = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE)
    other.stdout.readline()
    other.kill()
    other.communicate()
    RunFolder(tmp_path / "run", resume=False).close()


def deep(levels: int) -> list:
    nested: list = []
    for _ in range(levels):
        nested = [nested]
    return nested


def moment(state: dict) -> dict:
    """Returns the optimiser's state of the first parameter."""
    return state["optimizer"]["state"][0]


DAMAGES: dict[str, Callable[[dict], Any]] = {
    "exp_avg of parameter 0 does not fit": lambda s: moment(s).update(exp_avg=torch.ones(3)),
    "no parameter 0 with such a state": lambda s: moment(s).pop("exp_avg_sq"),
    "no parameter 99": lambda s: s["optimizer"]["state"].update({99: moment(s)}),
    "'str' object has no attribute": lambda s: moment(s).update(exp_avg="text"),
    "groups of parameters": lambda s: s["optimizer"].update(param_groups=deep(100_000)),
    "lr is not like": lambda s: s["optimizer"]["param_groups"][0].update(lr="fast"),
    "parameters are others": lambda s: s["optimizer"]["param_groups"][0].update(params=[0]),
    "progress steps is str": lambda s: s["progress"].update(steps="many"),
    "unexpected keyword": lambda s: s["progress"].update(luck=1),
    "progress is negative": lambda s: s["progress"].update(step=-1),
    "not of a training": lambda s: s.pop("optimizer"),
    "is not of a training": lambda s: s.update(model=deep(100_000)),
    "trained with lr something else": lambda s: s["settings"].update(lr=deep(100_000)),
    "not finite": lambda s: s["model"].update({name: t / 0 for name, t in s["model"].items()}),
    "Missing key": lambda s: s["model"].popitem(),
}


@pytest.mark.parametrize("reason", DAMAGES)
def test_a_damaged_checkpoint_is_refused_before_it_is_used(
    call, crowd_lists, finished, tmp_path, reason, monkeypatch
):
    out = copy_of(finished, tmp_path / "run")
    state = read_checkpoint(out / "last.pth")
    DAMAGES[reason](state)
    monkeypatch.setattr("training.experiment.read_checkpoint", lambda _: state)
    with pytest.raises(CheckpointError, match=f"last.pth .*{reason}") as caught:
        call(SKT_distill, *arguments(crowd_lists, out, 3), "--resume")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)]
)
def test_signals_to_the_whole_group_stop_a_training_with_workers(crowd_lists, tmp_path, number):
    out = tmp_path / "run"
    command = [sys.executable, PROJECT / "SKT_distill.py", *arguments(crowd_lists, out, 10**6)]
    command += ["--workers", 2]
    process = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (out / "log.jsonl").exists():
        time.sleep(0.05)
        assert process.poll() is None
    os.killpg(process.pid, number)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and "--resume continues" in output, errors
    assert "Traceback" not in errors
    assert read_checkpoint(out / "last.pth")["progress"]["steps"] > 0
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # no worker is left


@pytest.mark.parametrize("option", ["--json", "--per-image", "--worst", "--examples"])
def test_test_py_writes_over_none_of_its_inputs(call, crowd_lists, finished, tmp_path, option):
    path = tmp_path / "list.png"
    path.write_text(crowd_lists[2].read_text())
    options = ["-c", finished / "model.safetensors", "--cpu", "--size", "64x96"]
    with pytest.raises(WriteError, match=f"{option} .*list.png would overwrite what is read"):
        call(test, path, *options, option, path)
    other = "--json" if option == "--per-image" else "--per-image"
    with pytest.raises(WriteError, match="would both write"):
        call(test, crowd_lists[2], *options, option, tmp_path / "a.png", other, tmp_path / "a.png")
    assert path.read_text() == crowd_lists[2].read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["list.png"]
