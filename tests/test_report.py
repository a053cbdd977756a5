"""The answer in words says what the intervals allow, and no more."""

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


def test_an_interval_alone_does_not_make_an_effect():
    table = effects(-2, -1).assign(p_holm=0.2)
    assert "better" not in report.answer(table)
    assert "-1.000, but p after correction is 0.2)" in report.answer(table)


def test_no_answer_without_an_interval():
    assert report.answer(effects(np.nan, np.nan)).startswith("**Too few photos to tell**")


def test_tables_show_a_missing_number_as_a_dash():
    table = pd.DataFrame([{"system": "gray", "hue_error": np.nan, "psnr": 22.636}])
    assert report.markdown_table(table).splitlines()[-1] == "| gray | - | 22.64 |"
