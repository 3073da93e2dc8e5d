"""Points -> density maps: mass, borders, sigmas, and the naive method's map."""

import time

import numpy as np
import pytest

from datasets.sizes import lie_inside
from preprocess.density import (
    SIGMA_RULES,
    density_map,
    merge_heads,
    sigmas_by_nearest,
    sigmas_by_three_nearest,
    sigmas_fixed,
)
from report.benchmarks.maps import published_density_map

SIZE = (120, 160)


def random_points(count: int, size: tuple[int, int] = SIZE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 2)) * [size[1], size[0]]


@pytest.mark.parametrize("rule", SIGMA_RULES)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 500])
def test_sum_is_the_number_of_heads(rule, count):
    points = random_points(count)
    density = density_map(points, SIGMA_RULES[rule](points, SIZE), SIZE)
    assert density.shape == SIZE and density.dtype == np.float32
    assert density.sum(dtype=np.float64) == pytest.approx(count, abs=1e-4)  # float32 pixels


@pytest.mark.parametrize("rule", SIGMA_RULES)
def test_coincident_and_corner_heads_keep_their_mass(rule):
    points = np.array([[0, 0], [159.9, 119.9], [50, 50], [50, 50], [50, 50], [50, 50]], float)
    density = density_map(points, SIGMA_RULES[rule](points, SIZE), SIZE)
    assert np.isfinite(density).all()
    assert density.sum(dtype=np.float64) == pytest.approx(6, abs=1e-4)


def test_heads_outside_are_left_out():
    points = np.array([[-1, 5], [5, -0.1], [160, 5], [5, 120], [0, 0], [159.9, 119.9]], float)
    assert lie_inside(points, SIZE).tolist() == [False] * 4 + [True] * (len(points) - 4)


def test_sigmas_follow_their_rules():
    points = np.array([[0, 0], [0, 10], [0, 30], [0, 70], [0, 170]], float)
    assert sigmas_by_three_nearest(points, SIZE)[0] == pytest.approx(0.1 * (10 + 30 + 70))
    assert sigmas_by_nearest(points, SIZE).tolist() == [10, 10, 20, 30, 30]
    assert sigmas_fixed(points, SIZE).tolist() == [15] * 5
    assert sigmas_by_three_nearest(points[:1], SIZE).tolist() == [(120 + 160) / 8]
    assert sigmas_by_three_nearest(points[:2], SIZE).tolist() == pytest.approx([3, 3])
    assert sigmas_by_three_nearest(points[:3], SIZE)[0] == pytest.approx(0.3 * 20)


@pytest.mark.parametrize(
    ("mode", "rule"),
    [("constant", "0.1*(d1+d2+d3)"), ("reflect", "15"), ("constant", "min(d1,30)")],
)
def test_original_borders_are_the_naive_methods(mode, rule):
    points = merge_heads(random_points(60))
    sigmas = SIGMA_RULES[rule](points, SIZE)
    expected = published_density_map(points, sigmas, SIZE, mode)
    np.testing.assert_allclose(density_map(points, sigmas, SIZE, mode), expected, atol=1e-6)


def test_a_kernel_wider_than_the_image_is_mirrored_again_and_again():
    points, sigmas = np.array([[3.0, 4.0]]), np.array([15.0])
    expected = published_density_map(points, sigmas, (9, 7), "reflect")
    np.testing.assert_allclose(density_map(points, sigmas, (9, 7), "reflect"), expected, atol=1e-6)


def test_inner_gaussians_are_the_same_at_every_border():
    point, sigma = np.array([[80.0, 60.0]]), np.array([5.0])
    maps = [density_map(point, sigma, SIZE, border) for border in ("renormalise", "constant")]
    np.testing.assert_allclose(maps[0], maps[1], atol=1e-9)
    with pytest.raises(ValueError, match="border must be one of renormalise, constant, reflect"):
        density_map(point, sigma, SIZE, "wrap")


def test_merging_counts_a_pixel_once():
    assert merge_heads(np.array([[3.1, 4.2], [3.9, 4.8], [4.0, 4.0]])).tolist() == [[3, 4], [4, 4]]


def test_500_heads_at_768x1024_take_a_500th_of_the_naive_time():
    size = (768, 1024)
    points = random_points(500, size)
    sigmas = sigmas_by_three_nearest(points, size)
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        density = density_map(points, sigmas, size, "constant")
        seconds.append(time.perf_counter() - began)
    began = time.perf_counter()
    few = slice(0, 50)  # a tenth of the heads: the naive time is proportional to their number
    expected = published_density_map(points[few], sigmas[few], size, "constant")
    naive = 10 * (time.perf_counter() - began)
    np.testing.assert_allclose(
        density_map(points[few], sigmas[few], size, "constant"), expected, atol=1e-6
    )
    assert density.shape == size
    assert naive / min(seconds) > 500
