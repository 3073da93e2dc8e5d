"""train_teacher.py, SKT_distill.py and test.py as a user runs them, mistakes included."""

import csv
import json
import re
import signal
import subprocess
import sys
import time
from fractions import Fraction

import h5py
import pytest
import torch
from conftest import PROJECT, assert_one_line_error, run_program
from PIL import Image

import SKT_distill
import train_teacher
from models.build import ARCHITECTURES, build_network
from models.counter import read_counter
from models.distillation import TERMS, Criterion, density_loss, squared_error
from models.initial import init_kaiming
from models.taps import ask_live
from models.vgg import vgg_indices
from training.recipes import student_recipe, teacher_recipe
from utils.checkpoint import CheckpointError, read_checkpoint, save_checkpoint, save_weights
from utils.options import Parser
from utils.pixels import normalise
from utils.precision import choose_precision

DISTIL = "SKT_distill.py"
FAST = ["--workers", 0, "--cpu"]


@pytest.fixture(scope="module")
def distilled(crowd_lists, teacher, tmp_path_factory):
    """The folder of a finished distillation of three epochs."""
    out = tmp_path_factory.mktemp("run") / "skt"
    result = distil(crowd_lists, teacher, out, "--epochs", 3)
    assert result.returncode == 0, result.stderr
    return out


def distil(lists, teacher, out, *options):
    arguments = ["-tc", teacher, "--width", "1/16", "--out", out, *FAST]
    return run_program(DISTIL, *lists, *arguments, *options)


def records(out):
    """The log without its times."""
    logged = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k != "seconds"} for record in logged]


def assert_same_weights(first, second):
    one, other = (read_checkpoint(path) for path in (first, second))
    for part in ("model", "adapters"):
        assert all(torch.equal(one[part][name], other[part][name]) for name in one[part])


def test_a_distillation_leaves_what_the_readme_says(distilled):
    names = {path.name for path in distilled.iterdir()}
    assert names == {"last.pth", "best_mae.pth", "best_rmse.pth", "log.jsonl", "curves.png"} | {
        "result.json", "counts.png", "model.safetensors", "tensorboard", ".lock",
    }  # fmt: skip
    log = records(distilled)
    assert [record["epoch"] for record in log] == [1, 2, 3]
    assert {"hard", "soft", "intra", "inter", "val_mae", "val_rmse"} <= log[0].keys()
    assert log[-1]["hard"] < log[0]["hard"]
    result = json.loads((distilled / "result.json").read_text())
    assert result["val_mae"] == min(record["val_mae"] for record in log)
    assert result["validation"] == "held out of training"
    for name in ("best_mae.pth", "model.safetensors"):
        assert read_counter(distilled / name).max_side == 96  # of pictures of 64x96
    assert (result["arch"], result["width"], result["test"]["images"]) == ("csrnet", "1/16", 3)


def test_resuming_gives_the_numbers_of_an_uninterrupted_run(
    distilled, crowd_lists, teacher, tmp_path
):
    out = tmp_path / "skt"
    assert distil(crowd_lists, teacher, out, "--epochs", 1).returncode == 0
    result = distil(crowd_lists, teacher, out, "--epochs", 3, "--resume")
    assert result.returncode == 0, result.stderr
    assert records(out) == records(distilled)
    assert_same_weights(out / "last.pth", distilled / "last.pth")


@pytest.mark.slow
def test_an_interrupted_run_resumes_within_its_epoch(distilled, crowd_lists, teacher, tmp_path):
    out = tmp_path / "skt"
    options = ["-tc", teacher, "--width", "1/16", "--out", out, *FAST, "--epochs", 3]
    command = [sys.executable, PROJECT / DISTIL, *crowd_lists, *options]
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    while not (out / "log.jsonl").exists():  # the first epoch is over
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)  # test_runs.py has the other signals
    assert "--resume continues" in process.communicate(timeout=120)[0]
    assert process.returncode == 130
    stopped = read_checkpoint(out / "last.pth")["progress"]
    assert (stopped["epoch"], stopped["step"]) < (3, 0)
    result = distil(crowd_lists, teacher, out, "--epochs", 3, "--resume")
    assert result.returncode == 0, result.stderr
    assert records(out) == records(distilled)
    assert_same_weights(out / "last.pth", distilled / "last.pth")


