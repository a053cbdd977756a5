"""Makes a folder of photos with `metadata.csv`, like that of the pocket photos, from COCO 2017 or Kaggle's flowers."""

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
GRAY_BELOW = 2.0  # mean difference of a photo's channels, of 255, below which it is gray
VERSION = 1  # of the files made here


def prepare(config: Config) -> None:
    """Downloads the photos of `source` and `test_source`, once; those that can't be used go to `left_out.csv`."""
    if config.test_source:
        prepare(config.for_test_photos)
    if config.source == "folder":
        return
    makers = {"coco": (prepare_coco, "n_train", "n_validation"), "flowers": (prepare_flowers, "flowers_folder")}
    make, *fields = makers[config.source]
    folder, key = config.photos_dir, {"version": VERSION, **config.values("source", "dataset_seed", *fields)}
    if not is_current(folder, key):
        write_manifest(make(config, folder), folder)
        mark_current(folder, key)


def prepare_flowers(config: Config, folder: Path) -> list[dict]:
    """Copies Kaggle's flowers and returns the rows of their manifest: 5 % of each kind for validation, 5 % for test."""
    files = sorted(path for path in find_flowers(config).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
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
    if not config.flowers_folder:
        import kagglehub  # slow, and needed by no other source

        remedy = "set KAGGLE_API_TOKEN (kaggle.com > Settings), or pass -p flowers_folder FOLDER"
        with explained(f"Kaggle's {FLOWERS} can't be downloaded", remedy):
            return Path(kagglehub.dataset_download(FLOWERS))
    folder = resolve(config.flowers_folder)
    if not any(path.is_dir() for path in folder.glob("*")):
        raise ValueError(f"flowers_folder {folder} has no folder for each kind: correct it, or leave it empty")
    return folder


def write_manifest(rows: list[dict], folder: Path) -> None:
    """Writes `metadata.csv` for the rows whose photo is complete and in colour, and `left_out.csv` for the others."""
    table = pd.DataFrame(rows, columns=[*MANIFEST_COLUMNS, *OPTIONAL_COLUMNS])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        flaws = pool.map(flaw_of, folder / table["file_name"])
        table["reason"] = list(progress(flaws, total=len(table), desc="checking photos"))
    flawed = table["reason"] != ""
    write_table(table[flawed][["image_id", "split", "reason"]], folder / "left_out.csv")
    write_table(table[~flawed].drop(columns="reason"), folder / "metadata.csv")


def flaw_of(path: Path) -> str:
    """Why a photo can't be used ("missing", "broken" or "gray"), or ""."""
    if not path.exists():
        return "missing"
    try:
        with open_picture(path) as photo:
            photo.draft("RGB", (128, 128))
            pixels = np.asarray(photo.convert("RGB"), np.int16)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return "broken"
    return "gray" if np.ptp(pixels, axis=-1).mean() < GRAY_BELOW else ""
