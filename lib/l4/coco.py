"""COCO 2017: its archives, or a copy on the Hub, as rows of a manifest with human captions and marked things."""

import json
import zipfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path

import numpy as np
from huggingface_hub import HfApi, hf_hub_download
from PIL import Image
from pyarrow.parquet import ParquetFile
from pycocotools import mask as run_lengths

from lib.cache import explained, new_file, progress, write_bytes
from lib.color_words import find_color_words, without_color_words
from lib.config import resolve
from lib.l4.downloads import download, extract, require_disk
from lib.prompts import WRITERS

COCO = {  # archive: path below the profile's coco_url, bytes, MD5; as the servers give them
    "train2017.zip": ("zips/train2017.zip", 19_336_861_798, "cced6f7f71b7629ddf16f17bbcfab6b2"),
    "val2017.zip": ("zips/val2017.zip", 815_585_330, "442b8da7639aecaf257c1dceb8ba8c80"),
    "annotations_trainval2017.zip": (
        "annotations/annotations_trainval2017.zip",
        252_907_541,
        "f4bbac642086de4f52a3fdda2de5fa2c",
    ),
}
PHOTO_BYTES = 170_000  # about what a COCO photo takes
NO_THING = {"category": "other", "thing": "", "thing_box": "", "mask": ""}


def prepare_coco(config, folder):
    """Bring COCO 2017 to a folder and return the rows of its manifest.

    A seeded sample of train2017 is for training and validation, val2017 for the test; captions are human.
    """
    downloads, copy = resolve(config.downloads), config.coco_hub_id
    parquet = list_parquet(copy) if copy else {}
    archives = {name: facts for name, facts in COCO.items() if not copy or name.startswith("annotations")}
    sizes = {f"{copy}/{name}": size for name, size in parquet.items()}
    sizes |= {name: size for name, (_, size, _) in archives.items()}
    require_disk(folder, downloads, sizes, (config.n_train + config.n_validation + 5000) * PHOTO_BYTES)
    with ThreadPoolExecutor(len(archives)) as pool:
        list(pool.map(lambda name: download_archive(name, config.coco_url, downloads), archives))
    with zipfile.ZipFile(downloads / "annotations_trainval2017.zip") as archive:
        captions = {part: read_captions(archive, part) for part in ("train2017", "val2017")}
        things = read_things(archive, "val2017", folder)
    rows = make_rows(captions, things, config.n_train, config.n_validation, config.dataset_seed)
    names = [row["file_name"] for row in rows]
    if copy:
        extract_parquet(names, copy, parquet, downloads / copy, folder)
    else:
        for part in ("train2017", "val2017"):
            extract([name for name in names if name.startswith(part)], downloads / f"{part}.zip", folder)
    return rows


def download_archive(name, url, downloads):
    """Fetch one of `COCO`'s archives."""
    path, size, md5 = COCO[name]
    download(f"{url}/{path}", downloads / name, size, md5)


def make_rows(captions, things, n_train, n_validation, seed):
    """The manifest's rows of COCO: split, file, captions by file name, and the things of the test photos."""
    order = np.random.default_rng(seed).permutation(sorted(captions["train2017"]))
    splits = {
        "train": ("train2017", order[:n_train]),
        "validation": ("train2017", order[n_train:][:n_validation]),
        "test": ("val2017", sorted(captions["val2017"])),
    }
    rows = []
    for split, (part, names) in splits.items():
        for name in names:
            image_id, thing = Path(name).stem, NO_THING | {"category": "coco"}
            if split == "test":
                thing = things.get(name, NO_THING)
            row = {"file_name": f"{part}/{name}", "image_id": image_id, "split": split, "subject": image_id}
            rows.append(row | thing | captions[part][name])
    return rows


def list_parquet(hub_id):
    """{file: bytes} of the parquet files of a Hub data set; one that can't be reached or has none is a ValueError."""
    with explained(f"coco_hub_id {hub_id!r} can't be reached", "check it, or leave it empty"):
        facts = HfApi().dataset_info(hub_id, files_metadata=True)
    files = {file.rfilename: file.size for file in facts.siblings if file.rfilename.endswith(".parquet")}
    if not files:
        raise ValueError(
            f"coco_hub_id {hub_id!r} has no parquet files: name a copy of COCO that has, or leave it empty"
        )
    return files


