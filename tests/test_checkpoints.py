"""Checkpoint files: every naming loads, nothing else does, and none is ever half written."""

import math
import pickle
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from models.build import build_network
from models.counter import load_counter, load_start, read_counter
from models.csrnet import SKT_ADAPTERS
from models.taps import Adapters, tap_channels
from models.vgg import convolutions, vgg_indices
from utils.checkpoint import (
    CheckpointError,
    read_checkpoint,
    read_deployed,
    read_state,
    save_checkpoint,
    save_weights,
)
from utils.files import WriteError

CSRNET_PYTORCH = (
    [f"frontend.{i}" for i in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21)]
    + [f"backend.{i}" for i in (0, 2, 4, 6, 8, 10)]
    + ["output_layer"]
)
SKT = (
    ["conv0_0.0", "conv0_1.0", "conv1_0.0", "conv1_1.0", "conv2_0.0", "conv2_1.0", "conv2_2.0"]
    + ["conv3_0.0", "conv3_1.0", "conv3_2.0"]
    + [f"conv4_{i}.0" for i in range(6)]
    + ["conv5_0"]
)
BL = [f"features.{i}" for i in (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)] + [
    "reg_layer.0",
    "reg_layer.2",
    "reg_layer.4",
]


def renamed(network: torch.nn.Module, layers: list[str]) -> dict[str, torch.Tensor]:
    """The network's weights under another code's names, spelt out above."""
    state = {}
    for theirs, convolution in zip(layers, convolutions(network).values(), strict=True):
        state[f"{theirs}.weight"] = convolution.weight.detach().clone()
        state[f"{theirs}.bias"] = convolution.bias.detach().clone()
    return state


def skt_adapters(width: Fraction) -> dict[str, torch.Tensor]:
    student, teacher = build_network("csrnet", width), build_network("csrnet")
    adapters = Adapters(student.taps, tap_channels(student), tap_channels(teacher))
    theirs = {ours: name for name, ours in SKT_ADAPTERS.items()}
    return {
        f"{theirs[name.split('.')[0]]}.{name.split('.')[1]}": tensor
        for name, tensor in adapters.state_dict().items()
    }


@pytest.mark.parametrize(
    ("ending", "prefix"), [(".pth", ""), (".pth.tar", "module."), (".safetensors", "")]
)
@pytest.mark.parametrize(
    ("arch", "width", "layers", "wrapper"),
    [
        ("csrnet", Fraction(1), CSRNET_PYTORCH, "state_dict"),
        ("csrnet", Fraction(1, 4), SKT, "state_dict"),
        ("csrnet", Fraction(1, 3), SKT, "state_dict"),
        ("bl", Fraction(1, 5), BL, None),
        ("bl", Fraction(1, 2), BL, "model_state_dict"),
        ("csrnet", Fraction(1, 8), None, "model"),
        ("bl", Fraction(3, 10), None, None),
    ],
)
def test_every_naming_in_circulation_loads(tmp_path, arch, width, layers, wrapper, prefix, ending):
    network = build_network(arch, width).eval()
    state = renamed(network, layers or list(convolutions(network)))
    state = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    path = tmp_path / f"checkpoint{ending}"
    if ending == ".safetensors":
        save_file(state, path)
    else:
        torch.save({wrapper: state, "epoch": 3} if wrapper else state, path)
    counter = read_counter(path)
    assert (counter.arch, counter.adapters) == (arch, {})
    assert [c.out_channels for c in convolutions(counter.network).values()] == [
        c.out_channels for c in convolutions(network).values()
    ]
    image = torch.rand(1, 3, 40, 56)
    torch.testing.assert_close(counter.network.eval()(image), network(image), rtol=0, atol=0)
    assert counter.width == width


def test_skt_students_bring_their_adapters(tmp_path):
    student = build_network("csrnet", Fraction(1, 4))
    theirs = skt_adapters(Fraction(1, 4))
    torch.save({"state_dict": renamed(student, SKT) | theirs}, tmp_path / "skt.pth")
    counter = read_counter(tmp_path / "skt.pth")
    assert counter.label == "1/4-CSRNet"
    adapters = Adapters(student.taps, tap_channels(student), [64, 64, 128, 256, 512, 256])
    adapters.load_state_dict(counter.adapters)
    assert (adapters["dilated4"].weight == theirs["transform4_3.0.weight"]).all()
    assert (adapters["conv1_1"].bias == theirs["transform0_0.0.bias"]).all()


