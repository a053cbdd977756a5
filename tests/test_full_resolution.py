"""Colour at full resolution: lightness is kept, and edges are followed."""

import numpy as np
import pytest

from lib.color import fit_gamut, gray_from_luminance, luminance, srgb_to_lab, to_float
from lib.photo import full_resolution
from lib.photo.formats import lightness
from lib.photo.full_resolution import find_border

RNG = np.random.default_rng(0)


def photo(height=300, width=400):
    """A gray photo in uint8 with a hard edge, a ramp from black to white, and grain."""
    ramp = np.tile(np.linspace(0, 255, width), (height, 1))
    ramp[:, width // 2 :] = 255 - ramp[:, width // 2 :]
    return (ramp + RNG.normal(0, 4, ramp.shape)).clip(0, 255).round().astype(np.uint8)


def network_view(pixels, size=(48, 64)):
    return full_resolution.reduce_lightness(lightness(pixels), size)


def paint(pixels, plane, ab):
    return full_resolution.paint(lightness(pixels), full_resolution.guided_functions(plane, ab))


@pytest.mark.parametrize("strength", [10, 40, 90])
def test_lightness_is_kept_whatever_the_color(strength):
    pixels = photo()
    plane = network_view(pixels)
    angle = RNG.uniform(0, 2 * np.pi, (48, 64, 1))
    picture = paint(pixels, plane, strength * np.concatenate([np.cos(angle), np.sin(angle)], -1))
    before = luminance(gray_from_luminance(lightness(pixels)))
    assert np.abs(luminance(to_float(picture)) - before).max() <= 100 / 255


def test_what_srgb_can_not_show_loses_chroma_and_keeps_lightness_and_hue():
    pixels = np.tile(np.arange(20, 240, dtype=np.uint8)[:, None], (1, 180))
    hues = np.deg2rad(np.arange(180) * 2)
    ab = np.tile(120 * np.dstack([np.cos(hues), np.sin(hues)]), (220, 1, 1))
    picture = full_resolution.paint(lightness(pixels), np.dstack([0 * ab, ab]).astype(np.float32))
    lab, expected = srgb_to_lab(to_float(picture)), fit_gamut(np.dstack([lightness(pixels), ab]))
    assert np.quantile(np.abs(lab - expected), [0.5, 0.99]) == pytest.approx(0, abs=2)
    assert np.abs(lab[..., 0] - expected[..., 0]).max() <= 100 / 255


def test_color_follows_the_edges_of_the_photo():
    """Left half dark and red, right half light and blue: the colour changes at the pixel where the lightness does."""
    pixels = np.full((256, 256), 90, np.uint8)
    pixels[:, 133:] = 180  # not a multiple of the reduction
    plane = network_view(pixels, (32, 32))
    ab = np.zeros((32, 32, 2))
    ab[:, :16], ab[:, 16], ab[:, 17:] = (30, 20), (10, 5), (-5, -25)
    picture = paint(pixels, plane, ab)
    lab = srgb_to_lab(to_float(picture))
    assert lab[128, 120:133, 1].min() > 20
    assert lab[128, 133:146, 1].max() < 5
    assert np.abs(lab[:, :60, 1:] - [30, 20]).max() < 1.5  # far from the edge: the colours that were given


def test_strips_leave_no_seams_and_three_equal_channels_are_gray():
    pixels = photo(97, 130)
    plane, ab = network_view(pixels), RNG.normal(0, 15, (48, 64, 2))
    whole = paint(pixels, plane, ab)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(full_resolution, "STRIP", 7)
        parts = paint(pixels, plane, ab)
    assert np.abs(whole.astype(int) - parts).max() <= 1
    colored = paint(np.dstack([pixels] * 3), plane, ab)
    assert np.abs(whole.astype(int) - colored).max() <= 1


@pytest.mark.parametrize(("shade", "paper"), [(94, (8, 8)), (3, (8, 0)), (3, (0, 8))])
def test_paper_and_frames_stay_gray_and_a_white_sky_does_not(shade, paper):
    """A border around a picture or along two sides; the picture's own sky is as white."""
    plane, (rows, columns) = np.full((64, 96), shade, np.float32), paper
    inside = plane[rows : 64 - rows, columns : 96 - columns]
    inside[:] = np.linspace(30, 70, inside.shape[1]) + RNG.normal(0, 4, inside.shape)
    border = find_border(plane)
    assert border[0, 0] == border[-1, -1] == 1
    assert border[rows + 4 : 60 - rows, columns + 4 : 92 - columns].max() == 0
    plane[:20], plane[-1] = 94, 50
    plane[20:] = 50 + RNG.normal(0, 4, plane[20:].shape)
    assert find_border(plane).max() == 0


@pytest.mark.parametrize(("height", "width"), [(128, 128), (3000, 4000), (400, 4000), (50, 2500), (64, 64)])
def test_the_network_sees_the_whole_photo_in_its_shape(height, width):
    small = full_resolution.network_size(height, width, 128, 16)
    assert all(side % 16 == 0 for side in small)
    assert min(small) >= 80
    assert small[1] / small[0] == pytest.approx(width / height, rel=0.15)
    if max(height, width) <= 2 * min(height, width):
        assert small[0] * small[1] == pytest.approx(128**2, rel=0.2)
