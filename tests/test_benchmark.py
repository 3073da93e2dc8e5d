"""benchmark.py: equal results before any ratio, floors, and reports with empty cells."""

import json
import shutil
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import need_packages, run_program
from test_protocols import random_network

import benchmark
from datasets.transforms import Augmentation, FixedCrop
from deploy.complexity import measure_cost
from deploy.deployed import EngineError
from deploy.engines import build_eager
from models.build import build_network
from models.distillation import Criterion, density_loss
from models.taps import ask_live
from preprocess.density import density_map
from report.benchmarks import maps, train
from report.benchmarks.engines import Candidate, build_published, compare, list_candidates
from report.benchmarks.floors import Rates, floor_seconds, measure_rates
from report.benchmarks.loops import LAMBDA, PARTS, Live, write_pictures
from report.benchmarks.report import ComparisonError, format_value, tabulate
from report.benchmarks.train import KEPT, LIVE, SHORT
from utils.options import fail
from utils.processor import has_bfloat16_tiles

CPU = torch.device("cpu")
SMALL_RATES = {"sides": (128, 256), "copied": 2**22}


def run_benchmark(monkeypatch, *options):
    """benchmark.py in this process."""
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *map(str, options)])
    benchmark.main(benchmark.parse_args())


def small_rates(dtype):
    return measure_rates(CPU, dtype, **SMALL_RATES)


@pytest.fixture
def networks():
    return [random_network("bl", Fraction(1, part)) for part in (4, 16)]


@pytest.mark.slow
def test_density_maps_are_the_published_ones_and_much_faster(monkeypatch, tmp_path, capsys):
    file = tmp_path / "preprocess.json"
    options = ["--size", "256x384", "--heads", 40, "--rounds", 2, "--json", file]
    run_benchmark(monkeypatch, "preprocess", *options)
    result = json.loads(file.read_text())
    (row,) = result["rows"]
    assert row["label"] == "40 heads"
    assert 0 <= row["difference"] < 1e-6
    assert row["ratio"] == pytest.approx(row["baseline"] / row["ours"])
    assert row["ratio"] > 20  # a tenth of the image and a twelfth of the heads of the claim of 500
    assert 0 < row["floor"] < row["ours"]
    assert {"torch", "python", "onnxruntime", "openvino"} <= result["versions"].keys()
    assert result["threads"] == torch.get_num_threads()
    assert "40 heads" in capsys.readouterr().out


def test_another_density_map_is_no_baseline(monkeypatch, capsys):
    monkeypatch.setattr(maps, "density_map", lambda *args: 1.01 * density_map(*args))
    with pytest.raises(ComparisonError, match="the maps differ by"):
        run_benchmark(monkeypatch, "preprocess", "--size", "64x96", "--heads", 9, "--rounds", 1)


def test_engines_are_compared_with_both_published_networks(networks):
    candidates = [
        candidate
        for candidate in list_candidates(dict(zip(("BL", "1/4-BL"), networks, strict=True)))
        if not candidate.label.endswith("compile")  # which takes long
    ]
    rows = {row["label"]: row for row in compare(candidates, (96, 160), CPU, 3, small_rates)}
    teacher, student = (rows[f"{name}, eager as published"] for name in ("BL", "1/4-BL"))
    assert teacher["ratio"] == 1 and student["student_ratio"] == 1
    assert student["ratio"] == pytest.approx(teacher["ours"] / student["ours"])
    measured = [row for row in rows.values() if "ours" in row]
    assert len(measured) >= 4
    for row in measured:
        assert 0 < row["floor"] < row["ours"], row
        assert row["low"] <= row["ours"] <= row["high"]
        assert row["difference"] < 1e-4
        assert row["images_per_s"] == pytest.approx(1000 / row["ours"])
    gpu = [row for label, row in rows.items() if label.endswith("GPU")]
    assert len(gpu) == 8 and all(row.keys() == {"label"} for row in gpu)


