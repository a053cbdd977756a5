"""Binding: what is asked of a photo, and what the table says of answers that are known."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib import binding
from lib.color import gray_from_luminance, lab_to_srgb, to_pil
from lib.prompts import TARGETS

SIZE = 32


def ab_of(word):
    hue, chroma, _ = TARGETS[word]
    return chroma * np.array([np.cos(np.deg2rad(hue)), np.sin(np.deg2rad(hue))])


def in_colors(inside, outside):
    """A picture of L* 55 whose left half has one a*b* and whose right half another."""
    lab = np.full((SIZE, SIZE, 3), 55.0, np.float32)
    lab[:, : SIZE // 2, 1:], lab[:, SIZE // 2 :, 1:] = inside, outside
    return lab_to_srgb(lab)


@pytest.fixture
def row():
    """A photo whose left half is the thing."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[:, : SIZE // 2] = 255
    gray = to_pil(gray_from_luminance(np.full((SIZE, SIZE), 55.0)))
    facts = dict(image_id="photo", category="animals", thing="alpaca", ground="trees")
    return facts | {"image": gray, "conditioning_image": gray, "mask": Image.fromarray(mask)}


def locate(found):
    """A segmenter that finds the halves, or nothing."""
    left = np.zeros((SIZE, SIZE), np.float32)
    left[:, : SIZE // 2] = found

    def halves(plane, names):
        return np.array([left, found - left])

    halves.threshold = 0.5
    return halves


def test_what_a_photo_is_asked(row):
    cases = binding.cases_of(row)
    one, two = [case for case in cases if not case[1]], [case for case in cases if case[1]]
    assert {word for word, _ in one} == {"red", "orange", "yellow", "green", "blue", "purple"}  # L* 55
    assert len(two) == 2 * binding.PAIRS
    assert {case[::-1] for case in two} == set(two)
    assert not any(set(case) == {"brown", "orange"} for case in two)
    assert binding.prompts_of(row, "red", "blue") == {
        "vague": "Colorize this image.", "object": "an alpaca", "thing": "a red alpaca",
        "thing_region": "red alpaca, red background", "ground_region": "blue trees, blue background",
        "both": "a red alpaca, blue trees",
    }  # fmt: skip
    assert binding.cases_of(row | {"ground": ""}) == one
    assert binding.cases_of(row | {"mask": None}) == []
    full = Image.fromarray(np.full((SIZE, SIZE), 255, np.uint8))
    assert binding.cases_of(row | {"mask": full}) == []


def answer(row, of_prompt):
    """The binding table of a photo whose picture under each prompt is `of_prompt(level, thing_word, ground_word)`."""
    shown = {"gray": in_colors((0, 0), (0, 0))}
    for case in binding.cases_of(row):
        for level, prompt in binding.prompts_of(row, *case).items():
            shown.setdefault(prompt, of_prompt(level, *case))
    plan = binding.plan_binding([row])
    assert set(plan["prompt"]) == set(shown) - {"gray"}
    rows = [row, row | {"image_id": "not asked"}]
    return lambda found: binding.measure_binding(rows, plan.assign(after=plan["prompt"]), shown.get, locate(found))


def tint(level, thing_word, ground_word):
    """A model that tints the whole picture in the first word of its prompt."""
    words = {"thing": thing_word, "both": thing_word, "thing_region": thing_word, "ground_region": ground_word}
    word = words.get(level)
    return in_colors(*[ab_of(word) if word else (0, 0)] * 2)


def means_of(table):
    """Means by task, method and masks; leakage: the shift outside the object over that inside."""
    words = {f"{kind}_word": table[[f"{kind}_thing", f"{kind}_ground"]].mean(axis=1) for kind in ("own", "other")}
    table = table.assign(task=np.where(table["ground_word"] == "", "one", "two"), **words)
    means = table.groupby(["task", "method", "masks"]).mean(numeric_only=True)
    return means.assign(leakage=means["shift_outside"] / means["shift_inside"].where(means["shift_inside"] > 0))


def test_a_tint_of_the_whole_picture_is_no_binding_and_regions_are(row):
    table = answer(row, tint)(1.0)
    means = means_of(table)
    assert means["own_word"]["one", "plain", ""] == 1
    assert means["leakage"]["one", "plain", ""] == pytest.approx(1, abs=0.01)
    assert means["own_word"]["two", "plain", ""] == 0.5
    assert means["other_word"]["two", "plain", ""] == 0.5
    for masks in ("true", "found"):
        assert means["leakage"]["one", "regions", masks] == pytest.approx(0, abs=0.01)
        assert means["own_word"]["two", "regions", masks] == 1
        assert means["other_word"]["two", "regions", masks] == 0
        assert means["chroma_deficit"]["two", "regions", masks] < 8  # what sRGB does not hold
    assert means["own_word"]["two", "object", ""] == 0
    assert means["chroma_deficit"]["two", "vague", ""] > 30


def test_regions_are_cut_out_of_their_own_pictures(row):
    only_regions = lambda level, *case: tint(level if level.endswith("_region") else "vague", *case)  # noqa: E731
    table = answer(row, only_regions)(1.0)
    means = means_of(table)
    for task in ("one", "two"):
        assert means["own_word"][task, "regions", "true"] == 1
        assert means["own_word"][task, "plain", ""] == 0


def test_what_is_not_found_keeps_the_colours_of_the_prompt(row):
    table = answer(row, tint)(0.0).set_index(["thing_word", "ground_word", "method", "masks"])
    for case in binding.cases_of(row):
        plain, found = table.loc[(*case, "plain" if case[1] else "object", "")], table.loc[(*case, "regions", "found")]
        for name in binding.RESULTS:
            assert np.allclose(plain[name], found[name], atol=1e-5, equal_nan=True)


def test_the_table_is_read_as_it_was_written(row, tmp_path):
    table = answer(row, tint)(1.0)
    table.to_csv(tmp_path / "binding.csv", index=False)
    pd.testing.assert_frame_equal(binding.read_binding(tmp_path / "binding.csv"), table)
    assert list(table.columns) == list(binding.COLUMNS)
    assert table[table["ground_word"] == ""]["own_ground"].isna().all()
