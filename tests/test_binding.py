"""Binding: the cases of a photo, and the table for answers that are known."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib import binding
from lib.color import gray_from_luminance, lab_to_srgb, to_pil
from lib.prompts import TARGETS

SIZE = 32
LEFT = np.arange(SIZE) < SIZE // 2


def in_color(word=""):
    """A picture of L* 55 in the a*b* of a colour word; "": gray."""
    lab = np.full((SIZE, SIZE, 3), (55.0, 0, 0), np.float32)
    if word:
        hue, chroma, _ = TARGETS[word]
        lab[..., 1:] = chroma * np.cos(np.deg2rad(hue)), chroma * np.sin(np.deg2rad(hue))
    return lab_to_srgb(lab)


@pytest.fixture
def row():
    """A photo whose left half is the object."""
    gray = to_pil(gray_from_luminance(np.full((SIZE, SIZE), 55.0)))
    mask = Image.fromarray(np.tile(255 * LEFT.astype(np.uint8), (SIZE, 1)))
    texts = dict(image_id="photo", category="animals", object="alpaca", background="trees")
    return texts | {"image": gray, "conditioning_image": gray, "mask": mask}


def measure(row, model, found=1.0):
    """The binding table of a photo and its means, for a model that tints each picture in a word.

    `model(condition, object_word, background_word)` returns the word. The segmenter finds the halves, or nothing.
    """
    pictures = {}
    for case in binding.cases_of(row):
        for condition, prompt in binding.prompts_of(row, *case).items():
            pictures.setdefault(prompt, in_color(model(condition, *case)))
    plan = binding.plan_binding([row])
    assert set(plan["prompt"]) == set(pictures)

    def segment(plane, names):
        left = np.tile(np.float32(found) * LEFT, (SIZE, 1)).astype(np.float32)
        return np.array([left, found - left])

    segment.threshold = 0.5
    rows = [row, row | {"image_id": "not planned"}]
    table = binding.measure_binding(rows, plan.assign(after=plan["prompt"]), pictures.get, segment)
    words = {f"{kind}_word": table[[f"{kind}_object", f"{kind}_background"]].mean(axis=1) for kind in ("own", "other")}
    means = table.assign(task=np.where(table["background_word"] == "", "one", "two"), **words)
    means = means.groupby(["task", "method", "masks"]).mean(numeric_only=True)
    leakage = means["shift_outside"] / means["shift_inside"].where(means["shift_inside"] > 0)
    return table, means.assign(leakage=leakage)


def tint(condition, object_word, background_word):
    """The first colour word of the prompt."""
    return {"vague": "", "object": "", "background_region": background_word}.get(condition, object_word)


def test_the_cases_and_prompts_of_a_photo(row):
    cases = binding.cases_of(row)
    one, two = [case for case in cases if not case[1]], [case for case in cases if case[1]]
    assert {word for word, _ in one} == {"red", "orange", "yellow", "green", "blue", "purple"}  # L* 55
    assert len(two) == 2 * binding.PAIRS
    assert {case[::-1] for case in two} == set(two)
    assert not any(set(case) == {"brown", "orange"} for case in two)
    assert binding.prompts_of(row, "red", "blue") == {
        "vague": "Colorize this image.", "object": "an alpaca", "colored_object": "a red alpaca",
        "object_region": "red alpaca, red background", "background_region": "blue trees, blue background",
        "both": "a red alpaca, blue trees",
    }  # fmt: skip
    assert binding.prompts_of(row, "orange", "")["colored_object"] == "an orange alpaca"
    assert binding.cases_of(row | {"background": ""}) == one
    for mask in (None, Image.new("L", (SIZE, SIZE), 255)):
        assert binding.cases_of(row | {"mask": mask}) == []


def test_a_tint_of_the_whole_picture_is_no_binding_and_regions_are(row, tmp_path):
    table, means = measure(row, tint)
    assert means["own_word"]["one", "plain", ""] == 1
    assert means["leakage"]["one", "plain", ""] == pytest.approx(1, abs=0.01)
    assert means["own_word"]["two", "plain", ""] == means["other_word"]["two", "plain", ""] == 0.5
    for masks in ("true", "found"):
        assert means["leakage"]["one", "regions", masks] == pytest.approx(0, abs=0.01)
        assert means["own_word"]["two", "regions", masks] == 1
        assert means["other_word"]["two", "regions", masks] == 0
        assert means["chroma_deficit"]["two", "regions", masks] < 8  # what sRGB does not hold
    assert means["own_word"]["two", "object", ""] == 0
    assert means["chroma_deficit"]["two", "vague", ""] > 30

    table.to_csv(tmp_path / "binding.csv", index=False)
    types = {"na_values": {name: [""] for name in binding.RESULTS}, "dtype": {"image_id": str}}
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "binding.csv", keep_default_na=False, **types), table)
    assert list(table.columns) == list(binding.COLUMNS)
    assert table[table["background_word"] == ""]["own_background"].isna().all()


def test_regions_are_cut_out_of_their_own_pictures(row):
    _, means = measure(row, lambda condition, *case: tint(condition, *case) if condition.endswith("_region") else "")
    for task in ("one", "two"):
        assert means["own_word"][task, "regions", "true"] == 1
        assert means["own_word"][task, "plain", ""] == 0


def test_what_is_not_found_keeps_the_colours_of_the_prompt(row):
    table, _ = measure(row, tint, found=0.0)
    table = table.set_index(["object_word", "background_word", "method", "masks"])[list(binding.RESULTS)].astype(float)
    for case in binding.cases_of(row):
        plain, found = table.loc[(*case, "plain" if case[1] else "object", "")], table.loc[(*case, "regions", "found")]
        np.testing.assert_allclose(plain, found, atol=1e-5)
