"""Where the study's photos come from: COCO 2017 or Kaggle's flowers, brought to a folder with a `metadata.csv`.

The folder then is like that of the pocket photos, and `lib.dataset` does the rest.
"""

import json
import os
import re
import shutil
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import requests
from huggingface_hub import HfApi, hf_hub_download
from PIL import Image
from pyarrow.parquet import ParquetFile
from tqdm import tqdm

from lib.dataset import MANIFEST_COLUMNS, THING_COLUMNS
from lib.files import hash_of_file, one_line, write_bytes, write_text
from lib.profiles import check_settings, resolve, write_settings
from lib.prompts import COLOR_PATTERN

COCO = {  # archive: path below the profile's coco_url, bytes, MD5; as the servers give them
    "train2017.zip": ("zips/train2017.zip", 19_336_861_798, "cced6f7f71b7629ddf16f17bbcfab6b2"),
    "val2017.zip": ("zips/val2017.zip", 815_585_330, "442b8da7639aecaf257c1dceb8ba8c80"),
    "annotations_trainval2017.zip": (
        "annotations/annotations_trainval2017.zip", 252_907_541, "f4bbac642086de4f52a3fdda2de5fa2c",
    ),
}  # fmt: skip
SETTINGS = {  # what a folder of photos must have been made with
    "coco": ("source", "n_train", "n_validation", "dataset_seed"),
    "flowers": ("source", "dataset_seed", "flowers_folder"),
}
FLOWERS = "alxmamaev/flowers-recognition"
PHOTO_BYTES = 170_000  # about what a COCO photo takes
GRAY_BELOW = 2.0  # a photo whose channels differ by less (of 255, on the mean) is a gray one
NO_THING = {"category": "other", "thing": "", "thing_box": ""}
ATTEMPTS, PAUSE = 5, 1.0  # of a download; seconds before the second, doubling
CHUNK = 1 << 16  # bytes


def prepare(profile):
    """Bring the photos of `profile.source`, and those of its test photos, to their folders, once; "folder": they are there.

    Writes `metadata.csv` last, and `left_out.csv` with what was left out and why. A folder that was made with other
    fields is a ValueError.
    """
    if profile.source == "flowers" and profile.flowers_folder and not resolve(profile.flowers_folder).is_dir():
        raise ValueError(
            f"flowers_folder {profile.flowers_folder} is no folder: correct it, or leave it empty to ask Kaggle"
        )
    if profile.of_test_photos:
        prepare(profile.of_test_photos)
    folder = profile.photos_dir
    if profile.source == "folder":
        return
    if (folder / "metadata.csv").exists():
        return check_settings(profile, folder, "01_build_dataset, with another -p photos FOLDER,")
    folder.mkdir(parents=True, exist_ok=True)
    write_settings(profile, SETTINGS[profile.source], folder)
    {"coco": prepare_coco, "flowers": prepare_flowers}[profile.source](profile, folder)


def prepare_coco(profile, folder):
    """COCO 2017: a seeded sample of train2017 for training and validation, val2017 for the test, human captions."""
    downloads, copy = resolve(profile.downloads), profile.coco_hub_id
    parquet = list_parquet(copy) if copy else {}
    archives = {name: facts for name, facts in COCO.items() if not copy or name.startswith("annotations")}
    sizes = {name: size for name, (_, size, _) in archives.items()} | {
        f"{copy}/{n}": size for n, size in parquet.items()
    }
    check_disk(folder, downloads, sizes, (profile.n_train + profile.n_validation + 5000) * PHOTO_BYTES)
    with ThreadPoolExecutor(len(archives)) as pool:
        coming = [
            pool.submit(download, f"{profile.coco_url}/{path}", downloads / name, size, md5)
            for name, (path, size, md5) in archives.items()
        ]
        for done in coming:
            done.result()
    with zipfile.ZipFile(downloads / "annotations_trainval2017.zip") as archive:
        captions = {part: read_captions(archive, part) for part in ("train2017", "val2017")}
        things = read_things(archive, "val2017")
    rng = np.random.default_rng(profile.dataset_seed)
    order = rng.permutation(sorted(captions["train2017"]))
    splits = {
        "train": ("train2017", order[: profile.n_train]),
        "validation": ("train2017", order[profile.n_train :][: profile.n_validation]),
        "test": ("val2017", sorted(captions["val2017"])),
    }
    rows = [
        {"file_name": f"{part}/{name}", "image_id": Path(name).stem, "split": split, "subject": Path(name).stem,
         **(things.get(name, NO_THING) if split == "test" else {**NO_THING, "category": "coco"}), **captions[part][name]}
        for split, (part, names) in splits.items() for name in names
    ]  # fmt: skip
    names = [row["file_name"] for row in rows]
    for part in () if copy else ("train2017", "val2017"):
        extract([name for name in names if name.startswith(part)], downloads / f"{part}.zip", folder)
    if copy:
        extract_parquet(names, copy, parquet, downloads / copy, folder)
    write_manifest(rows, folder)


