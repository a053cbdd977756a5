"""Colour conversions: published values, round trips, and what restoring lightness promises."""

import numpy as np
import pytest
from PIL import Image
from skimage.color import rgb2lab

from lib import color

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("srgb", "lab"),
    [  # Lindbloom's calculator, sRGB, D65
        ((255, 255, 255), (100, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((119, 119, 119), (50.03, 0, 0)),
    ],
)
def test_known_colors(srgb, lab):
    image = np.array(srgb, np.uint8).reshape(1, 1, 3)
    assert color.srgb_to_lab(color.to_float(image))[0, 0] == pytest.approx(lab, abs=0.02)


def test_all_srgb_values_survive_the_round_trip():
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    image = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 18, 3)
    lab = color.srgb_to_lab(color.to_float(image))
    assert color.in_gamut(lab).all()
    assert (np.asarray(color.to_pil(color.lab_to_srgb(lab))) == image).all()


def test_gamut_mapping_keeps_lightness_and_hue_and_takes_chroma():
    lab = np.empty((64, 64, 3), np.float32)
    lab[..., 0] = RNG.uniform(5, 95, (64, 64))
    lab[..., 1:] = RNG.uniform(-120, 120, (64, 64, 2))
    fitted = rgb2lab(color.lab_to_srgb(lab))
    assert np.abs(fitted[..., 0] - lab[..., 0]).max() < 0.25
    before, after = np.hypot(*np.moveaxis(lab[..., 1:], -1, 0)), np.hypot(*np.moveaxis(fitted[..., 1:], -1, 0))
    assert (after <= before + 0.1).all()
    cosine = (lab[..., 1:] * fitted[..., 1:]).sum(-1) / np.maximum(before * after, 1e-6)
    assert cosine[after > 5].min() > np.cos(np.deg2rad(1.5))
    inside = color.in_gamut(lab)
    assert 0.05 < inside.mean() < 0.95
    assert np.abs(fitted - lab)[inside].max() < 0.2


def test_lightness_comes_from_the_photo_and_color_from_the_output():
    photo, output = RNG.uniform(0.3, 0.7, (2, 32, 32, 3)).astype(np.float32)
    restored = rgb2lab(color.restore_lightness(photo, output))
    assert np.abs(restored[..., 0] - rgb2lab(photo)[..., 0]).max() < 0.1
    kept = color.in_gamut(np.dstack([rgb2lab(photo)[..., :1], rgb2lab(output)[..., 1:]]))
    assert np.abs(restored[..., 1:] - rgb2lab(output)[..., 1:])[kept].max() < 0.1
    assert np.abs(color.restore_lightness(photo, photo) - photo).max() < 1e-4


def test_conditioning_image_is_neutral_and_keeps_lightness():
    photo = Image.fromarray(RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    gray = color.make_conditioning_image(photo)
    channels = np.asarray(gray)
    assert (channels == channels[..., :1]).all()
    wanted, got = (color.luminance(color.to_float(image)) for image in (photo, gray))
    assert np.abs(wanted - got).max() < 0.25  # half an 8-bit step