def test_half_precision_weights_become_float32(tmp_path):
    network = build_network("csrnet", 1 / 8).half()
    save_weights(tmp_path / "half.safetensors", network.state_dict(), {"arch": "csrnet"})
    loaded = read_counter(tmp_path / "half.safetensors").network
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert (loaded.output_layer.weight == network.output_layer.weight.float()).all()


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_numpy_numbers_of_old_checkpoints_are_data(tmp_path, module):
    path = tmp_path / "old.pth.tar"
    torch.save({"best_prec1": np.float64(71.55)}, path, _use_new_zipfile_serialization=False)
    old = path.read_bytes()
    for name in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        old = old.replace(b"c" + name + b"\n", b"c" + module + b"\n")
    assert b"c" + module + b"\nscalar" in old
    path.write_bytes(old)
    assert read_checkpoint(path) == {"best_prec1": 71.55}


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save", [torch.save, lambda x, f: f.write_bytes(pickle.dumps(x))])
def test_code_is_refused_and_never_executed(tmp_path, save):
    save({"state_dict": Bomb(tmp_path / "executed")}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"evil.pth .* never executed"):
        read_checkpoint(tmp_path / "evil.pth")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, ending, share):
    path = tmp_path / f"cut{ending}"
    state = build_network("csrnet", 1 / 16).state_dict()
    save_file(state, path) if ending == ".safetensors" else torch.save(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=rf"cut{ending} is"):
        read_checkpoint(path)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_a_flipped_bit_is_noticed_wherever_it_is(tmp_path, ending):
    path = tmp_path / f"flipped{ending}"
    state = {f"layer{i}": torch.randn(50) for i in range(4)}
    if ending == ".pth":
        save_checkpoint(path, {"state_dict": state})
    else:
        save_weights(path, state, {"arch": "csrnet", "width": "1/4"})
    whole, expected = path.read_bytes(), read_state(path)
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            found, facts = read_state(path)
        except CheckpointError:
            continue
        # Bits that say nothing, such as a zip's dates, or the name under which the hash is kept.
        assert facts.items() >= expected[1].items()
        assert found.keys() == expected[0].keys()
        assert all(torch.equal(found[name], state[name]) for name in state)


def test_a_pickle_of_lists_in_lists_is_refused(tmp_path):
    depth = 100_000
    (tmp_path / "deep.pth").write_bytes(b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b".")
    with pytest.raises(CheckpointError, match="deep.pth"):
        read_checkpoint(tmp_path / "deep.pth")


def test_a_file_without_a_hash_is_read(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "old.safetensors", {"arch": "bl"})
    state, facts = read_deployed(tmp_path / "old.safetensors")
    assert state["a"].tolist() == [1, 1] and facts == {"arch": "bl"}


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.tensor([1.0, math.nan]), "not finite"),
        (torch.tensor([math.inf]), "not finite"),
        (torch.ones(2, dtype=torch.complex64), "complex"),
        (torch.ones(2).to_sparse(), "sparse"),
        (torch.ones(2, device="meta"), "without values"),
        (torch.ones(1).expand(10**12), "has fewer values"),
    ],
)
def test_weights_that_are_no_plain_finite_numbers_are_refused(tmp_path, tensor, reason):
    state = build_network("csrnet", 1 / 16).state_dict() | {"frontend.conv1_1.bias": tensor}
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=f"x.pth: frontend.conv1_1.bias .*{reason}"):
        read_counter(tmp_path / "x.pth")