def extract_parquet(names, hub_id, files, downloads, folder):
    """Take the named photos, where they are missing, out of a Hub copy with columns `image_id` and `image`."""
    missing = {int(Path(name).stem): name for name in names if not (folder / name).exists()}
    for file in progress(sorted(files) if missing else [], desc=f"{hub_id} files"):
        with explained(f"{hub_id}/{file} can't be read", "run it again, it goes on there"):
            path = hf_hub_download(hub_id, file, repo_type="dataset", local_dir=downloads)
            for batch in ParquetFile(path).iter_batches(64, columns=["image_id", "image"]):
                for row in batch.to_pylist():
                    if row["image_id"] in missing:
                        write_bytes(row["image"]["bytes"], folder / missing[row["image_id"]])


def read_captions(archive, part):
    """By file name, the captions of those photos in one part of COCO that have any.

    `detailed_caption`: the human one with most colour words, and of these the longest; `object_caption`: the same
    without colour words; `writer_2` ...: those of the other people, in the same order, "" where there are fewer.
    """
    with explained(f"{archive.filename}: no captions of {part} in it", "download it again", (KeyError, ValueError)):
        said = json.loads(archive.read(f"annotations/captions_{part}.json"))
    names = {image["id"]: image["file_name"] for image in said["images"]}
    texts, captions = defaultdict(list), {}
    for note in said["annotations"]:
        if note["image_id"] in names:
            texts[names[note["image_id"]]].append(" ".join(note["caption"].split()))
    for name, found in texts.items():
        best, *others = sorted(found, key=richness, reverse=True)
        of_writers = dict(zip_longest(WRITERS, others[: len(WRITERS)], fillvalue=""))
        own = {"object_caption": without_color_words(best), "detailed_caption": best, "gray_caption": ""}
        captions[name] = own | of_writers
    return captions


def richness(caption):
    """How much a caption says: colour words, then words."""
    return len(find_color_words(caption)), len(caption.split())


def read_things(archive, part, folder):
    """By file name, the largest thing marked in photos of one part of COCO: supercategory, name, a box inside, a mask.

    The box is the middle half of the marked one, in fractions of the central square; "" where that is too small, and
    there is no thing then. Masks are written below `folder`.
    """
    marked = json.loads(archive.read(f"annotations/instances_{part}.json"))
    images = {image["id"]: image for image in marked["images"]}
    kinds = {category["id"]: category for category in marked["categories"]}
    largest = {}
    for thing in marked["annotations"]:
        if thing["area"] > largest.get(thing["image_id"], {"area": 0})["area"]:
            largest[thing["image_id"]] = thing
    found = {}
    for key, thing in largest.items():
        image, kind = images[key], kinds[thing["category_id"]]
        named = NO_THING | {"category": kind["supercategory"]}
        if box := box_in_square(thing["bbox"], image["width"], image["height"]):
            mask = f"masks/{Path(image['file_name']).stem}.png"
            write_mask(thing["segmentation"], image["height"], image["width"], folder / mask)
            named |= {"thing": kind["name"], "thing_box": box, "mask": mask}
        found[image["file_name"]] = named
    return found


def write_mask(segmentation, height, width, path):
    """Write a thing as COCO marks it, in polygons or (a crowd) in run lengths, as a PNG of its photo's size in px."""
    runs = run_lengths.frPyObjects(segmentation, height, width)
    inside = run_lengths.decode(run_lengths.merge(runs) if isinstance(runs, list) else runs)
    with new_file(path) as partial:
        Image.fromarray(inside > 0).save(partial, "png")


def box_in_square(bbox, width, height):
    """The middle half of a box (left, top, width, height in px) as fractions of a photo's central square, or ""."""
    side = min(width, height)
    left, top = bbox[0] - (width - side) / 2, bbox[1] - (height - side) / 2
    edges = (left + bbox[2] / 4, top + bbox[3] / 4, left + bbox[2] * 3 / 4, top + bbox[3] * 3 / 4)
    box = [min(max(edge / side, 0), 1) for edge in edges]
    return " ".join(f"{edge:.3f}" for edge in box) if min(box[2] - box[0], box[3] - box[1]) >= 0.05 else ""
