"""Captions: which words are colours, which objects have a colour, rewritten captions."""

import re
from collections import Counter

import pandas as pd
import pytest
from numpy.random import default_rng

from lib import ROOT, captions
from lib.captions import COLOR_PATTERN, HUES, HUES_OF_WORDS, find_places
from lib.dataset import read_manifest

PATTERNS = pd.read_csv(ROOT / "tests/data/caption_patterns.csv", keep_default_na=False)  # own sentences, COCO's manner
CAPTIONS = list(read_manifest("data_cards/pocket_photos")["detailed_caption"])
CUP = "a dark blue gray cup, red and white flowers on a golden brown table"


def test_color_words_of_200_patterns_and_the_captions_without_them():
    assert len(set(PATTERNS["caption"])) >= 200
    assert (PATTERNS["color_words"] == "").sum() >= 40  # ice cream, an orange, a brown bear, or nothing of the kind
    found = PATTERNS["caption"].map(lambda caption: " ".join(captions.find_color_words(caption)))
    assert list(PATTERNS["caption"][found != PATTERNS["color_words"]]) == []
    plain = PATTERNS["caption"].map(captions.without_color_words)
    wrong = plain != PATTERNS["without_color_words"]
    assert list(plain[wrong]) == list(PATTERNS["without_color_words"][wrong])


def test_phrases_of_prompts():
    cases = pd.read_csv(ROOT / "tests/data/prompt_phrases.csv", keep_default_na=False)  # own and training captions
    assert len(set(cases["prompt"])) >= 60
    found = pd.Series(["; ".join("/".join(phrase) for phrase in captions.phrases_of(text)) for text in cases["prompt"]])
    wrong = found != cases["phrases"]
    assert list(found[wrong]) == list(cases["phrases"][wrong])
    assert (cases["phrases"] == "").sum() >= 11  # left out rather than guessed


def test_no_sentence_is_too_odd():
    text = "red dark orange a and is in of , . that one cup painted colored sitting White - ’s 🟥 off to all"
    words, rng = [*text.split(), "ice cream", "\n"], default_rng(0)
    for length in rng.integers(0, 12, 1000):
        text = " ".join(rng.choice(words, length))
        assert captions.without_color_words(text) or not text.strip()
        for phrase in captions.phrases_of(text):
            assert phrase.object in text.lower()
            assert COLOR_PATTERN.search(phrase.colors)
        changed = captions.change_color_words(text, rng)
        assert len(COLOR_PATTERN.findall(changed)) == len(COLOR_PATTERN.findall(text))
    assert captions.find_color_words("") == captions.phrases_of("") == []


def test_wrong_colors_are_matched_on_real_captions():
    for caption in CAPTIONS:
        wrong = captions.change_color_words(caption, default_rng(len(caption)))
        old, new = COLOR_PATTERN.findall(caption), COLOR_PATTERN.findall(wrong)
        assert sum(word in HUES_OF_WORDS for word in old) == sum(word in HUES_OF_WORDS for word in new)
        assert len(old) == len(new)
        assert not re.search(rf"\b({captions.COLORS})\s+\1\b|\ba [aeiou]|\ban [^aeiou]", wrong), wrong
        assert wrong != caption


@pytest.mark.parametrize("seed", range(20))
def test_wrong_colors_trade_places_with_their_modifiers_and_neighbours(seed):
    def change(caption):
        return captions.change_color_words(caption, default_rng(seed))

    cup = change("a dark blue gray cup on a white table")
    first, second = COLOR_PATTERN.findall(cup)[1:]
    assert cup.startswith("a white cup on a dark ")  # the hue went where white was, and took its neighbours along
    assert first in set(HUES_OF_WORDS) - {"blue", "purple"}
    assert second == "gray"
    assert change("a silver spoon") == "a white spoon"  # without a hue, none comes in
    assert change("a lime green ball and ice cream") in {f"a {word} ball and ice cream" for word in HUES}


@pytest.mark.parametrize("k", [1, 4])
def test_k_colors_are_kept_and_the_nouns_stay(k):
    kept_places = Counter()
    for number, caption in enumerate(CAPTIONS):
        old = [caption[start:end] for start, end, _ in find_places(caption)]
        text = captions.keep_colors(caption, k, default_rng(number))
        left = [text[start:end] for start, end, _ in find_places(text)]
        if "squirrel" not in caption:  # what is left may be "a gray squirrel", the name of a kind
            assert len(left) == min(k, len(old)), text
        assert not Counter(left) - Counter(old)
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|,,|  | ,", text), text
        kept_places += Counter(old.index(word) for word in left)
    assert kept_places[0] < 0.6 * kept_places.total()  # not always the first


def test_some_colors_of_a_group():
    assert captions.keep_colors(CUP, 5, None) == CUP
    assert {captions.keep_colors(CUP, 1, default_rng(seed)) for seed in range(40)} == {
        "a dark blue gray cup, flowers on a table",
        "a cup, red flowers on a table",
        "a cup, white flowers on a table",
        "a cup, flowers on a golden brown table",
    }
    assert captions.colors_only(CUP) == "dark blue gray, red, white, golden brown"
    assert captions.colors_only("a cup") == ""


def test_permuted_colors_are_the_same_in_other_places():
    moved = 0
    for number, caption in enumerate(CAPTIONS):
        text = captions.permute_colors(caption, default_rng(number))
        assert sorted(COLOR_PATTERN.findall(text)) == sorted(COLOR_PATTERN.findall(caption))
        old, new = ([words[start:end] for start, end, _ in find_places(words)] for words in (caption, text))
        moved += sum(a != b for a, b in zip(old, new, strict=False)) / len(old)
    assert moved / len(CAPTIONS) > 0.8
