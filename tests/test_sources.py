"""COCO and the flowers in small: files of COCO's form over loopback, of which every first answer is broken off."""

import io
import json
from contextlib import redirect_stdout
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pycocotools.coco import COCO

from lib import dataset
from lib.config import get_config, resolve
from lib.l4 import coco, sources
from lib.prompts import write_prompts
from tests.rehearsal import photos, servers


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A configuration that takes COCO from a server of this test, and the server."""
    monkeypatch.setattr(coco, "FILES", photos.write_coco(tmp_path / "served", 14, 6))
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    server = servers.Coco(tmp_path / "served")
    fields = {name: str(tmp_path / name) for name in ("photos", "downloads", "build")}
    yield get_config("l4", coco_url=server.url, n_train=12, n_validation=2, resolution=64, workers=2, **fields), server
    server.shutdown()


def test_coco_comes_whole_after_broken_downloads(served, tmp_path):
    config, server = served
    sources.prepare(config)
    assert server.resumed >= {"zips/train2017.zip", "zips/val2017.zip"}
    manifest = dataset.read_manifest(config.photos_dir)
    left_out = pd.read_csv(tmp_path / "photos/coco/left_out.csv")
    for split, count in {"train": 12, "validation": 2, "test": 6}.items():
        assert sum(manifest["split"] == split) + sum(left_out["split"] == split) == count
    assert left_out["reason"].value_counts().to_dict() == {"gray": 3, "broken": 1, "missing": 1}
    assert set(manifest[manifest["split"] != "test"]["mask"]) == {""}

    triples = dataset.build_dataset(config)  # in two processes
    rows = triples["test"]
    assert rows[0]["image"].size == (64, 64)
    assert rows[0]["prompt"] == rows[0]["detailed_caption"]
    assert len(list((config.dataset_dir / "image").rglob("*.jpeg"))) == sum(map(len, triples.values()))
    prompts = write_prompts(rows)
    assert "gray_caption" not in prompts
    assert set(prompts) >= {"vague", "object", "detailed", "recolored", "mismatched"}
    assert all(text.startswith("In this image I can see ") for text in prompts["narrative"])

    server.resumed.clear()
    times = {path: path.stat().st_mtime_ns for path in config.photos_dir.rglob("*")}
    sources.prepare(config)
    assert {path: path.stat().st_mtime_ns for path in config.photos_dir.rglob("*")} == times
    sources.prepare(config.replace(n_train=11))  # what is here is not downloaded again
    tables = [pd.read_csv(config.photos_dir / name) for name in ("metadata.csv", "left_out.csv")]
    assert sum(map(len, tables)) == 11 + 2 + 6
    assert not server.resumed


def annotated(images, annotations, categories=None):
    """A COCO of pycocotools with these contents."""
    index = COCO()
    index.dataset = {"images": images, "annotations": annotations} | ({"categories": categories} if categories else {})
    with redirect_stdout(io.StringIO()):
        index.createIndex()
    return index


def test_the_caption_with_most_colour_words_is_the_detailed_one():
    texts = ["A cup.", "A red cup  on a white\ntable", "a white cup", "A red cup on a white wooden table"]
    notes = [{"id": number, "image_id": 7, "caption": text} for number, text in enumerate(texts)]
    captions = coco.read_captions(annotated([{"id": 7, "file_name": "7.jpg"}, {"id": 8, "file_name": "8.jpg"}], notes))
    assert list(captions) == ["7.jpg"]
    assert captions["7.jpg"]["detailed_caption"] == "A red cup on a white wooden table"
    assert captions["7.jpg"]["object_caption"] == "A cup on a wooden table"
    assert captions["7.jpg"]["writer_2"] == "A red cup on a white table"
    assert captions["7.jpg"]["writer_5"] == ""


def test_the_largest_object_in_the_central_square_is_kept(tmp_path):
    images = [{"id": number, "file_name": f"{number}.jpg", "height": 60, "width": 80} for number in (1, 2, 3)]
    categories = [
        {"id": 1, "name": "cup", "supercategory": "kitchen"},
        {"id": 2, "name": "cat", "supercategory": "animal"},
    ]
    outlines = [[20, 10, 60, 10, 60, 30, 20, 30], [30, 30, 50, 30, 50, 50, 30, 50]]
    crowd = {"size": [60, 80], "counts": [600, 1800, 2400]}  # columns 10 to 39, as run lengths
    margin = [[0, 0, 9, 0, 9, 60, 0, 60]]
    shapes = [(1, 1, 9, outlines), (1, 2, 5, crowd), (2, 2, 9, crowd), (3, 1, 9, margin)]
    things = [{"id": number, "image_id": image_id, "category_id": kind, "area": area, "segmentation": shape}
              for number, (image_id, kind, area, shape) in enumerate(shapes)]  # fmt: skip
    found = coco.read_objects(annotated(images, things, categories), tmp_path)
    assert found["1.jpg"] == {"category": "kitchen", "object": "cup", "mask": "masks/1.png"}
    assert (found["3.jpg"]["category"], found["3.jpg"]["object"], found["3.jpg"]["mask"]) == ("kitchen", "", "")
    cup, cat = (np.asarray(Image.open(tmp_path / f"masks/{number}.png")) for number in (1, 2))
    assert (cup[10:30, 20:60].all(), cup[30:50, 30:50].all(), cup.sum()) == (True, True, 40 * 20 + 20 * 20)
    assert (cat[:, 10:40].all(), cat.sum()) == (True, 30 * 60)


def test_a_photo_gets_its_first_narrative(tmp_path):
    lines = [{"image_id": "7", "caption": "In this\n image, a cup."}, {"image_id": "7", "caption": "Another."}]
    (tmp_path / "said.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert coco.read_narratives(tmp_path / "said.jsonl") == {7: "In this image, a cup."}
    (tmp_path / "said.jsonl").write_text("<html>")
    with pytest.raises(ValueError, match="said.jsonl can't be read .*: remove it"):
        coco.read_narratives(tmp_path / "said.jsonl")


def test_a_file_that_is_not_the_published_one(served, monkeypatch):
    config, _ = served
    wrong = {name: (path, size, size and "0" * 32) for name, (path, size, _) in coco.FILES.items()}
    monkeypatch.setattr(coco, "FILES", wrong)
    with pytest.raises(ValueError, match=r"is not the published one \(MD5\): run it again"):
        sources.prepare(config)
    assert not list(resolve(config.downloads).glob("*.zip"))


def flowers_config(tmp_path, folder):
    return get_config("l4", source="flowers", flowers_folder=str(folder), photos=str(tmp_path / "photos"))


def test_flowers_of_a_folder(tmp_path):
    photos.write_flowers(tmp_path / "flowers", 40)
    gray = photos.jpeg_of(photos.resized(photos.read_rows()[-1], (80, 60)), "gray")
    (tmp_path / "flowers/rose/gray.jpg").write_bytes(gray)
    config = flowers_config(tmp_path, tmp_path / "flowers")
    sources.prepare(config)
    manifest = dataset.read_manifest(config.photos_dir)
    assert len(manifest) == 40
    assert set(manifest["category"]) == set(photos.FLOWERS)
    assert manifest["split"].value_counts().to_dict() == {"train": 30, "validation": 5, "test": 5}


def test_flowers_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr("kagglehub.dataset_download", Mock(side_effect=OSError("no credentials")))
    for folder, message in {
        "no/flowers": "no/flowers has no folder for each kind: correct it",
        "": "can't be downloaded .no credentials.: set KAGGLE_API",
    }.items():
        with pytest.raises(ValueError, match=message):
            sources.prepare(flowers_config(tmp_path, folder))
