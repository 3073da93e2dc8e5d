"""The programs that fuzz and kill find the faults that are planted here, and blame nothing else."""

import json
import os
import random
import re
import signal
import time

import pytest
from damage import damage_json, damage_png, damage_safetensors, damage_table
from fuzz import fuzz, tabulate
from fuzz_formats import FORMATS, READ, Format, Outcome, Trial, each, refused
from kill_cases import Case, read_all
from kills import Result, kill, moments_of, start

FAULTY = {
    "raises": lambda: 1 / 0,
    "crashes": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hangs": lambda: time.sleep(60),
    "ends": lambda: os._exit(0),
    "says": lambda: Outcome("wrong", "the count is not finite"),
}


@pytest.mark.parametrize(
    ("fault", "kind", "detail"),
    [
        ("raises", "traceback", r"ZeroDivisionError\('division by zero'\) at test_reliability.py:"),
        ("crashes", "crash", "exit code -9"),
        ("hangs", "hang", "exit code -9"),
        ("ends", "wrong", "exit code 0"),
        ("says", "wrong", "not finite"),
    ],
)
def test_a_planted_fault_of_a_reader_is_found_and_its_file_kept(
    fault, kind, detail, tmp_path, monkeypatch, capsys
):
    if fault == "hangs":
        monkeypatch.setattr("fuzz.LIMIT_S", 2)
        monkeypatch.setattr("fuzz.LIMIT_ALONE_S", 2)
    good, bad = files = [tmp_path / f"json-{number:04}-list.json" for number in range(2)]
    good.write_text("well")
    bad.write_text(fault)

    def read(file, folder):
        found = FAULTY.get(file.read_text())
        return (found and found()) or READ

    form = Format(".json", damage_json, [Trial("a reader", each(read))], "")
    counts = fuzz(form, files, tmp_path / "trial", tmp_path / "kept")
    assert counts == {"read": 1, kind: 1}
    (kept,) = (tmp_path / "kept").iterdir()
    assert kept.name == bad.name and kept.read_text() == fault
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{kind}: a reader: {kept}: ")
    assert re.search(detail, line)
    assert "| json | 2 | 1 | 0 |" in tabulate({"json": counts})


def test_an_error_must_be_one_line_with_the_name():
    assert refused(["note", "error: a.png is damaged"], "a.png").kind == "refused"
    assert refused(["error: something is damaged"], "a.png").kind == "wrong"
    assert refused(["error: a.png", "error: a.png"], "a.png").kind == "wrong"
    assert refused([], "a.png").kind == "wrong"


@pytest.mark.parametrize("form", FORMATS)
def test_damage_is_the_same_again(form, tmp_path):
    valid = {
        damage_png: b"\x89PNG\r\n\x1a\n\0\0\0\1IHDRa\0\0\0\0",
        damage_json: json.dumps({"images": [{"id": 1}], "points": [[1, 2], [3, 4]]}).encode(),
        damage_table: b"x,y\n1,2\n3,4\n",
        damage_safetensors: b'\x10\0\0\0\0\0\0\0{"a":[1,2,3,45]}' + bytes(8),
    }
    damage = FORMATS[form].damage
    data = valid.get(damage, bytes(range(256)) * 4)
    first, again = ([damage(data, random.Random(n)) for n in range(100)] for _ in range(2))
    assert first == again and len(set(first)) > 50


WRITER = """
import sys
from pathlib import Path
from utils.files import write_whole
out, how = Path(sys.argv[1]), sys.argv[2]
if how == "refuses" and (out / "first.json").exists():
    sys.exit("error: there is something")
for name in ("first", "second"):
    if how == "halves":
        (out / f"{name}.json").write_text("[1, 2]")
    else:
        write_whole(out / f"{name}.json", "[1, 2]")
if how == "counts":
    with (out / "starts.jsonl").open("a") as file:
        file.write("1\\n")
if how == "leaves":
    (out / ".skt-old").touch()
    write_whole(out / "third.json", "[]")
    (out / ".skt-old").unlink()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "loss"),
    [
        ("halves", "a half file: JSONDecodeError"),
        ("refuses", "the next start: exit code 1, error: there is something"),
        ("leaves", ""),  # which the next start removes
    ],
)
def test_a_planted_loss_is_found(how, loss, tmp_path):
    program = tmp_path / "writer.py"
    program.write_text(WRITER)
    case, out = Case("writer", f"{program} OUT {how}"), tmp_path / "out"
    case.prepare(out)
    ended, watch = start(case, out)
    assert ended.code == 0, ended.err
    reference, result = read_all(out), Result()
    for moment in moments_of(watch):
        kill(case, out, [moment], reference, result)
    # mkdir is none: the folder is there. A file: opened, open and empty, opened again, renamed.
    assert result.kinds["kills"] == len(moments_of(watch)) >= (4 if how == "halves" else 8)
    assert any(loss in line for line in result.losses) if loss else not result.losses
