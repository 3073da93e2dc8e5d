"""The shell scripts, end to end on a tiny demonstration crowd."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import PROJECT, save_student, write_qnrf
from forkserver import forking_python
from PIL import Image
from test_accuracy import write_run

from datasets.splits import read_list
from report.closing import recommend
from utils.checkpoint import read_checkpoint, save_checkpoint
from utils.inputs import DataError


@pytest.fixture(scope="module", autouse=True)
def python(tmp_path_factory):
    """Gives `run_script` a Python that starts our programs quickly."""
    with (
        forking_python(tmp_path_factory.mktemp("python")) as path,
        pytest.MonkeyPatch.context() as m,
    ):
        m.setenv("PYTHON", str(path))
        m.setenv("SETUP_CHECKED", str(path))  # that it has all packages is not checked each time
        yield


def run_script(script: str, *options: str, **settings: object) -> subprocess.CompletedProcess:
    """Runs a script from another folder, with settings in its environment."""
    environment = {name: str(value) for name, value in settings.items()}
    return subprocess.run(
        ["bash", PROJECT / script, *options],
        capture_output=True,
        text=True,
        timeout=280,
        cwd="/",
        env=os.environ | environment,
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder of a whole demonstration, and what SKT_distill.sh printed."""
    folder = tmp_path_factory.mktemp("demo")
    result = run_script("SKT_distill.sh", **settings(folder))
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


@pytest.fixture(scope="module")
def bl_demo(demo):
    """The same with ARCH=bl, in the same folder."""
    folder, _ = demo
    result = run_script("SKT_distill.sh", ARCH="bl", **settings(folder))
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


def settings(folder: Path) -> dict[str, object]:
    small = {"DATASET": "DEMO", "DEMO_TRAIN": 8, "DEMO_TEST": 3, "DEMO_SIZE": "64x96"}
    return {
        "ROOT": folder / "data",
        "RUNS": folder / "runs",
        "TEACHER_EPOCHS": 1,
        "EPOCHS": 2,
    } | small


@pytest.mark.parametrize(
    ("fixture", "arch"), [("demo", "csrnet"), pytest.param("bl_demo", "bl", marks=pytest.mark.slow)]
)
def test_one_command_goes_from_nothing_to_a_result_table(fixture, arch, request):
    folder, printed = request.getfixturevalue(fixture)
    student, label = folder / f"runs/skt_{arch}_demo", {"csrnet": "CSRNet", "bl": "BL"}[arch]
    for stage in (
        "Demonstration crowd",
        "Density maps",
        "Lists",
        "Teacher",
        "Distillation",
        "Guard",
        "Test",
    ):
        assert stage in printed
    assert f"ours: 1/3-{label}" in printed and f"ours: 1/4-{label}" in printed
    log = [json.loads(line) for line in (student / "log.jsonl").read_text().splitlines()]
    assert all(log[-1][term] < log[0][term] for term in ("hard", "soft", "intra", "inter"))
    tested = json.loads((student / "test.json").read_text())
    result = json.loads((student / "result.json").read_text())
    assert tested["mae"] == pytest.approx(result["test"]["mae"], rel=1e-5)
    assert result["settings"]["hard"] == ("bayesian" if arch == "bl" else "density")
    assert len(list((student / "maps").glob("*.png"))) == 3
    train, test = (read_list(folder / f"runs/lists_demo/demo_{s}.json") for s in ("train", "test"))
    assert len(train) == 6 and len(test) == 3
    assert "Without a guard nothing will be flagged" in printed  # of so few pictures
    assert printed.rstrip().endswith(recommend(student, folder / "runs/lists_demo/demo_test.json"))


