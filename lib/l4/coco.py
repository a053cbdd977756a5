"""COCO 2017: its download, and the rows of its manifest with captions, long descriptions and masks of large objects."""

import json
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from urllib.parse import urljoin

import numpy as np
from huggingface_hub.file_download import http_get
from PIL import Image
from pycocotools.coco import COCO

from lib.cache import explained, hash_of_file, new_file, progress
from lib.captions import find_color_words, without_color_words
from lib.config import Config, resolve
from lib.prompts import WRITERS

ANNOTATIONS, NARRATIVES = "annotations_trainval2017.zip", "coco_val_captions.jsonl"
FILES = {  # name: path below `coco_url` or URL, bytes, MD5; as the servers give them (None: not published)
    "train2017.zip": ("zips/train2017.zip", 19_336_861_798, "cced6f7f71b7629ddf16f17bbcfab6b2"),
    "val2017.zip": ("zips/val2017.zip", 815_585_330, "442b8da7639aecaf257c1dceb8ba8c80"),
    ANNOTATIONS: (f"annotations/{ANNOTATIONS}", 252_907_541, "f4bbac642086de4f52a3fdda2de5fa2c"),
    NARRATIVES: (f"https://storage.googleapis.com/localized-narratives/annotations/{NARRATIVES}", None, None),
}
TEST_PHOTOS = 5_000  # in val2017
NO_OBJECT = {"category": "other", "object": "", "mask": ""}
SMALL = 0.01  # of the central square: an object that covers less counts as none


def prepare_coco(config: Config, folder: Path) -> list[dict]:
    """Downloads COCO 2017 and returns the rows of its manifest: val2017 is the test, the rest a sample of train2017."""
    downloads = resolve(config.downloads)
    with ThreadPoolExecutor() as pool:
        urls = (urljoin(f"{config.coco_url}/", place) for place, _, _ in FILES.values())
        list(pool.map(lambda name, url: download(url, downloads / name, *FILES[name][1:]), FILES, urls))
    captions = {name: read_captions(load(f"captions_{name}", downloads)) for name in ("train2017", "val2017")}
    objects = read_objects(load("instances_val2017", downloads), folder)
    rows = make_rows(captions, objects, read_narratives(downloads / NARRATIVES), config)
    names = {row["file_name"] for row in rows}
    for part in captions:
        with zipfile.ZipFile(downloads / f"{part}.zip") as archive:
            archive.extractall(folder, sorted(names & set(archive.namelist())))
    return rows


def download(url: str, path: Path, size: int | None, md5: str | None) -> None:
    """Downloads a file unless it exists, from where an earlier download stopped; ValueError if its MD5 is wrong."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    remedy = explained(f"{url} can't be downloaded", "run it again, it continues there")
    with remedy, partial.open("ab" if size else "wb") as file:
        have = partial.stat().st_size
        http_get(url, file, resume_size=have, expected_size=size, displayed_filename=path.name, tqdm_class=progress)
    if md5 and hash_of_file(partial, "md5") != md5:
        partial.unlink()
        raise ValueError(f"{url}: the file is not the published one (MD5): run it again, it starts from the beginning")
    os.replace(partial, path)


def make_rows(captions: dict, objects: dict, narratives: dict, config: Config) -> list[dict]:
    """The rows of COCO's manifest; `objects` (by file name) and `narratives` (by number) are those of test photos."""
    order = np.random.default_rng(config.dataset_seed).permutation(sorted(captions["train2017"]))
    splits = {
        "train": ("train2017", order[: config.n_train]),
        "validation": ("train2017", order[config.n_train :][: config.n_validation]),
        "test": ("val2017", sorted(captions["val2017"])),
    }
    rows = []
    for split, (part, names) in splits.items():
        for name in names:
            image_id, marked = Path(name).stem, NO_OBJECT | {"category": "coco"}
            if split == "test":
                marked = objects.get(name, NO_OBJECT) | {"narrative": narratives.get(int(image_id), "")}
            row = {"file_name": f"{part}/{name}", "image_id": image_id, "split": split, "subject": image_id}
            rows.append(row | marked | captions[part][name])
    return rows


def load(name: str, downloads: Path) -> COCO:
    """One of the files in COCO's archive of annotations."""
    with zipfile.ZipFile(downloads / ANNOTATIONS) as archive:
        return COCO(archive.extract(f"annotations/{name}.json", downloads))


def read_captions(coco: COCO) -> dict[str, dict]:
    """{file name: captions} of the photos that have any.

    `detailed_caption` has most colour words, and of these is the longest; `object_caption` is the same without them;
    `writer_2` ... are those of the other people, in the same order, "" if there are fewer.
    """
    captions = {}
    for image_id, image in coco.imgs.items():
        texts = [" ".join(annotation["caption"].split()) for annotation in coco.imgToAnns[image_id]]
        if texts:
            texts.sort(key=lambda text: (len(find_color_words(text)), len(text.split())), reverse=True)
            best, *others = texts
            own = {"object_caption": without_color_words(best), "detailed_caption": best, "gray_caption": ""}
            captions[image["file_name"]] = own | dict(zip_longest(WRITERS, others[: len(WRITERS)], fillvalue=""))
    return captions


def read_narratives(path: Path) -> dict[int, str]:
    """{number of a photo: its first Localized Narrative}, from JSON lines with `image_id` and `caption`."""
    narratives = {}
    with explained(f"{path} can't be read", "remove it, it is downloaded again", (KeyError, ValueError)):
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            narratives.setdefault(int(record["image_id"]), " ".join(record["caption"].split()))
    return narratives


def read_objects(coco: COCO, folder: Path) -> dict[str, dict]:
    """{file name: largest object}: its supercategory and, unless `SMALL`, its name and mask (written to a file)."""
    objects = {}
    for image_id, annotations in coco.imgToAnns.items():
        image, largest = coco.imgs[image_id], max(annotations, key=lambda annotation: annotation["area"])
        kind, mask = coco.cats[largest["category_id"]], coco.annToMask(largest) > 0
        objects[image["file_name"]] = NO_OBJECT | {"category": kind["supercategory"]}
        side = min(mask.shape)
        top, left = ((length - side) // 2 for length in mask.shape)
        if mask[top : top + side, left : left + side].mean() >= SMALL:
            name = f"masks/{Path(image['file_name']).stem}.png"
            with new_file(folder / name) as partial:
                Image.fromarray(mask).save(partial, "png")
            objects[image["file_name"]] |= {"object": kind["name"], "mask": name}
    return objects