def test_the_floor_of_a_pass_is_its_products_or_its_bytes(networks):
    candidates = list_candidates(dict(zip(("BL", "1/4-BL"), networks, strict=True)))[:2]

    def floors(rates):
        rows = compare(candidates, (96, 160), CPU, 1, lambda dtype: rates)
        return [row["floor"] for row in rows]

    costs = [measure_cost(network, (96, 160)) for network in networks]
    products = [2 * 1000 * cost.macs / 1e9 for cost in costs]  # ms
    assert floors(Rates(1e9, 1e18)) == pytest.approx(products)
    values = [cost.parameters + 96 * 160 * 3 + 12 * 20 for cost in costs]
    assert floors(Rates(1e18, 1e9)) == pytest.approx([1000 * 4 * n / 1e9 for n in values])


def test_a_network_that_gives_another_map_is_not_timed(networks):
    def build_wrong(network, device):
        return lambda images: 1.01 * network(images)

    candidates = [
        Candidate("wide", networks[0], build_published),
        Candidate("narrow", networks[1], build_published),
        Candidate("wrong", networks[1], build_wrong),
    ]
    with pytest.raises(ComparisonError, match="wrong: the map differs by 0.01 of its peak"):
        compare(candidates, (64, 64), CPU, 1, small_rates)


def test_a_candidate_of_another_device_is_not_run(networks):
    def build_nothing(network, device):
        raise AssertionError("must not be built")

    candidates = [
        Candidate("wide", networks[0], build_published),
        Candidate("narrow", networks[1], build_eager),
        Candidate("elsewhere", networks[1], build_nothing, "cuda"),
    ]
    rows = compare(candidates, (64, 64), CPU, 1, small_rates)
    assert rows[2] == {"label": "elsewhere"}


def test_rates_are_of_this_machine_and_the_floor_is_the_larger_part():
    rates = measure_rates(CPU, **SMALL_RATES)
    side = 256
    first = torch.randn(side, side)
    assert rates.operations > 1e8 and rates.bytes > 1e8  # any machine of this century
    assert floor_seconds(rates, 2 * side**3, 0) > 0
    assert torch.mm(first, first).shape == (side, side)
    assert floor_seconds(Rates(100.0, 10.0), 200, 10) == 2
    assert floor_seconds(Rates(100.0, 10.0), 200, 50) == 5
    assert Rates(1.0, 4.0).best(Rates(2.0, 3.0)) == Rates(2.0, 4.0)


def test_a_pass_is_counted_kernel_by_kernel(monkeypatch, tmp_path):
    file = tmp_path / "layers.json"
    run_benchmark(monkeypatch, "layers", "--size", "64x96", "--json", file)
    rows = {row["label"]: row for row in json.loads(file.read_text())["rows"]}
    whole = rows["1/4-CSRNet, all"]
    # 17 biased convolutions, 16 ReLUs and 3 poolings.
    assert whole["kernels"] == str(2 * 17 + 16 + 3)
    network = build_network("csrnet", Fraction(1, 4))
    assert whole["macs"] == measure_cost(network, (64, 96)).macs / 1e9
    # At stride 1, of 3 and then 16 channels: two convolutions, biases and ReLUs; 2 bytes a value.
    moved = 64 * 96 * (3 + 16 + 5 * 2 * 16) + 3 * 16 * 9 + 16 * 16 * 9
    assert rows["1/4-CSRNet, stride 1"]["moved"] == pytest.approx(2 * moved / 1e6)
    assert whole["longer"] >= max(whole["operations"], whole["bytes"])


def result(title="Passes", rows=(), **facts):
    columns = {"label": "", "baseline": "baseline (ms)", "ours": "ours (ms)", "ratio": "ratio"}
    found = {"title": title, "columns": columns, "rows": list(rows), "device": "a processor"}
    found |= {"threads": 2, "versions": {"torch": "2.9", "openvino": None}, "date": "2026-01-31"}
    return found | {"command": "benchmark.py infer"} | facts


MEASURED = {"label": "fast", "baseline": 1234.5, "ours": 20.0, "ratio": 61.7}


