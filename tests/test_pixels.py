"""Pictures as networks take them: ImageNet's values, and changes of colour."""

import numpy as np
import pytest
import torch

from utils.pixels import GREY, IMAGENET_MEAN, IMAGENET_STD, change_colour, normalise


def test_normalisation_is_imagenets():
    images = torch.tensor([255, 0, 51], dtype=torch.uint8).view(1, 3, 1, 1).repeat(2, 1, 4, 5)
    values = normalise(images)
    assert values.shape == images.shape and images.float().mean() == 102  # left as they were
    assert values.is_contiguous(memory_format=torch.channels_last)
    pixel = values[1, :, 3, 2]
    expected = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    np.testing.assert_allclose(pixel, expected, rtol=1e-5)


def noise(low=0, high=256):
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(low, high, (3, 3, 6, 8), dtype=np.uint8))


def grey_of(values):
    return (values * torch.tensor(GREY).view(3, 1, 1)).sum(1, keepdim=True)


def test_colour_factors_of_one_change_nothing():
    plain, same = normalise(noise()), normalise(noise(), torch.ones(3, 3))
    torch.testing.assert_close(same, plain, rtol=0, atol=1e-5)  # float32, through 1 / 0.225
    assert same.is_contiguous(memory_format=torch.channels_last) and same.dtype == torch.float32


def test_every_image_has_its_own_brightness_contrast_and_saturation():
    values = noise() / 255
    colour = torch.tensor([[0.5, 1, 1], [1, 0, 1], [1, 1, 0]])
    darker, flat, grey = change_colour(values, colour)
    torch.testing.assert_close(darker, values[0] / 2)
    torch.testing.assert_close(flat, grey_of(values)[1].mean().expand_as(flat))
    torch.testing.assert_close(grey, grey_of(values)[2].expand_as(grey))


@pytest.mark.parametrize("colour", [(0.8, 1.3, 1.2), (1.2, 0.7, 0.6)])
def test_changes_follow_one_another(colour):
    values = noise(80, 160) / 255  # nothing is clamped
    brightness, contrast, saturation = colour
    expected = brightness * values
    mean = grey_of(expected).mean((2, 3), keepdim=True)
    expected = mean + contrast * (expected - mean)
    expected = grey_of(expected) + saturation * (expected - grey_of(expected))
    changed = change_colour(values, torch.tensor(colour).repeat(3, 1))
    torch.testing.assert_close(changed, expected)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    normalised = normalise(noise(80, 160), torch.tensor(colour).repeat(3, 1))
    torch.testing.assert_close(normalised, (expected - mean) / std, rtol=1e-4, atol=1e-5)


def test_colours_stay_colours():
    changed = change_colour(noise() / 255, torch.tensor([1.9, 1.9, 1.9]).repeat(3, 1))
    assert changed.min() == 0 and changed.max() == 1
