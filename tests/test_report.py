"""The answer in words says what the intervals allow, and no more."""

import numpy as np
import pandas as pd
import pytest

from lib.report import verdict


def effects(low, high):
    """Effects of both contrasts: CIEDE2000 as given, PSNR with an interval across zero."""
    rows = [
        {"contrast": contrast, "metric": metric, "n": 9, "mean": (a + b) / 2, "low": a, "high": b, "improved": 0.5}
        for contrast in ("detailed - vague", "detailed - gray")
        for metric, a, b in (("psnr", -1.0, 1.0), ("ciede2000", low, high))
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(-2, -1, "**better** in CIEDE2000"), (1, 2, "**worse** in CIEDE2000"), (-1, 2, "**not told apart** in CIEDE2000")],
)
def test_verdict_follows_the_interval(low, high, word):
    table = effects(low, high)
    text = verdict(table.set_index(["contrast", "metric"]).loc["detailed - vague"], table)
    assert text.count(word) == 2
    assert text.count("**not told apart** in PSNR") == 2


def test_no_verdict_without_an_interval():
    table = effects(np.nan, np.nan)
    text = verdict(table.set_index(["contrast", "metric"]).loc["detailed - vague"], table)
    assert text.startswith("**Too few photos to tell**")