def test_what_was_not_measured_is_an_empty_cell():
    table = tabulate([result(rows=[MEASURED, {"label": "fast, GPU"}])])
    assert table.splitlines()[2:] == ["| fast | 1,234 | 20.0 | 61.7 |", "| fast, GPU |  |  |  |"]


def test_reports_join_results_of_one_title(monkeypatch, tmp_path):
    gpu = MEASURED | {"label": "fast, GPU", "ours": 0.5, "ratio": 2469.0, "floor": 0.1}
    found = {
        "other": result(rows=[MEASURED | {"ours": 40.0, "ratio": 30.9}], device="another"),
        "cpu": result(rows=[MEASURED, {"label": "fast, GPU"}]),
        "gpu": result(rows=[{"label": "fast"}, gpu], device="a graphics card"),
        "train": result(title="Training", rows=[{"label": "step"}, {"label": "fast, GPU"}]),
    }
    files = [tmp_path / f"{name}.json" for name in found]
    for file, content in zip(files, found.values(), strict=True):
        file.write_text(json.dumps(content))
    run_benchmark(monkeypatch, "report", *files, "--out", tmp_path / "results")
    text = (tmp_path / "results/performance.md").read_text()
    assert text.count("## ") == 2 and text.count("| fast, GPU | 1,234 | 0.500 | 2,469 |") == 1
    assert text.count("| fast | 1,234 | 40.0 | 30.9 |") == 1
    assert text.count("| fast, a processor | 1,234 | 20.0 | 61.7 |") == 1
    assert "| step |  |  |  |" in text
    assert "a processor; torch 2.9. `benchmark.py infer`" in text and "a graphics card" in text
    assert (tmp_path / "results/performance.png").stat().st_size > 1000


@pytest.mark.slow
def test_exported_counters_stand_beside_their_networks(
    monkeypatch, crowd_lists, student, tmp_path, capsys
):
    need_packages(".onnx")
    file, exported = tmp_path / "int8.json", tmp_path / "student.onnx"
    result = run_program("export.py", student, exported, "--preprocess")
    assert result.returncode == 0, result.stderr
    options = [crowd_lists[2], student, exported, "--size", "64x96", "--rounds", 2]
    run_benchmark(monkeypatch, "int8", *options, "--json", file)
    (tmp_path / "other").mkdir()
    same_name = shutil.copy(student, tmp_path / "other")
    run_benchmark(monkeypatch, "int8", *options[:2], same_name, *options[3:])
    assert f"| {student}: 1/16-BL" in (table := capsys.readouterr().out)
    assert f"| {same_name}: 1/16-BL" in table
    eager, row = json.loads(file.read_text())["rows"]
    assert [eager["label"], row["label"]] == [
        "student.safetensors: 1/16-BL, PyTorch",
        "student.onnx: 1/16-BL, ONNX Runtime, float32, from uint8",
    ]
    assert row["mae"] == pytest.approx(eager["mae"], rel=1e-3) and row["mae"] > 0
    assert row["mb"] == pytest.approx(exported.stat().st_size / 1e6)
    assert row["baseline"] == eager["ours"] and row["ratio"] == row["baseline"] / row["ours"]
    run_benchmark(monkeypatch, "report", file, "--out", tmp_path, "--name", "deployment")
    page = (tmp_path / "deployment.md").read_text()
    assert page.startswith("# Deployment\n") and "student.onnx is of student.safetensors" in page
    assert "floor" not in page and (tmp_path / "deployment.png").is_file()
    with pytest.raises(EngineError, match="other.onnx does not exist; export.py writes it"):
        run_benchmark(monkeypatch, "int8", crowd_lists[2], tmp_path / "other.onnx")


