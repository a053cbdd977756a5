"""The pocket photos, and the way from a manifest to triples."""

import hashlib
import itertools
import os
import shutil

import datasets
import imagehash
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib import dataset
from lib.captions import COLOR_PATTERN
from lib.color import make_conditioning_image
from lib.config import get_config, resolve
from lib.prompts import GENERIC_PROMPTS

PHOTOS = resolve("data_cards/pocket_photos")
MANIFEST = dataset.read_manifest("data_cards/pocket_photos")


@pytest.fixture
def small(tmp_path):
    """A folder with six real photos and their manifest."""
    rows = MANIFEST.groupby("split").head(2).drop(columns=["path", "mask_path"])
    for name in filter(None, [*rows["file_name"], *rows["mask"]]):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PHOTOS / name, tmp_path / "in" / name)
    rows.to_csv(tmp_path / "in/metadata.csv", index=False)
    return get_config("pocket", photos=str(tmp_path / "in"), build=str(tmp_path / "build"), resolution=64)


def edit(config, change):
    """Change the manifest of a small folder."""
    path = resolve(config.photos) / "metadata.csv"
    change(pd.read_csv(path, keep_default_na=False)).to_csv(path, index=False)


def test_no_subject_and_no_near_duplicate_crosses_splits():
    assert MANIFEST.groupby("subject")["split"].nunique().max() == 1
    hashes = [imagehash.phash(Image.open(path).convert("RGB")) for path in MANIFEST["path"]]
    splits = list(MANIFEST["split"])
    pairs = [(a, b) for a, b in itertools.combinations(range(len(hashes)), 2) if splits[a] != splits[b]]
    assert min(hashes[a] - hashes[b] for a, b in pairs) > 10  # of 64 bits
    listed = pd.read_csv(resolve("data_cards/training_pictures/metadata.csv"), keep_default_na=False)
    assert not set(MANIFEST[MANIFEST["split"] != "train"]["subject"]) & set(listed["subject"])
    assert listed["sha256"].is_unique


def test_files_are_those_of_the_manifest():
    assert {path.name for path in (PHOTOS / "photos").iterdir()} == {path.name for path in MANIFEST["path"]}
    for row in MANIFEST.itertuples():
        assert hashlib.sha256(row.path.read_bytes()).hexdigest() == row.sha256
        assert Image.open(row.path).size == (int(row.width), int(row.height))
    assert MANIFEST[["author", "licence", "source"]].ne("").all(axis=None)


def test_captions_and_backgrounds_have_the_color_words_that_they_should():
    named = {name: MANIFEST[name].map(COLOR_PATTERN.search).astype(bool) for name in dataset.TEXT_COLUMNS}
    assert named["detailed_caption"].all()
    assert not (named["object_caption"] | named["object"] | named["background"]).any()
    rows = MANIFEST[MANIFEST["background"] != ""]
    assert rows["background"].str.fullmatch(r"[a-z]+( [a-z]+)?").all()
    assert ((rows["mask"] != "") & (rows["background"] != rows["object"])).all()


def test_masks_show_the_whole_object_and_something_else():
    masked = MANIFEST[MANIFEST["mask"] != ""]
    assert {path.name for path in (PHOTOS / "masks").iterdir()} == {path.name for path in masked["mask_path"]}
    for row in masked.itertuples():
        values = np.asarray(Image.open(row.mask_path).convert("L"))
        mask = values > 127
        assert mask.shape == (int(row.height), int(row.width)), row.image_id
        assert len(np.unique(values)) == 2, row.image_id
        assert 0.02 < mask.mean() < 0.95, row.image_id
        square = np.asarray(dataset.crop_square(Image.fromarray(mask), 100)) > 0  # as colorized photos are measured
        left, top, right, bottom = (round(float(edge) * 100) for edge in row.object_box.split())
        assert square[top:bottom, left:right].mean() > 0.6, row.image_id


def test_load_dataset_on_the_folder_as_it_stands(tmp_path):
    photos = datasets.load_dataset(str(PHOTOS), split="photos", cache_dir=str(tmp_path))
    assert len(photos) == len(MANIFEST)
    assert photos[0]["image"].size == (photos[0]["width"], photos[0]["height"])
    assert set(photos["split"]) == set(dataset.SPLITS)


def test_triples(small):
    triples = dataset.build_dataset(small)
    assert {split: len(rows) for split, rows in triples.items()} == {"train": 2, "validation": 2, "test": 2}
    row = triples["test"][0]
    assert row["image"].size == row["conditioning_image"].size == (64, 64)
    assert row["prompt"] == row["detailed_caption"]
    stored = Image.open(small.dataset_dir / f"image/test/{row['image_id']}.{small.image_format}")
    assert np.array_equal(np.asarray(stored), np.asarray(row["image"]))
    gray = Image.open(small.dataset_dir / f"conditioning_image/test/{row['image_id']}.png")
    assert (gray.mode, row["conditioning_image"].mode) == ("L", "RGB")  # one channel on disk, three for who reads it
    assert np.array_equal(np.asarray(row["conditioning_image"]), np.asarray(make_conditioning_image(stored)))
    assert dataset.draw_prompts(triples["train"], small) == list(triples["train"]["prompt"])


