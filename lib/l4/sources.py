"""Where the study's photos come from: COCO 2017 or Kaggle's flowers, brought to a folder with a `metadata.csv`.

The folder then is like that of the pocket photos, and `lib.dataset` does the rest.
"""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from lib.cache import explained, hash_of_file, is_current, mark_current, open_picture, progress, write_table
from lib.config import Config, resolve
from lib.dataset import MANIFEST_COLUMNS, OPTIONAL_COLUMNS
from lib.l4.coco import prepare_coco

FLOWERS = "alxmamaev/flowers-recognition"  # on Kaggle
GRAY_BELOW = 2.0  # a photo whose channels differ by less (of 255, on the mean) is a gray one
VERSION = 1  # of what is made here


def prepare(config: Config) -> None:
    """Brings the photos of `source` and `test_source` to their folders, unless they are there; "folder": nothing to do.

    Writes `metadata.csv`, and `left_out.csv` with what was left out and why.
    """
    if config.test_source:
        prepare(config.for_test_photos)
    if config.source == "folder":
        return
    fields = {"coco": ("n_train", "n_validation"), "flowers": ("flowers_folder",)}[config.source]
    key = {"version": VERSION, **config.values("source", "dataset_seed", *fields)}
    folder = config.photos_dir
    if not is_current(folder, key):
        bring = {"coco": prepare_coco, "flowers": prepare_flowers}[config.source]
        write_manifest(bring(config, folder), folder)
        mark_current(folder, key)


def prepare_flowers(config: Config, folder: Path) -> list[dict]:
    """Copies Kaggle's flowers, a folder for each kind, and returns the rows of their manifest, with generic captions.

    5 % of each kind are for validation and 5 % for the test.
    """
    source = find_flowers(config)
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not files:
        raise ValueError(f"{source} holds no photo in a folder for each kind: name another with -p flowers_folder")
    unique = {(path.parent.name, hash_of_file(path)): path for path in files}  # some archives hold all twice
    rows, rng = [], np.random.default_rng(config.dataset_seed)
    for kind in sorted({kind for kind, _ in unique}):
        paths = rng.permutation([path for (own, _), path in unique.items() if own == kind])
        held_out, text = max(1, len(paths) // 20), f"a photo of a {kind} flower"
        captions = {"object_caption": text, "detailed_caption": text, "gray_caption": ""}
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for index, path in enumerate(paths):
            split = "test" if index < held_out else "validation" if index < 2 * held_out else "train"
            name, image_id = f"{kind}/{path.name}", f"{kind}-{path.stem}"
            if not (folder / name).exists():
                shutil.copy(path, folder / name)
            row = {"file_name": name, "image_id": image_id, "split": split, "category": kind, "subject": image_id}
            rows.append(row | captions)
    return rows


def find_flowers(config: Config) -> Path:
    """The folder that `flowers_folder` names, or kagglehub's, which downloads the public data set once."""
    if config.flowers_folder:
        folder = resolve(config.flowers_folder)
        if not folder.is_dir():
            raise ValueError(f"flowers_folder {folder} is no folder: correct it, or leave it empty to ask Kaggle")
        return folder
    import kagglehub  # slow, and needed by no other source

    remedy = "set KAGGLE_API_TOKEN (kaggle.com > Settings), or name a folder that has the photos: -p flowers_folder"
    with explained(f"Kaggle's {FLOWERS} can't be downloaded", remedy):
        return Path(kagglehub.dataset_download(FLOWERS))


def write_manifest(rows: list[dict], folder: Path) -> None:
    """Writes `metadata.csv` for the rows whose photo is complete and in colour, and `left_out.csv` for the others."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        files = [folder / row["file_name"] for row in rows]
        reasons = list(progress(pool.map(flaw_of, files), total=len(files), desc="checking photos"))
    table = pd.DataFrame(rows, columns=[*MANIFEST_COLUMNS, *OPTIONAL_COLUMNS]).assign(reason=reasons)
    flawed = table["reason"] != ""
    write_table(table[flawed][["image_id", "split", "reason"]], folder / "left_out.csv")
    write_table(table[~flawed].drop(columns="reason"), folder / "metadata.csv")


def flaw_of(path: Path) -> str:
    """Why a photo can't be used: missing, broken or gray; "" if it can."""
    if not path.exists():
        return "missing"
    try:
        with open_picture(path) as photo:
            photo.draft("RGB", (128, 128))
            pixels = np.asarray(photo.convert("RGB"), np.int16)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return "broken"
    return "gray" if np.ptp(pixels, axis=-1).mean() < GRAY_BELOW else ""


def describe_photos(config: Config) -> str:
    """A sentence on the photos that were left out, with the reasons."""
    path = config.photos_dir / "left_out.csv"
    reasons = pd.read_csv(path)["reason"].value_counts() if path.exists() else {}
    return f"Photos left out: {', '.join(f'{count} {reason}' for reason, count in reasons.items()) or 'none'}."