@pytest.mark.slow
def test_an_ablation_ends_in_a_table_and_a_figure(demo):
    folder, _ = demo
    ablate = {"ABLATIONS": "widths inter", "WIDTHS": "1/8", "WIDTH": "1/8", "LAMB_SOFT": 2}
    result = run_script("ablation.sh", **settings(folder) | ablate | {"EPOCHS": 1})
    assert result.returncode == 0, result.stderr
    assert "trained already: 1 epochs on 6 images by adam at " in result.stdout
    assert result.stdout.count("Variant: ") == 4  # SKT's own, in both ablations, once
    out = folder / "runs/ablation_csrnet_demo"
    table = (out / "ablation.md").read_text()
    printed = table.rpartition("\n\n![")[0]
    assert printed in result.stdout
    assert printed.endswith("\n\nEvery variant: csrnet on DEMO for 1 epochs.")
    lines = table.split("\n\n")[0].splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    terms = ["hard", "hard + soft", "hard + soft + intra", "hard + soft + intra + inter"]
    for row, label in zip(rows[2:], terms, strict=True):
        run = out / f"1-8_{label.replace(' + ', ',')}"
        assert row[2] == f"[{label}]({run.name}/log.jsonl)"
        measured = json.loads((run / "result.json").read_text())
        assert ("soft" in label) == (measured["settings"]["lamb_soft"] == "2.0")
        assert row[3] == "1"
        assert row[4:] == [
            f"{error:.2f}"
            for error in (measured["val_mae"], measured["test"]["mae"], measured["test"]["rmse"])
        ]
    with Image.open(out / "ablation.png") as figure:
        assert figure.size == (1200, 500)  # of one width
    again = settings(folder) | ablate | {"ABLATIONS": "inter", "EPOCHS": 1}
    result = run_script("ablation.sh", **again | {"EPOCHS": 2})
    assert result.returncode != 0  # of another budget
    assert "was trained with epochs 1, not 2" in result.stderr.splitlines()[-1]
    result = run_script("ablation.sh", **again)
    assert result.stdout.count("is finished already") == 3 and printed in result.stdout


@pytest.mark.slow
def test_a_student_alone_needs_no_teacher(tmp_path, demo):
    folder, _ = demo
    alone = settings(folder) | {"TERMS": "hard", "EPOCHS": 1, "OUT": tmp_path / "alone"}
    result = run_script("SKT_distill.sh", **alone)
    assert result.returncode == 0, result.stderr
    assert "learns alone" in result.stdout and result.stdout.count("ours:") == 1


@pytest.mark.slow
def test_a_counter_is_fine_tuned_and_shown_before_and_after(tmp_path, demo):
    folder, _ = demo
    student, runs = folder / "runs/skt_csrnet_demo/model.safetensors", tmp_path / "runs"
    tune = settings(folder) | {"RUNS": runs, "TERMS": "hard", "EPOCHS": 1, "STUDENT": student}
    result = run_script("SKT_distill.sh", **tune)
    assert result.returncode == 0, result.stderr
    assert f"{student} learns alone" in result.stdout and result.stdout.count("ours:") == 2
    tuned = runs / "tuned_csrnet_demo"
    before, after = (json.loads((tuned / f"{n}.json").read_text()) for n in ("before", "test"))
    assert before["mae"] != after["mae"]
    assert read_checkpoint(tuned / "best_mae.pth")["width"] == "1/4"  # which nobody repeated
    result = run_script("SKT_distill.sh", **tune | {"WIDTH": "1/8", "OUT": tmp_path / "no"})
    assert result.returncode != 0
    assert "is a 1/4 csrnet, not a 1/8 csrnet; --width 1/4 goes" in result.stderr.splitlines()[-1]
    assert "Density maps" not in result.stdout  # before anything is made


@pytest.mark.slow
def test_the_teachers_script_goes_on_from_a_counter(tmp_path, demo):
    folder, _ = demo
    start = {"INIT": folder / "runs/skt_csrnet_demo/best_mae.pth", "OUT": tmp_path / "teacher"}
    start |= {"EPOCHS": "", "TEACHER_EPOCHS": 1}
    result = run_script("train_teacher.sh", **settings(folder) | start)
    assert result.returncode == 0, result.stderr
    trained = read_checkpoint(tmp_path / "teacher/last.pth")
    assert (trained["width"], trained["settings"]["init"]) == ("1/4", "best_mae.pth")