def test_students_of_a_seed_start_alike_with_and_without_a_teacher(crowd_lists, teacher, tmp_path):
    starts = []
    for terms, given in (("hard", []), ("hard,soft", ["-tc", teacher])):
        out = tmp_path / terms
        options = ["--width", "1/16", "--terms", terms, *given, *FAST, "--out", out, "--lr", 1e-12]
        assert run_program(DISTIL, *crowd_lists, *options, "--epochs", 1).returncode == 0
        starts.append(read_checkpoint(out / "last.pth")["model"])
    for name, tensor in starts[0].items():
        torch.testing.assert_close(starts[1][name], tensor, rtol=0, atol=1e-6)


def test_float16_trains_with_scaled_gradients_and_resumes(crowd_lists, teacher, tmp_path):
    out = tmp_path / "skt"
    options = ["--precision", "float16", "--crop", "32x32", "--batch-size", 2, "--lr", 1e-3]
    assert distil(crowd_lists, teacher, out, *options, "--epochs", 1).returncode == 0
    scale = read_checkpoint(out / "last.pth")["scaler"]["scale"]
    result = distil(crowd_lists, teacher, out, *options, "--epochs", 2, "--resume")
    assert result.returncode == 0, result.stderr
    first, last = records(out)
    assert last["intra"] < first["intra"]
    assert 0 < read_checkpoint(out / "last.pth")["scaler"]["scale"] <= scale
    options[1] = "auto"  # which is float32 or, on a processor with AMX, bfloat16
    other = str(choose_precision("auto", torch.device("cpu"))).removeprefix("torch.")
    result = distil(crowd_lists, teacher, out, *options, "--epochs", 3, "--resume")
    assert_one_line_error(result, f"was trained with precision float16, not {other}")


def test_a_student_may_start_from_a_checkpoint(distilled, crowd_lists, teacher, tmp_path):
    options = ["-tc", teacher, *FAST, "--epochs", 1, "--out", tmp_path / "skt"]
    start = ["-sc", distilled / "last.pth", "--lr", 1e-12]
    result = run_program(DISTIL, *crowd_lists, *options, *start)
    assert result.returncode == 0, result.stderr
    before, after = (read_checkpoint(out / "last.pth") for out in (distilled, tmp_path / "skt"))
    for part in ("model", "adapters"):
        for name, tensor in before[part].items():
            torch.testing.assert_close(after[part][name], tensor, atol=1e-8, rtol=1e-4)


@pytest.mark.parametrize("terms", ["soft,inter", "hard,soft,intra"])
def test_terms_are_switches(crowd_lists, teacher, tmp_path, terms):
    options = ["--epochs", 1, "--terms", terms, *(["--intra", "l2"] if "intra" in terms else [])]
    result = distil(crowd_lists, teacher, tmp_path / "skt", *options)
    assert result.returncode == 0, result.stderr
    assert set(terms.split(",")) == records(tmp_path / "skt")[0].keys() & set(TERMS)
    assert "adapters" in read_checkpoint(tmp_path / "skt/last.pth")


def test_the_maps_of_more_teachers_are_averaged():
    torch.manual_seed(0)
    student, first, second, third = networks = [
        build_network(arch, 1 / 16) for arch in ("csrnet", "csrnet", "bl", "csrnet")
    ]
    for network in networks:
        init_kaiming(network)
    batch = {"image": torch.randint(256, (2, 3, 48, 64), dtype=torch.uint8)}
    criterion = Criterion(["soft"], student, density_loss, ask_live(first, (), [second, third]))
    images = normalise(batch["image"])
    mean = (first(images) + second(images) + third(images)) / 3
    torch.testing.assert_close(criterion(batch)["soft"], squared_error(student(images), mean))


