"""How much is luck, on tables whose variance was put where it is."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from lib import luck, stats
from tests.test_stats import table, unbalanced


def test_variance_goes_where_it_was_put():
    photos, prompts, seeds = range(40), ("vague", "detailed"), range(3)
    rng = np.random.default_rng(0)
    by_photo, of_seed, rest = rng.normal(size=40), rng.normal(size=(40, 3)), rng.normal(size=(40, 3, 2))
    for source, expected in (
        (lambda p, level, s: by_photo[p], "photo"),
        (lambda p, level, s: 1.0 * (level == "vague"), "prompt"),
        (lambda p, level, s: by_photo[p] * (1 if level == "vague" else -1), "photo x prompt"),
        (lambda p, level, s: of_seed[p, s], "seed"),
        (lambda p, level, s: rest[p, s, int(level == "vague")], "seed x prompt"),
    ):
        values = {
            ("controlnet", level, f"p{p}", s): source(p, level, s) for p in photos for level in prompts for s in seeds
        }
        shares = luck.variance_shares(table(values), "ciede2000", prompts).set_index("part")["share"]
        assert shares.sum() == pytest.approx(1)
        assert shares[expected] > 0.85


def test_seed_gain_compares_one_the_mean_and_the_best():
    values = {("controlnet", "vague", "a", s): v for s, v in enumerate((2.0, 6.0))}
    values |= {("controlnet", "vague", "b", s): v for s, v in enumerate((5.0, 3.0))}
    values |= {("seed_mean", "vague", p, 0): v for p, v in (("a", 3.0), ("b", 3.5))}
    metrics = table(values).assign(true_chroma=10)
    row = luck.seed_gain(metrics.assign(chroma=np.where(metrics["system"] == "seed_mean", 5, 8))).iloc[0]
    assert tuple(row) == ("vague", 4.0, 3.25, 2.5, 0.8, 0.5)


def test_seeds_are_compared_on_the_photos_that_have_all():
    metrics = unbalanced(lambda level, k, seed: 10.0 + seed + 100 * (k > 1))
    gain = luck.seed_gain(metrics).set_index("prompt_level")
    assert gain.loc["vague"].tolist() == [11, 9, 10, 0.8, 0.8]
    assert stats.with_all_seeds(metrics)["image_id"].nunique() == 2
    levels = ["empty", "vague", "detailed"]
    pd.testing.assert_frame_equal(
        luck.variance_shares(metrics, "ciede2000", levels),
        luck.variance_shares(metrics[metrics["image_id"].isin(["p0", "p1"])], "ciede2000", levels),
    )


def test_components_of_a_difference_are_found_again():
    assert luck.components(seeds_around_photos(3, 2)) == pytest.approx((9, 4), rel=0.05)
    assert luck.components(seeds_around_photos(0, 2))[0] < 0.1
    assert luck.components(np.array([[1.0, 3.0], [3.0, 1.0]])) == (0.0, 2.0)  # never below zero


def test_width_of_an_interval_by_hand():
    assert luck.interval_width(9, 4, 100, 1, 0) == pytest.approx(2 * 1.96 * np.sqrt(13 / 100), rel=1e-4)
    assert luck.interval_width(9, 3, 100, 3, 100) == pytest.approx(2 * 1.96 * np.sqrt(10 / 100), rel=1e-4)
    # 40 photos of variance 10 and 60 of variance 12, which weigh alike
    mixed = luck.interval_width(9, 3, 100, 3, 40)
    assert mixed == pytest.approx(2 * 1.96 * np.sqrt((40 * 10 + 60 * 12) / 100**2), rel=1e-4)


def test_differences_by_seed_keep_the_noise_together():
    metrics = unbalanced(lambda level, k, seed: 10 + 5 * seed - (level == "detailed") * (k + 0.1 * seed))
    found = luck.differences_by_seed(metrics, "detailed", "vague")
    np.testing.assert_allclose(found, [[0, -0.1, -0.2], [-1, -1.1, -1.2]], atol=1e-9)


def seeds_around_photos(between, within, photos=4000):
    """Differences by photo and seed with these standard deviations around -2."""
    rng = np.random.default_rng(0)
    return -2 + rng.normal(0, between, (photos, 1)) + rng.normal(0, within, (photos, 2))


def test_what_more_seeds_would_give():
    rng, rows = np.random.default_rng(0), []
    for k, seed, level in product(range(12), range(3), ("vague", "detailed")):
        if k < 6 or seed == 0:
            error = 10 - (level == "detailed") * (k + 6 * rng.normal())
            rows.append(("controlnet", True, f"p{k}", level, seed, error))
    rows = pd.DataFrame(rows, columns=["system", "merged", "image_id", "prompt_level", "seed", "ciede2000"])
    found = luck.seed_share(rows, 12)
    assert 0.5 < found["share"] < 1  # the noise has a variance of 36, the photos' own differences one of 3
    assert found["seeds"] == 3
    assert 0.6 < found["width"] < 1
    assert luck.seed_share(rows.query("seed == 0"), 12) == {}
    assert luck.seed_share(rows[:36], 6)["width"] is None