def list_parquet(hub_id):
    """{file: bytes} of the parquet files of a Hub data set; one that can't be reached or has none is a ValueError."""
    try:
        facts = HfApi().dataset_info(hub_id, files_metadata=True)
    except Exception as error:  # of several clients
        raise ValueError(
            f"coco_hub_id {hub_id!r} can't be reached ({one_line(error)}): check it, or leave it empty"
        ) from None
    files = {file.rfilename: file.size for file in facts.siblings if file.rfilename.endswith(".parquet")}
    if not files:
        raise ValueError(
            f"coco_hub_id {hub_id!r} has no parquet files: name a copy of COCO that has, or leave it empty"
        )
    return files


def extract_parquet(names, hub_id, files, downloads, folder):
    """Take the named photos out of a Hub copy with columns `image_id` and `image`; those that are there are passed over."""
    missing = {int(Path(name).stem): name for name in names if not (folder / name).exists()}
    for file in tqdm(sorted(files) if missing else [], desc=f"{hub_id} files"):
        try:
            path = hf_hub_download(hub_id, file, repo_type="dataset", local_dir=downloads)
            batches = ParquetFile(path).iter_batches(64, columns=["image_id", "image"])
            for row in (row for batch in batches for row in batch.to_pylist() if row["image_id"] in missing):
                write_bytes(row["image"]["bytes"], folder / missing[row["image_id"]])
        except Exception as error:  # of several clients
            raise ValueError(
                f"{hub_id}/{file} can't be read ({one_line(error)}): run it again, it goes on there"
            ) from None


def read_captions(archive, part):
    """By file name, the captions of one part of COCO: the human one with most colour words, and of these the longest; the
    same without colour words; none in gray.

    Photos without a caption are passed over.
    """
    try:
        said = json.loads(archive.read(f"annotations/captions_{part}.json"))
    except (KeyError, ValueError) as error:
        raise ValueError(f"{archive.filename}: no captions of {part} in it ({error}): download it again") from None
    names = {image["id"]: image["file_name"] for image in said["images"]}
    best = {}
    for note in said["annotations"]:
        name, caption = names.get(note["image_id"]), " ".join(note["caption"].split())
        if name and richness(caption) > richness(best.get(name, "")):
            best[name] = caption
    return {
        name: {"object_caption": without_color_words(text), "detailed_caption": text, "gray_caption": ""}
        for name, text in best.items()
    }


def richness(caption):
    """How much a caption says: colour words, then words."""
    return len(COLOR_PATTERN.findall(caption)), len(caption.split())


def without_color_words(caption):
    """A caption without its colour words, and without the `and` or comma that stood between them."""
    word = COLOR_PATTERN.pattern
    alone = re.sub(rf"(?:{word})(?:\s*(?:,|and|or)\s*(?:{word}))*", "", caption, flags=re.I)
    tidy = re.sub(r"\s*(,\s*)+", ", ", re.sub(r"\s+([,.;])", r"\1", " ".join(alone.split())))
    return tidy.strip(", ") or caption


