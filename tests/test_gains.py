"""Where the gain comes from, on tables and pictures whose answer is known."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from lib import gains, stats


def measured(errors, photos=30):
    """Metrics from {prompt level or system: what gives (ciede2000, mean_error, deviation_error) of a photo's number}."""
    rows = []
    for (name, error), k in product(errors.items(), range(photos)):
        system, level = (name, "") if name == "gray" else ("controlnet", name)
        facts = {"image_id": f"p{k}", "subject": f"s{k // 2}", "category": "ab"[k % 2], "system": system, "seed": 0}
        facts |= {
            "prompt_level": level,
            "prompt": level,
            "merged": True,
            "true_chroma": 1.0 * k,
            "psnr": 20,
            "ssim": 0.9,
        }
        rows.append(facts | dict(zip(("ciede2000", "mean_error", "deviation_error"), error(k), strict=True)))
    return pd.DataFrame(rows)


def test_the_share_of_the_tint():
    metrics = measured({
        "vague": lambda k: (10, 5.0, 4 + k % 3),
        "detailed": lambda k: (8, 3.0, 4 + k % 3),  # 16 less in squares, all of it tint
        "object": lambda k: (9, 4.0, (4 + k % 3) + 0.0),
        "permuted": lambda k: (9, 3.0, np.sqrt((4 + k % 3) ** 2 + 4)),
    })  # fmt: skip
    pairs = [("detailed", "vague"), ("detailed", "permuted"), ("vague", "permuted")]
    table = gains.tint_shares(metrics, pairs).set_index(["first", "second"])
    assert table.loc[("detailed", "vague"), ["fall", "share"]].tolist() == [16, 1]
    assert table.loc[("detailed", "vague"), ["tint_falls", "placement_falls"]].tolist() == [16 / 25, 0]
    assert table.loc[("detailed", "permuted"), ["fall", "share"]].tolist() == pytest.approx([4, 0])
    assert np.isnan(table.loc[("vague", "permuted"), "share"])  # it rises: there is no fall to share out


def test_writers_are_random_where_there_are_several():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, (4, 30))
    shifts = {"vague": 0, "detailed": -3, "writer_2": -1, "writer_3": 1}
    errors = {
        name: lambda k, row=row, shift=shift: (10 + shift + noise[row][k], 1, 1)
        for row, (name, shift) in enumerate(shifts.items())
    }
    table = gains.effect_of_writers(measured(errors)).set_index("writer")
    assert list(table.index) == ["detailed", "writer_2", "writer_3", "others", "all"]
    assert table.loc["detailed", "high"] < 0
    assert table.loc["all", "mean"] == pytest.approx(table["mean"][:3].mean())
    assert table.loc["others", "mean"] == pytest.approx(table["mean"][1:3].mean())
    assert 2 < table.loc["all", "df"] < 29
    assert (table["colors"] == 0).all()  # the prompts here are the levels' names
    assert table.loc["all", "low"] < 0 < table.loc["all", "high"]  # three writers who disagree show nothing
    one = gains.effect_of_writers(measured({name: errors[name] for name in ("vague", "detailed")}))
    assert list(one["writer"]) == ["detailed"]


def test_doses_are_in_order_and_the_whole_caption_is_last():
    levels = ("dose_4", "vague", "detailed", "dose_0", "dose_1")
    metrics = measured({name: lambda k, n=n: (10 + n + k % 3, 1, 1) for n, name in enumerate(levels)})
    effects = stats.contrasts(metrics, [(name, "vague") for name in levels if name != "vague"])
    table = gains.dose_table(effects)
    assert list(table["kept"]) == ["0", "1", "4", "all"]
    assert list(table["mean"]) == [2, 3, -1, 1]


def test_hues_are_counted_where_there_is_enough_of_them():
    lab = np.zeros((10, 10, 3))
    lab[:5, :, 1] = 40  # half red
    assert gains.count_hues(lab) == 1
    lab[5:, :, 2] = -40  # half blue
    lab[0, :4, 1:] = (-30, 35)  # 4 % green
    assert gains.count_hues(lab) == 2
    lab[0, :5, 1:] = (-30, 35)
    assert gains.count_hues(lab) == 3
    assert gains.count_hues(lab / 8) == 0  # too pale to have a hue


def test_who_gains():
    metrics = measured({
        "vague": lambda k: (10.0, 1, 1),
        "gray": lambda k: (5 + 0.4 * k, 1, 1),
        "detailed": lambda k: (10 - 0.2 * k + 0.01 * (k % 5), 1, 1),
    })  # fmt: skip
    rows = [{"image_id": f"p{k}", "image": np.full((4, 4, 3), 0.5)} for k in range(30)]
    table = gains.gains_by_photo(metrics, rows)
    assert table.set_index("image_id").loc["p10", ["over_vague", "over_gray", "hues"]].tolist() == [2, 1, 0]
    fit = gains.fit_gains(table.assign(hues=np.arange(30) % 4)).set_index(["gain", "term"])
    assert fit.loc[("over_vague", "true_chroma"), "slope"] == pytest.approx(0.2, abs=0.01)
    assert fit.loc[("over_gray", "true_chroma"), "slope"] == pytest.approx(0.6, abs=0.01)
    assert fit.loc[("over_vague", "hues"), "low"] < 0.01
    thirds = gains.gains_by_third(table)
    assert thirds["over_vague"].is_monotonic_increasing
    assert list(thirds["n"]) == [10, 10, 10]
    assert (thirds["over_vague_low"] < thirds["over_vague"]).all()
