"""Prompt conditions and training prompts."""

import numpy as np
import pytest

from lib import prompts
from lib.baselines import SYSTEMS
from lib.captions import COLOR_PATTERN
from lib.metrics import REFERENCES
from lib.stats import QUESTIONS

RECORD = {"object_caption": "a cup", "detailed_caption": "a red cup on a white table", "gray_caption": "a pale cup"}
ROWS = [
    {**RECORD, "image_id": "cup", "category": "things"},
    {"image_id": "spoon", "category": "things", "detailed_caption": "a silver spoon"},
    {"image_id": "owl", "category": "animals", "detailed_caption": "a brown owl, an orange beak"},
]


def test_conditions():
    assert prompts.prompts_under("empty", ROWS) == ["", "", ""]
    assert prompts.prompts_under("vague", ROWS) == ["Colorize this image."] * 3
    assert prompts.prompts_under("detailed", ROWS)[2] == "a brown owl, an orange beak"
    assert prompts.prompts_under("object", ROWS) == ["a cup", None, None]
    assert prompts.prompts_under("gray_caption", ROWS[:1]) == ["a pale cup"]


def test_recolored_changes_every_color_word_whatever_the_other_photos_are():
    for seed in range(50):
        alone = [prompts.prompts_under("recolored", [row], seed)[0] for row in ROWS]
        assert prompts.prompts_under("recolored", ROWS, seed) == alone
        for row, wrong in zip(ROWS, alone, strict=True):
            old, new = map(COLOR_PATTERN.findall, (row["detailed_caption"], wrong))
            assert all(a != b for a, b in zip(old, new, strict=True))


def test_mismatched_is_of_another_category():
    for seed in range(20):
        cup, spoon, owl = prompts.prompts_under("mismatched", ROWS, seed)
        assert {cup, spoon} == {ROWS[2]["detailed_caption"]}
        assert owl in {ROWS[0]["detailed_caption"], ROWS[1]["detailed_caption"]}
    with pytest.raises(ValueError, match="two categories"):
        prompts.prompts_under("mismatched", ROWS[:2])


def test_policies_draw_from_their_own_sentences_and_repeat_with_the_seed():
    policies, record = prompts.PROMPT_POLICIES, ROWS[0]
    draws = {policy: [prompts.draw_training_prompt(record, policy, seed) for seed in range(200)] for policy in policies}
    assert set(draws["generic"]) == set(prompts.GENERIC_PROMPTS)
    assert set(draws["captions"]) == {RECORD["detailed_caption"]}
    shares = [np.mean([d == RECORD[k] for d in draws["mix"]]) for k in ("detailed_caption", "object_caption")]
    assert shares == pytest.approx([0.7, 0.15], abs=0.08)
    assert prompts.draw_training_prompt(record, "mix", 7) == draws["mix"][7]


def test_every_contrast_is_of_conditions_or_systems_that_exist():
    systems = {*REFERENCES, *SYSTEMS, "regions", "mean_color_transfer"}
    assert set().union(*QUESTIONS) <= {*prompts.CONDITIONS, *systems}
    assert [pair for pair, (family, _) in QUESTIONS.items() if family == "primary"] == [("detailed", "vague")]


def test_one_entry_adds_a_condition(monkeypatch):
    loud = prompts.Condition(lambda record, *_: record["detailed_caption"].upper(), "Do capitals help?")
    monkeypatch.setitem(prompts.CONDITIONS, "loud", loud)
    assert prompts.write_prompts(ROWS)["loud"][1] == "A SILVER SPOON"


def test_what_is_random_is_drawn_again_for_each_seed():
    rows = [{**row, "object_caption": "x", "gray_caption": "", "image": None} for row in ROWS]
    written = prompts.write_prompts(rows)
    assert not {"gray_caption", "auto_caption", *prompts.WRITERS} & set(written)
    texts = {name: [prompts.prompts_under(name, rows, seed) for seed in range(3)] for name in written}
    assert all(by_seed[0] == written[name] for name, by_seed in texts.items())
    varied = {name for name, by_seed in texts.items() if len(set(map(tuple, by_seed))) > 1}
    assert varied == {"recolored", "mismatched", "keep_1_colors"}  # these captions have two colours, so one permutation
    assert {by_photo[0] for by_photo in texts["keep_1_colors"]} == {"a red cup on a table", "a cup on a white table"}
    assert {by_photo[0] for by_photo in texts["keep_4_colors"]} == {ROWS[0]["detailed_caption"]}  # it has two colours
    assert written["colors_only"][0] == "red, white"
