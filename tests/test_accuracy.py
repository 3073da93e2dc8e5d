"""The page of results, on runs whose errors are known."""

import hashlib
import itertools
import json
from dataclasses import asdict

import pytest
import torch
from conftest import assert_one_line_error, run_program

from models.build import build_network
from report.paper import LIGHT_SOURCE
from report.release import release
from report.runs import (
    compare_latencies,
    compare_seeds,
    compare_to_teachers,
    compare_with_paper,
    read_run,
)
from training.runlog import RunFolder
from utils.checkpoint import CheckpointError, read_checkpoint, save_checkpoint
from utils.metrics import CountResult, score
from utils.plots import label_points, plt

PAGE = "report/accuracy.py"
HEADS = [0, 50, 150, 250, 2000]


def write_run(folder, errors, seed=0, terms="hard,soft,intra,inter", teacher_mae=None):
    """Writes what a training and test.sh leave, with these errors of the counts."""
    run = RunFolder(folder, resume=False)
    run.log({"epoch": 1, "seconds": 30.0, "hard": 2.0, "val_mae": 9.0, "val_rmse": 9.0})
    run.log({"epoch": 2, "seconds": 60.0, "hard": 1.0, "val_mae": 5.0, "val_rmse": 6.0})
    settings = {"seed": str(seed), "terms": terms, "teacher_ckpt": "t.pth"}
    settings["dataset"] = "SHA"
    trained = {"epochs": 2, "epoch": 2, "minutes": 1.0, "val_mae": 5.0, "validation": "held out"}
    run.write_result({"settings": settings, **trained})
    counts = [
        CountResult(f"{i}.jpg", heads, heads, heads + error)
        for i, (heads, error) in enumerate(zip(HEADS, errors, strict=True))
    ]
    latency = {"device": "a CPU", "median": 0.5}
    test = {
        "model": "1/4-CSRNet",
        "dataset": "SHA",
        "size": [576, 864],
        "protocol": "whole",
        **asdict(score(counts)),
    }
    test |= {"params": 1017681, "flops_g": 13.09, "gpu_ms": None, "cpu_s": 0.5}
    test |= {"gpu_latency": None, "cpu_latency": latency}
    (folder / "test.json").write_text(json.dumps(test))
    if teacher_mae:
        teacher = test | {
            "model": "CSRNet",
            "checkpoint": "/a/t.pth",
            "mae": teacher_mae,
            "params": 16263489,
            "cpu_s": 8.0,
        }
        (folder / "teacher.json").write_text(json.dumps(teacher))
    rows = [f"{count.name},{count.heads},{count.predicted}" for count in counts]
    (folder / "test.csv").write_text("\n".join(["name,heads,predicted", *rows]))
    return folder


def rows_of(page, first):
    """Returns the cells of the table whose heading begins with `first`."""
    lines = page.split(f"| {first} ")[1].splitlines()[2:]
    table = lines[: lines.index("")] if "" in lines else lines
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table]