@pytest.mark.parametrize(
    ("arch", "other", "taps", "left"),
    [
        ("csrnet", "bl", ["conv1_1", "pool1", "pool2", "pool3", "dilated1"], "dilated4"),
        ("bl", "csrnet", ["conv1_1", "pool1", "pool2", "pool3", "conv1"], "pool4"),
    ],
)
@pytest.mark.parametrize("answers", ["live", "kept"])
def test_teacher_and_student_may_differ(crowd_lists, tmp_path, arch, other, taps, left, answers):
    path, out = tmp_path / "teacher.pth", tmp_path / "skt"
    save_checkpoint(path, build_network(other, 1 / 8).state_dict())
    options = ["--arch", arch, "--epochs", 1, "--crop", "40x56", "--hard", "density"]
    options += ["--teacher-cache", tmp_path / "kept"] if answers == "kept" else []
    result = distil(crowd_lists, path, out, *options)
    assert result.returncode == 0, result.stderr
    assert f"{left}: no tap of the teacher has that stride; left out" in result.stdout
    last = read_checkpoint(out / "last.pth")
    assert [name[:-7] for name in last["adapters"] if name.endswith(".weight")] == taps
    assert (last["arch"], last["settings"]["answers"]) == (arch, answers)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_student_learns_alone_in_the_same_program(crowd_lists, tmp_path, arch):
    options = ["--arch", arch, "--width", "1/16", "--terms", "hard", "--epochs", 1]
    options += ["--crop", "64x64", "--batch-size", 2, "--out", tmp_path / "alone"]
    options += ["--init", "kaiming"]
    result = run_program(DISTIL, *crowd_lists, *FAST, *options)
    assert result.returncode == 0, result.stderr
    assert records(tmp_path / "alone")[0]["hard"] > 0
    assert read_checkpoint(tmp_path / "alone/last.pth")["arch"] == arch


def test_csrnet_may_learn_from_points_and_bl_from_maps(crowd_lists, teacher, tmp_path):
    seen = {}
    for hard in ("density", "bayesian"):
        out = tmp_path / hard
        options = ["--epochs", 1, "--hard", hard, "--terms", "hard,soft", "--lr", 1e-9]
        result = distil(crowd_lists, teacher, out, *options)
        assert result.returncode == 0, result.stderr
        seen[hard] = records(out)[0]
        assert "adapters" not in read_checkpoint(out / "last.pth")
    soft = [seen[hard]["soft"] for hard in ("density", "bayesian")]
    assert soft[0] == pytest.approx(soft[1], rel=1e-6)  # but for steps of 1e-9
    assert seen["density"]["hard"] != seen["bayesian"]["hard"]
    options = ["--arch", "bl", "--hard", "density", "--width", "1/16", "--init", "kaiming"]
    options += ["--epochs", 1, "--crop", "0.5:1", "--out", tmp_path / "bl"]
    result = run_program("train_teacher.py", *crowd_lists, *FAST, *options)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("recipe", "arch", "dataset", "options"),
    [
        (teacher_recipe, "csrnet", "SHA", {"lr": 1e-7, "flip": 0.2, "hard": "density"}),
        (teacher_recipe, "bl", "SHA", {"lr": 1e-6, "flip": 0.5, "background": 0.1}),
        (teacher_recipe, "bl", "QNRF", {"lr": 1e-5, "boxes": "QNRF", "background": 1.0}),
        (student_recipe, "csrnet", "SHA", {"lr": 1e-4, "epochs": 1000, "crop": "0.5:1"}),
        (student_recipe, "csrnet", "QNRF", {"protocol": "cells", "weight_decay": 5e-4}),
        (student_recipe, "bl", "SHB", {"hard": "bayesian", "crop": "256x256", "boxes": "SHA"}),
        (student_recipe, "bl", "QNRF", {"crop": "512x512", "protocol": "rescaled"}),
        (student_recipe, "bl", "DEMO", {"crop": "96x96", "cosine": True, "batch_size": 8}),
    ],
)
def test_recipes_are_the_published_ones(recipe, arch, dataset, options):
    assert options.items() <= recipe(arch, dataset).items()
    plain = {"batch_size": 1, "precision": "float32", "cache": "none", "ema": 0.0, "scale": None}
    plain |= {"colour": 0.0, "warmup": 0, "compile": False, "cosine": False}
    if dataset != "DEMO":
        assert plain.items() <= recipe(arch, dataset).items()


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_fast_recipe_changes_how_not_what_is_learnt(arch):
    for recipe in (teacher_recipe, student_recipe):
        published, fast = (recipe(arch, "SHA", name) for name in ("published", "fast"))
        assert published.keys() == fast.keys()
        same = {"hard", "boxes", "background", "protocol", "weight_decay", "out"}
        assert all(published[name] == fast[name] for name in same)
        assert (fast["batch_size"], fast["cache"], fast["precision"]) == (16, "gpu", "auto")
        assert recipe(arch, "DEMO", "fast")["crop"] == "96x96"
    assert student_recipe("csrnet", "QNRF", "fast")["cache"] == "ram"  # its maps are too large


