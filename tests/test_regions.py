"""Regions: what can be one, which wins, and that colour stays in its place, in arrays, pictures, and the command."""

import re

import numpy as np
import pytest
from PIL import Image

from lib import regions
from lib.color import srgb_to_lab, to_float
from lib.photo import Colorizer, command
from tests.conftest import read_made

MODEL = Colorizer("pocket")
SIZE = (96, 64)
LEFT = (0.0, 0.0, 0.5, 1.0)


@pytest.fixture
def photo(tmp_path):
    """A gray photo whose left half is light and whose right half is dark."""
    values = np.full(SIZE[::-1], 90.0)
    values[:, : SIZE[0] // 2] = 170
    values += np.random.default_rng(0).normal(0, 4, values.shape)
    Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture(autouse=True)
def halves(monkeypatch):
    """A segmenter that knows a wall, which is light, and a door, which is dark; the command loads the model once."""

    def segment(plane, names):
        light = plane > plane.mean()
        return [{"wall": light, "door": ~light}.get(name, 0 * light).astype(np.float32) for name in names]

    segment.threshold = 0.5
    monkeypatch.setitem(vars(MODEL), "segmenter", segment)
    monkeypatch.setattr(command, "load", lambda *_: MODEL)


def ab_of(picture):
    return srgb_to_lab(to_float(picture))


def test_weights_add_up_and_the_later_mask_wins():
    masks = np.random.default_rng(0).uniform(0, 1, (3, 5, 7)).astype(np.float32)
    masks[1, 2], masks[2, 2], masks[2, 3] = 1, 0, 1
    for weights in (regions.weigh(masks), regions.share_out(masks, 1)):
        assert np.abs(weights.sum(axis=0) - 1).max() < 1e-6
        assert weights.min() >= 0
    weights = regions.weigh(masks)
    assert (weights[2, 2] == 1).all()
    assert (weights[3, 3] == 1).all()
    layers = np.arange(4.0)[:, None, None, None] * np.ones((4, 5, 7, 2))
    assert np.allclose(regions.compose(layers, weights)[2], 2)


def test_names_share_a_place_by_their_scores():
    scores = np.zeros((2, 1, 4), np.float32)
    scores[:, 0] = [[1, 0.6, 0.15, 0], [1, 0.2, 0, 0]]
    rest, first, second = regions.share_out(scores, 0.3)[:, 0]
    assert np.allclose(first, [0.5, 0.75, 0.15 / 0.3, 0])
    assert np.allclose(second, [0.5, 0.25, 0, 0])
    assert np.allclose(rest, [0, 0, 1 - 0.15 / 0.3, 1])
    assert (regions.share_out(np.zeros((0, 1, 4)), 1) == 1).all()


@pytest.mark.parametrize(
    ("colors", "message"),
    [
        ([("tram", "")], "'tram': '' is no colour in words"),
        ([("tram", None)], "is no colour in words"),
        ([(" ", "red")], "names no object"),
        ([((0, 0, 1.2, 1), "red")], "the box (0.0, 0.0, 1.2, 1.0) is outside the photo or has no area"),
        ([((0.5, 0, 0.5, 1), "red")], "has no area"),
        ([((0, 0, float("nan"), 1), "red")], "has no area"),
        ([((0, 0, 1), "red")], "has no area"),
        *[([(mask, "red")], f"its mask ({mask.dtype}, {mask.shape[::-1]}) should be 96 x 64 numbers from 0 to 1")
          for mask in (*(np.full(SIZE[::-1], value) for value in (0, np.nan, 7.0)), np.ones((5, 5)), np.ones((5, 5, 3)))],
        ({str(n): "red" for n in range(17)}, "17 regions are too many: name at most 16"),
    ],
)  # fmt: skip
def test_what_can_not_be_a_region_is_named_in_a_line(photo, colors, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        regions.to_regions(colors, SIZE[::-1])


def test_a_box_changes_nothing_outside_itself(photo):
    before, after = np.asarray(MODEL(photo, "a wall")), np.asarray(MODEL(photo, "a wall", colors=[(LEFT, "red")]))
    changed = (before != after).any(axis=-1)
    assert changed[:, : SIZE[0] // 2].mean() > 0.9
    assert not changed[:, SIZE[0] // 2 + 1 :].any()


def test_an_object_in_a_box_is_told_from_what_surrounds_it():
    """A light disc on a dark, rough background: the mask is the disc and not the box."""
    y, x = np.mgrid[:120, :160]
    disc = (y - 60) ** 2 + (x - 80) ** 2 < 30**2
    plane = np.where(disc, 70.0, 30.0) + np.random.default_rng(0).normal(0, 1, disc.shape)
    mask = regions.find_in_box(plane.astype(np.float32), (0.25, 0.15, 0.75, 0.85))
    assert mask[disc].mean() > 0.9
    assert mask[~disc].mean() < 0.05
    flat = regions.find_in_box(np.full((40, 40), 50, np.float32), (0.25, 0.25, 0.75, 0.75))
    assert (flat[10:30, 10:30] == 1).all()
    assert flat.sum() == 400


def test_objects_take_their_own_colours_and_later_regions_win(photo):
    both = MODEL(photo, "a wall", colors={"wall": "red", "door": "blue"})
    swapped = MODEL(photo, "a wall", colors={"wall": "blue", "door": "red"})
    left, right = (slice(None), slice(4, 40)), (slice(None), slice(56, 92))
    for picture, red, blue in ((both, left, right), (swapped, right, left)):
        lab = ab_of(picture)
        assert lab[red][..., 1].mean() > lab[blue][..., 1].mean() + 5
        assert lab[red][..., 2].mean() > lab[blue][..., 2].mean() + 5
    assert not both.notes
    over = MODEL(photo, "a wall", colors=[(LEFT, "blue"), ("wall", "red")])  # a place goes before a name
    assert not over.notes
    twice = MODEL(photo, "a wall", colors=[(LEFT, "red"), (LEFT, "blue")])
    assert twice.notes == ["regions overlap: the later one wins"]
    assert ab_of(over)[left][..., 1].mean() < ab_of(both)[left][..., 1].mean() - 5


def test_the_prompt_binds_its_own_words(photo):
    plain, bound = (ab_of(MODEL(photo, "a red wall and a blue door", bind=bind)) for bind in (False, True))
    gap = [lab[:, 4:40, 1].mean() - lab[:, 56:92, 1].mean() for lab in (plain, bound)]
    assert gap[1] > gap[0] + 5


def test_what_is_not_found_is_said_and_the_rest_done(photo):
    picture = MODEL(photo, "a wall", colors={"tram": "dark red", "door": "blue"})
    assert picture.notes == ["not found in the photo: 'dark red' in tram"]
    assert (np.asarray(picture) == np.asarray(MODEL(photo, "a wall", colors={"door": "blue"}))).all()


def colorize(*arguments):
    with pytest.raises(SystemExit) as stopped:
        command.main([str(argument) for argument in arguments])
    return stopped.value.code


def test_the_command_takes_objects_and_binds_the_prompt_if_told(photo, capsys):
    made = photo.with_name("photo.color.png")
    colors = {"door": "pale blue", "tram": "red"}
    for option, bind in (("--bind", True), ("--no-bind", False)):
        arguments = [f"--color={name}: {color}" for name, color in colors.items()]
        assert colorize(photo, "--prompt", "a red wall", *arguments, option, "--overwrite") == 0
        assert "photo.png: not found in the photo: 'red' in tram" in capsys.readouterr().err
        expected = MODEL(photo, "a red wall", colors=colors, bind=bind)
        assert (np.asarray(Image.open(made)) == np.asarray(expected)).all()
        assert read_made(made)["bind"] == ("red wall" if bind else "")
    assert MODEL(photo, "a red wall").made["bind"] == ""


def test_a_region_is_made_from_a_picture_that_is_all_in_its_color():
    """The pocket model keeps a word to what it takes for its thing, which is less than what the segmenter finds."""
    assert regions.Region("tram", "dark red").phrase == "dark red tram, dark red background"
    assert regions.Region((0, 0, 0.5, 1), "dark red").phrase == "dark red thing, dark red background"