def test_several_processes_train_and_test_by_torchrun(demo, tmp_path):
    folder, _ = demo
    recorder, asked = tmp_path / "python", tmp_path / "asked"  # test_distributed.py runs it truly
    kept = f'*nproc*) echo "$*" >> "{asked}" ;;'
    recorder.write_text(f'#!/bin/bash\ncase "$*" in {kept} *) exec "$REAL" "$@" ;; esac\n')
    recorder.chmod(0o755)
    several = settings(folder) | {"NPROC": 2, "GPU": "cpu", "OUT": folder / "runs/skt_csrnet_demo"}
    several |= {"REAL": os.environ["PYTHON"], "PYTHON": recorder, "SETUP_CHECKED": recorder}
    result = run_script("SKT_distill.sh", "--resume", **several)
    assert result.returncode == 0, result.stderr
    launch = f"-m torch.distributed.run --standalone --nproc-per-node 2 {PROJECT}/"
    checked, trained, tested = asked.read_text().splitlines()
    assert checked.startswith(f"{launch}SKT_distill.py ") and checked.endswith(" --check")
    assert trained.startswith(f"{launch}SKT_distill.py {folder}/runs/lists_demo/demo_train.json ")
    assert tested.startswith(f"{launch}test.py {folder}/runs/lists_demo/demo_test.json ")