def test_other_files_are_no_results(monkeypatch, tmp_path, capsys):
    listed = json.dumps(result() | {"columns": []})
    for content in ("[]", "{}", "nothing", listed):
        file = tmp_path / "other.json"
        file.write_text(content)
        with pytest.raises(benchmark.ReportError, match="other.json is no result") as raised:
            run_benchmark(monkeypatch, "report", file, "--out", tmp_path)
        with pytest.raises(SystemExit, match="error: .*other.json is no result"):
            fail(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["infer", "--size", "big"], "argument --size: must be HEIGHTxWIDTH"),
        (["preprocess", "--rounds", "0"], "argument --rounds: must be a whole number"),
        (["preprocess", "--cpu"], "unrecognized arguments: --cpu"),
    ],
)
def test_wrong_options_end_in_one_line(options, message, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run_benchmark(monkeypatch, *options)
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_numbers_keep_three_digits():
    values = [1882.4, 86.34, 1.5, 0.1234, 4.4e-6, 0, np.float64(20)]
    assert [format_value(v) for v in values] == [
        "1,882", "86.3", "1.50", "0.123", "4.4e-06", "0.000", "20.0",
    ]  # fmt: skip


@pytest.mark.slow
def test_our_distillation_is_the_published_one_and_faster(monkeypatch, tmp_path):
    monkeypatch.setattr(train, "PICTURE", (96, 128))
    monkeypatch.setattr(train, "measure_rates", lambda device, dtype: small_rates(dtype))
    file = tmp_path / "train.json"
    options = ["--cpu", "--size", "64x64", "--batch-size", 2, "--rounds", 5, "--json", file]
    run_benchmark(monkeypatch, "train", *options)
    rows = json.loads(file.read_text())["rows"]
    steps, parts, gpu = ([row for row in rows if kind(row["label"])] for kind in KINDS)
    ways = [row["label"].removeprefix("a step, ") for row in steps]
    assert ways == [LIVE, KEPT, SHORT][: 2 + has_bfloat16_tiles()]
    assert gpu == [{"label": f"a step, {way}, GPU"} for way in (LIVE, KEPT, SHORT)]
    live, kept, *_ = steps
    assert live["difference"] < 1e-4 and kept["difference"] < 1e-2
    for step, way in zip(steps, ways, strict=True):
        assert 0 < step["floor"] < step["ours"]
        own = [part for part in parts if part["label"] in {f"{name}, {way}*" for name in PARTS}]
        assert len(own) == len(PARTS)
        # A pass under the profiler is its parts, and little beside.
        assert sum(part["ours"] for part in own) > 0.5 * step["ours"]
    assert sum(part["baseline"] for part in parts[: len(PARTS)]) > 0.5 * live["baseline"]
    assert kept["ours"] < live["ours"] < live["baseline"]
    assert kept["over_live"] == pytest.approx(live["ours"] / kept["ours"])


KINDS = (  # of rows
    lambda label: label.startswith("a step") and "GPU" not in label,
    lambda label: label.endswith("*"),
    lambda label: "GPU" in label,
)


def test_the_step_that_is_timed_is_the_programs(tmp_path):
    draws = Augmentation(FixedCrop(64, 64), flip=0.5)
    samples = write_pictures(tmp_path, 2, (96, 128))
    timed, loop = (Live(samples, draws, CPU, (96, 128)) for _ in range(2))
    indices = [(0, (1,)), (1, (2,))]
    timed.optimizer.zero_grad = lambda: None  # leaves the step's gradients to be looked at
    timed.take_step(indices)
    teacher, student = loop.teacher, loop.student
    ask = ask_live(teacher, teacher.taps)
    weights = {"hard": 1, "soft": 1, "intra": LAMBDA, "inter": LAMBDA}
    criterion = Criterion(list(weights), student, density_loss, ask, student.taps, loop.adapters)
    losses = criterion(loop.crops[indices])
    sum(weights[name] * loss for name, loss in losses.items()).backward()
    for one, other in ((timed.student, loop.student), (timed.adapters, loop.adapters)):
        for made, expected in zip(one.parameters(), other.parameters(), strict=True):
            least = 1e-5 * expected.grad.abs().max().item()
            torch.testing.assert_close(made.grad, expected.grad, rtol=1e-4, atol=least)