def test_a_page_shows_every_run_beside_the_paper(tmp_path):
    runs = [
        write_run(tmp_path / "skt", [0, 10, -10, 20, -60], teacher_mae=10),
        write_run(tmp_path / "again", [0, 10, -10, 20, -160], seed=1),
        write_run(tmp_path / "alone", [100] * 5, terms="hard"),
    ]
    out = tmp_path / "page/sha.md"
    result = run_program(PAGE, *runs, "--out", out, "--title", "Part A", "--note", "A note.")
    assert result.returncode == 0, result.stderr
    page = out.read_text()
    assert page.startswith("# Part A\n\nA note.\n\n5 test images")
    table = {row[0]: row[1:] for row in rows_of(page, "model")}
    assert table["paper: 1/4-BL + SKT"][:2] == ["62.73", "102.33"]
    assert table["teacher of skt: CSRNet"][0] == "10.00"
    assert table["skt: 1/4-CSRNet + SKT"] == ["20.00", "28.98", "1.02", "13.09", "", "0.50"]
    assert table["alone: 1/4-CSRNet"][0] == "100.00"
    ratios = {row[0]: row[1:] for row in rows_of(page, "teacher / student")}
    assert ratios["paper: 1/4-CSRNet + SKT"][0] == "0.96"  # 68.43 / 71.55
    assert ratios["skt: 1/4-CSRNet + SKT"][0] == "0.50"
    assert ratios["skt: 1/4-CSRNet + SKT"][-2:] == ["", "16.00"]
    assert "](sha_tradeoff.png)" in page
    points = compare_latencies([read_run(run) for run in runs], "SHA")
    assert points["ours"][0] == ("skt", 1.0, pytest.approx(20))
    assert points["paper"][0] == ("CSRNet", pytest.approx(7.85 / 0.87), 68.43)
    assert points["light counters"][1] == ("EBC-ZIP N", pytest.approx(100 / 168), 58.86)
    (seeds,) = rows_of(page, "seeds")
    assert seeds[:3] == ["1/4-CSRNet + SKT: skt, again", "30.00", "14.14"]
    heading, *_ = page.split("| heads (images) |")[1].splitlines()
    classes = "0 to 99 (2) | 100 to 199 (1) | 200 to 399 (1) | from 1600 (1) |"
    assert heading.strip() == classes  # no image has 400 to 1599
    crowds = {row[0]: row[1:] for row in rows_of(page, "heads (images)")}
    assert crowds["skt"] == ["5.0, +5.0", "10.0, -10.0", "20.0, +20.0", "60.0, -60.0"]
    for run in runs:
        kept = out.parent / "runs" / run.name
        assert sorted(path.name for path in kept.iterdir()) == ["log.jsonl", "result.json"]
        assert (kept / "log.jsonl").read_text() == (run / "log.jsonl").read_text()
    links = {link.split(")")[0] for link in page.split("](")[1:]}
    for link in links - {LIGHT_SOURCE}:
        assert (out.parent / link).is_file()


@pytest.mark.parametrize(
    ("missing", "reason"),
    [("log.jsonl", "no training that has ended"), ("test.json", "not tested")],
)
def test_what_is_no_tested_run_is_named(tmp_path, missing, reason):
    run = write_run(tmp_path / "skt", [0] * 5)
    (run / missing).unlink()
    refuse(tmp_path, [run], f"skt has no {missing}: it is {reason}", "bash test.sh")


def test_runs_that_have_no_place_on_one_page_are_named(tmp_path):
    run = write_run(tmp_path / "skt", [0] * 5)
    refuse(tmp_path, [run, write_run(tmp_path / "b/skt", [0] * 5)], "two runs are called skt")
    other = write_run(tmp_path / "other", [0] * 5)
    test = json.loads((other / "test.json").read_text())
    (other / "test.json").write_text(json.dumps(test | {"images": 3}))
    refuse(tmp_path, [run, other], "other: its test has images 3, the first run's 5")
    (other / "test.json").write_text(json.dumps(test | {"max_side": 768}))
    refuse(tmp_path, [run, other], "other: its test has max_side 768, the first run's None")
    (other / "test.json").write_text(json.dumps(test))
    counts = (other / "test.csv").read_text()
    (other / "test.csv").write_text(counts + "\nmore.jpg,1,1")
    refuse(tmp_path, [run, other], "other: its test has other images or heads than the first")
    (other / "test.json").write_text("{}")
    refuse(tmp_path, [run, other], "other/test.json has no model")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("test.json", '"mae"', "test.json is no JSON object with model"),
        ("test.json", {"mae": [1]}, r"test.json: mae must be of the type int or float, got \[1\]"),
        ("test.json", {"cpu_s": 10**400}, "test.json: cpu_s must be of the type .*, got 1000"),
        ("test.json", {"dataset": ["SHA"]}, "test.json: dataset must be of the type str"),
        ("test.json", {"cpu_latency": {"ms": 3}}, "test.json has no device"),
        ("result.json", {"settings": {}}, "result.json has no seed"),
        ("result.json", {"minutes": True}, "result.json: minutes must be of the type int or float"),
        ("log.jsonl", '{"epoch": 1, "seconds": 1}\n{"epoch": 2\n', "log.jsonl, line 2 is not JSON"),
        ("log.jsonl", '{"epoch": 1, "seconds": 1, "hard": "a"}\n', "line 1: hard must be of the"),
        ("log.jsonl", "\0\xff", "log.jsonl is not text in UTF-8"),
        ("test.csv", "name,heads,predicted\na.jpg,3,nan\n", "test.csv, row 1: must have a name"),
        ("test.csv", "name,heads\na.jpg,3\n", "test.csv, row 1: must have a name, heads"),
        ("test.csv", "", "test.csv has no counts"),
        ("test.csv", f"name,heads,predicted\n{'a' * 140_000},3,3\n", "test.csv is no CSV file"),
    ],
)
def test_a_damaged_file_of_a_run_is_named_in_one_line(tmp_path, name, content, reason):
    file = write_run(tmp_path / "skt", [0] * 5) / name
    if isinstance(content, dict):
        content = json.dumps(json.loads(file.read_text()) | content)
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=reason) as error:
        read_run(tmp_path / "skt")
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def refuse(folder, runs, *words):
    result = run_program(PAGE, *runs, "--out", folder / "page.md", "--title", "T")
    assert_one_line_error(result, *words)
    assert not (folder / "page.md").exists()