@pytest.mark.slow
def test_a_distillation_from_kept_answers_that_was_killed_ends_as_an_uninterrupted_one(demo):
    folder, _ = demo
    fast = settings(folder) | {"RECIPE": "fast", "GPU": "cpu", "WIDTH": "1/8"}
    fast["TEACHER_CACHE"] = folder / "answers"
    options = ["--eval-every", "1", "--crop", "48x48"]
    whole, killed = folder / "runs/kept", folder / "runs/killed"
    result = run_script("SKT_distill.sh", *options, **fast, OUT=whole)
    assert result.returncode == 0, result.stderr
    assert "the teacher's answers are kept: " in result.stdout
    process = subprocess.Popen(
        ["bash", PROJECT / "SKT_distill.sh", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ
        | {"PYTHON": sys.executable, "SETUP_CHECKED": sys.executable, "OUT": str(killed)}
        | {name: str(value) for name, value in fast.items()},
        start_new_session=True,
    )
    while not (killed / "last.pth").exists():
        time.sleep(0.01)
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    assert b"the teacher's answers are kept: " not in process.communicate()[0]  # nothing is lacking
    assert not (killed / "result.json").exists()
    result = run_script("SKT_distill.sh", *options, "--resume", **fast, OUT=killed)
    assert result.returncode == 0, result.stderr
    for name in ("last.pth", "best_mae.pth"):
        one, other = (read_checkpoint(out / name) for out in (whole, killed))
        for part in ("model", "averaged", "adapters"):
            assert all(torch.equal(other[part][k], tensor) for k, tensor in one[part].items())
    results = [json.loads((out / "result.json").read_text()) for out in (whole, killed)]
    assert results[0]["test"] == results[1]["test"]
    log = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert log[-1]["soft"] < log[0]["soft"] and "val_ema_mae" in log[-1]
    asked = results[0]["settings"]
    assert (asked["cosine"], asked["ema"]) == ("True", "0.999")


def test_the_test_script_measures_the_student_again(demo):
    folder, _ = demo
    checkpoint = folder / "runs/skt_csrnet_demo/model.safetensors"
    result = run_script("test.sh", "--size", "64x64", CHECKPOINT=checkpoint, **settings(folder))
    assert result.returncode == 0, result.stderr
    assert "ours: 1/4-CSRNet" in result.stdout
    assert (folder / "runs/test_csrnet_demo/test.csv").exists()


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
        ([], {"DATASET": "SHC"}, "the data set must be one of SHA, SHB, QNRF"),
        ([], {"ROOT": "/data"}, "ROOT=/data is set: name its DATASET as well"),
        ([], {"TRAIN_ON_VAL": "yes"}, "TRAIN_ON_VAL must be 1, 0 or empty, got yes"),
        (["--out", "x"], {}, "set OUT=... in place of --out"),
        (["--cpu"], {}, "set GPU=... in place of --cpu"),
        (["--terms=hard"], {}, "set TERMS=... in place of --terms"),
        (["--arch", "bl"], {}, "set ARCH=... in place of --arch"),
        ([], {"RECIPE": "slow"}, "RECIPE must be published or fast, got slow"),
        (["--recipe", "fast"], {}, "set RECIPE=... in place of --recipe"),
        ([], {"NPROC": "many"}, "NPROC must be a whole number of at least 1, got many"),
        ([], {"NPROC": "0"}, "NPROC must be a whole number of at least 1, got 0"),
        ([], {"ARCH": "vgg"}, "arch must be one of csrnet, bl, mobile_s, mobile_l, lite_s, got"),
        ([], {"TERMS": "hard", "TEACHER": "t.pth"}, "TERMS=hard trains without a teacher"),
        ([], {"TERMS": "hard,count", "TEACHER": "t.pth"}, "TERMS=hard,count trains without a teac"),
        ([], {"TERMS": "hard", "INIT": "s.pth"}, "INIT=s.pth is where a teacher's training starts"),
        (["-sc", "s.pth"], {}, "set STUDENT=... in place of -sc"),
        (["--train-on-val"], {}, "set TRAIN_ON_VAL=... in place of --train-on-val"),
        (["-dSHA"], {}, "set DATASET=... in place of -d"),
        ([], {"MINUTES": "9"}, "MINUTES=9 does nothing in SKT_distill.sh: --max-minutes does"),
        ([], {"PYTHON": "/bin/false"}, "PYTHON=/bin/false lacks one of"),
    ],
)
def test_wrong_settings_are_refused_at_once(options, settings, message, tmp_path):
    result = run_script("SKT_distill.sh", *options, RUNS=tmp_path, **settings)
    assert result.returncode == 1
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        (
            [],
            {"ABLATIONS": "inter depth"},
            "must be of widths, truth, intra, inter and count, got depth",
        ),
        (["--init", "teacher"], {}, "--init teacher has no place in an ablation with a variant th"),
        (["--teacher-cache", "auto"], {}, "set TEACHER_CACHE=... in place of --teacher-cache"),
        ([], {"ABLATIONS": "widths", "TEACHER": "no.pth"}, "no.pth does not exist"),
        (["--resume"], {}, "leave out --resume"),
        (["--hard", "bayesian"], {}, "set HARD=... in place of --hard"),
        (["--lamb_hard", "2"], {}, "--lamb_hard belongs to a term that not every variant has"),
        (["--lamb_soft", "2"], {}, "set LAMB_SOFT=... in place of --lamb_soft"),
        ([], {"WIDTHS": "3"}, "width must be a number in (0, 1] such as 1/4, got '3'"),
        ([], {"HARD": "maps"}, "--hard: invalid choice: 'maps'"),
        ([], {"MINUTES": "0"}, "--max-minutes: must be a number of more than 0"),
        ([], {"TERMS": "hard"}, "TERMS=hard does nothing in ablation.sh: ABLATIONS does"),
        ([], {"INIT": "i.pth", "TEACHER": "t.pth"}, "INIT=i.pth is where a teacher's training sta"),
    ],
)
def test_mistakes_in_an_ablation_come_before_any_training(options, settings, message, tmp_path):
    result = run_script("ablation.sh", *options, RUNS=tmp_path, WIDTH="1/4", **settings)
    assert result.returncode != 0
    assert message in result.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        ([], {"TERMS": "hard,sotf"}, "--terms: must be of hard,soft,intra,inter"),
        ([], {"TERMS": "hard,soft", "LAMB_FSP": 1}, "--lamb_fsp belongs to inter"),
        (["--init", "teacher"], {"ARCH": "mobile_s"}, "is a csrnet, the student a mobile_s"),
        (["--init", "teacher"], {"TERMS": "hard", "WIDTH": "1/2"}, "is 1/3 wide, the student 1/2"),
        ([], {"TEACHER": "no.pth"}, "no.pth does not exist"),
        (["--empty", "/no", "--batch-size", "2", "--crop", "32x32"], {}, "--empty /no is not a fo"),
    ],
)
def test_mistakes_of_a_distillation_come_before_its_teacher(options, settings, message, tmp_path):
    result = run_script("SKT_distill.sh", *options, RUNS=tmp_path, **settings)
    assert result.returncode != 0
    assert message in result.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "setting, what_does",
    [("EPOCHS=5", "TEACHER_EPOCHS"), ("TEACHER=runs/a.pth", "SKT_distill.sh")],
)
def test_a_teachers_script_refuses_the_settings_of_students(setting, what_does, tmp_path):
    name, _, value = setting.partition("=")
    result = run_script("train_teacher.sh", RUNS=tmp_path, **{name: value})
    assert result.stderr == f"error: {setting} does nothing in train_teacher.sh: {what_does} does\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", ["SKT_distill.sh", "ablation.sh", "train_teacher.sh", "test.sh"])
