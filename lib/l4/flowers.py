"""Kaggle's photos of flowers, a folder for each kind: the stand-in for the study's first photos."""

import shutil
from pathlib import Path

import kagglehub
import numpy as np

from lib.files import hash_of_file, one_line
from lib.profiles import resolve

FLOWERS = "alxmamaev/flowers-recognition"


def prepare_flowers(data, folder):
    """Copy Kaggle's flowers to a folder and return the rows of their manifest, with generic captions.

    5 % of each kind are for validation and 5 % for the test.
    """
    found = resolve(data.flowers_folder) if data.flowers_folder else download_flowers()
    files = sorted(path for path in found.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not files:
        raise ValueError(f"{found} holds no photo in a folder for each kind: name another with -p flowers_folder")
    known = {(path.parent.name, hash_of_file(path)): path for path in files}  # some archives hold all twice
    files, rng = list(known.values()), np.random.default_rng(data.dataset_seed)
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
    return rows


def download_flowers():
    """The folder that `kagglehub` keeps the data set in; needs Kaggle's credentials in one of their usual places."""
    try:
        return Path(kagglehub.dataset_download(FLOWERS))
    except Exception as error:
        raise ValueError(
            f"Kaggle's {FLOWERS} can't be downloaded ({one_line(error)}): put your key in ~/.kaggle/kaggle.json or KAGGLE_USERNAME "
            "and KAGGLE_KEY, or name a folder that has the photos with -p flowers_folder"
        ) from None
