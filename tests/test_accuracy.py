"""The page of results, on runs whose errors are known."""

import json
from dataclasses import asdict

import pytest
from conftest import assert_one_line_error, run_program

from utils.metrics import CountResult, score
from utils.runlog import RunFolder
from utils.runs import compare_latencies, read_run

PAGE = "utils/accuracy.py"
HEADS = [0, 50, 150, 250, 2000]


def write_run(folder, errors, seed=0, terms="hard,soft,intra,inter", teacher_mae=None):
    """Writes what a training and test.sh leave, with these errors of the counts."""
    run = RunFolder(folder, resume=False)
    run.log({"epoch": 1, "seconds": 30.0, "hard": 2.0, "val_mae": 9.0, "val_rmse": 9.0})
    run.log({"epoch": 2, "seconds": 60.0, "hard": 1.0, "val_mae": 5.0, "val_rmse": 6.0})
    settings = {"seed": str(seed), "terms": terms, "teacher_ckpt": "t.pth"}
    trained = {"epochs": 2, "epoch": 2, "minutes": 1.0, "val_mae": 5.0, "validation": "held out"}
    run.write_result({"settings": settings, **trained})
    counts = [
        CountResult(f"{i}.jpg", heads, heads, heads + error)
        for i, (heads, error) in enumerate(zip(HEADS, errors, strict=True))
    ]
    latency = {"device": "a CPU", "median": 0.5}
    test = {"model": "1/4-CSRNet", "dataset": "SHA", "size": [576, 864], **asdict(score(counts))}
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
    """The cells of the table whose heading begins so."""
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
    for figure in page.split("](")[1:]:
        assert (out.parent / figure.split(")")[0]).is_file()


@pytest.mark.parametrize("missing", ["log.jsonl", "test.json"])
def test_what_is_no_tested_run_is_named(tmp_path, missing):
    run = write_run(tmp_path / "skt", [0] * 5)
    (run / missing).unlink()
    result = run_program(PAGE, run, "--out", tmp_path / "page.md", "--title", "T")
    assert_one_line_error(result, f"skt has no {missing}", "bash test.sh")
    assert not (tmp_path / "page.md").exists()
