"""Paired effects against values worked out by hand or by scipy."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from lib import stats


def table(values):
    """A metrics table from {(system, level, photo, seed): ciede2000}."""
    rows = pd.DataFrame(list(values), columns=["system", "prompt_condition", "image_id", "seed"])
    error = np.array(list(values.values()))
    rows = rows.assign(subject=rows["image_id"], prompt=rows["prompt_condition"], restored=True, ciede2000=error)
    rows = rows.assign(psnr=30 - error, ssim=1 - error / 100, mean_error=error / 2, deviation_error=error / 3)
    return rows.assign(hue_error_share=error / 100)


def two_photos():
    """One photo with two seeds, and one with one."""
    errors = {("a", 0): 2.0, ("a", 1): 4.0, ("b", 0): 7.0}
    return table({("controlnet", "vague", *key): error for key, error in errors.items()})


def test_without_subjects_the_rule_is_students_t():
    values = np.random.default_rng(0).normal(0.4, 1, 30)
    expected = ttest_1samp(values, 0)
    effect = stats.contrast(pd.Series(values), "ciede2000")
    assert effect["p"] == pytest.approx(expected.pvalue)
    assert (effect["low"], effect["high"]) == pytest.approx(tuple(expected.confidence_interval()))
    assert stats.interval(values) == pytest.approx((values.mean(), *expected.confidence_interval()))


def test_there_is_no_interval_for_two_subjects_or_equal_values():
    for values, subjects in (([1.0, 2, 3], [0, 0, 1]), ([2.0, 2, 2], None)):
        assert stats.interval(values, subjects) == pytest.approx((2, np.nan, np.nan), nan_ok=True)
        effect = stats.contrast(pd.Series(values) - 2, "ciede2000", subjects)
        assert (effect["mean"], effect["p"]) == (0, 1)
    assert np.isnan(stats.interval([])).all()


def test_intervals_cover_the_true_mean_about_95_times_in_100_if_subjects_are_known():
    rng, hits = np.random.default_rng(0), {"independent": 0, "subjects": 0, "photos": 0}
    subjects = np.repeat(np.arange(20), 4)
    for _ in range(300):
        values = np.repeat(rng.normal(1, 2, 20), 4) + rng.normal(0, 0.5, 80)
        samples = {
            "independent": (rng.normal(1, 2, 40), None),
            "subjects": (values, subjects),
            "photos": (values, None),
        }
        for name, sample in samples.items():
            _, low, high = stats.interval(*sample)
            hits[name] += low <= 1 <= high
    assert 0.92 <= hits["independent"] / 300 <= 0.98
    assert 0.91 <= hits["subjects"] / 300 <= 0.98
    assert hits["photos"] / 300 < 0.8  # as if there were 80 subjects


def test_a_difference_can_be_shown_to_be_small():
    values = pd.Series(np.random.default_rng(0).normal(0.1, 1, 60))
    bounds = [ttest_1samp(values, end, alternative=side).pvalue for end, side in ((-1, "greater"), (1, "less"))]
    assert stats.contrast(values, "ciede2000")["p_equal"] == pytest.approx(max(bounds))
    assert np.isnan(stats.contrast(values, "psnr")["p_equal"])  # the margin is one of CIEDE2000
    verdicts = []
    for changed in (values, values * 8, values - 3, values + 3):
        effect = stats.contrast(changed, "ciede2000")
        verdicts.append(stats.verdict(SimpleNamespace(**effect, p_holm=effect["p"])))
    assert verdicts == ["equivalent", "inconclusive", "better", "worse"]


def test_draws_are_random_as_photos_are():
    rng, hits, naive = np.random.default_rng(0), 0, 0
    for _ in range(300):
        drawn = 1 + rng.normal(0, 2, (40, 1)) + rng.normal(0, 1, (1, 3)) + rng.normal(0, 0.5, (40, 3))
        effect = stats.effect_over_draws(drawn)
        hits += effect["low"] <= 1 <= effect["high"]
        _, low, high = stats.interval(drawn.mean(axis=1))
        naive += low <= 1 <= high
    assert 0.92 <= hits / 300 <= 1
    assert naive / 300 < 0.75  # photos alone promise too much
    same = np.repeat(rng.normal(1, 2, 50)[:, None], 3, axis=1)  # draws that agree leave the interval of photos
    effect = stats.effect_over_draws(same)
    assert (effect["mean"], effect["low"], effect["high"]) == pytest.approx(stats.interval(same[:, 0]))


def test_photos_whose_prompts_are_the_same_are_left_out():
    names = product(("vague", "object"), range(6))
    metrics = table({("controlnet", name, f"p{k}", 0): float(k + len(name)) for name, k in names})
    metrics.loc[metrics["image_id"].isin(["p0", "p1"]), "prompt"] = "a cup"
    assert list(stats.differences(metrics, "ciede2000", "object", "vague").index) == ["p2", "p3", "p4", "p5"]
    assert stats.contrasts(metrics.assign(prompt="a cup"), [("object", "vague")]).empty


def test_a_name_is_a_prompt_condition_or_a_system_and_seeds_are_averaged():
    values = {("gray", "", "a", 0): 5.0, ("regions", "detailed", "a", 0): 3.0}
    metrics = pd.concat([two_photos(), table(values)])
    means = {name: stats.by_photo(metrics, "ciede2000", name)["a"] for name in ("gray", "vague", "regions")}
    assert means == {"gray": 5.0, "vague": 3.0, "regions": 3.0}


def test_summary_weighs_photos_alike():
    metrics = two_photos()
    metrics = metrics.assign(ssim_luma=1.0, ab_error=1.0, own=[1.0, 3, 6], true_chroma=20, true_colorfulness=20)
    metrics = metrics.assign(chroma=[10, 20, 30], colorfulness=[10, 20, 45])
    row = stats.summary(metrics).iloc[0]
    assert row["ciede2000"] == 5.0
    assert row["chroma_ratio"] == pytest.approx((15 + 30) / (20 + 20))
    assert row["colorfulness_difference"] == pytest.approx((-5 + 25) / 2)  # difference of means
    assert row["own"] == (2 + 6) / 2  # a metric of one's own


def test_holm_counts_the_questions_of_a_family():
    rng = np.random.default_rng(1)
    values = {}
    for level, shift in (("vague", 0), ("object", 0.3), ("detailed", 3), ("empty", 2.9)):
        values |= {("controlnet", level, f"p{k}", 0): 10 + rng.normal() - shift for k in range(30)}
    pairs = [("object", "vague"), ("detailed", "object"), ("detailed", "empty"), ("detailed", "vague")]
    effects = stats.contrasts(table(values), pairs)
    assert effects.loc[effects["metric"] != "ciede2000", ["p_holm", "p_equal"]].isna().all(axis=None)
    told = effects[effects["metric"] == "ciede2000"].set_index(["first", "second"])
    primary, second = told.loc["detailed", "vague"], told.loc["detailed", "object"]
    assert (primary["family"], second["family"]) == ("primary", "secondary")
    assert primary["p_holm"] == primary["p"]  # one question
    assert second["p_holm"] == pytest.approx(3 * second["p"])  # the smallest of three


def unbalanced(error=lambda level, photo, seed: 10.0):
    """Six photos under vague and detailed, the first four also under empty, the first two with three seeds; gray."""
    values = {}
    for level, k, seed in product(("empty", "vague", "detailed"), range(6), range(3)):
        if (k < 4 or level != "empty") and (k < 2 or seed == 0):
            values["controlnet", level, f"p{k}", seed] = error(level, k, seed)
    values |= {("gray", "", f"p{k}", 0): 12.0 + k for k in range(6)}
    metrics = table(values).assign(chroma=8.0, true_chroma=10.0, colorfulness=1.0, true_colorfulness=1.0)
    return metrics.assign(ssim_luma=1.0, ab_error=1.0)


def test_contrasts_use_every_photo_that_both_have_and_its_seeds():
    metrics = unbalanced(lambda level, k, seed: 10 - (level == "detailed") * (1 + k + (k < 2) * (seed - 1)))
    effects = stats.contrasts(metrics, [("detailed", "vague"), ("empty", "vague"), ("vague", "gray")])
    effects = effects.set_index(["first", "second", "metric"])
    gain = effects.loc["detailed", "vague"]
    assert gain.loc["ciede2000", ["n", "mean"]].tolist() == [6, -np.mean([1, 2, 3, 4, 5, 6])]
    assert gain.loc["psnr", "mean"] == pytest.approx(3.5)  # higher is better
    assert (gain["improved"] == 1).all()
    assert effects.loc[("empty", "vague", "ciede2000"), "n"] == 4
    assert effects.loc[("vague", "gray", "ciede2000"), "mean"] == 10 - np.mean(range(12, 18))


def test_levels_are_set_side_by_side_on_the_photos_that_all_have():
    metrics = unbalanced(lambda level, k, seed: 10.0 + 100 * (k > 3))
    shared = stats.side_by_side(metrics)
    assert set(shared["image_id"]) == {"p0", "p1", "p2", "p3"}
    assert set(shared["system"]) == {"controlnet", "gray"}
    summary = stats.summary(metrics).set_index(["system", "prompt_condition"])["ciede2000"]
    assert summary["controlnet", "vague"] == summary["controlnet", "empty"] == 10
    assert summary["gray", ""] == 13.5


def test_conditions_and_metrics_of_ones_own_are_compared(tmp_path):
    rng = np.random.default_rng(0)
    names = [("controlnet", name) for name in ("vague", "detailed", "mine")] + [("gray", ""), ("a_peer", "")]
    metrics = table({(*name, f"p{k}", 0): rng.uniform(5, 9) for name in names for k in range(9)})
    metrics = metrics.assign(category="c", ssim_luma=1.0, ab_error=1.0, chroma=1.0, true_chroma=1.0, colorfulness=1.0)
    metrics = metrics.assign(true_colorfulness=1.0)[list(stats.COLUMNS)].assign(own=rng.uniform(size=len(metrics)))
    metrics.loc[0, "hue_error_share"] = np.nan
    metrics.to_csv(tmp_path / "metrics.csv", index=False)
    read = stats.read_metrics(tmp_path / "metrics.csv")
    pd.testing.assert_frame_equal(read, metrics)
    effects = stats.contrasts(read)
    pairs = [("detailed", "vague"), ("detailed", "gray"), ("vague", "gray"), ("mine", "vague")]
    assert list(dict.fromkeys(zip(effects["first"], effects["second"], strict=True))) == pairs
    mine = effects[effects["first"] == "mine"].set_index("metric")
    assert mine["family"].unique().tolist() == ["exploratory"]
    means = read.groupby("prompt_condition")["own"].mean()
    assert mine["mean"]["own"] == pytest.approx(means["mine"] - means["vague"])


def test_a_ratio_of_means_has_its_interval():
    below, above, photos = np.array([1.0, 2, 3, 4] * 10), np.array([0.5, 1, 1.5, 2] * 10), np.arange(40)
    assert stats.ratio_interval(below, above, photos) == pytest.approx((0.5, 0.5, 0.5))
    mean, low, high = stats.ratio_interval(below, above[::-1], photos)
    assert low < mean == 0.5 < high
    assert stats.ratio_interval(below, above[::-1], photos // 20) == pytest.approx((0.5, 0.5, 0.5))  # equal subjects
    assert np.isnan(stats.ratio_interval(0 * below, above, photos)).all()
