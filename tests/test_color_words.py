"""Which words are colours, and captions without them."""

import pandas as pd
import pytest

from lib import ROOT, color_words
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


def test_no_captions_and_nonsense():
    for text in ("", " ", "?", "-", "red", "and or", "a an the", "of red of", "🟥 red 🟥", "x" * 1000):
        assert isinstance(color_words.without_color_words(text), str)
    assert color_words.find_color_words("") == []
    assert not color_words.has_color_words("")
