"""Prompt levels, training prompts and colour words."""

import numpy as np
import pytest

from lib import prompts

RECORD = {"object_caption": "a cup", "detailed_caption": "a red cup on a white table"}


def test_levels():
    assert prompts.prompt_for(RECORD, "vague") == "Colorize this image."
    assert prompts.prompt_for(RECORD, "detailed") == RECORD["detailed_caption"]
    with pytest.raises(ValueError, match="unknown prompt level 'loud': known are vague, detailed"):
        prompts.prompt_for(RECORD, "loud")


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
