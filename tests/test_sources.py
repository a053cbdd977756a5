"""COCO and the flowers, small: archives and annotation files of COCO's exact form, served over loopback."""

import functools
import hashlib
import http.server
import json
import threading
import zipfile
from collections import namedtuple
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib import dataset
from lib.config import get_config, resolve
from lib.l4 import coco as of_coco
from lib.l4 import downloads, sources
from lib.prompts import write_prompts

RNG = np.random.default_rng(0)


def jpeg(kind="color"):
    """The bytes of a small JPEG: in colour, gray, or broken."""
    pixels = RNG.integers(0, 255, (60, 80, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(np.repeat(pixels[..., :1], 3, -1) if kind == "gray" else pixels).save(file, "jpeg")
    return file.getvalue()[:400] if kind == "broken" else file.getvalue()


def coco(folder):
    """Three archives as COCO has them, of 12 training and 4 validation photos; one each is gray, broken, missing."""
    kinds = {1: "gray", 2: "broken"}
    annotations = {}
    for part, ids in (("train2017", range(12)), ("val2017", range(100, 104))):
        images = [{"id": k, "file_name": f"{k:012}.jpg", "height": 60, "width": 80, "license": 1} for k in ids]
        with zipfile.ZipFile(folder / f"{part}.zip", "w") as archive:
            archive.writestr(f"{part}/", "")
            for image in images:
                if (part, image["id"]) != ("train2017", 3):
                    archive.writestr(f"{part}/{image['file_name']}", jpeg(kinds.get(image["id"])))
        said = [{"image_id": k, "id": 9 * k, "caption": "A cup."} for k in ids]
        said += [{"image_id": k, "id": 9 * k + 1, "caption": f"A red cup  on a white\ntable {k}"} for k in ids]
        said.append({"image_id": 555, "id": 99999, "caption": "of no photo"})
        annotations[f"captions_{part}.json"] = {"images": images, "annotations": said}
        crowd = {"size": [60, 80], "counts": [600, 1800, 2400]}  # columns 10 to 39, as run lengths
        thing = {"category_id": 2, "area": 5.0, "bbox": [10, 0, 30, 60], "segmentation": crowd}
        things = [thing | {"image_id": k} for k in ids]
        parts = [[20, 10, 60, 10, 60, 30, 20, 30], [30, 30, 50, 30, 50, 50, 30, 50]]
        cup = {"category_id": 1, "area": 9.0, "bbox": [20, 10, 40, 40], "segmentation": parts}
        things.append(cup | {"image_id": 101})
        categories = [
            {"id": 1, "name": "cup", "supercategory": "kitchen"},
            {"id": 2, "name": "cat", "supercategory": "animal"},
        ]
        annotations[f"instances_{part}.json"] = {"images": images, "annotations": things, "categories": categories}
    with zipfile.ZipFile(folder / "annotations_trainval2017.zip", "w") as archive:
        for name, content in annotations.items():
            archive.writestr(f"annotations/{name}", json.dumps(content))


class Server(http.server.BaseHTTPRequestHandler):
    """Serves a folder with ranges; breaks off every first answer of a file in the middle."""

    broken: set = set()

    def do_GET(self):
        content = (self.server.folder / self.path.rsplit("/", 1)[-1]).read_bytes()
        start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.send_response(206)
        self.send_header("Content-Length", len(content) - start)
        self.end_headers()
        stop = len(content) // 2 if self.path not in self.server.broken else len(content)
        self.server.broken.add(self.path)
        self.server.started.append((self.path.rsplit("/", 1)[-1], start))
        self.wfile.write(content[start:stop])

    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A profile that takes COCO from a server of this test; its folder, and the (file, start) of every request."""
    (tmp_path / "served").mkdir()
    coco(tmp_path / "served")
    published = {
        name: (path, (tmp_path / "served" / name).stat().st_size,
               hashlib.md5((tmp_path / "served" / name).read_bytes()).hexdigest())
        for name, (path, _, _) in of_coco.COCO.items()
    }  # fmt: skip
    monkeypatch.setattr(of_coco, "COCO", published)
    monkeypatch.setattr(downloads, "PAUSE", 0.0)
    monkeypatch.setattr(downloads, "CHUNK", 1024)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.folder, server.broken, server.started = tmp_path / "served", set(), []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = get_config(
        "l4", coco_url=f"http://127.0.0.1:{server.server_port}", photos=str(tmp_path / "photos"), n_train=7,
        n_validation=2, downloads=str(tmp_path / "downloads"), build=str(tmp_path / "build"), resolution=64, workers=2,
    )  # fmt: skip
    yield config, server
    server.shutdown()


def test_coco_comes_whole_after_broken_downloads(served, tmp_path):
    config, server = served
    sources.prepare(config)
    starts = [start for name, start in server.started if name == "train2017.zip"]
    assert len(starts) == 2
    assert starts[1] > 0  # it went on where it was broken off
    manifest = dataset.read_manifest(config.photos_dir)
    left_out = pd.read_csv(tmp_path / "photos/coco/left_out.csv")
    asked = {"train": 7, "validation": 2, "test": 4}
    for split, count in asked.items():
        assert sum(manifest["split"] == split) + sum(left_out["split"] == split) == count
    assert set(left_out["reason"]) <= {"gray", "broken", "missing"}
    test = manifest[manifest["split"] == "test"].set_index("image_id")
    assert test["detailed_caption"]["000000000101"] == "A red cup on a white table 101"  # the longest, in one line
    assert test["object_caption"]["000000000101"] == "A cup on a table 101"
    assert test["category"]["000000000101"] == "kitchen"  # the largest thing
    assert test["thing"]["000000000101"] == "cup"
    assert test["thing_box"]["000000000101"] == "0.333 0.333 0.667 0.667"
    cup, crowd = (np.asarray(Image.open(test["mask_path"][f"{name:012}"])) for name in (101, 102))
    assert cup.shape == crowd.shape == (60, 80)
    assert (cup[10:30, 20:60].all(), cup[30:50, 30:50].all(), cup.sum()) == (True, True, 40 * 20 + 20 * 20)
    assert (crowd[:, 10:40].all(), crowd.sum()) == (True, 30 * 60)
    assert set(manifest[manifest["split"] != "test"]["mask"]) == {""}
    before = len(server.started)
    sources.prepare(config)
    assert len(server.started) == before
    with pytest.raises(ValueError, match="made with n_train 7, not 9: run notebook 01_build_dataset, with another"):
        sources.prepare(config.replace(n_train=9))


def test_gray_broken_and_missing_photos_are_listed(served, tmp_path):
    config, _ = served
    sources.prepare(get_config("l4", **config.values("coco_url", "photos", "downloads"), n_train=12))
    left_out = pd.read_csv(tmp_path / "photos/coco/left_out.csv", dtype=str).set_index("image_id")["reason"]
    assert dict(left_out) == {"000000000001": "gray", "000000000002": "broken", "000000000003": "missing"}
    folder = config.photos_dir
    manifest = pd.read_csv(folder / "metadata.csv").assign(path=lambda table: [folder / n for n in table["file_name"]])
    said = sources.describe_photos(config.replace(resolution=64), manifest)
    assert said.startswith("3 photos were left out (")
    assert all(reason in said for reason in ("gray 1", "broken 1", "missing 1"))
    assert said.endswith(f"{len(manifest)} of {len(manifest)} are smaller than 64 px and were enlarged.")  # 80 x 60 px
    assert "; 0 of" in sources.describe_photos(config.replace(resolution=60), manifest)


def test_coco_becomes_triples_in_several_processes(served):
    config, _ = served
    sources.prepare(config)
    triples = dataset.build_dataset(config)
    rows = triples["test"]
    assert rows[0]["image"].size == (64, 64)
    assert rows[0]["prompt"] == rows[0]["detailed_caption"]
    cup = np.asarray(rows[list(rows["image_id"]).index("000000000101")]["mask"]) > 127
    assert cup.mean() == pytest.approx((40 * 20 + 20 * 20) / 60**2, abs=0.02)  # of the central square, all in it
    assert len(triples["train"]) == len(set(triples["train"]["image_id"]))
    listing = json.loads((config.dataset_dir / "prompts.json").read_text())
    assert all((config.dataset_dir / row["image"]).exists() for part in listing.values() for row in part)
    assert [row["prompt"] for row in listing["train"]] == list(triples["train"]["prompt"])
    assert "gray_caption" not in write_prompts(rows)
    assert set(write_prompts(rows)) >= {"vague", "object", "detailed", "recolored", "mismatched"}


def test_a_file_that_is_not_the_published_one(served, monkeypatch):
    config, _ = served
    wrong = {name: (path, size, "0" * 32) for name, (path, size, _) in of_coco.COCO.items()}
    monkeypatch.setattr(of_coco, "COCO", wrong)
    with pytest.raises(ValueError, match=r"is not the published one \(MD5\): run it again"):
        sources.prepare(config)
    assert not list(resolve(config.downloads).glob("*.zip"))


def test_a_server_that_is_gone_keeps_what_came(served, tmp_path):
    config, server = served
    server.shutdown()
    server.server_close()
    with pytest.raises(ValueError, match="0 of .* bytes came .* run it again, it goes on there"):
        sources.prepare(config)


def test_a_disk_too_small_is_said_before_downloading(served, monkeypatch):
    config, server = served
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: usage(1, 1, 3_000_000))
    with pytest.raises(
        ValueError, match="0 GB free, but 1 GB are to come: free some, or pass -p photos FOLDER -p downloads FOLDER"
    ):
        sources.prepare(config)
    assert server.started == []


def test_flowers_of_a_folder(tmp_path):
    for kind in ("rose", "tulip"):
        (tmp_path / "flowers" / kind).mkdir(parents=True)
        for k in range(8):
            (tmp_path / "flowers" / kind / f"{k}.jpg").write_bytes(jpeg("gray" if k == 7 else "color"))
    config = get_config(
        "l4", source="flowers", flowers_folder=str(tmp_path / "flowers"), photos=str(tmp_path / "photos")
    )
    sources.prepare(config)
    manifest = dataset.read_manifest(config.photos_dir)
    assert len(manifest) == 14
    assert set(manifest["category"]) == {"rose", "tulip"}
    assert set(manifest["split"]) == set(dataset.SPLITS)


def test_flowers_of_no_folder_are_said_before_anything_comes(tmp_path):
    config = get_config("l4", run="study_1", flowers_folder="no/flowers", photos=str(tmp_path / "photos"))
    with pytest.raises(ValueError, match="flowers_folder no/flowers is no folder: correct it"):
        sources.prepare(config)
    assert not (tmp_path / "photos").exists()


def test_flowers_without_credentials(tmp_path, monkeypatch):
    import kagglehub

    def refuse(_):
        raise OSError("no credentials")

    monkeypatch.setattr(kagglehub, "dataset_download", functools.partial(refuse))
    config = get_config("l4", source="flowers", photos=str(tmp_path / "photos"))
    with pytest.raises(ValueError, match="can't be downloaded .no credentials.: set KAGGLE_API_TOKEN"):
        sources.prepare(config)
