"""Which words are colours, captions without them, and phrases that name a thing and its colour."""

import numpy as np
import pandas as pd
import pytest

from lib import ROOT, color_words, rewriting
from lib.dataset import read_manifest

PATTERNS = pd.read_csv(ROOT / "tests/data/caption_patterns.csv", keep_default_na=False)  # own sentences, COCO's manner


def test_color_words_of_200_patterns():
    assert len(set(PATTERNS["caption"])) >= 200
    assert (PATTERNS["color_words"] == "").sum() >= 40  # ice cream, an orange, a brown bear, or nothing of the kind
    found = PATTERNS["caption"].map(lambda caption: " ".join(color_words.find_color_words(caption)))
    assert list(PATTERNS["caption"][found != PATTERNS["color_words"]]) == []
    assert list(PATTERNS["caption"].map(color_words.has_color_words)) == list(PATTERNS["color_words"] != "")


def test_patterns_without_their_color_words():
    plain = PATTERNS["caption"].map(color_words.without_color_words)
    wrong = plain != PATTERNS["without_color_words"]
    assert list(plain[wrong]) == list(PATTERNS["without_color_words"][wrong])


@pytest.mark.parametrize(
    ("caption", "without"),
    [
        ("A black and white cat on a Red chair.", "A cat on a chair."),
        ("A cat, white, gray and brown, sleeps", "A cat, sleeps"),
        ("two dogs and a cat", "two dogs and a cat"),
        ("An orange and a banana", "An orange and a banana"),
        ("Red.", "Red."),
    ],
)
def test_captions_without_color_words(caption, without):
    assert color_words.without_color_words(caption) == without


def test_removed_colors_are_gone_and_nothing_else_changes():
    captions = read_manifest("data_cards/pocket_photos")
    for row in captions.itertuples():
        plain = color_words.without_color_words(row.detailed_caption)
        assert not color_words.has_color_words(plain), plain
        assert color_words.find_color_words(row.detailed_caption) == color_words.COLOR_PATTERN.findall(
            row.detailed_caption
        )  # none of these captions has an orange to eat
        assert color_words.without_color_words(row.object_caption) == row.object_caption


def test_phrases_of_prompts():
    cases = pd.read_csv(ROOT / "tests/data/prompt_phrases.csv", keep_default_na=False)  # own and training captions
    assert len(set(cases["prompt"])) >= 60
    found = pd.Series(["; ".join("/".join(part) for part in color_words.phrases_of(text)) for text in cases["prompt"]])
    wrong = found != cases["phrases"]
    assert list(found[wrong]) == list(cases["phrases"][wrong])
    assert (cases["phrases"] == "").sum() >= 12  # left out rather than guessed


def test_a_phrase_has_names():
    (phrase,) = color_words.phrases_of("two dark red barns")
    assert (phrase.thing, phrase.colors, phrase.text) == ("barns", "dark red", "two dark red barns")


def test_phrases_of_captions_cover_most_colors():
    manifest = read_manifest("data_cards/pocket_photos")
    captions = manifest[manifest["split"] != "test"]["detailed_caption"]
    named = sum(len(color_words.phrases_of(caption)) for caption in captions)
    groups = sum(len(color_words.find_groups(caption)[2]) for caption in captions)
    assert 0.95 * groups < named <= groups


def test_no_sentence_is_too_odd():
    words = ["red", "dark", "orange", "a", "and", "is", "in", "of", ",", ".", "that", "one", "cup", "painted", "colored",
             "sitting", "White", "ice cream", "-", "’s", "🟥", "off", "to", "all", "\n"]  # fmt: skip
    rng = np.random.default_rng(0)
    for length in rng.integers(0, 12, 2000):
        text = " ".join(rng.choice(words, length))
        assert color_words.without_color_words(text) or not text.strip()
        for thing, colors, phrase in color_words.phrases_of(text):
            assert thing
            assert color_words.COLOR_PATTERN.search(colors)
            assert colors in phrase
            assert thing in phrase
        changed = rewriting.change_color_words(text, rng)
        assert len(color_words.COLOR_PATTERN.findall(changed)) == len(color_words.COLOR_PATTERN.findall(text))
        assert isinstance(rewriting.rotate_color_words(text, 90), str)
    assert color_words.find_color_words("") == color_words.phrases_of("") == []