def test_defaults_follow_network_and_data_set():
    result = run_program("train_teacher.py", "-d", "qnrf", "--arch", "bl", "--help")
    options = re.split(
        r"(?<!,) (?=--[a-z])", " ".join(result.stdout.partition("options:")[2].split())
    )
    for name, value in teacher_recipe("bl", "QNRF").items():
        text = next(o for o in options if re.match(f"--{name.replace('_', '-')}[ ,]", o))
        told = re.findall(r"\(default: (.*?)\)", text)
        assert told == ([] if value is None else [str(value)])  # what None means, the text says


def test_a_teacher_trains_from_random_weights(crowd_lists, tmp_path):
    options = ["--width", "1/8", "--init", "kaiming", "--optimizer", "adam", "--lr", 1e-3]
    options += ["--crop", "32x32", "--batch-size", 4, "--epochs", 3, "--out", tmp_path / "teacher"]
    result = run_program("train_teacher.py", *crowd_lists, *FAST, *options)
    assert result.returncode == 0, result.stderr
    assert all(record["hard"] > 0 for record in records(tmp_path / "teacher"))
    learnt = read_checkpoint(tmp_path / "teacher/best_mae.pth")
    assert learnt["width"] == "1/8"
    assert learnt["model"]["frontend.conv1_1.bias"].abs().min() > 0  # every one began at 0


@pytest.fixture
def begin(monkeypatch):
    """Builds the network that train_teacher.py would train with these options."""

    def begin(*options):
        monkeypatch.setattr(sys, "argv", ["train_teacher.py", "a", "b", "c", *map(str, options)])
        args = train_teacher.parse_args()
        return train_teacher.build_teacher(args), args

    return begin


@pytest.mark.parametrize("dataset", ["MINE", "DEMO"])
@pytest.mark.parametrize(("arch", "ending"), [("csrnet", ".pth"), ("bl", ".safetensors")])
def test_a_counter_fills_the_whole_network(tmp_path, begin, arch, ending, dataset):
    torch.manual_seed(0)
    theirs = build_network(arch, 1 / 16)
    init_kaiming(theirs)
    path, state = tmp_path / f"counter{ending}", theirs.state_dict()
    if ending == ".pth":
        save_checkpoint(path, {"state_dict": state, "epoch": 3})
    else:
        save_weights(path, state, {})
    for width in ([], ["--width", "1/16"]):
        network, args = begin("--arch", arch, "--dataset", dataset, "--init", path, *width)
        assert args.width == Fraction(1, 16)
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensor, state[name]), name


def test_a_counter_without_its_output_layer_gets_one_of_a_teacher(tmp_path, begin, capsys):
    path, theirs = tmp_path / "trunk.safetensors", build_network("csrnet", 1 / 16)
    trunk = {k: v for k, v in theirs.state_dict().items() if not k.startswith("output_layer")}
    save_weights(path, trunk, {})
    network, _ = begin("--init", path)
    assert "trunk.safetensors has no output layer: a new one begins" in capsys.readouterr().out
    found = network.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in trunk.items())
    assert not torch.equal(found["output_layer.weight"], theirs.output_layer.weight)


def test_shipped_weights_begin_a_training_by_their_name(begin):
    network, args = begin("--init", "skt_csrnet_sha")
    assert args.width == Fraction(1, 4)
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_017_681


