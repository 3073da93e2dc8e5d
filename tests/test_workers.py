"""Worker processes that read images, on machines with little room."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import PROJECT, assert_one_line_error

from datasets import loaders
from datasets.splits import DataError, read_list


def refuse_to_share(storage):
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left")


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_what_shared_memory_has_no_room_for_reaches_the_main_process_alike(
    crowd_lists, monkeypatch
):
    samples = read_list(crowd_lists[0])
    monkeypatch.setattr(loaders, "reduce_storage", refuse_to_share)  # which workers inherit
    loader = loaders.build_evaluation_loader(samples, workers=1)
    loader.multiprocessing_context = "fork"
    expected = list(loaders.build_evaluation_loader(samples, workers=0))
    for copied, crowd in zip(loader, expected, strict=True):
        assert copied["name"] == crowd["name"]
        for name in ("image", "density", "heads"):
            assert torch.equal(copied[name], crowd[name])
            assert copied[name].stride() == crowd[name].stride()
            copied[name].add_(1)  # it may be written to


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="workers obey any SIGTERM there")
def test_a_worker_that_is_just_beginning_obeys_its_main_process_alone(crowd_lists, monkeypatch):
    def begin_late(number):
        time.sleep(0.5)
        begin(number)

    begin = loaders._begin_worker
    monkeypatch.setattr(loaders, "_begin_worker", begin_late)
    samples = read_list(crowd_lists[0])
    loader = loaders.build_evaluation_loader(samples, workers=2)
    loader.multiprocessing_context = "fork"
    batches = iter(loader)
    for worker in batches._workers:
        subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
        subprocess.run(["kill", "-HUP", str(worker.pid)], check=True)
    assert len(list(batches)) == len(samples)


def test_a_killed_worker_takes_a_line(crowd_lists, tmp_path):
    code = f"""
import os, signal, sys
import utils.start
from pathlib import Path
from datasets import loaders
from datasets.splits import read_list

def begin(number):
    os.kill(os.getpid(), signal.SIGKILL)

sys.excepthook = utils.start.end_uncaught
loaders._begin_worker = begin
loader = loaders.build_evaluation_loader(read_list(Path({str(crowd_lists[0])!r})), workers=1)
loader.multiprocessing_context = "fork"
list(loader)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT
    )
    assert_one_line_error(result, "a process that reads pictures was killed", "fewer --workers")


def test_memory_that_is_copied_keeps_types_and_parts(monkeypatch):
    monkeypatch.setattr(loaders, "reduce_storage", refuse_to_share)
    for tensor in (torch.randn(3, 4).bfloat16(), torch.zeros(0), torch.arange(6)):
        restore, values = loaders._share_or_copy(tensor.untyped_storage())
        storage = restore(*pickle.loads(pickle.dumps(values)))
        assert torch.equal(torch.empty(0, dtype=tensor.dtype).set_(storage), tensor.flatten())


def test_workers_without_enough_open_files_are_refused_in_one_line(crowd_lists, monkeypatch):
    samples = read_list(crowd_lists[0])
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_OPEN_MAX": 24}[name])
    loaders.build_evaluation_loader(samples, workers=0)
    with pytest.raises(DataError, match="--workers 2 needs 64 open files, `ulimit -n` allows 24"):
        loaders.build_evaluation_loader(samples, workers=2)
    monkeypatch.setattr(os, "sysconf", lambda name: -1)  # any number
    loaders.build_evaluation_loader(samples, workers=2)