def test_help_says_how_a_script_is_used_and_does_nothing(script, tmp_path):
    result = run_script(script, "--help", RUNS=tmp_path, PYTHON="/bin/false")
    assert result.returncode == 0 and not result.stderr
    assert f"bash {script} [" in result.stdout and "#" not in result.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"TRAIN_ON_VAL": 1}, "with train_on_val False, not True"),
        ({"TEACHER_EPOCHS": 9}, "with epochs 1, not 9"),
        ({"INIT": "skt_csrnet_sha"}, "with init imagenet, not skt_csrnet_sha.safetensors"),
    ],
)
def test_a_teacher_that_was_trained_otherwise_is_not_taken(changes, difference, tmp_path):
    teacher = tmp_path / "runs/teacher_csrnet_demo"
    teacher.mkdir(parents=True)
    trained = {"train_on_val": "False", "init": "imagenet"}
    result = {"settings": trained, "max_epochs": 1, "epochs": 1, "val_mae": 9.0}
    (teacher / "result.json").write_text(json.dumps(result))
    weights = read_checkpoint(save_student(tmp_path / "teacher.safetensors", "csrnet"))
    save_checkpoint(teacher / "best_mae.pth", {"model": weights})
    result = run_script("SKT_distill.sh", **settings(tmp_path) | changes)
    assert result.returncode == 1
    error = result.stderr.splitlines()[-1]
    assert error.startswith(f"error: the teacher in {teacher} was trained {difference}; another")
    taken = {"TEACHER": teacher / "best_mae.pth", "INIT": "", "WIDTH": "1/16", "EPOCHS": 1}
    if "INIT" in changes:  # one is enough
        result = run_script("SKT_distill.sh", **settings(tmp_path) | changes | taken)
        assert result.returncode == 0, result.stderr


def test_the_page_of_part_a_is_made_of_finished_trainings(tmp_path):
    write_run(tmp_path / "runs/sha/skt_csrnet", [0, 10, -10, 20, -60])
    page = tmp_path / "page.md"
    made = {"STAGES": "page", "RUNS": tmp_path / "runs", "PAGE": page, "NOTE": "Measured twice."}
    result = run_script("results/shanghaitech_a.sh", **made)
    assert result.returncode == 0, result.stderr
    assert "Measured twice." in page.read_text() and "skt_csrnet" in page.read_text()