def test_beginnings_that_do_not_fit_end_in_one_line(tmp_path, begin):
    def refuse(message, *options):
        with pytest.raises(CheckpointError) as caught:
            begin(*options)
        assert message in str(caught.value) and "\n" not in str(caught.value)

    counter, bl, cut, vgg = (tmp_path / f"{n}.pth" for n in ("counter", "bl", "cut", "vgg"))
    save_checkpoint(counter, build_network("csrnet", 1 / 16).state_dict())
    save_checkpoint(bl, build_network("bl", 1 / 16).state_dict())
    found = "counter.pth is a 1/16 csrnet, not a"
    refuse(f"{found} 1/8 csrnet; --width 1/16 goes on", "--init", counter, "--width", "1/8")
    refuse(f"{found} csrnet; --width 1/16 goes on from it", "--init", counter, "--width", "1")
    refuse(f"{found} 1/16 bl; --arch csrnet goes on from it", "--init", counter, "--arch", "bl")
    refuse("bl.pth is a 1/16 bl, not a 1/16 csrnet; --arch bl goes on from it", "--init", bl)
    both = ["--arch", "bl", "--width", "1/8"]
    refuse(f"{found} 1/8 bl; --arch csrnet --width 1/16 goes on", "--init", counter, *both)
    refuse("no.pth does not exist", "--init", tmp_path / "no.pth")
    cut.write_bytes(counter.read_bytes()[:-5000])
    refuse("cut.pth is truncated or damaged", "--init", cut)
    lacking = dict(list(build_network("csrnet", 1 / 16).state_dict().items())[:-5])
    save_checkpoint(cut, lacking)
    refuse("cut.pth: not a complete csrnet, tensors 5 missing", "--init", cut)
    front = {
        f"features.{index}.{kind}": torch.zeros(1)
        for index in vgg_indices(build_network("csrnet", 1 / 16).frontend).values()
        for kind in ("weight", "bias")
    }
    save_checkpoint(vgg, front)
    refuse("vgg.pth: features.0.weight must have the shape [64, 3, 3, 3] for the", "--init", vgg)
    save_checkpoint(vgg, {"fc.weight": torch.zeros(1)})
    refuse("vgg.pth: features.0.weight must have the shape", "--init", vgg)


def test_vgg_weights_fill_the_front_of_a_teacher(tmp_path, begin):
    front, path = build_network("csrnet").frontend, tmp_path / "vgg.pth"
    vgg = {
        f"features.{index}.{kind}": torch.full_like(front.get_parameter(f"{name}.{kind}"), index)
        for name, index in vgg_indices(front).items()
        for kind in ("weight", "bias")
    }
    save_checkpoint(path, vgg)
    network, args = begin("--init", path)
    assert args.width == 1
    for name, index in vgg_indices(network.frontend).items():
        assert (network.frontend.get_submodule(name).weight == index).all()
    assert not network.output_layer.bias.any()


def test_a_fine_tuned_run_says_its_width_and_resumes(crowd_lists, teacher, tmp_path):
    out, moved = tmp_path / "tuned", tmp_path / teacher.name
    moved.write_bytes(teacher.read_bytes())
    options = ["--init", moved, "--optimizer", "adam", "--lr", 1e-12, "--out", out, *FAST]
    result = run_program("train_teacher.py", *crowd_lists, *options, "--epochs", 1)
    assert result.returncode == 0, result.stderr
    tuned, before = read_checkpoint(out / "last.pth"), read_checkpoint(teacher)["state_dict"]
    assert (tuned["arch"], tuned["width"], tuned["settings"]["width"]) == ("csrnet", "1/8", "1/8")
    for name, tensor in before.items():
        torch.testing.assert_close(tuned["model"][name], tensor, atol=1e-8, rtol=1e-4)
    resume = [*crowd_lists, *options, "--epochs", 2, "--resume"]
    result = run_program("train_teacher.py", *resume)
    assert result.returncode == 0, result.stderr
    moved.unlink()
    resume[resume.index("--epochs") + 1] = 3
    result = run_program("train_teacher.py", *resume)
    assert_one_line_error(result, "was trained with width 1/8, not 1")
    result = run_program("train_teacher.py", *resume, "--width", "1/8")
    assert result.returncode == 0, result.stderr
    assert [record["epoch"] for record in records(out)] == [1, 2, 3]


def test_a_loss_that_is_not_finite_ends_the_training(crowd_lists, tmp_path):
    options = ["--width", "1/8", "--init", "kaiming", "--lr", 1e30, "--out", tmp_path / "teacher"]
    result = run_program("train_teacher.py", *crowd_lists, *FAST, *options)
    assert_one_line_error(result, "not finite", "epoch 1", "hard", "IMG_", "lower --lr")


