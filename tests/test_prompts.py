"""Prompt levels, training prompts and colour words."""

import re

import numpy as np
import pytest

from lib import prompts
from lib.color_words import COLOR_PATTERN, COLOR_WORDS, HUES_OF_WORDS
from lib.dataset import read_manifest
from lib.stats import CONTRASTS

RECORD = {"object_caption": "a cup", "detailed_caption": "a red cup on a white table", "gray_caption": "a pale cup"}
ROWS = [
    {**RECORD, "image_id": "cup", "category": "things"},
    {"image_id": "spoon", "category": "things", "detailed_caption": "a silver spoon"},
    {"image_id": "owl", "category": "animals", "detailed_caption": "a brown owl, an orange beak"},
]


def test_levels():
    assert prompts.prompts_at("empty", ROWS) == ["", "", ""]
    assert prompts.prompts_at("vague", ROWS) == ["Colorize this image."] * 3
    assert prompts.prompts_at("detailed", ROWS)[2] == "a brown owl, an orange beak"
    assert prompts.prompts_at("object", ROWS[:1]) == ["a cup"]
    assert prompts.prompts_at("gray_caption", ROWS[:1]) == ["a pale cup"]
    with pytest.raises(ValueError, match="unknown prompt level 'loud': known are empty, vague, gray_caption"):
        prompts.prompts_at("loud", ROWS)


def is_hue(word):
    return word in HUES_OF_WORDS


def test_wrong_colors_change_every_color_word_and_nothing_else():
    for seed in range(50):
        for row, wrong in zip(ROWS, prompts.prompts_at("wrong_color", ROWS, seed), strict=True):
            old, new = (COLOR_PATTERN.findall(text) for text in (row["detailed_caption"], wrong))
            assert sorted(map(is_hue, old)) == sorted(map(is_hue, new))
            assert all(a != b for a, b in zip(old, new, strict=True))
            plain = [COLOR_PATTERN.sub("", t).replace("an ", "a ") for t in (row["detailed_caption"], wrong)]
            assert plain[0] == plain[1]
    assert prompts.prompts_at("wrong_color", ROWS, 3) == prompts.prompts_at("wrong_color", ROWS[:1], 3) + [
        prompts.prompts_at("wrong_color", [row], 3)[0] for row in ROWS[1:]
    ]  # a photo's wrong colours don't depend on the other photos


def test_wrong_colors_are_matched_on_real_captions():
    captions = read_manifest("data_cards/pocket_photos")["detailed_caption"]
    for caption in captions:
        wrong = prompts.change_color_words(caption, np.random.default_rng(len(caption)))
        old, new = COLOR_PATTERN.findall(caption), COLOR_PATTERN.findall(wrong)
        assert sum(map(is_hue, old)) == sum(map(is_hue, new))
        assert len(old) == len(new)
        assert not re.search(rf"\b({'|'.join(COLOR_WORDS)})\s+\1\b", wrong), wrong
        assert wrong != caption
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", wrong), wrong


@pytest.mark.parametrize("seed", range(20))
def test_wrong_colors_trade_places_with_their_modifiers_and_neighbours(seed):
    def change(caption):
        return prompts.change_color_words(caption, np.random.default_rng(seed))

    cup = change("a dark blue gray cup on a white table")
    first, second = COLOR_PATTERN.findall(cup)[1:]
    assert cup.startswith("a white cup on a dark ")  # the hue went where white was, and took its neighbours along
    assert is_hue(first)
    assert first not in ("blue", "purple")
    assert second == "gray"
    bird = COLOR_PATTERN.findall(change("a golden brown bird"))
    assert len(set(bird)) == 2
    assert not set(bird) & {"golden", "brown", "yellow", "orange", "red"}
    assert change("a silver spoon") == "a white spoon"  # without a hue, none comes in
    assert change("a lime green ball and ice cream") in {f"a {word} ball and ice cream" for word in prompts.HUES}
    assert change("a cup and an orange") == "a cup and an orange"


def test_other_photo_is_of_another_category():
    for seed in range(20):
        cup, spoon, owl = prompts.prompts_at("other_photo", ROWS, seed)
        assert {cup, spoon} == {ROWS[2]["detailed_caption"]}
        assert owl in {ROWS[0]["detailed_caption"], ROWS[1]["detailed_caption"]}
    with pytest.raises(ValueError, match="two categories"):
        prompts.prompts_at("other_photo", ROWS[:2])


def test_steering_prompts_name_one_thing_and_one_color():
    assert prompts.steering_prompt("cup", "red") == "a red cup"
    assert prompts.steering_prompt("cup", "orange") == "an orange cup"
    assert set(prompts.STEERING_WORDS) <= set(prompts.TARGETS)


def test_policies_draw_from_their_own_sentences_and_repeat_with_the_seed():
    draws = {policy: [prompts.draw_training_prompt(RECORD, policy, np.random.default_rng((1, k))) for k in range(200)]
             for policy in prompts.PROMPT_POLICIES}  # fmt: skip
    assert set(draws["generic"]) == set(prompts.GENERIC_PROMPTS)
    assert set(draws["captions"]) == {RECORD["detailed_caption"]}
    shares = [np.mean([d == RECORD[k] for d in draws["mix"]]) for k in ("detailed_caption", "object_caption")]
    assert shares == pytest.approx([0.7, 0.15], abs=0.08)
    assert prompts.draw_training_prompt(RECORD, "mix", np.random.default_rng((1, 7))) == draws["mix"][7]
    with pytest.raises(ValueError, match="unknown prompt policy"):
        prompts.draw_training_prompt(RECORD, "none", np.random.default_rng(0))


def test_rotating_hues_renames_colors_and_mends_articles():
    assert prompts.rotate_color_words("a red cup on a white table", 98) == "a green cup on a white table"
    assert prompts.rotate_color_words("a blue bird, a brown branch", 180) == "a yellow bird, a dark blue branch"
    assert prompts.rotate_color_words("an orange cup", 0) == "an orange cup"
    assert prompts.rotate_color_words("an orange cup", -30) == "a red cup"
    assert prompts.rotate_color_words("a red cup", 30) == "an orange cup"
    assert prompts.rotate_color_words("ice cream and an orange on a pale blue plate", 140) == (
        "ice cream and an orange on a pale orange plate"
    )
    assert prompts.rotate_color_words("a lime green ball", 140) == "a blue ball"


def test_every_contrast_is_of_levels_that_exist():
    assert set().union(*CONTRASTS) <= {*prompts.PROMPT_LEVELS, "gray", "regions"}
