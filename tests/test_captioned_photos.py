"""Photos with captions: a folder with photos.csv, what is refused, and random crops."""

import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib.captioned_photos import random_crop, read_captioned_photos

CAPTIONS = '["A red  kite .", " \\"Two  men , one hat .\\""]'
ROWS = [
    dict(file="a.jpg", set="own", split="train", captions=CAPTIONS, labels='["granny smith"]'),
    dict(file="b.jpg", set="flickr8k", split="validation", captions="[]", labels="[]"),
    dict(file="not-there.jpg", set="own", split="test", captions="no JSON", labels="[]"),
]


def write_folder(folder, rows=ROWS):
    """A folder with two photos and a photos.csv of these rows."""
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (60, 40), "red").save(folder / "a.jpg")
    Image.new("RGB", (50, 50), "blue").save(folder / "b.jpg")
    pd.DataFrame(rows).to_csv(folder / "photos.csv", index=False)
    return str(folder)


def test_the_shipped_photos_come_without_a_folder():
    photos = sum(read_captioned_photos(), [])
    assert {(photo.set, photo.split) for photo in photos} == {("shipped", "train"), ("shipped", "validation")}
    assert all(photo.captions and photo.path.is_file() for photo in photos)
    with_mask = [photo for photo in photos if photo.masks]
    assert len(with_mask) > 50
    assert all(photo.object and photo.masks[0][1].is_file() for photo in with_mask)


def test_a_folder_adds_its_training_and_validation_photos(tmp_path):
    train, validation = read_captioned_photos(write_folder(tmp_path))
    own = train[-1:] + validation[-1:]
    assert [(photo.path.name, photo.split, photo.captions, photo.labels) for photo in own] == [
        ("a.jpg", "train", ["A red kite", "Two men, one hat"], ["granny smith"]),
        ("b.jpg", "validation", [], []),
    ]  # nothing of the test split is looked at, not even its captions
    assert [photo.stretched for photo in own] == [False, True]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"captions": '["a kite", " ."]'}, "row 'a.jpg' has an empty caption"),
        ({"captions": "a kite"}, "row 'a.jpg': captions or labels are no JSON list"),
        ({"labels": '"kite"'}, "row 'a.jpg': captions or labels are no JSON list"),
        ({"split": "Train"}, "no row has the split 'train'"),
    ],
)
def test_bad_rows_are_refused_in_one_line_that_names_them(tmp_path, changed, message):
    with pytest.raises(ValueError, match=re.escape(message)) as refusal:
        read_captioned_photos(write_folder(tmp_path, [{**ROWS[0], **changed}, *ROWS[1:]]))
    assert str(tmp_path / "photos.csv") in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_folder_needs_a_table_with_all_columns_and_photos_that_can_be_read(tmp_path):
    with pytest.raises(ValueError, match=r"photos\.csv can't be read as CSV .*No such file"):
        read_captioned_photos(str(tmp_path))
    with pytest.raises(ValueError, match="column 'captions' is missing"):
        read_captioned_photos(write_folder(tmp_path, [{"file": "a.jpg", "set": "own", "split": "train"}]))
    folder = write_folder(tmp_path)
    Image.effect_noise((60, 40), 80).convert("RGB").save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:900])  # whole header, half a picture
    with pytest.raises(ValueError, match=r"a\.jpg can't be read .*: replace it or remove its row"):
        read_captioned_photos(folder)


def ramp(width, height):
    """A picture whose red is the column and whose green is the row."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.dstack([x, y, np.zeros_like(x)]).astype(np.uint8))


def test_a_crop_is_mirrored_half_of_the_time_and_varies_the_aspect():
    image = ramp(200, 150)
    for stretched, spread in ((False, 0.08), (True, 0.3)):
        crops = [random_crop(image, 32, np.random.default_rng(seed), stretched=stretched)[0] for seed in range(200)]
        assert np.array_equal(crops[7], random_crop(image, 32, np.random.default_rng(7), stretched=stretched)[0])
        corners = np.array(crops, float)[:, [0, 0, -1], [0, -1, 0]]
        across, down = corners[:, 1, 0] - corners[:, 0, 0], corners[:, 2, 1] - corners[:, 0, 1]
        longer = np.maximum(abs(across), down) * 32 / 31
        assert 150 * 0.6**0.5 * 0.95 < longer.min() <= longer.max() <= 152
        assert 0.4 < (across < 0).mean() < 0.6
        ratios = np.log(abs(across) / down)
        assert np.allclose([ratios.min(), ratios.max()], [-spread, spread], atol=0.04)


def test_the_mask_is_cropped_as_its_photo():
    image = ramp(90, 70)
    mask = (np.asarray(image)[..., 0] > 45).astype(np.float32)
    for seed in range(20):
        crop, cut = random_crop(image, 64, np.random.default_rng(seed), mask)
        assert cut.shape == (64, 64)
        assert 0 <= cut.min() <= cut.max() <= 1
        assert ((cut > 0.5) == (crop[..., 0] > 45)).mean() > 0.98


def test_a_crop_of_a_tiny_photo():
    assert random_crop(Image.new("RGB", (1, 9)), 8, np.random.default_rng(0))[0].shape == (8, 8, 3)


def test_too_little_disk_is_said_before_anything_is_read():
    with pytest.raises(ValueError, match="1000000 GB are needed on the disk"):
        read_captioned_photos("nowhere", gigabytes=1e6)
