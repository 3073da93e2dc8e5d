"""The guard of a network: what it flags, how it is calibrated, and how it travels."""

import json

import cv2
import numpy as np
import pytest
import torch
from conftest import assert_one_line_error, run_program, save_student
from pictures import write_picture
from safetensors import safe_open

from models.build import build_network
from models.counter import load_counter, read_counter
from models.guard import Guard, fit_guard, read_features
from models.initial import init_kaiming
from preprocess.synthetic import draw_scene
from utils.checkpoint import CheckpointError, read_deployed, save_weights
from utils.pixels import as_batch, is_flat, normalise, shrink_image

TRAINED, OTHERS = 40, 10


def test_the_part_of_false_alarms_is_what_was_asked_for():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(8, 8, generator=generator)
    features = torch.randn(5000, 8, generator=generator) @ mixing
    guard = fit_guard(features[:1000], 0.05)
    assert 0.03 < (guard.score(features[1000:]) > 1).float().mean() < 0.07
    assert guard.score(guard.mean[None]) == 0
    assert guard.score(features[:1] + 20).item() > 1


def test_channels_that_are_always_silent_do_no_harm():
    features = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    features[:, 2] = -9
    guard = fit_guard(features, 0.01)
    assert torch.isfinite(guard.score(features)).all() and guard.score(features).median() < 1


def test_too_few_pictures_are_refused():
    with pytest.raises(ValueError, match="50 pictures cannot tell 1.0% of false alarms, 100 can"):
        fit_guard(torch.randn(50, 3), 0.01)
    with pytest.raises(ValueError, match="2 pictures cannot tell 50.0% of false alarms, 3 can"):
        fit_guard(torch.randn(2, 3), 0.5)
    assert fit_guard(torch.randn(3, 3), 0.5).threshold.isfinite()


@pytest.mark.parametrize("arch", ["csrnet", "bl"])
def test_features_are_those_of_the_two_layers_before_the_last(arch):
    network = build_network(arch, 1 / 16)
    features = read_features(network, torch.randn(2, 3, 40, 56))
    assert features.shape == (2, {"csrnet": 16 + 8, "bl": 32 + 16}[arch])
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("shape", [(160, 240), (900, 1600), (30, 4000), (1, 1)])
def test_a_glance_is_small_and_keeps_the_form(shape):
    image = np.full((*shape, 3), 7, np.uint8)
    glance = shrink_image(image, 38400)
    assert glance.shape[0] * glance.shape[1] <= 1.1 * 38400 and (glance == 7).all()
    assert glance.shape[0] / glance.shape[1] == pytest.approx(shape[0] / shape[1], rel=0.05)


def test_a_picture_without_structure_is_flat():
    rng = np.random.default_rng(0)
    for level in (0, 128, 252):
        noise = rng.integers(0, 4, (60, 80, 3), dtype=np.uint8)
        assert is_flat(level + noise)
    assert is_flat(np.full((60, 80, 3), (255, 0, 0), np.uint8))
    assert not is_flat(draw_scene(rng, (60, 80))[0])


def draw_soft(seed):
    """Returns a picture of soft patches, which a random network can tell from noise."""
    patches = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return cv2.resize(patches, (96, 64), interpolation=cv2.INTER_LINEAR)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Lists of soft pictures to calibrate on and to try, and a random network's file."""
    folder = tmp_path_factory.mktemp("pictures")
    for split, number, seed in (("train", TRAINED, 0), ("test", OTHERS, 1)):
        samples = [
            write_picture(folder, f"{split}{i}", draw_soft((seed, i)), []) for i in range(number)
        ]
        (folder / f"{split}.json").write_text(json.dumps([str(s.image) for s in samples]))
    torch.manual_seed(0)
    network = build_network("csrnet", 1 / 8)
    init_kaiming(network)
    state = {name: tensor.half() for name, tensor in network.state_dict().items()}
    save_weights(folder / "student.safetensors", state, {"arch": "csrnet"})
    return folder


@pytest.fixture(scope="module")
def calibrated(pictures):
    lists = [pictures / "train.json", pictures / "test.json"]
    options = ["-c", pictures / "student.safetensors", "--false-alarms", 0.05]
    result = run_program("calibrate.py", *lists, *options)
    assert result.returncode == 0, result.stderr
    assert f"fitted to {TRAINED} pictures, of which 5.0% may be flagged" in result.stdout
    return pictures / "student.safetensors"


def test_noise_is_flagged_and_pictures_like_the_trainings_are_not(calibrated):
    counter = read_counter(calibrated)
    rng = np.random.default_rng(5)

    def score(image):
        features = read_features(counter.network, normalise(as_batch(image)))
        return counter.guard.score(features).item()

    like = [draw_soft((2, i)) for i in range(20)]
    assert sum(score(image) > 1 for image in like) <= 3  # 5 % of 20, and room for chance
    for _ in range(3):
        assert score(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)) > 1


def test_the_weights_stay_as_they_were_beside_their_guard(calibrated, pictures):
    tensors, metadata = read_deployed(calibrated)
    assert metadata["arch"] == "csrnet" and f"of {OTHERS} others" in metadata["guard"]
    assert metadata["max_side"] == str(max(draw_soft((0, 0)).shape))
    assert tensors["output_layer.weight"].dtype == torch.float16
    with safe_open(calibrated, "pt") as file:
        assert {name for name in file.keys() if "guard" in name} == {  # noqa: SIM118
            "guard.mean", "guard.whitening", "guard.threshold",
        }  # fmt: skip
    del tensors["guard.mean"]
    with pytest.raises(ValueError, match="guard.* are not the guard"):
        load_counter(tensors)
    plain = {name: tensor for name, tensor in tensors.items() if not name.startswith("guard.")}
    assert load_counter(plain).guard is None
    assert isinstance(read_counter(calibrated).guard, Guard)


def test_a_guard_of_other_layers_is_named_and_replaced(calibrated, pictures, tmp_path):
    tensors, metadata = read_deployed(calibrated)
    tensors["guard.mean"] = tensors["guard.mean"][:4].clone()
    path = tmp_path / "student.safetensors"
    save_weights(path, tensors, metadata)
    with pytest.raises(CheckpointError, match="student.safetensors: .*calibrate.py makes a new"):
        read_counter(path)
    lists = [pictures / "train.json", pictures / "test.json"]
    result = run_program("calibrate.py", *lists, "-c", path, "--false-alarms", 0.05)
    assert result.returncode == 0, result.stderr
    assert torch.equal(read_counter(path).guard.mean, read_counter(calibrated).guard.mean)


def test_user_mistakes_in_calibrating(pictures, tmp_path):
    lists = [pictures / "train.json", pictures / "test.json"]
    other = tmp_path / "student.pth"
    other.write_bytes(b"x")
    result = run_program("calibrate.py", *lists, "-c", other, "--false-alarms", 0.1)
    assert_one_line_error(result, "student.pth must be a .safetensors file")
    result = run_program("calibrate.py", *lists, "-c", pictures / "student.safetensors")
    assert_one_line_error(result, "40 pictures cannot tell 1.0% of false alarms, 100 can")
    failed = save_student(tmp_path / "failed.safetensors", "csrnet", bias=float("nan"))
    result = run_program("calibrate.py", *lists, "-c", failed, "--false-alarms", 0.1)
    assert_one_line_error(result, "output_layer.bias has values that are not finite")
