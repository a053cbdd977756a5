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
    rows = rows.assign(subject=rows["image_id"], prompt=rows["prompt_condition"], merged=True, ciede2000=error)
    return rows.assign(psnr=30 - error, ssim=1 - error / 100, mean_error=error / 2, deviation_error=error / 3)


def two_photos():
    """One photo with two seeds, and one with one."""
    errors = {("a", 0): 2.0, ("a", 1): 4.0, ("b", 0): 7.0}
    return table({("controlnet", "vague", *key): error for key, error in errors.items()})


def test_seeds_are_averaged_within_photos():
    metrics = two_photos()
    assert dict(stats.by_photo(metrics, "ciede2000", "vague")) == {"a": 3.0, "b": 7.0}
    with pytest.raises(ValueError, match="no rows for 'loud', merged True: known are vague"):
        stats.by_photo(metrics, "ciede2000", "loud")


def test_a_name_is_a_prompt_condition_or_a_system():
    values = {("gray", "", "a", 0): 5.0, ("controlnet", "vague", "a", 0): 4.0, ("regions", "detailed", "a", 0): 3.0}
    metrics = table(values)
    found = {name: stats.by_photo(metrics, "ciede2000", name)["a"] for name in ("gray", "vague", "regions")}
    assert found == {"gray": 5.0, "vague": 4.0, "regions": 3.0}


def test_labels_of_contrasts():
    assert stats.label("detailed", "vague") == "detailed - vague"
    assert stats.label("detailed", "") == "detailed"


def test_interval_covers_the_true_mean_about_95_times_in_100():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        _, low, high = stats.interval(rng.normal(1, 2, 40))
        hits += low <= 1 <= high
    assert 0.92 <= hits / 400 <= 0.98


def test_photos_of_one_subject_count_as_alike():
    rng, hits = np.random.default_rng(0), {"photos": 0, "subjects": 0}
    subjects = np.repeat(np.arange(20), 4)
    for _ in range(300):
        values = np.repeat(rng.normal(1, 2, 20), 4) + rng.normal(0, 0.5, 80)
        for name, groups in (("photos", None), ("subjects", subjects)):
            _, low, high = stats.interval(values, groups)
            hits[name] += low <= 1 <= high
    assert 0.91 <= hits["subjects"] / 300 <= 0.98
    assert hits["photos"] / 300 < 0.8  # as if there were 80 subjects


def test_without_subjects_the_rule_is_students_t():
    values = np.random.default_rng(0).normal(0.4, 1, 30)
    expected = ttest_1samp(values, 0)
    effect = stats.contrast(pd.Series(values), "ciede2000")
    assert effect["p"] == pytest.approx(expected.pvalue)
    assert (effect["low"], effect["high"]) == pytest.approx(tuple(expected.confidence_interval()))


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


def draw_table(rng, photos, draws, effect=0.0, of_draw=1.0):
    """A table (photos, draws) with a mean of `effect`, where photos, draws and both together vary."""
    return (
        effect
        + rng.normal(0, 2, (photos, 1))
        + rng.normal(0, of_draw, (1, draws))
        + rng.normal(0, 0.5, (photos, draws))
    )


def test_draws_are_random_as_photos_are():
    rng, hits, naive = np.random.default_rng(0), 0, 0
    for _ in range(300):
        drawn = draw_table(rng, 40, 3, 1.0)
        effect = stats.effect_over_draws(drawn)
        hits += effect["low"] <= 1 <= effect["high"]
        _, low, high = stats.interval(drawn.mean(axis=1))
        naive += low <= 1 <= high
    assert 0.92 <= hits / 300 <= 1
    assert naive / 300 < 0.75  # photos alone promise too much


def test_draws_that_agree_leave_the_interval_of_photos():
    values = np.random.default_rng(0).normal(1, 2, 50)
    found = stats.effect_over_draws(np.repeat(values[:, None], 3, axis=1))
    assert (found["mean"], found["low"], found["high"]) == pytest.approx(stats.interval(values))


def test_photos_whose_prompts_are_the_same_are_left_out():
    values = {
        ("controlnet", level, f"p{k}", 0): float(k + len(level)) for k in range(6) for level in ("vague", "object")
    }
    metrics = table(values)
    metrics.loc[metrics["image_id"].isin(["p0", "p1"]), "prompt"] = "a cup"
    assert list(stats.differences(metrics, "ciede2000", "object", "vague").index) == ["p2", "p3", "p4", "p5"]
    assert stats.contrasts(metrics.assign(prompt="a cup"), [("object", "vague")]).empty


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


def test_few_photos_get_students_interval():
    # t = 2.776 for four degrees of freedom; the standard error of 1 ... 5 is 0.7071
    assert stats.interval([1, 2, 3, 4, 5]) == pytest.approx((3, 3 - 1.9632, 3 + 1.9632), abs=1e-3)


