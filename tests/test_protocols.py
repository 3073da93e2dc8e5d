"""Counting protocols: cells, rescaled images, and tiles that count as the whole image does."""

import math
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from conftest import PROJECT
from PIL import Image

from counting.protocols import (
    WINDOW,
    count_image,
    predict_cells,
    predict_rescaled,
    predict_tiled,
    predict_whole,
)
from models.build import ARCHITECTURES, build_network
from models.initial import init_kaiming
from utils.pixels import normalise


def random_image(height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8, generator=generator)


def random_network(arch: str, width: Fraction) -> torch.nn.Module:
    torch.manual_seed(0)
    network = build_network(arch, width).eval().requires_grad_(False)
    init_kaiming(network)
    return network


def test_cells_of_512_pixels_add_up_as_published():
    network = random_network("csrnet", Fraction(1, 16))
    image = random_image(530, 1100)
    count, density = predict_cells(network, image)
    rows, columns = [(0, 265), (265, 530)], [(0, 366), (366, 732), (732, 1100)]
    parts = [normalise(image[..., a:b, c:d]) for a, b in rows for c, d in columns]
    assert count == pytest.approx(sum(network(part).sum().item() for part in parts), rel=1e-5)
    assert density.shape == (1, 1, 530, 1100)


@pytest.mark.parametrize(
    ("size", "seen"),
    [((300, 400), (512, 683)), ((700, 513), (700, 513)), ((2200, 2750), (2048, 2560))],
)
def test_bls_protocol_brings_the_short_side_within_512_and_2048(size, seen):
    class Size(torch.nn.Module):
        def forward(self, images):
            self.seen = tuple(images.shape[-2:])
            return images.mean((1, 2, 3), keepdim=True)

    network, image = Size(), random_image(*size)
    count, _ = predict_rescaled(network, image)
    assert network.seen == seen
    assert count == pytest.approx(normalise(image).mean().item(), abs=0.05)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("size", [(2033, 1531), (1100, 300), (1024, 1025)])
def test_tiles_give_the_map_of_the_whole_image(arch, size):
    network, image = random_network(arch, Fraction(1, 16)), random_image(*size)
    count, density = predict_tiled(network, image)
    expected, whole = predict_whole(network, image)
    # Not within the half per cent that a user may expect, but up to rounding, seams included.
    torch.testing.assert_close(density, whole, rtol=0, atol=1e-5 * whole.abs().max().item())
    assert count == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_beyond_the_margin_nothing_changes_a_cell(arch):
    network, image = random_network(arch, Fraction(1, 16)), random_image(480, 960)
    other = random_image(480, 960, seed=1)
    edge, margin = 480, network.margin
    for far in (slice(edge + margin, None), slice(None, edge - margin)):
        changed = image.clone()
        changed[..., far] = other[..., far]
        before, after = (network(normalise(pixels)) for pixels in (image, changed))
        same = slice(None, edge // 8) if far.stop is None else slice(edge // 8, None)
        assert torch.equal(before[..., same], after[..., same])
        assert not torch.equal(before, after)


class Largest(torch.nn.Module):
    """A network that remembers the largest picture it saw."""

    stride, margin, pixels = 8, 160, 0

    def forward_part(self, images, corner, size):
        self.pixels = max(self.pixels, images.shape[-2] * images.shape[-1])
        return torch.zeros(1, 1, -(-images.shape[-2] // 8), -(-images.shape[-1] // 8))


@pytest.mark.parametrize("size", [(4000, 5000), (1, 9000), (1030, 1030), (50, 60)])
def test_what_a_network_sees_does_not_grow_with_the_image(size):
    network = Largest()
    predict_tiled(network, torch.zeros(1, 3, *size, dtype=torch.uint8))
    assert 0 < network.pixels <= WINDOW**2


COUNT_HUGE = """
import sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from datasets.pictures import read_image
from models.build import build_network
from counting.protocols import predict_tiled

torch.set_num_threads(2)
pixels = torch.from_numpy(read_image(Path(sys.argv[2]))).permute(2, 0, 1)[None]

class Impatient:  # lets a network see one window in the middle; no other is larger
    def __init__(self, network):
        self.network, self.windows = network, 0
        self.stride, self.margin = network.stride, network.margin

    def forward_part(self, images, corner, size):
        self.windows += 1
        if self.windows == 20:
            return self.network.forward_part(images, corner, size)
        return torch.zeros(1, 1, -(-images.shape[-2] // 8), -(-images.shape[-1] // 8))

with torch.no_grad():
    impatient = Impatient(build_network("bl").eval())  # the larger one
    _, density = predict_tiled(impatient, pixels)
assert density.shape == (1, 1, 1024, 1536) and impatient.windows > 200
status = Path("/proc/self/status").read_text()  # resource.getrusage has the parent's peak, too
print(status.partition("VmHWM:")[2].split()[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_100_megapixel_image_is_counted_within_2_gb(tmp_path):
    path = tmp_path / "huge.jpg"
    Image.new("RGB", (12288, 8192), "gray").save(path)
    command = [sys.executable, "-c", COUNT_HUGE, PROJECT, path]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) * 1024 < 2e9  # bytes, with a network of full width


def test_a_count_that_is_no_number_is_not_taken_for_nobody():
    image = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    for cell, counted in ((math.nan, math.nan), (-1.0, 0.0), (0.5, 2.0)):
        density = torch.full((1, 1, 2, 2), cell)
        network, cpu = lambda _, density=density: density, torch.device("cpu")
        count, _ = count_image(network, image, predict_whole, cpu)
        assert count == pytest.approx(counted, nan_ok=True)
