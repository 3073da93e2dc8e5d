"""Files are written whole or not at all, leftovers go, and no output destroys an input."""

import json
import math
import os
import subprocess
import sys

import pytest

from utils.files import (
    ABANDONED_S,
    MACHINE,
    UNFINISHED,
    Names,
    WriteError,
    check_outputs,
    copy_whole,
    unfinished,
    without_nan,
    write_json,
    write_whole,
    written_whole,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "new" / "list.json"
    write_whole(path, "old")
    with pytest.raises(ZeroDivisionError), written_whole(path) as begun:
        begun.write_text("half")
        raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt), written_whole(path) as begun:
        begun.write_text("half")
        raise KeyboardInterrupt
    with pytest.raises(WriteError, match="list.json could not be written"):
        copy_whole(tmp_path / "missing", path)
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]
    (tmp_path / "new.json").write_text("new")
    assert copy_whole(tmp_path / "new.json", path).read_text() == "new"


def test_what_cannot_be_written_is_named(tmp_path, monkeypatch):
    with pytest.raises(WriteError, match=rf"{tmp_path} could not be written"):
        write_whole(tmp_path, "a folder")
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="file/a.csv could not be written"):
        write_whole(tmp_path / "file" / "a.csv", "in a file")

    def full(_):
        raise OSError(28, "No space left on device")

    path = tmp_path / "a.csv"
    path.write_text("old")
    monkeypatch.setattr("os.fsync", full)
    reason = r"a.csv could not be written \(No space left on device\); what was there before still"
    with pytest.raises(WriteError, match=reason):
        write_whole(path, "new")
    assert path.read_text() == "old"


def test_links_are_followed_and_devices_stay(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_whole(tmp_path / "link", "content")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "content"
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE, text=True)
    write_whole(tmp_path / "pipe", "through")
    assert reader.communicate(timeout=10)[0] == "through"
    assert (tmp_path / "pipe").is_fifo()


def test_leftovers_of_killed_processes_are_swept_and_no_others(tmp_path):
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    names = {
        "killed": f"{UNFINISHED}{MACHINE}-{killed.pid}-0123.png",
        "running": f"{UNFINISHED}{MACHINE}-{os.getppid()}-0123.png",
        "elsewhere": f"{UNFINISHED}other-{killed.pid}-0123.png",
        "abandoned": f"{UNFINISHED}other-{killed.pid}-4567.png",
        "theirs": ".skt",
    }
    for name in names.values():
        (tmp_path / name).write_text("half")
    (tmp_path / f"{UNFINISHED}{MACHINE}-{killed.pid}-folder").mkdir()
    old = (tmp_path / names["abandoned"]).stat().st_mtime - ABANDONED_S - 10
    os.utime(tmp_path / names["abandoned"], (old, old))
    write_whole(tmp_path / "a.txt", "a")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"a.txt", names["running"], names["elsewhere"], names["theirs"]}


def test_a_name_as_long_as_can_be_is_written(tmp_path):
    name = "é" * 125 + ".txt"  # 254 bytes
    write_whole(tmp_path / name, "long")
    assert (tmp_path / name).read_text() == "long"
    assert unfinished(tmp_path / "a.png").suffix == ".png"


def test_json_has_null_for_what_is_no_number(tmp_path):
    value = {"mae": math.nan, "rows": [(1.5, math.inf)], "name": "pla\udce7a.jpg"}
    assert without_nan(value)["rows"] == [[1.5, None]]
    write_json(tmp_path / "a.json", value)
    read = json.loads((tmp_path / "a.json").read_text())
    assert read == {"mae": None, "rows": [[1.5, None]], "name": "pla\udce7a.jpg"}


def test_an_output_is_no_input_and_no_other_output(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_text(name)
    (tmp_path / "link.csv").symlink_to(tmp_path / "a.jpg")
    (tmp_path / "hard.csv").hardlink_to(tmp_path / "b.jpg")
    inputs = [tmp_path / "a.jpg", tmp_path / "b.jpg", None]
    new, same = tmp_path / "new.csv", tmp_path / "." / ".." / tmp_path.name / "new.csv"
    check_outputs([("--csv", new), ("--json", None), ("--log", tmp_path / "c.csv")], inputs)
    for path in (tmp_path / "a.jpg", tmp_path / "link.csv", tmp_path / "hard.csv"):
        with pytest.raises(WriteError, match=f"--csv {path} would overwrite what is read"):
            check_outputs([("--csv", path)], inputs)
    with pytest.raises(WriteError, match="--csv and --json would both write"):
        check_outputs([("--csv", new), ("--json", same)], inputs)
    device = type(new)("/dev/null")
    check_outputs([("--csv", device), ("--json", device)], inputs)


def test_names_are_unique_and_leave_room_for_an_ending():
    names = Names()
    assert [names.take(stem) for stem in ("a", "b", "a", "a_2")] == ["a", "b", "a_2", "a_2_2"]
    long = [names.take("ü" * 120) for _ in range(2)]
    assert len(os.fsencode(long[0])) == 200 and long[1] == f"{long[0]}_2"