def test_masks_are_cropped_as_their_photos(small):
    manifest = dataset.read_manifest(small.photos)
    masked = manifest[manifest["mask"] != ""]
    for path, mask in zip(masked["path"], masked["mask_path"], strict=True):
        photo = Image.open(path).convert("RGB")
        photo.paste("red", mask=Image.open(mask))
        photo.save(path.with_suffix(".png"))
    renamed = manifest["file_name"].where(manifest["mask"] == "", manifest["file_name"].str.replace(".jpg", ".png"))
    edit(small, lambda rows: rows.assign(file_name=renamed))
    triples, n = dataset.build_dataset(small.replace(image_format="png")), 0
    for row in itertools.chain(*triples.values()):
        if row["mask"] is not None:
            mask, red = np.asarray(row["mask"]), (np.asarray(row["image"]) == (255, 0, 0)).all(axis=-1)
            assert set(np.unique(mask)) == {0, 255}
            assert (mask[red] == 255).all()
            assert red.sum() > 0.5 * (mask == 255).sum()
            n += 1
    assert n == len(masked) > 0


def test_a_mask_without_its_object_is_none(small):
    row = dataset.read_manifest(small.photos).query("mask != ''").iloc[0]
    Image.new("L", Image.open(row["path"]).size).save(row["mask_path"])
    rows = dataset.build_dataset(small)[row["split"]]
    assert dict(zip(rows["image_id"], rows["mask"], strict=True))[row["image_id"]] is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: Image.new("L", (5, 4)).save(path), r"row '{}': mask .* has the size \(5, 4\), the photo"),
        (lambda path: path.write_bytes(b"no mask"), "masks/{}.png can't be read"),
        (lambda path: path.unlink(), r"row '{}' .* names a mask that is no file"),
    ],
)
def test_a_bad_mask_is_named(small, damage, message):
    row = dataset.read_manifest(small.photos).query("mask != ''").iloc[0]
    damage(row["mask_path"])
    with pytest.raises(ValueError, match=message.format(row["image_id"])) as error:
        dataset.build_dataset(small)
    assert "\n" not in str(error.value)
    assert not small.dataset_dir.exists()


def test_runs_share_a_data_set_and_draw_their_own_prompts(small):
    dataset.build_dataset(small)
    written = (small.dataset_dir / "key.json").stat().st_mtime_ns
    os.utime(dataset.read_manifest(small.photos)["path"][0], (0, 0))  # as in a copied checkout
    generic, captions = (small.replace(prompt_policy=policy) for policy in ("generic", "captions"))
    rows = dataset.build_dataset(generic)["train"]
    assert (small.dataset_dir / "key.json").stat().st_mtime_ns == written
    assert set(dataset.draw_prompts(rows, generic)) <= set(GENERIC_PROMPTS)
    assert dataset.draw_prompts(rows, captions) == list(rows["detailed_caption"])


def test_a_run_may_train_on_some_kinds_of_photos():
    triples = {"train": datasets.Dataset.from_dict({"category": ["animals", "people", "animals"]})}
    assert list(dataset.training_rows(triples, ("animals",))["category"]) == ["animals", "animals"]
    assert len(dataset.training_rows(triples, None)) == 3


@pytest.mark.parametrize("column", ["path", "mask_path"])
def test_a_changed_photo_mask_or_field_builds_anew(small, column):
    before = dataset.build_dataset(small)["test"][0]
    changed = dataset.read_manifest(small.photos).query("split == 'test'")[column].iloc[0]
    Image.open(changed).rotate(180).save(changed)
    after = dataset.build_dataset(small)["test"][0]
    name = "image" if column == "path" else "mask"
    assert after[name].tobytes() != before[name].tobytes()
    assert dataset.build_dataset(small.replace(resolution=32))["train"][0]["image"].size == (32, 32)


def with_id(name):
    return lambda m: m.assign(image_id=[name, *m["image_id"][1:]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.drop(columns="subject"), "column 'subject' is missing"),
        (lambda m: m.assign(split="exam"), "unknown split"),
        (lambda m: m.assign(split="train"), "no row has the split 'test'"),
        (lambda m: m.assign(subject="dog"), "subject that another split has"),
        (lambda m: pd.concat([m, m]), "image_id used before"),
        (lambda m: m.assign(object_caption=""), "empty caption"),
        (lambda m: m.assign(file_name=["photos/no.jpg", *m["file_name"][1:]]), r"photos/no.jpg\) has no file"),
        *((with_id(name), "no plain name") for name in ("../../outside", ".hidden", "a\nb")),
    ],
)
def test_bad_manifests_are_named(small, change, message):
    edit(small, change)
    with pytest.raises(ValueError, match=message):
        dataset.build_dataset(small)
    assert not small.dataset_dir.exists()


@pytest.mark.parametrize("damage", [b"", b"not a photo", None])
def test_damaged_photo_is_named_and_the_old_data_set_stays(small, damage):
    dataset.build_dataset(small)
    photo = next((resolve(small.photos) / "photos").iterdir())
    photo.write_bytes(photo.read_bytes()[:2000] if damage is None else damage)
    with pytest.raises(ValueError, match=f"{photo.name} can't be read"):
        dataset.build_dataset(small)
    assert len(dataset.load_dataset_dict(small)["test"]) == 2


def test_pick_takes_categories_in_turn():
    split = datasets.Dataset.from_dict({"image_id": list("abcdef"), "category": list("xxxyyz")})
    assert dataset.pick_across_categories(split, 4)["image_id"] == ["a", "d", "f", "b"]
    assert len(dataset.pick_across_categories(split, 0)) == 6
