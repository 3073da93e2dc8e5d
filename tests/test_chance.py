"""Intervals of errors: those of known distributions, and what may not be compared."""

import numpy as np
import pytest
from conftest import run_program

from report.chance import compare_by_chance, resample
from utils.metrics import CountResult


def count(errors, heads=100):
    return [CountResult(f"{i}.jpg", heads, heads, heads + e) for i, e in enumerate(errors)]


def rows_of(tables):
    return [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in tables.splitlines()
        if line.startswith("|") and "---" not in line
    ]


def test_an_interval_holds_the_mean_as_often_as_it_says():
    rng, held = np.random.default_rng(1), 0
    for _ in range(100):
        low, high = resample(lambda v: v.mean(-1), rng.gamma(2, 30, 100))
        held += low <= 60 <= high
    assert 88 <= held <= 99  # 95 expected; 4 of a binomial's deviations are 9


def test_differences_are_paired():
    hard = np.random.default_rng(0).normal(0, 100, 60)  # what both find hard
    better, worse = count(hard), count(hard + 5 * np.sign(hard))
    first, second, _, difference = rows_of(compare_by_chance({"a": better, "b": worse}))[1:]
    assert float(second[1]) - float(first[1]) == pytest.approx(5, abs=0.01)
    ends = [float(end) for end in first[2].split(" to ")]
    assert ends[1] - ends[0] > 20  # unpaired, 5 would be nothing
    assert difference == ["a - b", "-5.00", "-5.0 to -5.0", "more than chance"]
    noise = np.random.default_rng(1).normal(0, 100, 60)
    assert rows_of(compare_by_chance({"a": better, "b": count(noise)}))[-1][-1] == "chance"


def test_the_order_of_the_images_does_not_matter():
    results = count(range(30))
    both = compare_by_chance({"a": results, "b": results[::-1]})
    assert rows_of(both)[-1] == ["a - b", "+0.00", "0.0 to 0.0", "chance"]


def test_other_images_or_heads_are_no_comparison(tmp_path):
    for other in (count(range(3)), count(range(4), heads=99)):
        with pytest.raises(ValueError, match="a and b did not count the same images and heads"):
            compare_by_chance({"a": count(range(4)), "b": other})
    twice = count(range(2)) + count(range(2))  # such as IMG_1.jpg of two folders
    with pytest.raises(ValueError, match="two of the counted images are called 0.jpg; rename one"):
        compare_by_chance({"a": twice, "b": twice})
    for name, rows in (("a", ["x.jpg,3,4.5", "y.jpg,0,1"]), ("b", ["x.jpg,3,3", "y.jpg,0,0"])):
        (tmp_path / f"{name}.csv").write_text("\n".join(["name,heads,predicted", *rows]))
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    result = run_program("report/chance.py", *files)
    assert rows_of(result.stdout)[-1] == ["a - b", "+1.25", "1.0 to 1.5", "more than chance"]
    tests = [tmp_path / f"{name}/test.csv" for name in "ab"]  # as test.sh writes them
    for file, test in zip(files, tests, strict=True):
        test.parent.mkdir()
        test.write_bytes(file.read_bytes())
    assert run_program("report/chance.py", *tests).stdout == result.stdout
    result = run_program("report/chance.py", *files, tmp_path / "no.csv")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1) and "no.csv" in result.stderr