def test_counts_and_costs_of_a_checkpoint(distilled, crowd_lists, tmp_path):
    files = {name: tmp_path / name for name in ("result.json", "counts.csv", "maps")}
    options = [
        "-c",
        distilled / "best_mae.pth",
        "--cpu",
        "--size",
        "64x96",
        "-v",
        "1/16-csrnet",
        "-t",
    ]
    options += ["--json", files["result.json"], "--per-image", files["counts.csv"]]
    options += ["--save-maps", files["maps"], "--worst", tmp_path / "worst.png"]
    options += ["--examples", tmp_path / "examples.png"]
    result = run_program("test.py", crowd_lists[2], *options)
    assert result.returncode == 0, result.stderr
    for name in ("worst.png", "examples.png"):
        with Image.open(tmp_path / name) as figure:
            assert figure.size == (1200, 500)  # two rows for three images
    measured = json.loads(files["result.json"].read_text())
    expected = json.loads((distilled / "result.json").read_text())["test"]
    for name, value in expected.items():
        assert measured[name] == pytest.approx(value, rel=1e-5), name
    assert measured["params"] == sum(
        p.numel() for p in build_network("csrnet", Fraction(1, 16)).parameters()
    )
    assert measured["gpu_ms"] is None and measured["cpu_s"] > 0
    with files["counts.csv"].open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["heads"]) for row in rows] == [
        ("IMG_1.jpg", "4"), ("IMG_2.jpg", "1"), ("IMG_3.jpg", "2"),
    ]  # fmt: skip
    errors = [float(row["predicted"]) - int(row["heads"]) for row in rows]
    assert measured["mae"] == pytest.approx(sum(map(abs, errors)) / 3, abs=1e-3)
    assert measured["rmse"] == pytest.approx((sum(e * e for e in errors) / 3) ** 0.5, abs=1e-3)
    assert {path.name for path in files["maps"].iterdir()} == {f"IMG_{i}.png" for i in (1, 2, 3)}
    assert "1/4-CSRNet + SKT   71.55  114.40" in result.stdout
    assert "ours: 1/16-CSRNet" in result.stdout


def test_deployed_weights_count_as_the_checkpoint_does(distilled, crowd_lists, tmp_path):
    maes = []
    for name in ("best_mae.pth", "model.safetensors"):
        options = [
            "-c",
            distilled / name,
            "--cpu",
            "--size",
            "64x96",
            "--json",
            tmp_path / "r.json",
        ]
        result = run_program("test.py", crowd_lists[2], *options)
        assert result.returncode == 0, result.stderr
        maes.append(json.loads((tmp_path / "r.json").read_text())["mae"])
    assert maes[0] == maes[1]


def test_cost_alone_needs_no_data():
    result = run_program("test.py", "--cost")
    assert result.returncode == 0
    for figure in ("16,263,489", "1,017,681", "21,499,457", "1,345,169", "563,297", "1,863,393"):
        assert result.stdout.count(figure) == 2
    for figure in ("205.88", "13.09", "205.32", "13.06", "2447.91", "155.69", "2441.23", "155.30"):
        assert figure in result.stdout
    assert "the paper has" not in result.stdout
    lines = run_program("test.py", "--cost", "--size", "64x96").stdout.splitlines()
    assert lines[0] == "64x96" and len(lines) == 2 + 7 + 1
    assert_one_line_error(run_program("test.py", "--cost", "-d", "QNRF"), "--dataset has no place")


