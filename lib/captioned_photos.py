"""Photos with captions to train on: a folder with `photos.csv`, or the photos that ship with the project.

`photos.csv` has the columns file, set, split, captions, labels; captions and labels are JSON lists and may be empty.
"""

import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from lib.dataset import read_manifest
from lib.files import explained, open_picture
from lib.profiles import resolve

SHIPPED = "data_cards/pocket_photos"
COLUMNS = ("file", "set", "split", "captions", "labels")
SPLITS = ("train", "validation")  # rows of other splits, such as a confirmatory test, are never opened


@dataclass
class CaptionedPhoto:
    """A photo to train on: its file, captions, class labels, and perhaps an object's mask and the names of both."""

    path: Path
    set: str
    split: str
    captions: list[str]
    labels: list[str] = field(default_factory=list)
    mask: Path | None = None
    object: str = ""
    background: str = ""
    stretched: bool = False  # squashed to a square at some time, so that its aspect ratio is unknown

    def open(self) -> Image.Image:
        """The photo in RGB, turned as its EXIF says; a ValueError that names it if it can't be read."""
        with explained(f"photo {self.path} can't be read", "replace it or remove its row"):
            return ImageOps.exif_transpose(open_picture(self.path)).convert("RGB")


def clean_caption(sentence: str) -> str:
    """A sentence without doubled spaces, spaces before punctuation, quotation marks and its final full stop."""
    return re.sub(r"\s+", " ", re.sub(r"\s+([.,])", r"\1", sentence)).strip(' ."')


def read_captioned_photos(folder: str = "", gigabytes: float = 0) -> list[CaptionedPhoto]:
    """The photos to train on: those of a folder with `photos.csv`, if one is given, and the shipped ones.

    Args:
        folder: a folder with `photos.csv`; "" for the shipped photos alone.
        gigabytes: free disk space that the caller needs in `build/`.

    Raises:
        ValueError: if the folder, its table, a column, a caption or a photo is missing, or the disk is too small.
    """
    free = shutil.disk_usage(resolve(".")).free / 1e9
    if free < gigabytes:
        raise ValueError(f"{gigabytes:.0f} GB are needed on the disk of build/, {free:.0f} are free: make room")
    shipped = read_manifest(SHIPPED)
    photos = [
        CaptionedPhoto(
            row.path,
            "shipped",
            row.split,
            [row.object_caption, row.detailed_caption],  # the colours of gray_caption are guesses
            mask=row.mask_path,
            object=row.thing,
            background=row.ground,
        )
        for row in shipped[shipped["split"].isin(SPLITS)].itertuples()
    ]
    return photos + (read_folder(Path(folder)) if folder else [])


def read_folder(folder: Path) -> list[CaptionedPhoto]:
    """The training and validation photos that `photos.csv` lists; see `read_captioned_photos` for errors.

    Every photo is decoded, so that a damaged one is found now and not after hours of training.
    """
    path = folder / "photos.csv"
    if not path.is_file():
        raise ValueError(f"no table {path}: name a folder with photos.csv, whose columns are {', '.join(COLUMNS)}")
    with explained(f"{path} can't be read as CSV", "correct it", (ValueError, OSError)):
        table = pd.read_csv(path, keep_default_na=False, dtype=str)
    missing = [column for column in COLUMNS if column not in table]
    if missing:
        raise ValueError(f"{path}: column {missing[0]!r} is missing: needed are {', '.join(COLUMNS)}")
    photos = []
    for row in table[table["split"].isin(SPLITS)].itertuples():
        where = f"{path}: row {row.file!r}"
        captions, labels = (read_list(value, where) for value in (row.captions, row.labels))
        captions = [clean_caption(text) for text in captions]
        if not all(captions):
            raise ValueError(f"{where} has an empty caption: remove it from the list")
        photo = CaptionedPhoto(folder / row.file, row.set, row.split, captions, labels)
        if not photo.path.is_file():
            raise ValueError(f"{where} has no file: correct or remove the row")
        size = photo.open().size
        photo.stretched = row.set == "flickr8k" and size[0] == size[1]
        photos.append(photo)
    if "train" not in {photo.split for photo in photos}:
        raise ValueError(f"{path}: no row has the split 'train': add rows to train on")
    return photos


def read_list(text: str, where: str) -> list[str]:
    """The texts of a JSON list; a ValueError that names the row if it is no list of texts."""
    with explained(f"{where}: captions or labels are no JSON list", "correct the row", ValueError):
        texts = json.loads(text)
    if not isinstance(texts, list) or not all(isinstance(item, str) for item in texts):
        raise ValueError(f"{where}: captions or labels are no JSON list of texts: correct the row")
    return texts


def random_crop(
    image: Image.Image, size: int, rng: np.random.Generator, mask: Image.Image | None = None, stretched: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """A random square of a photo and of its mask, mirrored half of the time.

    The square covers 60 to 100 % of the shorter side's area. The aspect ratio varies by 8 %, and by 35 % if the photo
    was `stretched` before.

    Returns:
        uint8 RGB (size, size, 3), and the mask (size, size) in [0, 1] or None.
    """
    spread = 0.3 if stretched else 0.08
    aspect, side = np.exp(rng.uniform(-spread, spread)), min(image.size) * rng.uniform(0.6, 1) ** 0.5
    width, height = (max(1, int(side * min(1, ratio))) for ratio in (aspect, 1 / aspect))
    x, y = rng.integers(image.width - width + 1), rng.integers(image.height - height + 1)
    flip = slice(None, None, rng.choice([-1, 1]))

    def cut(picture):
        square = picture.crop((x, y, x + width, y + height)).resize((size, size), Image.LANCZOS)
        return np.ascontiguousarray(np.asarray(square)[:, flip])

    return cut(image), cut(mask).astype(np.float32) / 255 if mask else None


def center_crop(image: Image.Image, size: int) -> np.ndarray:
    """The central square of a photo, uint8 RGB (size, size, 3)."""
    side = min(image.size)
    x, y = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.crop((x, y, x + side, y + side)).resize((size, size), Image.LANCZOS))