def test_a_machine_or_teacher_that_differs_is_told_apart(tmp_path):
    runs = [
        write_run(tmp_path / "skt", [0, 10, -10, 20, -60], teacher_mae=10),
        write_run(tmp_path / "elsewhere", [0] * 5),
    ]
    for file, part in (("skt/result.json", "settings"), ("elsewhere/test.json", "cpu_latency")):
        content = json.loads((tmp_path / file).read_text())
        content[part] |= {"more_teachers": "b.pth", "device": "another CPU"}
        (tmp_path / file).write_text(json.dumps(content))
    read = [read_run(folder) for folder in runs]
    assert [name for name, *_ in compare_latencies(read, "SHA")["ours"]] == ["skt"]
    assert "first teacher of skt: CSRNet" in compare_with_paper(read, "SHA")
    assert "skt: 1/4-CSRNet + SKT, first teacher" in compare_to_teachers(read, "SHA")

    test = json.loads((tmp_path / "elsewhere/test.json").read_text()) | {"engine": "int8.onnx"}
    (tmp_path / "elsewhere/test.json").write_text(json.dumps(test))
    result = run_program(PAGE, *runs, "--out", tmp_path / "page.md")
    assert_one_line_error(result, "its test has engine int8.onnx, the first run's eager")


def test_seeds_are_compared_only_where_they_differ(tmp_path):
    runs = [read_run(write_run(tmp_path / name, [0] * 5, seed=1)) for name in ("one", "same")]
    assert compare_seeds(runs) == ""


def test_a_teacher_that_is_a_run_itself_stands_once_on_the_page(tmp_path):
    teacher = write_run(tmp_path / "csrnet", [10] * 5, terms="hard")
    student = write_run(tmp_path / "skt", [20] * 5, teacher_mae=10)
    tested = json.loads((student / "teacher.json").read_text())
    tested["checkpoint"] = str(teacher / "best_mae.pth")
    (student / "teacher.json").write_text(json.dumps(tested))
    table = compare_with_paper([read_run(teacher), read_run(student)], "SHA")
    assert table.count("| 10.00 |") == 1 and "teacher of" not in table


def test_weights_are_released_in_float16(tmp_path):
    network = build_network("csrnet", 1 / 16)
    checkpoint = {"model": network.state_dict(), "arch": "csrnet", "width": "1/16"}
    checkpoint |= {"settings": {"dataset": "SHA"}, "adapters": {"a": torch.zeros(1)}}
    path, out = tmp_path / "best_mae.pth", tmp_path / "w.safetensors"
    save_checkpoint(path, checkpoint)
    result = run_program("report/release.py", path, out)
    assert result.returncode == 0, result.stderr
    assert hashlib.sha256(out.read_bytes()).hexdigest() in result.stdout
    released = read_checkpoint(out)
    assert released.keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(released[name], tensor.half())
    out.unlink()
    network.output_layer.bias.data.fill_(1e6)
    save_checkpoint(path, checkpoint)
    result = run_program("report/release.py", path, out)
    assert_one_line_error(result, "output_layer.bias does not fit into float16")
    save_checkpoint(path, network.state_dict())
    assert_one_line_error(run_program("report/release.py", path, out), "is not of a training")
    assert not out.exists()