def read_things(archive, part):
    """By file name, the largest thing marked in a photo of one part of COCO: its supercategory, name and a box inside it.

    The box is the middle half of the marked one, in fractions of the photo's central square; "" where that is too small.
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
        box = box_in_square(thing["bbox"], image["width"], image["height"])
        named = {"thing": kind["name"], "thing_box": box} if box else {"thing": "", "thing_box": ""}
        found[image["file_name"]] = {"category": kind["supercategory"], **named}
    return found


def box_in_square(bbox, width, height):
    """The middle half of a box (left, top, width, height in px) as fractions of a photo's central square, or ""."""
    side = min(width, height)
    left, top = bbox[0] - (width - side) / 2, bbox[1] - (height - side) / 2
    edges = (left + bbox[2] / 4, top + bbox[3] / 4, left + bbox[2] * 3 / 4, top + bbox[3] * 3 / 4)
    box = [min(max(edge / side, 0), 1) for edge in edges]
    return " ".join(f"{edge:.3f}" for edge in box) if min(box[2] - box[0], box[3] - box[1]) >= 0.05 else ""


def prepare_flowers(profile, folder):
    """Kaggle's flowers, a folder for each kind: 5 % of each kind for validation and for the test, generic captions."""
    found = resolve(profile.flowers_folder) if profile.flowers_folder else download_flowers()
    files = sorted(path for path in found.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not files:
        raise ValueError(f"{found} holds no photo in a folder for each kind: name another with -p flowers_folder")
    known = {(path.parent.name, hash_of_file(path)): path for path in files}  # some archives hold all twice
    files, rng = list(known.values()), np.random.default_rng(profile.dataset_seed)
    rows = []
    for kind in sorted({path.parent.name for path in files}):
        ours = rng.permutation([path for path in files if path.parent.name == kind])
        held_out = max(1, len(ours) // 20)
        for index, path in enumerate(ours):
            split = "test" if index < held_out else "validation" if index < 2 * held_out else "train"
            name = f"{kind}/{path.name}"
            (folder / kind).mkdir(parents=True, exist_ok=True)
            if not (folder / name).exists():
                shutil.copy(path, folder / name)
            text = f"a photo of a {kind} flower"
            rows.append({"file_name": name, "image_id": f"{kind}-{path.stem}", "split": split, "category": kind,
                         "subject": f"{kind}-{path.stem}", "object_caption": text, "detailed_caption": text,
                         "gray_caption": ""})  # fmt: skip
    write_manifest(rows, folder)


def download_flowers():
    """The folder that `kagglehub` keeps the data set in; needs Kaggle's credentials in one of their usual places."""
    import kagglehub

    try:
        return Path(kagglehub.dataset_download(FLOWERS))
    except Exception as error:
        raise ValueError(
            f"Kaggle's {FLOWERS} can't be downloaded ({one_line(error)}): put your key in ~/.kaggle/kaggle.json or KAGGLE_USERNAME "
            "and KAGGLE_KEY, or name a folder that has the photos with -p flowers_folder"
        ) from None


def check_disk(folder, downloads, sizes, extracted):
    """Refuse to start where a disk can't hold what will come, {download: bytes} and photos: ValueError with both numbers."""
    missing = sum(size - bytes_of(downloads / name) for name, size in sizes.items())
    have = sum(path.stat().st_size for path in folder.rglob("*.jpg"))
    needs = {"photos": (folder, max(extracted - have, 0)), "downloads": (downloads, missing)}
    disks = {}
    for field, (place, needed) in needs.items():
        while not place.exists():
            place = place.parent
        disk = disks.setdefault(place.stat().st_dev, {"place": place, "needed": 0, "fields": []})
        disk["needed"] += needed
        disk["fields"].append(f"-p {field} FOLDER")
    for disk in disks.values():
        free = shutil.disk_usage(disk["place"]).free
        if free < disk["needed"]:
            raise ValueError(f"{disk['place']}: {free / 1e9:.0f} GB free, but {disk['needed'] / 1e9:.0f} GB are to come: "
                             f"free some, or pass {' '.join(disk['fields'])}")  # fmt: skip


def bytes_of(path):
    """How many bytes of a download are there, whole or in part."""
    partial = path.with_name(path.name + ".part")
    return next((file.stat().st_size for file in (path, partial) if file.exists()), 0)


def download(url, path, size, md5):
    """Fetch a file of known size and MD5; goes on where it was broken off. Trouble is a ValueError that keeps the part."""
    if path.exists() and path.stat().st_size == size:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    trouble = None
    for attempt in range(ATTEMPTS):
        have = partial.stat().st_size if partial.exists() else 0
        if have >= size:
            break
        try:
            fetch_rest(url, partial, have, size)
        except requests.RequestException as error:
            trouble = error
            time.sleep(PAUSE * 2**attempt)
    have = partial.stat().st_size if partial.exists() else 0
    if have != size:
        raise ValueError(
            f"{url}: {have} of {size} bytes came ({trouble or 'broken off'}): run it again, it goes on there"
        )
    if hash_of_file(partial, "md5") != md5:
        partial.unlink()
        raise ValueError(f"{url}: the file is not the published one (MD5): run it again, it starts anew")
    os.replace(partial, path)


def fetch_rest(url, partial, have, size):
    """Append what is missing of a file, or start it anew where the server can't send a part."""
    with requests.get(url, headers={"Range": f"bytes={have}-"}, stream=True, timeout=60) as answer:
        answer.raise_for_status()
        mode, have = ("ab", have) if answer.status_code == 206 else ("wb", 0)
        bar = tqdm(total=size, initial=have, unit="B", unit_scale=True, desc=partial.stem)
        with bar, partial.open(mode) as file:
            for chunk in answer.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))