def test_a_run_whose_log_was_cut_and_whose_teacher_moved_resumes(
    distilled, crowd_lists, teacher, tmp_path
):
    out = tmp_path / "skt"
    assert distil(crowd_lists, teacher, out, "--epochs", 1).returncode == 0
    with (out / "log.jsonl").open("a") as file:
        file.write('{"epoch": 2, "har')
    moved = tmp_path / teacher.name
    moved.write_bytes(teacher.read_bytes())
    result = distil(crowd_lists, moved, out, "--epochs", 2, "--resume")
    assert result.returncode == 0, result.stderr
    assert records(out) == records(distilled)[:2]
    finished = (out / "result.json").stat().st_mtime_ns
    result = distil(crowd_lists, moved, out, "--epochs", 2, "--resume")
    assert result.returncode == 0 and "is finished already" in result.stdout
    assert (out / "result.json").stat().st_mtime_ns == finished


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lr", "-1"], "argument --lr: must be a number of more than 0"),
        (["--lr", "fast"], "argument --lr: must be a number"),
        (["-laf", "nan"], "argument --lamb_fsp/-laf: must be a number of more than 0"),
        (["-lac", "0"], "argument --lamb_cos/-lac: must be a number of more than 0"),
        (["--flip", "1.5"], "argument --flip: must be a number of at least 0 and at most 1"),
        (["--width", "3"], "argument --width: width must be a number in (0, 1]"),
        (["--crop", "16x16"], "argument --crop: crop must be HEIGHTxWIDTH of at least 32x32"),
        (["--terms", "hard,fsp"], "argument --terms: must be of hard,soft,intra,inter"),
        (["--terms", "hard,soft", "-laf", "0.5"], "--lamb_fsp belongs to inter, which --terms"),
        (["--terms", "hard,soft", "--intra", "cos"], "--intra belongs to intra"),
        (["--terms", "soft", "--hard", "density"], "--hard belongs to hard"),
        (["--arch", "bl", "--terms", "soft", "--background", "1"], "--background belongs to hard"),
        (["--boxes", "SHA"], "--boxes needs --hard bayesian"),
        (["--sigma", "8"], "--sigma needs --hard bayesian"),
        (["--terms", "hard,intra", "--more-teachers", "b.pth"], "--more-teachers belongs to soft"),
        (["--terms", "hard"], "--teacher_ckpt has nothing to teach with --terms hard"),
        (
            ["--terms", "hard", "--init", "teacher", "--teacher-cache", "auto"],
            "--teacher-cache has nothing to teach with --terms hard",
        ),
        (["-sc", "s.pth", "--init", "teacher"], "--init is for a new student; --student_ckpt has"),
        (["--arch", "vgg"], "argument --arch: invalid choice: 'vgg'"),
        (["--terms", "intra"], "--terms intra alone teaches no map"),
        (["--recipe", "slow"], "argument --recipe: invalid choice: 'slow'"),
        (["--cache", "disk"], "argument --cache: invalid choice: 'disk'"),
        (["--scale", "2"], "argument --scale: must be LOW:HIGH within 0.25 and 4, got '2'"),
        (["--scale", "2:1"], "argument --scale: must be LOW:HIGH"),
        (["--ema", "1"], "argument --ema: must be a number of at least 0 and at most 0.99999"),
        (["--max-minutes", "0"], "argument --max-minutes: must be a number of more than 0"),
        (["--empty-share", "0"], "argument --empty-share: must be a number of more than 0"),
        (["--check", "vgg"], "argument --check: invalid choice: 'vgg'"),
    ],
)
def test_wrong_options_of_a_distillation_end_in_one_line(options, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [DISTIL, "a", "b", "c", "-tc", "teacher.pth", *options])
    with pytest.raises(SystemExit):
        SKT_distill.parse_args()
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_user_mistakes_in_distilling(distilled, crowd_lists, teacher, tmp_path):
    new = tmp_path / "new"
    kept = (distilled / "last.pth").read_bytes()

    def refuse(*words, lists=crowd_lists, teacher=teacher, out=new, options=()):
        assert_one_line_error(distil(lists, teacher, out, *options), *words)
        assert not new.exists()

    refuse("already holds a run", "--resume", out=distilled)
    refuse("no last.pth", options=["--resume"])
    refuse("trained with lr 0.0001, not 0.5", out=distilled, options=["--resume", "--lr", 0.5])
    refuse("needs crops of one size", options=["--batch-size", 2])
    refuse("is a 1/16 csrnet, not a 1/8", options=["-sc", distilled / "last.pth", "--width", "1/8"])
    refuse("no.pth does not exist", teacher=tmp_path / "no.pth")
    refuse("no.json does not exist", lists=[tmp_path / "no.json", *crowd_lists[1:]])
    refuse("1 images stand in both", lists=[crowd_lists[1], *crowd_lists[1:]])
    bl = tmp_path / "bl.pth"
    save_checkpoint(bl, build_network("bl", 1 / 8).state_dict())
    inherited = ["--init", "teacher"]
    refuse("bl.pth is a bl, the student a csrnet; it needs", teacher=bl, options=inherited)
    result = run_program(DISTIL, *crowd_lists, "--out", new, *FAST)
    assert_one_line_error(result, "--terms hard,soft,intra,inter needs a teacher: --teacher_ckpt")
    options = ["--out", new, "--terms", "hard", "--init", "teacher"]
    result = run_program(DISTIL, *crowd_lists, *FAST, *options)
    assert_one_line_error(result, "--init teacher needs a teacher: --teacher_ckpt")
    wide = ["--width", "1/4", "--init", "teacher"]
    refuse("teacher.pth is 1/8 wide, the student 1/4; it needs a teacher as wide", options=wide)
    other = tmp_path / teacher.name  # in another folder, and another one
    save_checkpoint(other, build_network("csrnet", 1 / 8).state_dict())
    refuse("was trained with teachers", teacher=other, out=distilled, options=["--resume"])
    wider = ["--resume", "--width", "1/8"]
    refuse("was trained with width 1/16, not 1/8", out=distilled, options=wider)
    assert (distilled / "last.pth").read_bytes() == kept