def test_several_checkpoints_are_released_as_their_mean(tmp_path):
    paths = [tmp_path / f"{i}.pth" for i in range(3)]
    networks = [build_network(arch, 1 / 16) for arch in ("mobile_s", "mobile_s", "csrnet")]
    networks[0].trunk.block1.conv[0][1].running_mean.fill_(3)
    for path, network in zip(paths, networks, strict=True):
        arch = "csrnet" if network is networks[2] else "mobile_s"
        facts = {"arch": arch, "width": "1/16", "settings": {"dataset": "SHA"}}
        save_checkpoint(path, {"model": network.state_dict(), **facts})
    release(paths[:2], tmp_path / "w.safetensors")
    released = read_checkpoint(tmp_path / "w.safetensors")
    first, second = (network.state_dict() for network in networks[:2])
    for name, tensor in released.items():
        torch.testing.assert_close(
            tensor.double(), (first[name].double() + second[name]) / 2, rtol=1e-3, atol=1e-6
        )
    assert released["trunk.block1.conv.0.1.running_mean"].eq(1.5).all()
    with pytest.raises(CheckpointError, match="w.pth must be a .safetensors file"):
        release(paths[:1], tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="2.pth is a 1/16 csrnet, .*0.pth a 1/16 mobile_s"):
        release(paths[::2], tmp_path / "w.safetensors")


def write_variant(folder, epochs, minutes, device="a CPU, 2 threads", teachers=""):
    """Writes what a finished variant leaves, whose loss terms are the name of its folder."""
    settings = {"terms": folder.name, "intra": "cos", "dataset": "SHA", "teachers": teachers}
    result = {"arch": "csrnet", "width": "1/4", "parameters": 1017681, "settings": settings}
    result |= {"epochs": epochs, "max_minutes": minutes, "device": device, "val_mae": 90.0}
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result | {"test": {"mae": 80.0, "rmse": 120.0}})
    (folder / "result.json").write_text(text)
    (folder / "log.jsonl").write_text('{"epoch": 1, "seconds": 60, "val_mae": 99}\n')


def test_variants_of_an_ablation_share_a_budget_of_minutes_whatever_their_epochs(tmp_path):
    write_variant(tmp_path / "hard", 30, 20)
    write_variant(tmp_path / "hard,soft", 20, 20)
    assert run_program("report/ablation.py", tmp_path).returncode == 0
    table = (tmp_path / "ablation.md").read_text()
    assert [row[3] for row in rows_of(table, "width")] == ["30", "20"]
    assert "\nEvery variant: csrnet on SHA for 20 minutes on a CPU, 2 threads.\n" in table
    assert "[hard + soft](hard,soft/log.jsonl)" in table
    for other in ({"minutes": 30}, {"minutes": None}, {"minutes": 20, "device": "a GPU"}):
        write_variant(tmp_path / "hard,soft", 20, **other)
        assert_one_line_error(run_program("report/ablation.py", tmp_path), "mixes runs of csrnet")
    for name, teacher in (("hard,soft", "a"), ("soft", "b")):
        write_variant(tmp_path / name, 20, 20, teachers=teacher)
    result = run_program("report/ablation.py", tmp_path)
    assert_one_line_error(result, "mixes teachers: those of hard,soft and soft differ")


def test_a_page_shows_an_ablation_and_keeps_its_logs(tmp_path):
    variants, out = tmp_path / "ablation_csrnet", tmp_path / "page/sha.md"
    write_variant(variants / "hard", 30, 20)
    write_variant(variants / "hard,soft", 20, 20)
    run = write_run(tmp_path / "skt", [0, 10, -10, 20, -60])
    command = [PAGE, run, "--out", out, "--title", "Part A", "--ablation", variants]
    assert run_program(*command).returncode == 0
    section = out.read_text().split("## ablation_csrnet\n")[1]
    links = [link.split(")")[0] for link in section.split("](")[1:]]
    logs = [f"runs/ablation_csrnet/{name}/log.jsonl" for name in ("hard", "hard,soft")]
    assert links == [*logs, "sha_ablation_csrnet.png"]
    for link in links:
        assert (out.parent / link).is_file()
    (variants / "hard/log.jsonl").write_text('{"epoch": 1}\n')
    assert_one_line_error(run_program(*command), f"{variants}/hard/log.jsonl, line 1")


def test_names_of_points_cover_neither_each_other_nor_markers():
    _, axes = plt.subplots()
    points = [("one", 1, 70.0), ("$another", 1.01, 70.0), ("a third", 1.05, 69.9), ("far", 3, 50)]
    axes.plot([x for _, x, _ in points], [y for *_, y in points], "o")
    label_points(axes, points)
    boxes = [label.get_window_extent() for label in axes.texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    markers = axes.transData.transform([(x, y) for _, x, y in points])
    assert not any(box.contains(*marker) for box in boxes for marker in markers)
    plt.close()
