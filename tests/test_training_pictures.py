"""Training pictures say what they show."""

import numpy as np
import pytest
from PIL import Image

from lib import dataset
from lib.color import lab_to_srgb, srgb_to_lab, to_float
from lib.pocket_model import training_pictures
from lib.prompts import TARGETS


@pytest.fixture(scope="module")
def scenes():
    return training_pictures.load_training_pictures("")[0]


@pytest.fixture(scope="module")
def disc():
    """A cut-out: a reddish disc on nothing."""
    y, x = np.mgrid[:60, :60]
    alpha = ((x - 30) ** 2 + (y - 30) ** 2 < 800) * 255
    image = np.dstack([np.full((60, 60), 170), np.full((60, 60), 90), np.full((60, 60), 80), alpha]).astype(np.uint8)
    return {
        "image": Image.fromarray(image),
        "subject": "disc",
        "object_caption": "a disc",
        "detailed_caption": "a red disc",
    }


def hue(lab):
    return np.degrees(np.arctan2(lab[..., 2].mean(), lab[..., 1].mean())) % 360


def test_without_other_pictures_only_the_training_split_is_used(scenes):
    manifest = dataset.read_manifest("data_cards/pocket_photos")
    assert {scene["image_id"] for scene in scenes} == set(manifest[manifest["split"] == "train"]["image_id"])


def test_rotating_hue_keeps_lightness_and_chroma(scenes):
    lab = srgb_to_lab(to_float(scenes[0]["image"]))
    turned = training_pictures.rotate_hue(lab, 90)
    assert np.allclose(turned[..., 0], lab[..., 0])
    assert np.allclose(np.hypot(*turned[..., 1:].T), np.hypot(*lab[..., 1:].T), atol=1e-3)
    assert np.allclose(turned[..., 1], -lab[..., 2], atol=1e-3)


def test_recolored_thing_has_the_hue_that_its_caption_names(disc):
    lab = srgb_to_lab(to_float(disc["image"].convert("RGB")))
    alpha = np.asarray(disc["image"])[..., 3] / 255
    seen = set()
    for seed in range(40):
        turned, word = training_pictures.recolor_thing(lab.copy(), alpha, np.random.default_rng(seed))
        seen.add(word)
        shown = srgb_to_lab(lab_to_srgb(turned))[alpha > 0.5]
        wanted, chroma, _ = TARGETS[word]
        if chroma > 10:
            assert abs((hue(shown) - wanted + 180) % 360 - 180) < 8
        else:
            assert np.hypot(*shown[:, 1:].T).mean() < 6
        assert np.allclose(shown[:, 0], lab[alpha > 0.5][:, 0], atol=0.5)
    assert len(seen) > 5


def test_training_pictures_repeat_with_the_seed_and_vary(scenes, disc):
    first, again = (
        training_pictures.make_training_picture(scenes, [disc], 64, np.random.default_rng(5)) for _ in range(2)
    )
    assert np.array_equal(np.asarray(first["image"]), np.asarray(again["image"]))
    records = [training_pictures.make_training_picture(scenes, [disc], 64, np.random.default_rng(k)) for k in range(60)]
    with_disc = [record for record in records if "disc" in record["object_caption"]]
    assert 15 < len(with_disc) < 45
    assert any(record["object_caption"].count("disc") == 2 for record in with_disc)
    assert all(r["detailed_caption"].count("disc") == r["object_caption"].count("disc") for r in with_disc)
    captions = {scene["detailed_caption"] for scene in scenes}
    untouched = [record for record in records if record["detailed_caption"] in captions]
    assert untouched
    assert not any(record["recolored"] for record in untouched)
    assert all(r["recolored"] for r in records if r not in with_disc and r not in untouched)
    assert len({record["detailed_caption"] for record in records}) > 40
