"""Prompt levels, training prompts and colour words."""

import numpy as np
import pytest
from PIL import Image

from lib import prompts
from lib.baselines import SYSTEMS
from lib.color_words import COLOR_PATTERN, HUES_OF_WORDS
from lib.metrics import REFERENCES
from lib.stats import QUESTIONS

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


def test_every_contrast_is_of_levels_or_systems_that_exist():
    assert set().union(*QUESTIONS) <= {*prompts.PROMPT_LEVELS, *REFERENCES, *SYSTEMS, "regions", "retinted"}
    assert [pair for pair, question in QUESTIONS.items() if question.family == "primary"] == [("detailed", "vague")]


def test_the_ladder_draws_anew_for_each_seed_what_is_random():
    image = Image.new("RGB", (8, 8), (200, 40, 40))
    rows = [{**row, "object_caption": "x", "gray_caption": "", "image": image} for row in ROWS]
    found = prompts.ladder(rows, n_seeds=3)
    assert "gray_caption" not in found
    assert not set(prompts.WRITERS) & set(found)
    assert {level for level in found if not isinstance(found[level][0], str)} == set(prompts.DRAWN)
    assert all(len(texts) == 3 for level in prompts.DRAWN for texts in found[level])
    assert len(set(found["shuffled"][0])) > 1
    assert found["one_color"] == ["a red photo"] * 3
    assert found["dose_4"][0] == (ROWS[0]["detailed_caption"],) * 3  # it has two colours
    with_writers = prompts.ladder([{**row, "writer_2": f"a cup by {k}"} for k, row in enumerate(rows)])
    assert with_writers["writer_2"] == ["a cup by 0", "a cup by 1", "a cup by 2"]


@pytest.mark.parametrize(
    ("lab", "word"),
    [((50, 1, 2), "gray"), ((70, 2, 10), "beige"), ((40, 2, 10), "brown"), ((60, 0, 40), "yellow")]
    + [((60, 20, 38), "orange"), ((50, 0, -20), "blue"), ((50, -9, 9), "green")],
)
def test_the_mean_colour_in_words(lab, word):
    assert prompts.mean_color_prompt(*lab) == f"{'an' if word == 'orange' else 'a'} {word} photo"
