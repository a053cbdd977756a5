"""Paired effects against values worked out by hand or by scipy."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from lib import stats


def table(values):
    """A metrics table from {(system, level, photo, seed): ciede2000}."""
    rows = pd.DataFrame(list(values), columns=["system", "prompt_level", "image_id", "seed"])
    error = np.array(list(values.values()))
    return rows.assign(merged=True, ciede2000=error, psnr=30 - error, ssim=1 - error / 100)


def two_photos():
    """One photo with two seeds, and one with one."""
    errors = {("a", 0): 2.0, ("a", 1): 4.0, ("b", 0): 7.0}
    return table({("controlnet", "vague", *key): error for key, error in errors.items()})


def test_seeds_are_averaged_within_photos():
    metrics = two_photos()
    assert dict(stats.by_photo(metrics, "ciede2000", "vague")) == {"a": 3.0, "b": 7.0}
    with pytest.raises(ValueError, match="no rows for 'loud', merged True: known are vague"):
        stats.by_photo(metrics, "ciede2000", "loud")


def test_a_name_is_a_prompt_level_or_a_system():
    values = {("gray", "", "a", 0): 5.0, ("controlnet", "vague", "a", 0): 4.0, ("seed_mean", "vague", "a", 0): 3.0}
    metrics = table(values)
    found = {name: stats.by_photo(metrics, "ciede2000", name)["a"] for name in ("gray", "vague", "seed_mean")}
    assert found == {"gray": 5.0, "vague": 4.0, "seed_mean": 3.0}


def test_labels_of_contrasts():
    assert stats.label("detailed", "vague") == "detailed - vague"
    assert stats.label("detailed", "") == "detailed"


def test_interval_covers_the_true_mean_about_95_times_in_100():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        _, low, high = stats.interval(rng.normal(1, 2, 40), n_resamples=500, seed=trial)
        hits += low <= 1 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_contrast_signs_follow_the_direction_of_the_metric():
    photos = [f"p{k}" for k in range(20)]
    values = {("controlnet", "vague", p, 0): 10 + k for k, p in enumerate(photos)}
    values |= {("controlnet", "detailed", p, 0): 7 + k - k % 3 for k, p in enumerate(photos)}
    effects = stats.contrasts(table(values), [("detailed", "vague")]).set_index("metric")
    shifts = [3 + k % 3 for k in range(20)]
    assert effects.loc["ciede2000", "mean"] == pytest.approx(-np.mean(shifts))
    assert effects.loc["psnr", "mean"] == pytest.approx(np.mean(shifts))
    assert (effects["improved"] == 1).all()
    assert (effects["n"] == 20).all()
    assert (effects["p"] < 1e-4).all()
    assert effects.loc["ciede2000", "low"] < effects.loc["ciede2000", "mean"] < effects.loc["ciede2000", "high"] < 0


def test_no_difference_is_no_effect():
    values = {("controlnet", level, f"p{k}", 0): float(k) for k in range(6) for level in ("vague", "detailed")}
    effect = stats.contrasts(table(values), [("detailed", "vague")]).iloc[0]
    assert effect["mean"] == 0
    assert effect["p"] == 1
    assert effect["improved"] == 0


def test_summary_weighs_photos_alike():
    metrics = two_photos()
    for name in ("ssim_luma", "ab_error", "hue_error", "hue_share"):
        metrics[name] = 1.0
    metrics = metrics.assign(chroma=[10, 20, 30], true_chroma=20, colorfulness=[10, 20, 45], true_colorfulness=20)
    row = stats.summary(metrics).iloc[0]
    assert row["ciede2000"] == 5.0
    assert row["chroma_ratio"] == pytest.approx((15 + 30) / (20 + 20))
    assert row["colorfulness_difference"] == pytest.approx((-5 + 25) / 2)  # difference of means
    assert row["colorfulness_error"] == pytest.approx((5 + 25) / 2)  # mean of differences


def test_holm_is_stricter_than_wilcoxon_alone_and_only_by_the_number_of_questions():
    rng = np.random.default_rng(1)
    values = {}
    for level, shift in (("vague", 0), ("object", 0.3), ("detailed", 3)):
        values |= {("controlnet", level, f"p{k}", 0): 10 + rng.normal() - shift for k in range(30)}
    effects = stats.contrasts(table(values), [("object", "vague"), ("detailed", "vague")])
    smallest = effects.loc[effects["p"].idxmin()]
    assert smallest["p_holm"] == pytest.approx(len(effects) * smallest["p"])  # six questions
    assert (effects["p_holm"] >= effects["p"]).all()


def test_power_of_a_middling_effect():
    # Cohen 1988, table 2.4.1 for one sample: d = 0.5 needs 34 pairs for 80 % at the 5 % level
    found = stats.power(0.5)
    assert found["photos_needed"] == 34
    assert 0.1 < found["power_of_five"] < 0.2


def test_few_photos_get_students_interval():
    # t = 2.776 for four degrees of freedom; the standard error of 1 ... 5 is 0.7071
    assert stats.interval([1, 2, 3, 4, 5]) == pytest.approx((3, 3 - 1.9632, 3 + 1.9632), abs=1e-3)


def test_variance_goes_where_it_was_put():
    photos, prompts, seeds = range(40), ("vague", "detailed"), range(3)
    rng = np.random.default_rng(0)
    by_photo, luck, rest = rng.normal(size=40), rng.normal(size=(40, 3)), rng.normal(size=(40, 3, 2))
    for source, expected in (
        (lambda p, level, s: by_photo[p], "photo"),
        (lambda p, level, s: 1.0 * (level == "vague"), "prompt"),
        (lambda p, level, s: by_photo[p] * (1 if level == "vague" else -1), "photo x prompt"),
        (lambda p, level, s: luck[p, s], "seed"),
        (lambda p, level, s: rest[p, s, int(level == "vague")], "seed x prompt"),
    ):
        values = {
            ("controlnet", level, f"p{p}", s): source(p, level, s) for p in photos for level in prompts for s in seeds
        }
        shares = stats.variance_shares(table(values), "ciede2000", prompts).set_index("part")["share"]
        assert shares.sum() == pytest.approx(1)
        assert shares[expected] > 0.85


def test_obedience_counts_allowed_cases_and_chance():
    rows = [("a", "red", "red", True), ("a", "blue", "blue", True), ("a", "white", "red", False)]
    rows += [("b", "red", "red", True), ("b", "blue", "red", True)]
    rows += [("b", "brown", "orange", True), ("b", "orange", "orange", True)]
    steering = pd.DataFrame(rows, columns=["image_id", "word", "named", "allowed"])
    steering["reached"] = steering["named"] == steering["word"].replace({"brown": "orange"})
    found = stats.obedience(steering)
    assert (found["cases"], found["photos"]) == (6, 2)
    assert found["reached"] == pytest.approx((1 + 3 / 4) / 2)
    # a: blue for red, red for blue: no; b: red's others are blue (named red), brown, orange: 1 of 3; blue's: none of 3;
    # brown's and orange's, who count as one: red, blue: none of 4
    assert found["chance"] == pytest.approx(1 / 12)


def test_seed_gain_compares_one_the_mean_and_the_best():
    values = {("controlnet", "vague", "a", s): v for s, v in enumerate((2.0, 6.0))}
    values |= {("controlnet", "vague", "b", s): v for s, v in enumerate((5.0, 3.0))}
    values |= {("seed_mean", "vague", p, 0): v for p, v in (("a", 3.0), ("b", 3.5))}
    metrics = table(values).assign(true_chroma=10)
    row = stats.seed_gain(metrics.assign(chroma=np.where(metrics["system"] == "seed_mean", 5, 8))).iloc[0]
    assert tuple(row) == ("vague", 4.0, 3.25, 2.5, 0.8, 0.5)


def test_effects_by_category():
    values = {("controlnet", "vague", f"p{k}", 0): 5.0 + k for k in range(7)}
    values |= {("controlnet", "detailed", f"p{k}", 0): 5.0 + k - 2 * (k < 4) for k in range(7)}
    metrics = table(values).assign(category=lambda t: np.where(t["image_id"].isin(["p4", "p5", "p6"]), "few", "many"))
    effects = stats.effects_by_category(metrics, "ciede2000", "detailed", "vague")
    assert list(effects["category"]) == ["many", "few"]
    assert list(effects["mean"]) == [-2, 0]


def unbalanced(error=lambda level, photo, seed: 10.0):
    """Six photos under vague and detailed, the first four also under empty, the first two with three seeds; gray."""
    values = {}
    for level, k, seed in product(("empty", "vague", "detailed"), range(6), range(3)):
        if (k < 4 or level != "empty") and (k < 2 or seed == 0):
            values["controlnet", level, f"p{k}", seed] = error(level, k, seed)
    values |= {("gray", "", f"p{k}", 0): 12.0 + k for k in range(6)}
    means = {("seed_mean", level, f"p{k}", 0): 9.0 for k in range(2) for level in ("empty", "vague", "detailed")}
    metrics = table(values | means).assign(chroma=8.0, true_chroma=10.0, colorfulness=1.0, true_colorfulness=1.0)
    return metrics.assign(**dict.fromkeys(("ssim_luma", "ab_error", "hue_error", "hue_share"), 1.0))


def test_contrasts_use_every_photo_that_both_have_and_its_seeds():
    metrics = unbalanced(lambda level, k, seed: 10 - (level == "detailed") * (1 + k + (k < 2) * (seed - 1)))
    effects = stats.contrasts(metrics, [("detailed", "vague"), ("vague", "empty"), ("vague", "gray")])
    assert list(effects.columns[:3]) == ["first", "second", "metric"]
    effects = effects.set_index(["first", "second", "metric"])
    assert effects.loc[("detailed", "vague", "ciede2000"), ["n", "mean"]].tolist() == [6, -np.mean([1, 2, 3, 4, 5, 6])]
    assert effects.loc[("vague", "empty", "ciede2000"), "n"] == 4
    assert effects.loc[("vague", "gray", "ciede2000"), "mean"] == 10 - np.mean(range(12, 18))


def test_levels_are_set_side_by_side_on_the_photos_that_all_have():
    metrics = unbalanced(lambda level, k, seed: 10.0 + 100 * (k > 3))
    shared = stats.side_by_side(metrics)
    assert set(shared["image_id"]) == {"p0", "p1", "p2", "p3"}
    assert set(shared["system"]) == {"controlnet", "gray"}  # the means are of two photos only
    summary = stats.summary(metrics).set_index(["system", "prompt_level"])["ciede2000"]
    assert summary["controlnet", "vague"] == summary["controlnet", "empty"] == 10
    assert summary["gray", ""] == 13.5
    balanced = metrics[metrics["image_id"].isin(["p0", "p1"])]
    pd.testing.assert_frame_equal(stats.side_by_side(balanced), balanced)


def test_seeds_are_compared_on_the_photos_that_have_all():
    metrics = unbalanced(lambda level, k, seed: 10.0 + seed + 100 * (k > 1))
    gain = stats.seed_gain(metrics).set_index("prompt_level")
    assert gain.loc["vague"].tolist() == [11, 9, 10, 0.8, 0.8]
    assert stats.with_all_seeds(metrics)["image_id"].nunique() == 2
    levels = ["empty", "vague", "detailed"]
    pd.testing.assert_frame_equal(
        stats.variance_shares(metrics, "ciede2000", levels),
        stats.variance_shares(metrics[metrics["image_id"].isin(["p0", "p1"])], "ciede2000", levels),
    )


def test_the_largest_category_is_that_of_most_photos():
    metrics = unbalanced().assign(category=lambda t: np.where(t["image_id"].isin(["p0", "p1"]), "seeds", "photos"))
    effects = stats.effects_by_category(metrics, "ciede2000", "detailed", "vague")
    assert dict(zip(effects["category"], effects["n"], strict=True)) == {"photos": 4, "seeds": 2}
    assert list(effects["category"]) == ["photos", "seeds"]


def seeds_around_photos(between, within, photos=4000):
    """Differences by photo and seed with these standard deviations around -2."""
    rng = np.random.default_rng(0)
    return -2 + rng.normal(0, between, (photos, 1)) + rng.normal(0, within, (photos, 2))


def test_components_of_a_difference_are_found_again():
    assert stats.components(seeds_around_photos(3, 2)) == pytest.approx((9, 4), rel=0.05)
    assert stats.components(seeds_around_photos(0, 2))[0] < 0.1
    assert stats.components(np.array([[1.0, 3.0], [3.0, 1.0]])) == (0.0, 2.0)  # never below zero


def test_width_of_an_interval_by_hand():
    assert stats.interval_width(9, 4, 100, 1, 0) == pytest.approx(2 * 1.96 * np.sqrt(13 / 100), rel=1e-4)
    assert stats.interval_width(9, 3, 100, 3, 100) == pytest.approx(2 * 1.96 * np.sqrt(10 / 100), rel=1e-4)
    # 40 photos of variance 10 and 60 of variance 12, which weigh alike
    mixed = stats.interval_width(9, 3, 100, 3, 40)
    assert mixed == pytest.approx(2 * 1.96 * np.sqrt((40 * 10 + 60 * 12) / 100**2), rel=1e-4)


def test_differences_by_seed_keep_the_noise_together():
    metrics = unbalanced(lambda level, k, seed: 10 + 5 * seed - (level == "detailed") * (k + 0.1 * seed))
    found = stats.differences_by_seed(metrics, "detailed", "vague")
    np.testing.assert_allclose(found, [[0, -0.1, -0.2], [-1, -1.1, -1.2]], atol=1e-9)
