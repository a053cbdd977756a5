"""Where the study's photos come from: COCO 2017 or Kaggle's flowers, brought to a folder with a `metadata.csv`.

The folder then is like that of the pocket photos, and `lib.dataset` does the rest.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
from PIL import Image

from lib.cache import open_picture, progress, write_table
from lib.config import check_config, resolve, save_config
from lib.dataset import MANIFEST_COLUMNS, OPTIONAL_COLUMNS
from lib.l4.coco import prepare_coco
from lib.l4.flowers import prepare_flowers

PHOTO_FIELDS = {  # what a folder of photos must have been made with
    "coco": ("source", "n_train", "n_validation", "dataset_seed"),
    "flowers": ("source", "dataset_seed", "flowers_folder"),
}
GRAY_BELOW = 2.0  # a photo whose channels differ by less (of 255, on the mean) is a gray one


def prepare(config):
    """Bring the photos of `config.source`, and of `test_source`, to their folders, once; "folder": they are there.

    Writes `metadata.csv` last, and `left_out.csv` with what was left out and why. A folder that was made with other
    fields is a ValueError.
    """
    if config.source == "flowers" and config.flowers_folder and not resolve(config.flowers_folder).is_dir():
        raise ValueError(
            f"flowers_folder {config.flowers_folder} is no folder: correct it, or leave it empty to ask Kaggle"
        )
    if config.test_source:
        prepare(config.for_test_photos)
    folder = config.photos_dir
    if config.source == "folder":
        return
    if (folder / "metadata.csv").exists():
        fields = PHOTO_FIELDS[config.source]
        return check_config(config, folder / "config.json", fields, "01_build_dataset, with another -p photos FOLDER,")
    folder.mkdir(parents=True, exist_ok=True)
    save_config(config, folder)
    bring = {"coco": prepare_coco, "flowers": prepare_flowers}[config.source]
    write_manifest(bring(config, folder), folder)


def write_manifest(rows, folder):
    """Write `metadata.csv` for the rows whose photo is whole and in colour, and `left_out.csv` for the others."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        files = [folder / row["file_name"] for row in rows]
        reasons = list(progress(pool.map(flaw_of, files), total=len(files), desc="checking photos"))
    table = pd.DataFrame(rows, columns=[*MANIFEST_COLUMNS, *OPTIONAL_COLUMNS]).assign(reason=reasons)
    flawed = table["reason"] != ""
    write_table(table[flawed][["image_id", "split", "reason"]], folder / "left_out.csv")
    write_table(table[~flawed].drop(columns="reason"), folder / "metadata.csv")


def describe_photos(config, manifest):
    """A sentence on a folder of photos: how many were left out, and why, and how many the resolution enlarges."""
    path, reasons = config.photos_dir / "left_out.csv", {}
    if path.exists():
        reasons = pd.read_csv(path)["reason"].value_counts().to_dict()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sides = list(progress(pool.map(short_side, manifest["path"]), total=len(manifest), desc="sizes"))
    why = f" ({', '.join(f'{reason} {count}' for reason, count in reasons.items())})" if reasons else ""
    small = sum(side < config.resolution for side in sides)
    return (
        f"{sum(reasons.values())} photos were left out{why}; {small} of {len(manifest)} are smaller than "
        f"{config.resolution} px and were enlarged."
    )


def short_side(path):
    """The shorter side of a photo in px, from its header; 0 where it can't be read."""
    try:
        with open_picture(path) as photo:
            return min(photo.size)
    except (OSError, SyntaxError, ValueError):
        return 0


def flaw_of(path):
    """Why a photo can't be used: missing, broken or gray; "" where it can."""
    if not path.exists():
        return "missing"
    try:
        with open_picture(path) as photo:
            photo.draft("RGB", (128, 128))
            pixels = np.asarray(photo.convert("RGB"), np.int16)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return "broken"
    return "gray" if np.ptp(pixels, axis=-1).mean() < GRAY_BELOW else ""
