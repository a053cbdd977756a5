"""The answer in words says what the intervals allow, and no more."""

import re

import numpy as np
import pandas as pd
import pytest

from lib import report


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
