"""Regions of interest: what their polygons enclose, and that neighbours share nothing."""

import numpy as np
import pytest

from counting.regions import RegionError, count_regions, parse_region, region_weights


def random_map(size):
    cells = [-(-side // 8) for side in size]
    return np.random.default_rng(0).random(cells, dtype=np.float32)


@pytest.mark.parametrize("size", [(64, 96), (61, 83), (7, 200)])
def test_regions_that_share_out_a_picture_add_up_to_the_whole(size):
    middle = "0.437,0.561"
    corners = ["0,0", "1,0", "1,1", "0,1"]
    parts = tuple(
        parse_region(f"{i}:{corners[i]} {corners[(i + 1) % 4]} {middle}") for i in range(4)
    )
    density = random_map(size)
    counts = count_regions(density, parts, size)
    assert sum(counts.values()) == pytest.approx(density.sum(dtype=np.float64), rel=1e-6)
    whole = parse_region("all:0,0 1,0 1,1 0,1")
    np.testing.assert_array_equal(region_weights(whole, size), np.ones_like(density))


def test_a_region_in_pixels_takes_the_part_of_every_cell_that_it_encloses():
    box = parse_region("box: 4,0 20,0 20,10 4,10")
    weights = region_weights(box, (16, 32))
    np.testing.assert_allclose(weights, [[0.5, 1, 0.5, 0], [0.125, 0.25, 0.125, 0]])
    fractions = parse_region("box:0.125,0 0.625,0 0.625,0.625 0.125,0.625")
    np.testing.assert_array_equal(region_weights(fractions, (16, 32)), weights)


@pytest.mark.parametrize(
    "corners", ["8,4 40,4 40,20 8,20", "0.125,0.125 0.625,0.125 0.625,0.625 0.125,0.625"]
)
def test_a_region_of_a_shrunk_picture_is_where_it_was(corners):
    box, smaller = parse_region(f"box:{corners}"), parse_region("box:4,2 20,2 20,10 4,10")
    expected = region_weights(smaller, (16, 32))
    np.testing.assert_array_equal(region_weights(box, (32, 64), (16, 32)), expected)


def test_a_cell_that_reaches_beyond_the_picture_counts_by_what_is_inside():
    right = parse_region("right:8,0 99,0 99,99 8,99")  # which reaches beyond it, too
    np.testing.assert_array_equal(region_weights(right, (4, 10)), [[0, 1]])


def test_a_negative_sum_of_a_region_counts_as_nobody():
    whole = parse_region("all:0,0 1,0 1,1")
    assert count_regions(np.full((2, 2), -1, np.float32), (whole,), (16, 16)) == {"all": 0}


@pytest.mark.parametrize(
    "text",
    ["0,0 1,0 1,1", "door:0,0 1,1", "door:", ":0,0 1,0 1,1", "a:0,0 1 1,1", "a:0,0 1,0 nan,1"],
)
def test_what_is_no_polygon_is_refused(text):
    with pytest.raises(ValueError, match="must be NAME:X,Y X,Y X,Y with at least 3 corners"):
        parse_region(text)


def test_regions_outside_the_picture_are_refused():
    with pytest.raises(ValueError, match="door must have corners of up to 1e.06"):
        parse_region("door:0,0 1e308,0 0,9")
    with pytest.raises(ValueError, match="door must not lie left of or above"):
        parse_region("door:-1,0 5,0 5,5")
    for corners in ("40,0 50,0 50,9", "2,2 8,2 12,2"):
        with pytest.raises(RegionError, match="region door encloses nothing of its 32x16 pixels"):
            region_weights(parse_region(f"door:{corners}"), (16, 32))