def test_what_is_no_network_of_ours_is_refused_with_the_reason(tmp_path):
    network = build_network("csrnet", 1 / 8)
    state = network.state_dict()

    def reason(state: dict) -> str:
        torch.save(state, tmp_path / "x.pth")
        with pytest.raises(CheckpointError) as caught:
            read_counter(tmp_path / "x.pth")
        assert "\n" not in str(caught.value) and "x.pth" in str(caught.value)
        return str(caught.value)

    assert "does not exist" in str(
        pytest.raises(CheckpointError, read_checkpoint, Path("no")).value
    )
    assert "is a folder" in str(pytest.raises(CheckpointError, read_checkpoint, tmp_path).value)
    assert "no weights of a network" in reason({"fc.weight": torch.zeros(1)})
    assert "no weights of a network" in reason({})
    missing = {k: v for k, v in state.items() if k != "backend.dilated3.bias"}
    assert "1 missing, such as backend.dilated3.bias" in reason(missing)
    assert "1 unknown, such as extra" in reason(state | {"extra": torch.zeros(1)})
    assert "no width of csrnet" in reason(
        state | {"frontend.conv1_2.weight": torch.zeros(9, 8, 3, 3)}
    )
    assert "must have the shape" in reason(
        state | {"frontend.conv1_2.weight": torch.zeros(8, 8, 1, 1)}
    )
    vgg = {
        f"features.{i}.{k}": torch.zeros(1)
        for i in vgg_indices(build_network("bl").features).values()
        for k in ("weight", "bias")
    }
    assert "missing, such as reg_layer" in reason(vgg)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="must hold a dict of tensors, found list"):
        read_checkpoint(tmp_path / "list.pth")


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.pth"
    save_checkpoint(path, {"value": 1})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(
        WriteError, match=r"last.pth could not be written .No space left .*still is"
    ):
        save_checkpoint(path, {"value": 2})
    assert read_checkpoint(path) == {"value": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("hundredths", [*range(1, 50, 3), 64, 83, 99])
def test_every_width_that_trains_can_be_loaded_again(hundredths):
    network = build_network("csrnet", Fraction(hundredths, 100))
    counter = load_counter(network.state_dict())
    assert [p.shape for p in counter.network.parameters()] == [
        p.shape for p in network.parameters()
    ]
    assert counter.width.denominator <= 100


@pytest.mark.parametrize("width", ["2/3", "2/5", "7/9", "1/3", "1/5", "3/4"])
def test_simple_widths_keep_their_name(width):
    assert str(load_counter(build_network("bl", Fraction(width)).state_dict()).width) == width


@pytest.mark.parametrize("arch", ["mobile_s", "lite_s"])
def test_a_mobile_start_without_its_output_layer_gets_a_new_one(arch):
    network = build_network(arch, 1)
    start = load_start(dict(list(network.state_dict().items())[:-2]))
    assert (start.arch, start.width, start.new_head) == (arch, 1, True)
    assert start.network.state_dict().keys() == network.state_dict().keys()


@pytest.mark.parametrize(
    ("arch", "layers"),
    [("csrnet", CSRNET_PYTORCH), ("csrnet", SKT), ("csrnet", None), ("bl", BL), ("bl", None)],
)
def test_a_start_without_its_output_layer_gets_a_new_one(arch, layers):
    network = build_network(arch, 1 / 8)
    state = renamed(network, layers or list(convolutions(network)))
    whole = load_start(state)
    assert not whole.new_head
    *trunk, weight, bias = network.state_dict()
    start = load_start(dict(list(state.items())[:-2]))
    assert (start.arch, start.width, start.new_head) == (arch, Fraction(1, 8), True)
    found = start.network.state_dict()
    assert all(torch.equal(found[name], network.state_dict()[name]) for name in trunk)
    assert not found[bias].any()
    assert 0 < found[weight].abs().max() < 0.06  # of a deviation of 0.01
    with pytest.raises(ValueError, match=r"tensors 1 missing"):
        load_start(dict(list(state.items())[:-1]))  # damaged, not without its head
    with pytest.raises(ValueError, match=r"tensors [34] missing"):
        load_start(dict([*state.items()][:-4] + [*state.items()][-1:]))


def test_what_is_no_counter_is_left_to_be_a_vgg():
    assert load_start({"features.0.weight": torch.zeros(64, 3, 3, 3)}) is None
    assert load_start({"fc.weight": torch.zeros(1)}) is None
    assert load_start(build_network("bl", 1 / 8).state_dict()).arch == "bl"
