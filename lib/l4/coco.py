"""COCO 2017 as rows of a manifest: photos, captions by people, long descriptions, masks of the largest objects."""

import io
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from itertools import zip_longest
from pathlib import Path
from urllib.parse import urljoin

import numpy as np
from PIL import Image
from pycocotools.coco import COCO

from lib.cache import explained, new_file
from lib.captions import find_color_words, without_color_words
from lib.config import Config, resolve
from lib.l4.downloads import download, extract, require_disk
from lib.prompts import WRITERS

ANNOTATIONS, NARRATIVES = "annotations_trainval2017.zip", "coco_val_captions.jsonl"
FILES = {  # name: path below `coco_url` or URL, bytes, MD5; as the servers give them (None: not published)
    "train2017.zip": ("zips/train2017.zip", 19_336_861_798, "cced6f7f71b7629ddf16f17bbcfab6b2"),
    "val2017.zip": ("zips/val2017.zip", 815_585_330, "442b8da7639aecaf257c1dceb8ba8c80"),
    ANNOTATIONS: (f"annotations/{ANNOTATIONS}", 252_907_541, "f4bbac642086de4f52a3fdda2de5fa2c"),
    NARRATIVES: (f"https://storage.googleapis.com/localized-narratives/annotations/{NARRATIVES}", None, None),
}
PHOTO_BYTES, TEST_PHOTOS = 170_000, 5_000  # about what a photo takes; in val2017
NO_OBJECT = {"category": "other", "object": "", "mask": ""}
SMALL = 0.01  # of the central square: an object that covers less counts as none


def prepare_coco(config: Config, folder: Path) -> list[dict]:
    """Downloads COCO 2017 and returns the rows of its manifest.

    A seeded sample of train2017 is for training and validation; val2017 is the test.
    """
    downloads = resolve(config.downloads)
    needed = sum(size or 0 for _, size, _ in FILES.values())
    needed += (config.n_train + config.n_validation + TEST_PHOTOS) * PHOTO_BYTES
    require_disk(
        downloads, needed - sum(path.stat().st_size for path in [*downloads.glob("*"), *folder.rglob("*.jpg")])
    )
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: download(url_of(name, config), downloads / name, *FILES[name][1:]), FILES))
    with zipfile.ZipFile(downloads / ANNOTATIONS) as archive:
        captions = {name: read_captions(read_json(archive, f"captions_{name}")) for name in ("train2017", "val2017")}
        objects = read_objects(read_json(archive, "instances_val2017"), folder)
    rows = make_rows(captions, objects, read_narratives(downloads / NARRATIVES), config)
    for part in captions:
        extract(
            [row["file_name"] for row in rows if row["file_name"].startswith(part)], downloads / f"{part}.zip", folder
        )
    return rows


def url_of(name: str, config: Config) -> str:
    """Where one of `FILES` is."""
    return urljoin(f"{config.coco_url}/", FILES[name][0])


def make_rows(captions: dict, objects: dict, narratives: dict, config: Config) -> list[dict]:
    """The manifest's rows of COCO; objects and narratives are those of the test photos, by file name and number."""
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


def read_json(archive: zipfile.ZipFile, name: str) -> COCO:
    """One of the annotation files in COCO's archive; ValueError if it is missing or damaged."""
    coco = COCO()
    with explained(f"{archive.filename}: no {name} in it", "download it again", (KeyError, ValueError)):
        coco.dataset = json.loads(archive.read(f"annotations/{name}.json"))
    with redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def read_captions(coco: COCO) -> dict[str, dict]:
    """{file name: captions} of the photos that have any.

    `detailed_caption`: the one with most colour words, and of these the longest; `object_caption`: the same without
    colour words; `writer_2` ...: those of the other people, in the same order, "" if there are fewer.
    """
    captions = {}
    for image_id, image in coco.imgs.items():
        texts = [" ".join(annotation["caption"].split()) for annotation in coco.imgToAnns[image_id]]
        if texts:
            best, *others = sorted(
                texts, key=lambda text: (len(find_color_words(text)), len(text.split())), reverse=True
            )
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
    """{file name: the largest object}: its supercategory and, unless it is `SMALL`, its name and mask.

    Only the photo's central square counts. Masks are written below the folder.
    """
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
