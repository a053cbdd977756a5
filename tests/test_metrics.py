"""Metrics against closed forms and published values."""

import numpy as np
import pandas as pd
import pytest
from skimage.color import deltaE_ciede2000

from lib import ROOT, metrics
from lib.color import make_conditioning_image, to_float, to_pil, with_ab

RNG = np.random.default_rng(0)
PHOTO = RNG.uniform(0.2, 0.8, (32, 32, 3))


def test_ciede2000_of_the_published_pairs():
    pairs = np.loadtxt(ROOT / "tests/data/sharma2005.csv", delimiter=",")
    assert len(pairs) == 34
    np.testing.assert_allclose(deltaE_ciede2000(pairs[:, :3], pairs[:, 3:6]), pairs[:, 6], atol=5e-5)
    pairs = np.split(pairs[:, None, :6], 2, axis=2)
    means = metrics.ciede2000([pairs[1], pairs[0]], [pairs[0], pairs[0]])
    assert means == pytest.approx([deltaE_ciede2000(*pairs).mean(), 0])


def test_colorfulness_closed_forms():
    assert metrics.colorfulness(np.full((4, 4, 3), 0.5)) == 0
    # one saturated red: rg = 255, yb = 127.5, no spread: 0.3 * sqrt(255^2 + 127.5^2)
    assert metrics.colorfulness(np.tile([1.0, 0, 0], (4, 4, 1))) == pytest.approx(85.53, abs=0.01)
    # half red, half green: channels are signed, so rg spreads by 255 around 0 and yb is 127.5 everywhere
    stripes = np.tile([[1.0, 0, 0], [0, 1.0, 0]], (4, 2, 1))
    assert metrics.colorfulness(stripes) == pytest.approx(255 + 0.3 * 127.5, abs=0.01)


def polar(chroma, degrees):
    """A CIELAB image (1, n, 3) of n colours with L* 50."""
    angle = np.deg2rad(np.broadcast_to(degrees, np.shape(chroma)))
    return np.dstack([np.full_like(angle, 50), chroma * np.cos(angle), chroma * np.sin(angle)])


def test_share_of_coloured_pixels_with_a_wrong_hue():
    truth = polar(np.array([20.0, 20, 20, 20, 9]), 30)  # the last one has too little chroma to count
    for turned, expected in (([0, 59, -59, 10, 180], 0), ([0, 61, -61, 180, 0], 0.75), ([360, 300.5, 90, 0, 0], 0.25)):
        assert metrics.hue_error_share(truth, polar(np.full(5, 15.0), 30 + np.array(turned))) == expected
    assert metrics.hue_error_share(truth, polar(np.array([1.9, 2.1, 20, 20, 20]), 30)) == 0.25  # no hue to see
    assert metrics.hue_error_share(truth, truth * [1, 0, 0]) == 1
    assert np.isnan(metrics.hue_error_share(truth * [1, 0.1, 0.1], truth))
    random = polar(np.full(90_000, 20.0), np.random.default_rng(0).uniform(0, 360, 90_000))
    assert metrics.hue_error_share(polar(np.full(90_000, 20.0), 0), random) == pytest.approx(2 / 3, abs=0.01)


def test_measures_of_a_copy_an_offset_and_a_gray_copy():
    assert (metrics.psnr(PHOTO, PHOTO), metrics.ssim(PHOTO, PHOTO)) == (np.inf, pytest.approx(1))
    assert metrics.psnr(PHOTO, PHOTO + 0.1) == pytest.approx(20)
    gray = to_float(make_conditioning_image(to_pil(PHOTO)))
    scores = metrics.measure(PHOTO, gray, {"mean_lightness": lambda truth, output: output[..., 0].mean()})
    assert scores["chroma"] < 0.01 * scores["true_chroma"]
    assert scores["ssim_luma"] == pytest.approx(1, abs=1e-3)
    assert scores["ab_error"] == pytest.approx(scores["true_chroma"], rel=0.01)
    assert scores["hue_error_share"] == 1
    assert scores["colorfulness"] < 0.1
    assert scores["ciede2000"] > 5
    assert list(scores) == [*metrics.METRICS, "mean_lightness"]
    assert 40 < scores["mean_lightness"] < 70
    with pytest.raises(ValueError, match="same dimensions"):
        metrics.measure(PHOTO, PHOTO[:16])


def test_the_error_in_ab_is_that_of_the_tint_and_of_the_places():
    rng = np.random.default_rng(0)
    truth, output = rng.normal(0, 20, (2, 16, 16, 3))
    _, mean, deviation = metrics.ab_errors(truth, output)
    assert mean**2 + deviation**2 == pytest.approx(((truth - output)[..., 1:] ** 2).sum(axis=-1).mean())
    assert metrics.ab_errors(truth, truth + [0, 3, 4]) == pytest.approx((5, 5, 0), abs=1e-6)
    moved = np.roll(truth, 3, axis=1)  # the same colours in other places
    assert metrics.ab_errors(truth, moved)[1] == pytest.approx(0, abs=1e-9)
    assert metrics.ab_errors(truth, moved)[2] > 10


@pytest.mark.parametrize("workers", [1, 2])
def test_picture_files_are_measured_in_their_order(tmp_path, workers):
    truths = {"a": PHOTO, "b": PHOTO[::-1]}
    rows = [{"image_id": n, "subject": "s", "category": "c", "image": to_pil(truth)} for n, truth in truths.items()]
    pictures, expected = [], []
    for number, name in enumerate("baab"):  # pictures have a category already, as a listing has
        picture = to_pil(with_ab(np.full((32, 32), 60), (5 * number, 10)))
        picture.save(tmp_path / f"{number}.png")
        file = {"image_id": name, "category": "c", "system": "x", "file": tmp_path / f"{number}.png"}
        pictures.append(file | {"prompt_condition": "", "prompt": "", "seed": number, "restored": True})
        expected.append(metrics.measure(to_float(to_pil(truths[name])), to_float(picture)))
    blueness = {"blueness": lambda truth, output: -output[..., 2].mean()}  # as a notebook defines it
    table = metrics.measure_pictures(rows, pd.DataFrame(pictures), blueness, workers)
    assert list(table) == [*metrics.COLUMNS, "blueness"]
    assert list(table["seed"]) == [0, 1, 2, 3]
    assert list(table["image_id"]) == list("baab")
    assert set(table["subject"]) == {"s"}
    pd.testing.assert_frame_equal(table[list(metrics.METRICS)], pd.DataFrame(expected))
    assert table["blueness"].tolist() == pytest.approx([-10] * 4, abs=0.5)
