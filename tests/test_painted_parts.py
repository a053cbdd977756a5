"""Painted pictures show what their prompts say, where they say it."""

import numpy as np
import pytest
from PIL import Image

from lib.color import srgb_to_lab, to_float
from lib.color_words import find_color_words
from lib.pocket_model import painted_parts as painted
from lib.pocket_model.training_pictures import load_training_pictures
from lib.prompts import TARGETS


@pytest.fixture(scope="module")
def scenes():
    return load_training_pictures("")[0]


@pytest.fixture(scope="module")
def cutouts():
    """Two things on nothing: a disc and a square."""
    y, x = np.mgrid[:60, :60]
    shapes = {"disc": (x - 30) ** 2 + (y - 30) ** 2 < 700, "square": (abs(x - 30) < 25) & (abs(y - 30) < 25)}
    pixels = {name: np.dstack([np.full((60, 60), 150)] * 3 + [255 * shape]) for name, shape in shapes.items()}
    return [
        {"image": Image.fromarray(array.astype(np.uint8)), "subject": name, "detailed_caption": f"a gray {name}"}
        for name, array in pixels.items()
    ]


def pictures(scenes, cutouts, n):
    for seed in range(n):
        yield painted.make_painted_picture(scenes, cutouts, 64, np.random.default_rng(seed))


def test_a_part_has_the_color_that_its_phrase_names_and_the_rest_has_not(scenes, cutouts):
    angles, others = [], []
    for record in pictures(scenes, cutouts, 300):
        places, lab = np.asarray(record["places"]), srgb_to_lab(to_float(record["image"]))
        cells = lab.reshape(painted.CELLS, 2, painted.CELLS, 2, 3).mean(axis=(1, 3))
        for number, (start, end) in enumerate(record["spans"], 1):
            phrase = record["prompt"][start:end]
            words = find_color_words(phrase)
            if len(words) != 1 or TARGETS.get(words[0], (0, 0))[1] < 40 or (places == number).sum() < 40:
                continue
            for found, where in ((angles, places == number), (others, (places != number) & (places != 255))):
                a, b = np.median(cells[where], axis=0)[1:] if where.sum() > 40 else (0, 0)
                if np.hypot(a, b) > 8:
                    off = np.degrees(np.arctan2(b, a)) - TARGETS[words[0]][0]
                    found.append(abs((off + 180) % 360 - 180))
    assert len(angles) > 60
    assert np.mean(np.array(angles) < 20) > 0.9
    assert np.mean(np.array(others) < 20) < 0.4


def test_an_empty_prompt_comes_with_colors_of_its_own_and_no_places(scenes, cutouts):
    empty = [record for record in pictures(scenes, cutouts, 200) if not record["prompt"]]
    assert 5 < len(empty) < 35
    assert all(not record["spans"] and (np.asarray(record["places"]) == painted.UNKNOWN).all() for record in empty)


def test_phrases_keep_their_characters_in_every_order():
    mask = np.ones((4, 4), np.float32)
    phrases = [(painted.Part(mask, name), f"a red {name}") for name in ("cup", "bowl", "table")]
    for seed in range(20):
        prompt, spans = painted.join_phrases(phrases, np.random.default_rng(seed))
        assert sorted(prompt[start:end] for _, start, end in spans) == ["a red bowl", "a red cup", "a red table"]
        assert all(part.name in prompt[start:end] for part, start, end in spans)


def test_a_clause_is_found_where_only_one_names_the_part():
    meadow, tree = (painted.Part(np.ones((4, 4), np.float32), name) for name in ("meadow", "tree"))
    caption = "a green meadow, an orange tree under a tree, a gray sky"
    [(part, start, end)] = painted.clauses_of(caption, [meadow, tree])
    assert part is meadow
    assert caption[start:end].strip() == "a green meadow"


def test_a_border_is_neutral_and_moves_the_parts_with_the_picture():
    rng, lab = np.random.default_rng(3), np.full((64, 64, 3), 40, np.float32)
    mask = np.zeros((64, 64), np.float32)
    mask[:, :32] = 1
    part = painted.Part(mask, "thing")
    framed = painted.add_border(lab, [part], rng)
    outside = framed[..., 1] < 1
    assert 0.05 < outside.mean() < 0.6
    assert (framed[outside][:, 1:] == 0).all()
    assert part.mask[outside].max() < 0.01
    assert 0.3 < part.mask.sum() / (~outside).sum() < 0.7


def test_places_are_numbered_like_the_spans_and_the_rest_is_said():
    left = np.zeros((64, 64), np.float32)
    left[:, :32] = 1
    spans = [(painted.Part(left, "cup"), 0, 3)]
    for elsewhere in (0, painted.UNKNOWN):
        places = painted.number_places(spans, 64, elsewhere)
        assert (places[:, :16] == 1).all()
        assert (places[:, 16:] == elsewhere).all()


def test_pictures_repeat_with_the_seed_and_cutouts_can_lack(scenes, cutouts):
    first, again = (next(pictures(scenes, cutouts, 1)) for _ in range(2))
    assert first["prompt"] == again["prompt"]
    assert np.array_equal(np.asarray(first["image"]), np.asarray(again["image"]))
    assert not any("disc" in record["prompt"] for record in pictures(scenes, [], 40))
