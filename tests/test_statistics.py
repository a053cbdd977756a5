"""Paired effects against values worked out by hand or by scipy."""

import numpy as np
import pandas as pd
import pytest

from lib import statistics


def table(values):
    """A metrics table from {(system, level, photo, seed): ciede2000}."""
    rows = [
        {"system": s, "prompt_level": level, "image_id": photo, "seed": seed, "merged": True, "ciede2000": v,
         "psnr": 30 - v, "ssim": 1 - v / 100} for (s, level, photo, seed), v in values.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_seeds_are_averaged_within_photos():
    metrics = table({("m", "vague", "a", 0): 2.0, ("m", "vague", "a", 1): 4.0, ("m", "vague", "b", 0): 7.0})
    assert dict(statistics.by_photo(metrics, "ciede2000", "m", "vague")) == {"a": 3.0, "b": 7.0}
    with pytest.raises(ValueError, match="no rows for system 'm', prompt level 'loud'"):
        statistics.by_photo(metrics, "ciede2000", "m", "loud")


def test_interval_covers_the_true_mean_about_95_times_in_100():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        _, low, high = statistics.interval(rng.normal(1, 2, 40), n_resamples=500, seed=trial)
        hits += low <= 1 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_contrast_signs_follow_the_direction_of_the_metric():
    photos = [f"p{k}" for k in range(20)]
    values = {("m", level, p, 0): 10 + k - (3 + k % 3) * (level == "detailed") for k, p in enumerate(photos)
              for level in ("vague", "detailed")}  # fmt: skip
    effects = statistics.contrasts(table(values), {"d - v": (("m", "detailed"), ("m", "vague"))}).set_index("metric")
    shifts = [3 + k % 3 for k in range(20)]
    assert effects.loc["ciede2000", "mean"] == pytest.approx(-np.mean(shifts))
    assert effects.loc["psnr", "mean"] == pytest.approx(np.mean(shifts))
    assert (effects["improved"] == 1).all()
    assert (effects["n"] == 20).all()
    assert (effects["p"] < 1e-4).all()
    assert effects.loc["ciede2000", "low"] < effects.loc["ciede2000", "mean"] < effects.loc["ciede2000", "high"] < 0


def test_no_difference_is_no_effect():
    values = {("m", level, f"p{k}", 0): float(k) for k in range(6) for level in ("vague", "detailed")}
    effect = statistics.contrasts(table(values), {"d - v": (("m", "detailed"), ("m", "vague"))}).iloc[0]
    assert effect["mean"] == 0
    assert effect["p"] == 1
    assert effect["improved"] == 0


def test_summary_weighs_photos_alike():
    metrics = table({("m", "vague", "a", 0): 2.0, ("m", "vague", "a", 1): 4.0, ("m", "vague", "b", 0): 7.0})
    assert statistics.summary(metrics, ["ciede2000"])["ciede2000"].item() == 5.0
