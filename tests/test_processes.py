"""Worker processes: what becomes of the other files, and of the workers, when one ends."""

import argparse
import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import PROJECT, restored_process

from datasets.splits import DataError
from preprocess.commands import run
from preprocess.processes import Failed, raise_failed, run_in_processes


def work(job):
    if isinstance(job, signal.Signals):
        faulthandler.disable()  # pytest's, which would print a stack
        os.kill(os.getpid(), job)
    if job == "leaves":
        os._exit(3)
    if job == "damaged":
        raise DataError("damaged.mat is no\nreadable .mat")
    if job == "large":
        raise MemoryError
    if job == "bug":
        raise ZeroDivisionError
    return job, os.getpid()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_that_fails_or_kills_its_process_is_named_and_ends_no_other(workers):
    jobs = [0, signal.SIGSEGV, "damaged", 1, "leaves", "large", signal.SIGKILL, 2]
    outcomes = run_in_processes(work, jobs, workers, "jobs", name=lambda job: f"<{job}>")
    assert [outcomes[n][0] for n in (0, 3, 7)] == [0, 1, 2]
    assert os.getpid() not in [outcomes[n][1] for n in (0, 3, 7)]
    reasons = ["process (SIGSEGV)", "damaged.mat is no readable .mat", "process (exit code 3)"]
    reasons += ["<large>: memory does not suffice", "too much memory (SIGKILL); try fewer"]
    failed = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    for outcome, reason in zip(failed, reasons, strict=True):
        assert reason in outcome.message and "\n" not in outcome.message
    assert failed[0].message.startswith(f"<{signal.SIGSEGV}>: ")
    assert not multiprocessing.active_children()
    with pytest.raises(DataError) as error:
        raise_failed(outcomes)
    assert str(error.value).splitlines() == [outcome.message for outcome in failed]
    with pytest.raises(DataError, match="\n3 more files failed$"):
        raise_failed([Failed("a")] * 23)
    raise_failed(outcomes[:1])


def test_a_bug_keeps_its_traceback_and_leaves_no_worker():
    with pytest.raises(RuntimeError, match=r"(?s)<bug>:\nTraceback.*ZeroDivisionError"):
        run_in_processes(work, ["bug", *range(9)], 2, "jobs", name=lambda job: f"<{job}>")
    assert not multiprocessing.active_children()


SLEEPER = """
import sys, time
from pathlib import Path
from preprocess.commands import run
from preprocess.processes import run_in_processes

def work(folder):
    begun = folder / f"begun.{time.perf_counter_ns()}"
    try:
        begun.touch()
        time.sleep(60)
    finally:
        begun.unlink()

def main(folder):
    run_in_processes(work, [folder] * 4, 2, "jobs", name=str)

run(lambda: Path(sys.argv[1]), main)
"""


@pytest.mark.parametrize(("number", "group"), [("INT", 1), ("TERM", 0), ("HUP", 1), ("KILL", 0)])
def test_signals_end_all_processes_in_one_word(tmp_path, number, group):
    number = signal.Signals[f"SIG{number}"]
    command = [sys.executable, "-c", SLEEPER, tmp_path]
    program = subprocess.Popen(
        command,
        cwd=PROJECT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell starts background jobs, such as a whole run of the tests, with SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.05)
        assert program.poll() is None
    (os.killpg if group else os.kill)(program.pid, number)
    if number == signal.SIGKILL:  # workers end when their jobs do
        os.killpg(program.pid, signal.SIGTERM)
    _, errors = program.communicate(timeout=60)  # ends when no process holds the pipe
    assert program.returncode == -number and not list(tmp_path.iterdir())
    assert "Traceback" not in errors
    if number != signal.SIGKILL:
        assert errors.splitlines()[-1] == "stopped"


def test_idle_workers_end_when_their_parent_is_killed(tmp_path):
    code = SLEEPER.replace("time.sleep(60)", "time.sleep(1)").replace("* 4", "* 2")
    code = code.replace("begun.unlink()", "pass").replace(
        "main(folder):",
        """main(folder):
    import multiprocessing, os
    from preprocess.processes import _Worker
    workers = [_Worker(work) for _ in range(3)]
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    os.kill(os.getpid(), 9)""",
    )
    command = [sys.executable, "-c", code, tmp_path]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == -signal.SIGKILL and len(ended.stdout.split()) == 3
    assert ended.stderr == ""  # and `run` returned: no worker holds its pipes any more


def test_a_worker_whose_parent_is_killed_while_it_works_says_nothing(tmp_path):
    code = """
import os, signal, time
from preprocess.processes import run_in_processes
def work(job):
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(0.2)
run_in_processes(work, [1, 2], 1, "jobs", name=str)"""
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == -signal.SIGKILL and ended.stderr == ""


def test_mistakes_take_a_line_each_and_end_with_1(monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    for error, text in (
        (DataError("a is bad\nb is bad"), "error: a is bad\nerror: b is bad"),
        (FileNotFoundError(2, "No such file", "c"), "error: [Errno 2] No such file: 'c'"),
        (OSError(), "error: OSError"),
    ):

        def main(_: argparse.Namespace, error: Exception = error) -> None:
            raise error

        with pytest.raises(SystemExit) as ended:
            run(argparse.Namespace, main)
        assert ended.value.code == text
    with pytest.raises(SystemExit) as ended:
        run(argparse.Namespace, lambda _: 1)
    assert ended.value.code == 1


def test_a_signal_while_a_command_begins_takes_one_word(monkeypatch, capsys):
    set_handler, sent = signal.signal, []

    def arrives_at_once(number, handler):
        set_handler(number, handler)
        if callable(handler) and not sent:
            sent.append(number)
            handler(number, None)

    monkeypatch.setattr(os, "kill", lambda *signalled: sent.append(signalled))
    with restored_process(), pytest.raises(SystemExit) as ended:
        monkeypatch.setattr(signal, "signal", arrives_at_once)
        run(argparse.Namespace, lambda _: pytest.fail("it began"))
    monkeypatch.undo()
    number, again = sent
    assert again == (os.getpid(), number) and ended.value.code == 128 + number
    assert capsys.readouterr().err == "stopped\n"
