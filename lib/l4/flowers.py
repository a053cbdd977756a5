"""Kaggle's photos of flowers, a folder for each kind: the stand-in for the study's first photos."""

import shutil
from pathlib import Path

import numpy as np

from lib.cache import explained, hash_of_file
from lib.config import resolve

FLOWERS = "alxmamaev/flowers-recognition"


def prepare_flowers(config, folder):
    """Copy Kaggle's flowers to a folder and return the rows of their manifest, with generic captions.

    5 % of each kind are for validation and 5 % for the test.
    """
    found = resolve(config.flowers_folder) if config.flowers_folder else download_flowers()
    files = sorted(path for path in found.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not files:
        raise ValueError(f"{found} holds no photo in a folder for each kind: name another with -p flowers_folder")
    known = {(path.parent.name, hash_of_file(path)): path for path in files}  # some archives hold all twice
    files, rng = list(known.values()), np.random.default_rng(config.dataset_seed)
    rows = []
    for kind in sorted({path.parent.name for path in files}):
        ours = rng.permutation([path for path in files if path.parent.name == kind])
        held_out, text = max(1, len(ours) // 20), f"a photo of a {kind} flower"
        captions = {"object_caption": text, "detailed_caption": text, "gray_caption": ""}
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for index, path in enumerate(ours):
            split = "test" if index < held_out else "validation" if index < 2 * held_out else "train"
            name, image_id = f"{kind}/{path.name}", f"{kind}-{path.stem}"
            if not (folder / name).exists():
                shutil.copy(path, folder / name)
            row = {"file_name": name, "image_id": image_id, "split": split, "category": kind, "subject": image_id}
            rows.append(row | captions)
    return rows


def download_flowers():
    """The folder that `kagglehub` keeps the data set in, which is public: Kaggle rarely asks for a token."""
    import kagglehub  # which no other source needs

    remedy = "set KAGGLE_API_TOKEN (kaggle.com > Settings), or name a folder that has the photos: -p flowers_folder"
    with explained(f"Kaggle's {FLOWERS} can't be downloaded", remedy):
        return Path(kagglehub.dataset_download(FLOWERS))