def extract(names, archive, folder):
    """Take the named photos out of an archive into a folder; those that are there whole are passed over."""
    with zipfile.ZipFile(archive) as file:
        sizes = {info.filename: info.file_size for info in file.infolist()}
        for name in tqdm(names, desc=f"{archive.stem} photos"):
            target = folder / name
            if name not in sizes or (target.exists() and target.stat().st_size == sizes[name]):
                continue
            write_bytes(file.read(name), target)


def write_manifest(rows, folder):
    """Write `metadata.csv` for the rows whose photo is whole and in colour, and `left_out.csv` for the others."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        files = [folder / row["file_name"] for row in rows]
        reasons = list(tqdm(pool.map(flaw_of, files), total=len(files), desc="checking photos"))
    left_out = [
        {"image_id": row["image_id"], "split": row["split"], "reason": reason}
        for row, reason in zip(rows, reasons, strict=True) if reason
    ]  # fmt: skip
    pd.DataFrame(left_out, columns=["image_id", "split", "reason"]).to_csv(folder / "left_out.csv", index=False)
    kept = [row for row, reason in zip(rows, reasons, strict=True) if not reason]
    table = pd.DataFrame(kept, columns=[*MANIFEST_COLUMNS, *THING_COLUMNS])
    write_text(table.to_csv(index=False), folder / "metadata.csv")


def describe_photos(profile, manifest):
    """A sentence on a folder of photos: how many were left out, and why, and how many the resolution enlarges."""
    path, reasons = profile.photos_dir / "left_out.csv", {}
    if path.exists():
        reasons = pd.read_csv(path)["reason"].value_counts().to_dict()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sides = list(tqdm(pool.map(short_side, manifest["path"]), total=len(manifest), desc="sizes"))
    why = f" ({', '.join(f'{reason} {count}' for reason, count in reasons.items())})" if reasons else ""
    small = sum(side < profile.resolution for side in sides)
    return (
        f"{sum(reasons.values())} photos were left out{why}; {small} of {len(manifest)} are smaller than "
        f"{profile.resolution} px and were enlarged."
    )


def short_side(path):
    """The shorter side of a photo in px, from its header; 0 where it can't be read."""
    try:
        with Image.open(path) as photo:
            return min(photo.size)
    except (OSError, SyntaxError, ValueError):
        return 0


def flaw_of(path):
    """Why a photo can't be used: missing, broken or gray; "" where it can."""
    if not path.exists():
        return "missing"
    try:
        with Image.open(path) as photo:
            photo.draft("RGB", (128, 128))
            pixels = np.asarray(photo.convert("RGB"), np.int16)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return "broken"
    return "gray" if np.ptp(pixels, axis=-1).mean() < GRAY_BELOW else ""
