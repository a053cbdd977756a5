"""Three lines of Python colorize a photo, and give what the command gives."""

import copy
import pickle
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from lib.dataset import read_manifest
from lib.photo import Colorizer
from lib.photo.colorizer import looks_english
from lib.prompts import CAPTIONS
from tests.conftest import colorize, read_made


@pytest.fixture(scope="module")
def colorizer():
    return Colorizer("pocket")


@pytest.fixture
def photos(tmp_path):
    """A JPEG with EXIF and resolution, and a PNG with an alpha channel."""
    values = (128 + 90 * np.sin(np.linspace(0, 6, 96)) * np.ones((64, 1))).astype(np.uint8)
    exif = Image.Exif()
    exif[0x010E] = "a wall"  # ImageDescription
    exif[0x0112] = 6  # to be turned
    Image.fromarray(values).save(tmp_path / "photo.jpg", exif=exif, dpi=(300, 300))
    Image.fromarray(np.dstack([values, values // 2])).save(tmp_path / "photo.png")
    return tmp_path


@pytest.mark.parametrize(("name", "mode", "size"), [("photo.jpg", "RGB", (64, 96)), ("photo.png", "RGBA", (96, 64))])
def test_a_path_gives_what_the_command_writes_and_a_picture_like_any_other(colorizer, photos, name, mode, size):
    picture = colorizer(photos / name, "a red wall", seed=3)
    assert isinstance(picture, Image.Image)
    assert (picture.mode, picture.size) == (mode, size)
    picture.save(photos / "ours.png")
    assert colorize(photos / name, "--prompt", "a red wall", "--seed", 3, "--output", photos / "theirs.png") == 0
    assert (photos / "ours.png").read_bytes() == (photos / "theirs.png").read_bytes()
    for copied in (copy.deepcopy(picture), pickle.loads(pickle.dumps(picture))):
        copied.save(photos / "copied.avif")
        assert read_made(photos / "copied.avif")["prompt"] == "a red wall"
    with pytest.raises(ValueError, match=r"ours.xyz: can't be saved .*: name an ending that is known"):
        picture.save(photos / "ours.xyz")
    if mode == "RGBA":
        with pytest.raises(ValueError, match=r"ours.jpg: JPEG holds no transparency: save it as .png"):
            picture.save(photos / "ours.jpg")
    assert not (photos / "ours.jpg").exists()


def test_a_picture_in_memory_is_colorized_alike(colorizer, photos):
    path = photos / "photo.jpg"
    with Image.open(path) as opened:
        pictures = [colorizer(opened, "a red wall", seed=3) for _ in range(2)]
        assert opened.getexif()[0x0112] == 6  # it stays as it is
    for picture in pictures:
        assert picture.size == (64, 96)  # turned as its EXIF says, both times
        assert picture.tobytes() == colorizer(path, "a red wall", seed=3).tobytes()
    assert picture.tobytes() != colorizer(path, "a red wall", seed=4).tobytes()
    with pytest.raises(ValueError, match="image: 8x8 is too small"):
        colorizer(Image.new("L", (8, 8)))


def test_a_paper_border_stays_gray(colorizer):
    ramp = np.tile(np.linspace(30, 220, 160), (120, 1)) + np.random.default_rng(0).normal(0, 9, (120, 160))
    values = np.pad(ramp.clip(0, 255).astype(np.uint8), 20, constant_values=238)
    chroma = np.ptp(np.asarray(colorizer(values, "a red wall", saturation=2), np.int16), axis=-1)
    assert chroma[:16].max() == chroma[:, -16:].max() == 0
    assert chroma[30:-30, 30:-30].mean() > 10


def test_arrays_bytes_files_and_numbers_of_numpy_are_taken(colorizer, photos):
    expected = np.asarray(colorizer(photos / "photo.png", "a red wall", seed=3))[..., :3]
    values, content = np.asarray(Image.open(photos / "photo.png")), (photos / "photo.png").read_bytes()
    for photo in (values[..., 0], np.dstack([values[..., :1]] * 3), content, BytesIO(content)):
        picture = colorizer(photo, "a red wall", seed=np.int64(3), saturation=np.float32(1))
        assert np.array_equal(np.asarray(picture)[..., :3], expected)
    with pytest.raises(ValueError, match=r"^image: can't be read \(Cannot handle this data type"):
        colorizer(np.zeros((64, 64, 3), np.float32))
    with pytest.raises(TypeError):
        colorizer(values[..., 0], seed=1.5)


def test_settings_reach_the_network(photos):
    quick = Colorizer("pocket", num_inference_steps=2, guidance_scale=3)
    usual, slow = (quick(photos / "photo.png", "a red wall", **options) for options in ({}, {"num_inference_steps": 5}))
    assert (slow.made["num_inference_steps"], slow.made["guidance_scale"]) == (5, 3.0)  # of one picture
    assert usual.made["num_inference_steps"] == 2
    assert slow.tobytes() != usual.tobytes()
    for options in ({"steps": 5}, {"num_inference_steps": 0}, {"saturation": -1}, {"seed": -1}):
        with pytest.raises(ValueError, match=next(iter(options))):
            quick(photos / "photo.png", "a red wall", **options)
    with pytest.raises(ValueError, match="steps"):
        Colorizer("pocket", steps=2)


def test_other_languages_are_told_from_english():
    others = ["Ein roter Bus fährt vor einem alten Haus vorbei", "ein Hund im Schnee", "maison bleue",
              "Une femme en robe rouge marche sur la plage", "Красный автобус едет по улице",
              "一辆红色的公共汽车停在街上", "Un coche rojo en la calle junto a una casa blanca",
              "una casa rossa davanti al mare"]  # fmt: skip
    assert [text for text in others if looks_english(text)] == []
    texts = [text for column in CAPTIONS for text in read_manifest("data_cards/pocket_photos")[column]]
    texts += ["", "tram", "Notre Dame de Paris", "a cafe in La Paz", "an old église, a naïve crème brûlée", "42"]
    assert [text for text in texts if not looks_english(text)] == []
