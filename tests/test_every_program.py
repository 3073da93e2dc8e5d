"""What all programs share: their first import, options, help and progress bars."""

import argparse
import ast
import importlib
import io
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import PROJECT

from utils import start
from utils.device import add_device_options
from utils.options import Parser, fail, parse_size, whole_number
from utils.progress import Bar

SOURCES = {path: path.read_text(encoding="utf-8") for path in PROJECT.glob("[!.]*/**/*.py")}
SOURCES |= {path: path.read_text(encoding="utf-8") for path in PROJECT.glob("*.py")}
SOURCES = {path: text for path, text in SOURCES.items() if PROJECT / "tests" not in path.parents}
PROGRAMS = [path for path, text in SOURCES.items() if '__name__ == "__main__"' in text]
DIGITS = pytest.param("9" * 5000, id="5000 digits")
MODULES = [".".join(path.relative_to(PROJECT).with_suffix("").parts) for path in PROGRAMS]


@pytest.mark.parametrize("text", [DIGITS, str(2**64), str(2**63), "-1", "1.5", "", "\u2461"])
def test_absurd_whole_numbers_are_refused_at_once(text):
    with pytest.raises(argparse.ArgumentTypeError, match="of at least 0 and less than 2.*, got"):
        whole_number(0)(text)


@pytest.mark.parametrize("text", [DIGITS, "99999x99999", "0x5", "12", "x"])
def test_absurd_sizes_are_refused_at_once(text):
    with pytest.raises(ValueError, match="must be HEIGHTxWIDTH in pixels.*at most 65535 each"):
        parse_size(text)


@pytest.mark.parametrize("program", PROGRAMS, ids=MODULES)
def test_a_program_imports_what_every_python_has_before_all_else(program):
    before = set()
    for node in ast.parse(SOURCES[program]).body:
        if isinstance(node, ast.ImportFrom):
            before.add(node.module)
        elif isinstance(node, ast.Import):
            before |= {name.name for name in node.names}
        if "utils.start" in before:
            break
    assert "utils.start" in before
    before = {name.split(".")[0] for name in before - {"utils.start"}}
    assert before <= sys.stdlib_module_names


def test_a_program_without_its_packages_goes_on_in_the_venv_or_says_how_to_get_them(tmp_path):
    (tmp_path / "utils").mkdir()
    for name in ("test.py", "utils/start.py"):
        shutil.copy(PROJECT / name, tmp_path / name)

    def run():
        command = [sys.executable, "-S", "-E", "test.py", "my list.json"]  # -S: no packages
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    result = run()
    assert result.returncode == 1 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {sys.executable} has no package torch. ")
    assert f"`bash {tmp_path}/predict.sh --help` makes .venv" in line
    assert f"-m pip install -r {tmp_path}/requirements.txt`" in line
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    python.chmod(0o755)
    result = run()
    assert (result.returncode, result.stdout, result.stderr) == (0, "test.py|my list.json|", "")


def test_only_a_missing_package_is_looked_for_elsewhere(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(start, "PROJECT", tmp_path)
    start.end_uncaught(ZeroDivisionError, ZeroDivisionError("by 0"), None)
    assert capsys.readouterr().err == "ZeroDivisionError: by 0\n"
    start.end_uncaught(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == "stopped\n"
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("it would start itself for ever"))
    start.end_uncaught(ModuleNotFoundError, ModuleNotFoundError(name="tqdm"), None)
    assert " has no package tqdm. " in capsys.readouterr().err


def test_an_error_of_a_worker_is_told_without_its_kind():
    error = FileNotFoundError(
        "Caught FileNotFoundError\nFileNotFoundError: [Errno 2] None: 'a.jpg'"
    )
    with pytest.raises(SystemExit) as ended:
        fail(error)
    assert ended.value.code == "error: [Errno 2] None: 'a.jpg'"


def test_closed_outputs_are_the_null_device(tmp_path):
    program = "import os, utils.start, sys; sys.stderr.write('x'); print(os.fstat(2).st_rdev)"
    command = f'exec "{sys.executable}" -c "{program}" 2>&-'
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=PROJECT)
    assert result.returncode == 0
    assert int(result.stdout) == Path(os.devnull).stat().st_rdev  # no file gets number 2


def test_every_program_has_the_parser_that_takes_no_abbreviations():
    assert not [path for path, text in SOURCES.items() if "ArgumentParser(" in text]
    assert sum(" = Parser(" in text for text in SOURCES.values()) > 20


def test_a_whole_option_may_be_joined_to_its_value_but_not_cut(capsys):
    parser = Parser(prog="program")
    add_device_options(parser)
    parser.add_argument("--dataset", "-d")
    parser.add_argument("--teacher_ckpt", "-tc")
    sub = parser.add_subparsers(dest="command").add_parser("report")
    sub.add_argument("--out")
    args = parser.parse_args(["-dSHA", "--teacher_ckpt=t.pth", "--gpu=1", "report", "--out", "o"])
    assert (args.dataset, args.teacher_ckpt, args.gpu, args.out) == ("SHA", "t.pth", 1, "o")
    assert parser.parse_args(["-tc", "t.pth"]).teacher_ckpt == "t.pth"
    for wrong in (["--gp=0"], ["-t=t.pth"], ["--data=SHA"], ["report", "--ou", "o"]):
        with pytest.raises(SystemExit):
            parser.parse_args(wrong)
        (line,) = capsys.readouterr().err.splitlines()
        assert "error: unrecognized arguments: " in line


@pytest.mark.parametrize("module", [name for name in MODULES if "." not in name])
def test_a_help_says_what_happens_by_default(module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(module).parse_args()
    text = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0 and "None" not in text
    if "--gpu" in text:
        assert "number of the GPU (default: the first, or the CPU where there is none)" in text


def test_a_bar_is_shown_on_a_terminal_and_nothing_of_it_in_a_log(capsys, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        assert list(Bar(range(3), "counting")) == [0, 1, 2]
    assert "counting: 100%" in terminal.getvalue()
    with Bar(total=3, leave=False) as bar:
        bar.update(3)
        bar.set_postfix(loss=1)
        Bar.write("epoch 1")
    assert capsys.readouterr() == ("epoch 1\n", "")


def test_all_bars_are_of_one_kind():
    users = {path.name for path, text in SOURCES.items() if re.search("(from|import) tqdm", text)}
    assert users == {"progress.py"}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is about glibc")
def test_glibc_keeps_large_blocks_unless_the_environment_says_how(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    assert start.keep_memory()
    faults = []
    for _ in range(2):  # at first its memory must grow
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            torch.empty(2**26, dtype=torch.uint8).fill_(1)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert faults[1] < 2**26 / resource.getpagesize()  # ten times that if each block were new
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1000000")
    assert not start.keep_memory()