def test_settings_of_students_do_not_end_the_pages_teacher(tmp_path):
    settings = {"LAMB_FSP": 0.1, "TEACHER_CACHE": "auto", "ROOT": tmp_path / "no"}
    result = run_script("results/shanghaitech_a.sh", **settings, STAGES="teacher", RUNS=tmp_path)
    assert "does nothing" not in result.stderr
    assert f"{tmp_path / 'no'} is not a folder" in result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_qnrf_is_rescaled_for_bl_alone(tmp_path):
    root = tmp_path / "qnrf"
    for split, count in (("Train", 3), ("Test", 1)):
        write_qnrf(root, split, [[[30, 30], [60, 200], [90, 90]]] * count, size=(256, 300))
    for arch, size in (("csrnet", (256, 300)), ("bl", (512, 600))):
        shared = {"ARCH": arch, "DATASET": "QNRF", "ROOT": root, "RUNS": tmp_path / "runs"}
        options = ["--width", "1/32", "--init", "kaiming", "--workers", "0"]
        result = run_script(
            "train_teacher.sh", *options, **shared, GPU="cpu", TEACHER_EPOCHS=1,
            GT_ROOT=tmp_path / "maps",
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        lists = tmp_path / ("runs/lists_qnrf" if arch == "csrnet" else "runs/lists_qnrf_bl")
        (sample,) = read_list(lists / "QNRF_test.json")
        with Image.open(sample.image) as image:
            assert (image.height, image.width) == size
        settings = read_checkpoint(tmp_path / f"runs/teacher_{arch}_qnrf/last.pth")["settings"]
        assert settings["protocol"] == ("cells" if arch == "csrnet" else "rescaled")


def test_an_abbreviated_option_is_refused_before_anything_is_made(tmp_path):
    result = run_script("SKT_distill.sh", "--ou", "x", RUNS=tmp_path)
    assert result.returncode == 2
    assert "unrecognized arguments: --ou x" in result.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("dataset", "mae", "expected"),
    [
        ("SHA", 79.44, "To count people: bash predict.sh photo.jpg -c {model} --"),
        (
            "DEMO",
            37.89,
            "This student counts in drawings like these alone: bash predict.sh {image}",
        ),
        ("SHA", 86.57, "This student is not fit to count: its test MAE of 86.57 is not below the "),
        (
            "DEMO",
            65521,
            "This student is not fit to count: its test MAE of 65,521.00 is not",
        ),
    ],
)
def test_only_a_student_that_beats_the_mean_count_is_recommended(dataset, mae, expected, tmp_path):
    tmp_path = tmp_path / "a 'run'"
    tmp_path.mkdir()
    image = tmp_path / "IMG_1.jpg"
    image.touch()
    image.with_suffix(".h5").touch()
    (tmp_path / "test.json").write_text(json.dumps([str(image)]))
    facts = {"settings": {"dataset": dataset}, "test_mae_of_mean_training_count": 86.57}
    (tmp_path / "result.json").write_text(json.dumps({**facts, "test": {"mae": mae}}))
    advice = recommend(tmp_path, tmp_path / "test.json")
    model = shlex.quote(str(tmp_path / "model.safetensors"))
    assert advice.startswith(expected.format(model=model, image=shlex.quote(str(image))))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "result.json is not JSON"),
        ("[]", "result.json is no JSON object with test, settings"),
        ('{"test": {}}', "result.json has no settings"),
        ('{"test": {"mae": null}, "settings": {"dataset": "SHA"}, "%s": 1}', "mae must be of the"),
        (
            '{"test": {"mae": NaN}, "settings": {"dataset": "SHA"}, "%s": 1}',
            "int or float, got nan",
        ),
        ('{"test": {"mae": 1}, "settings": {"dataset": "a"}, "%s": 2}', "there is no data set a"),
    ],
)
def test_no_advice_is_given_on_a_damaged_result(content, reason, tmp_path):
    content = content.replace("%s", "test_mae_of_mean_training_count")
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(DataError, match=reason) as error:
        recommend(tmp_path, tmp_path / "test.json")
    assert str(tmp_path / "result.json") in str(error.value)


def test_scripts_keep_their_line_endings_whatever_git_is_told(tmp_path):
    def git(*arguments):
        options = ["-c", "core.autocrlf=true", "-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *options, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init", "project")
    for name in (".gitattributes", "predict.sh", "docs/densities.png"):
        (tmp_path / "project" / Path(name).name).write_bytes((PROJECT / name).read_bytes())
    git("-C", "project", "add", ".")
    git("-C", "project", "commit", "-m", "all")
    git("clone", "project", "clone")
    for name in ("predict.sh", "docs/densities.png"):
        assert (tmp_path / "clone" / Path(name).name).read_bytes() == (PROJECT / name).read_bytes()
