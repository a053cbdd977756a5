"""Metrics against closed forms and published values."""

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000

from lib import metrics

RNG = np.random.default_rng(0)
PHOTO = RNG.uniform(0.2, 0.8, (32, 32, 3))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [  # pairs 1, 7, 10, 17, 25 and 34 of Sharma, Wu, Dalal 2005, table 1
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 0, 0), (50, -1, 2), 2.3669),
        ((50, 2.49, -0.001), (50, -2.49, 0.0009), 7.1792),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((2.0776, 0.0795, -1.135), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_ciede2000_of_published_pairs(first, second, expected):
    assert deltaE_ciede2000(np.array(first, float), np.array(second, float)) == pytest.approx(expected, abs=5e-5)


def test_psnr_of_a_constant_offset():
    assert metrics.psnr(PHOTO, PHOTO + 0.1) == pytest.approx(20)
    assert metrics.psnr(PHOTO, PHOTO) == float("inf")


def test_ssim_is_one_for_equal_pictures_and_falls_with_noise():
    assert metrics.ssim(PHOTO, PHOTO) == pytest.approx(1)
    noise = RNG.normal(size=PHOTO.shape)
    assert 1 > metrics.ssim(PHOTO, PHOTO + 0.02 * noise) > metrics.ssim(PHOTO, PHOTO + 0.1 * noise)


def test_colorfulness_closed_forms():
    assert metrics.colorfulness(np.full((4, 4, 3), 0.5)) == 0
    # one saturated red: rg = 255, yb = 127.5, no spread: 0.3 * sqrt(255^2 + 127.5^2)
    assert metrics.colorfulness(np.tile([1.0, 0, 0], (4, 4, 1))) == pytest.approx(85.53, abs=0.01)
    # half red, half green: channels are signed, so rg spreads by 255 around 0 and yb is 127.5 everywhere
    stripes = np.tile([[1.0, 0, 0], [0, 1.0, 0]], (4, 2, 1))
    assert metrics.colorfulness(stripes) == pytest.approx(255 + 0.3 * 127.5, abs=0.01)


def test_measure_of_a_gray_copy():
    scores = metrics.measure(PHOTO, metrics.flat_color(metrics.luminance(PHOTO), (0, 0)))
    assert scores["chroma_ratio"] < 0.01
    assert scores["colorfulness"] < 0.1
    assert scores["ciede2000"] > 5
    with pytest.raises(ValueError, match="one size"):
        metrics.measure(PHOTO, PHOTO[:16])


def test_true_mean_color_is_nearer_than_gray_and_mean_color_of_others():
    tinted = np.clip(PHOTO * [1.2, 0.9, 0.5], 0, 1)
    pictures = metrics.reference_pictures(tinted, metrics.luminance(tinted), (-20, -20), tinted)
    errors = {system: metrics.measure(tinted, picture)["ciede2000"] for (system, _), picture in pictures.items()}
    assert errors["autoencoder"] < 0.1 < errors["true_mean_color"] < errors["gray"] < errors["mean_color"]
