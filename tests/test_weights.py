"""The weights that come with the project: what weights/README.md says of them, and counts."""

import hashlib
import re

import numpy as np
import pytest
import torch
from conftest import PROJECT, assert_one_line_error, run_program

from models.counter import GUARD, read_counter
from utils.checkpoint import SHIPPED, find_checkpoint, read_checkpoint
from utils.pixels import normalise

COUNTS = {
    "mobile_s_sha": 2.023,
    "skt_bl_sha": 60.799,
    "skt_csrnet_sha": 10.029,
    "skt_mobile_s_sha": 2.244,
}  # of `draw_crowd`
README = (PROJECT / "weights/README.md").read_text()


def draw_crowd():
    """A grey ground with 60 round heads, in rows that come nearer: (1, 3, 256, 384) uint8."""
    rows, columns = np.mgrid[:256, :384]
    picture = np.stack([110 + rows // 8, 112 + rows // 8, 108 + rows // 8], -1)
    for row in range(6):
        radius, down = 3 + row, 60 + 32 * row
        for place in range(10):
            across = 20 + 37 * place + 11 * (row % 2)
            distance = np.hypot(rows - down, columns - across)
            picture[distance < radius] = 60, 45, 40
            body = (abs(columns - across) < 1.3 * radius) & (rows > down + radius)
            picture[body & (rows < down + 4 * radius)] = 40 + 20 * place, 60, 200 - 18 * place
    return torch.from_numpy(picture.astype(np.uint8)).permute(2, 0, 1)[None]


def test_nothing_is_left_to_be_filled_in():
    for page in (PROJECT / "weights/README.md", PROJECT / "README.md"):
        assert not re.findall("@[A-Z]+@", page.read_text()), page


def test_every_file_is_known_here():
    assert {path.stem for path in SHIPPED.glob("*.safetensors")} == COUNTS.keys()


@pytest.mark.parametrize("name", COUNTS)
def test_shipped_weights_are_those_described_and_count(name):
    path = find_checkpoint(name)
    data = path.read_bytes()
    (described,) = re.findall(rf"`{name}` .*\| ([\d,]+) \| `([0-9a-f]{{64}})`", README)
    assert described == (f"{len(data):,}", hashlib.sha256(data).hexdigest())
    state = {k: v for k, v in read_checkpoint(path).items() if not k.startswith(GUARD)}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    weights = [tensor for name, tensor in state.items() if not name.endswith(statistics)]
    assert {tensor.dtype for tensor in weights} == {torch.float16}
    counter = read_counter(path)
    assert not counter.adapters
    with torch.no_grad():
        count = counter.network.eval()(normalise(draw_crowd())).sum().item()
    assert count == pytest.approx(COUNTS[name], rel=1e-3)  # processors round differently


@pytest.mark.parametrize("name", COUNTS)
def test_programs_know_weights_by_name(crowd_lists, name):
    result = run_program("test.py", crowd_lists[2], "-c", name, "--cpu", "--size", "64x64")
    assert result.returncode == 0, result.stderr
    assert f"{name}.safetensors) over 3 images" in result.stdout


def test_a_name_that_is_none_is_answered_with_those_there_are(crowd_lists):
    result = run_program("test.py", crowd_lists[2], "-c", "no_such", "--cpu")
    assert_one_line_error(result, "no_such does not exist; by name there are", *COUNTS)