def unbalanced(error=lambda level, photo, seed: 10.0):
    """Six photos under vague and detailed, the first four also under empty, the first two with three seeds; gray."""
    values = {}
    for level, k, seed in product(("empty", "vague", "detailed"), range(6), range(3)):
        if (k < 4 or level != "empty") and (k < 2 or seed == 0):
            values["controlnet", level, f"p{k}", seed] = error(level, k, seed)
    values |= {("gray", "", f"p{k}", 0): 12.0 + k for k in range(6)}
    metrics = table(values).assign(chroma=8.0, true_chroma=10.0, colorfulness=1.0, true_colorfulness=1.0)
    return metrics.assign(**dict.fromkeys(("ssim_luma", "ab_error", "hue_error", "hue_share"), 1.0))


def test_contrasts_use_every_photo_that_both_have_and_its_seeds():
    metrics = unbalanced(lambda level, k, seed: 10 - (level == "detailed") * (1 + k + (k < 2) * (seed - 1)))
    effects = stats.contrasts(metrics, [("detailed", "vague"), ("empty", "vague"), ("vague", "gray")])
    assert list(effects.columns[:4]) == ["family", "first", "second", "metric"]
    effects = effects.set_index(["first", "second", "metric"])
    assert effects.loc[("detailed", "vague", "ciede2000"), ["n", "mean"]].tolist() == [6, -np.mean([1, 2, 3, 4, 5, 6])]
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
    balanced = metrics[metrics["image_id"].isin(["p0", "p1"])]
    pd.testing.assert_frame_equal(stats.side_by_side(balanced), balanced)


def chroma_table(errors, photos=30):
    """A metrics table from {name: what gives a photo's CIEDE2000 by its number}; two photos a subject, chroma rising."""
    values = {}
    for (name, error), k in product(errors.items(), range(photos)):
        values[("gray", "") if name == "gray" else ("controlnet", name), k] = error(k)
    metrics = table({(*name, f"p{k:02}", 0): error for (name, k), error in values.items()})
    number = metrics["image_id"].str[1:].astype(int)
    return metrics.assign(subject="s" + (number // 2).astype(str), true_chroma=1.0 * number)


def test_writers_are_random_where_there_are_several():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, (4, 30))
    shifts = {"vague": 0, "detailed": -3, "writer_2": -1, "writer_3": 1}
    errors = {
        name: lambda k, row=row, shift=shift: 10 + shift + noise[row][k]
        for row, (name, shift) in enumerate(shifts.items())
    }
    table = stats.effect_of_writers(chroma_table(errors)).set_index("writer")
    assert list(table.index) == ["detailed", "writer_2", "writer_3", "others", "all"]
    assert table.loc["detailed", "high"] < 0
    assert table.loc["all", "mean"] == pytest.approx(table["mean"][:3].mean())
    assert table.loc["others", "mean"] == pytest.approx(table["mean"][1:3].mean())
    assert 2 < table.loc["all", "df"] < 29
    assert (table["colors"] == 0).all()  # the prompts here are the conditions' names
    assert table.loc["all", "low"] < 0 < table.loc["all", "high"]  # three writers who disagree show nothing
    one = stats.effect_of_writers(chroma_table({name: errors[name] for name in ("vague", "detailed")}))
    assert list(one["writer"]) == ["detailed"]


def test_effects_in_thirds_of_the_photos_by_chroma():
    metrics = chroma_table({
        "vague": lambda k: 10.0,
        "gray": lambda k: 5 + 0.4 * k,
        "detailed": lambda k: 10 - 0.2 * k + 0.01 * (k % 5),
    })  # fmt: skip
    thirds = stats.effects_by_chroma(metrics)
    assert list(thirds["second"]) == ["vague"] * 3 + ["gray"] * 3
    assert list(thirds["third"]) == ["least chroma", "middle", "most chroma"] * 2
    assert list(thirds["n"]) == [10] * 6
    assert list(thirds["true_chroma"][:3]) == [4.5, 14.5, 24.5]
    assert list(thirds["mean"][:3]) == pytest.approx([-0.88, -2.88, -4.88])
    assert list(thirds["mean"][3:]) == pytest.approx([2.32, -3.68, -9.68])
    assert ((thirds["low"] < thirds["mean"]) & (thirds["mean"] < thirds["high"])).all()


def test_the_effect_on_photos_with_two_colour_words_leaves_the_others_out():
    texts = {"a": "a red cup on a white table", "b": "a red cup", "c": "a green tree under a blue sky", "d": "a tree"}
    errors = {"a": 7.0, "b": 2.0, "c": 9.0, "d": 1.0}
    vague, row = (
        {"prompt": "Colorize this image.", "prompt_condition": "vague", "ciede2000": 10.0},
        {"seed": 0, "merged": True},
    )
    rows = [row | {"image_id": name, "subject": name, "system": "controlnet", "restored": True, **own}
            for name, text in texts.items()
            for own in (vague, {"prompt": text, "prompt_condition": "detailed", "ciede2000": errors[name]})]  # fmt: skip
    effect = stats.effect_with_colors(pd.DataFrame(rows))
    assert (effect["n"], effect["mean"]) == (2, -2.0)
    assert stats.effect_with_colors(pd.DataFrame(rows), least=1)["n"] == 3
