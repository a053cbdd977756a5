"""The answer in words says what the intervals allow, and no more."""

import re

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from lib import report, statistics
from lib.metrics import COLUMNS, METRICS
from lib.profiles import get_profile
from lib.statistics import CONTRASTS


def effects(low, high):
    """Effects of both contrasts: CIEDE2000 as given, PSNR with an interval across zero."""
    rows = [
        {
            "contrast": contrast,
            "metric": metric,
            "n": 9,
            "mean": (a + b) / 2,
            "low": a,
            "high": b,
            "improved": 0.5,
            "p_holm": 0.01,
        }
        for contrast in ("detailed - vague", "detailed - gray")
        for metric, a, b in (("psnr", -1.0, 1.0), ("ciede2000", low, high))
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("low", "high", "word", "stands"),
    [(-2, -1, "better", "yes"), (1, 2, "worse", "no, the reverse"), (-1, 2, "not told apart", "not shown")],
)
def test_answer_and_claims_follow_the_interval(low, high, word, stands):
    text = report.answer(effects(low, high))
    assert text.count(f"**{word}** in CIEDE2000") == 2
    assert text.count("**not told apart** in PSNR") == 2
    summary = pd.DataFrame([
        {"system": system, "prompt_level": level, "merged": merged, "psnr": 21.0, "ssim": 0.9, "ciede2000": 8.5}
        for system, level in (("controlnet", "vague"), ("controlnet", "detailed"), ("gray", ""))
        for merged in (False, True)
    ])  # fmt: skip
    claims = report.claims(summary, effects(low, high)).set_index("the study")["stands"]
    assert claims["detailed prompts colorize better, in CIEDE2000"] == stands
    assert claims["detailed prompts colorize better, in PSNR"] == "not shown"
    assert claims["vague: PSNR 15 to 20 dB"] == "no"
    assert claims["detailed: CIEDE2000 about 8 (within 1)"] == "yes, but so does gray"


def test_what_more_seeds_would_give():
    rng = np.random.default_rng(0)
    rows = [
        {"system": "controlnet", "merged": True, "image_id": f"p{k}", "prompt_level": level, "seed": seed,
         "ciede2000": 10 - (level == "detailed") * (k + 6 * rng.normal())}
        for k in range(12) for seed in range(3) for level in ("vague", "detailed") if k < 6 or seed == 0
    ]  # fmt: skip
    text = report.seed_share(pd.DataFrame(rows), 12)
    assert re.search(r"seed has (\d+)%", text)
    ratio = float(re.search(r"3 seeds for all 12 photos would make its interval (0\.\d+) times as wide", text)[1])
    assert 0.6 < ratio < 1
    assert report.seed_share(pd.DataFrame(rows).query("seed == 0"), 12) == ""
    assert "wide" not in report.seed_share(pd.DataFrame(rows[:36]), 6)


def test_an_interval_alone_does_not_make_an_effect():
    table = effects(-2, -1).assign(p_holm=0.2)
    assert "better" not in report.answer(table)
    assert "-1.000, but p after correction is 0.2)" in report.answer(table)


def test_no_answer_without_an_interval():
    assert report.answer(effects(np.nan, np.nan)).startswith("**Too few photos to tell**")


def test_tables_show_a_missing_number_as_a_dash():
    table = pd.DataFrame([{"system": "gray", "hue_error": np.nan, "psnr": 22.636}])
    assert report.markdown_table(table).splitlines()[-1] == "| gray | - | 22.64 |"


LEVELS = ("empty", "vague", "gray_caption", "object", "detailed", "wrong_color")
NAMED = {name: tuple(("controlnet", level) for level in name.split(" - ")) for name in CONTRASTS}
NAMED["detailed - gray"] = (("controlnet", "detailed"), ("gray", ""))


def measured(levels, photos=9):
    """Metrics of a run on some photos: two seeds for three of them and one for the others."""
    rng, rows = np.random.default_rng(0), []
    systems = [("controlnet", level, merged) for level in levels for merged in (False, True)]
    systems += [("seed_mean", level, True) for level in levels] + [(name, "", True) for name in ("gray", "gan")]
    for k in range(photos):
        for system, level, merged in systems:
            for seed in range(2 if system == "controlnet" and k < 3 else 1):
                values = dict.fromkeys(METRICS, 1.0) | {"ciede2000": rng.uniform(5, 9), "psnr": rng.uniform(20, 25)}
                prompt = "a red cup" if k else "a cup"
                rows.append({"image_id": f"p{k}", "category": "ab"[k % 2], "system": system, "prompt_level": level,
                             "prompt": prompt, "seed": seed, "merged": merged, **values})  # fmt: skip
    return pd.DataFrame(rows)[list(COLUMNS)]


def report_of(profile, levels):
    """The written report of a run on photos that were measured under some levels of the ladder."""
    metrics = measured(levels)
    known = {name: pair for name, pair in NAMED.items() if {level for _, level in pair} <= {"", *levels}}
    tables = {"effects": statistics.contrasts(metrics, known), "summary": statistics.summary(metrics)}
    tables["before_merge"] = tables["effects"]
    tables["seeds"] = statistics.seed_gain(metrics)
    tables |= {"steering": [], "variance": pd.DataFrame({"part": ["photo"], "share": [1.0]})}
    rows = {"image_id": sorted(set(metrics["image_id"]))}
    report.write_report(profile, metrics, tables, Dataset.from_dict(rows))
    return " ".join((profile.reports_dir / "report.md").read_text().split())


def test_the_pocket_report_says_who_wrote_its_captions(tmp_path):
    text = report_of(get_profile("pocket", reports=str(tmp_path)), LEVELS)
    assert (
        "`detailed` was written by people who saw the colours. `gray_caption` was written by people who saw only"
        in text
    )
    assert "though their writers may have known a famous place" in text
    assert "**What does the writer gain by seeing the colours?**" in text
    assert "trained at 128 px on the training split of `data_cards/pocket_photos`" in text
    assert "a size that they were not trained on" not in text
    assert "COCO" not in text
    assert "auto_caption" not in text


def test_the_l4_report_says_what_the_captioner_wrote_and_what_people_did(tmp_path):
    profile = get_profile("l4", run="study_1", reports=str(tmp_path))
    text = report_of(profile, (*LEVELS, "auto_caption"))
    assert (
        "`detailed` is one of COCO's captions, which people wrote who saw the colours" in text
    )  # tested on COCO's photos
    blip = "Salesforce/blip-image-captioning-base"
    assert f"`gray_caption` was written by a captioning network, {blip}, that was shown only the gray photo" in text
    assert f"`auto_caption` was written by {blip}, which was shown the colour photo" in text
    assert "(1 of 9 have none and stay as they are)" in text
    assert "the captioner may have learned from captions of these very photos" in text
    assert "people who saw only the gray photo" not in text
    assert "What does the writer gain" not in text
    assert "famous place" not in text
    assert "trained at 128 px on the training split of `data_cards/pocket_photos`" in text
    assert "here they see photos of 512 px, a size that they were not trained on" in text
    assert "2 seeds for 3 photos and 1 for the others" in text
    assert "guidance: 7.5 on the first 50% of the steps" in text


def test_levels_that_were_not_asked_are_not_explained(tmp_path):
    text = report_of(get_profile("l4", reports=str(tmp_path)), ("vague", "detailed"))
    assert "gray_caption" not in text
    assert "wrong_color" not in text
    assert "gray captions" not in text