def test_what_a_teacher_of_days_would_not_change_is_found_before_it_is_trained(tmp_path):
    def check(*options, arch="csrnet"):
        out, teacher = tmp_path / "out", tmp_path / "later.pth"
        command = [DISTIL, "a", "b", "c", "-tc", teacher, "--out", out, "--cpu", *options]
        return run_program(*command, "--check", arch)

    assert check().returncode == 0
    mobile, inherited = ["--arch", "mobile_s", "--init"], ["--init", "teacher"]
    assert_one_line_error(check(*mobile, "imagenet", "--width", "1/2"), "need --width 1, got 1/2")
    assert_one_line_error(check(*mobile, "teacher"), "is a csrnet, the student a mobile_s")
    assert_one_line_error(check(*mobile, tmp_path / "no.pth"), "no.pth does not exist")
    demo = check("--dataset", "DEMO", "--width", "1/2", *inherited)
    assert_one_line_error(demo, "is 1/3 wide, the student 1/2")
    given = run_program(DISTIL, "a", "b", "c", "-tc", tmp_path / "no.pth", "--cpu", "--check")
    assert_one_line_error(given, "no.pth does not exist")


def test_user_mistakes_in_testing(distilled, crowd_lists, teacher, tmp_path):
    def refuse(*words, lists=crowd_lists[2:], options=("-c", distilled / "last.pth")):
        assert_one_line_error(run_program("test.py", *lists, "--cpu", *options), *words)

    refuse("--checkpoint", options=[])
    refuse("--cost alone", lists=[])
    refuse("--checkpoint has no place beside --cost", lists=[], options=["--cost", "-c", teacher])
    refuse("--cost alone", options=["--cost"])
    refuse("--version has no place beside --cost", lists=[], options=["--cost", "-v", "csrnet"])
    refuse(
        "is a 1/16-CSRNet, not a mobile_s", options=["-c", distilled / "last.pth", "-v", "mobile_s"]
    )
    refuse("is a 1/16-CSRNet, not a bl", options=["-c", distilled / "last.pth", "-v", "bl"])
    refuse("holds no adapters", options=["-c", teacher, "-t"])
    refuse("HEIGHTxWIDTH", options=["-c", teacher, "--size", "big"])
    refuse("--dataset", options=["-c", teacher, "-d", "SHC"])
    refuse("is no result", options=["-c", teacher, "--beside", crowd_lists[0]])
    (tmp_path / "file").touch()
    for option in ("--json", "--per-image", "--worst"):
        path = tmp_path / "file/new.png"
        refuse(f"{path} could not be written", options=["-c", teacher, option, path])
    result = run_program("test.py", *crowd_lists[2:], "-c", teacher, "--gpu", 99)
    assert_one_line_error(result, "--gpu 99", f"{torch.cuda.device_count()} GPUs")


def test_a_file_that_breaks_during_a_run_is_named(crowd_lists, teacher, tmp_path):
    image = tmp_path / "IMG_1.jpg"
    image.write_bytes(
        (crowd_lists[0].parent / "part_A_final/train_data/images/IMG_1.jpg").read_bytes()
    )
    image.write_bytes(image.read_bytes()[:-500])  # the header is whole, the picture is not
    with h5py.File(image.with_suffix(".h5"), "w") as file:
        file["density"], file["points"] = torch.zeros(64, 96), torch.zeros(0, 2)
    (tmp_path / "train.json").write_text(json.dumps([str(image)]))
    lists = [tmp_path / "train.json", *crowd_lists[1:]]
    options = ["-tc", teacher, "--width", "1/16", "--cpu", "--out", tmp_path / "skt"]
    for workers in (0, 1):
        result = run_program(DISTIL, *lists, *options, "--workers", workers)
        assert_one_line_error(result, "IMG_1.jpg is not a readable image", "truncated")


def test_ctrl_c_is_one_line_and_a_mistake_of_ours_a_traceback(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", None)
    Parser()
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == "stopped\n"
    sys.excepthook(ZeroDivisionError, ZeroDivisionError("by 0"), None)
    assert "ZeroDivisionError: by 0" in capsys.readouterr().err
