"""Photos with captions to train on: a folder with `photos.csv`, or the photos that ship with the project.

`photos.csv` has the columns file, set, split, captions, labels; captions and labels are JSON lists and may be empty.
`masks.csv` may lie beside it, with the columns file, mask, label: a row for each object of a photo that has a mask.
"""

import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image
from pydantic import TypeAdapter

from lib.cache import explained, hash_of_file, open_picture
from lib.config import resolve
from lib.dataset import crop_square, open_photo, read_manifest, read_table

COLUMNS = ("file", "set", "split", "captions", "labels")
TRAINING_PICTURES = "data_cards/training_pictures/metadata.csv"
SPLITS = ("train", "validation")  # rows of other splits, such as a confirmatory test, are never opened
TEXTS = TypeAdapter(list[str])


@dataclass
class CaptionedPhoto:
    """A photo to train on: its file, captions, class labels, and perhaps an object's mask and the names of both.

    `masks`: (name, file) of every object that has a mask; several may have the same name. `stretched`: squashed to a
    square at some time, so that its aspect ratio is unknown.
    """

    path: Path
    set: str
    split: str
    captions: list[str]
    labels: list[str] = field(default_factory=list)
    mask: Path | None = None
    object: str = ""
    background: str = ""
    masks: list[tuple[str, Path]] = field(default_factory=list)
    stretched: bool = False

    def open(self) -> Image.Image:
        """Returns the photo in RGB, turned as its EXIF says; raises ValueError if it can't be read."""
        return open_photo(self.path)

    def open_masks(self, size: tuple[int, int]) -> dict[str, np.ndarray]:
        """Returns {name: mask (height, width) in [0, 1]} of its objects at `size`, (width, height)."""
        masks = {}
        for name, path in self.masks:
            mask = np.asarray(open_picture(path).convert("L").resize(size, Image.BILINEAR), np.float32) / 255
            masks[name] = np.maximum(masks.get(name, 0), mask)
        return masks


def read_captioned_photos(folder: str = "", gigabytes: float = 0) -> list[CaptionedPhoto]:
    """Returns the photos to train on: the shipped ones, and those of a folder with `photos.csv`, if one is given.

    Raises ValueError if `build/` has less free space than `gigabytes`, or the folder's tables or photos are damaged.
    """
    free = shutil.disk_usage(resolve(".")).free / 1e9
    if free < gigabytes:
        raise ValueError(f"{gigabytes:.0f} GB are needed on the disk of build/, {free:.0f} are free: make room")
    return read_shipped() + (read_folder(Path(folder)) if folder else [])


def read_shipped(splits: tuple[str, ...] = SPLITS) -> list[CaptionedPhoto]:
    """Returns the photos of some splits that ship with the project."""
    photos = []
    for row in read_manifest("data_cards/pocket_photos").query("split in @splits").itertuples():
        captions = [row.object_caption, row.detailed_caption]  # the colours of gray_caption are guesses
        named = {"mask": row.mask_path, "object": row.object, "background": row.background}
        masks = [(row.object, row.mask_path)] if row.mask_path else []
        photos.append(CaptionedPhoto(row.path, "shipped", row.split, captions, masks=masks, **named))
    return photos


def read_training_pictures(folder: str = "") -> tuple[list[CaptionedPhoto], list[tuple[str, Image.Image]]]:
    """Returns the photos, and the cut-out objects as (name, RGBA picture), that `TRAINING_PICTURES` lists.

    Their files are in `folder`; "" for none. Raises ValueError if a file is missing or not the listed one.
    """
    photos, cutouts = [], []
    for row in pd.read_csv(resolve(TRAINING_PICTURES), keep_default_na=False).itertuples() if folder else ():
        path = resolve(folder) / row.file
        if not path.is_file() or hash_of_file(path) != row.sha256:
            problem = f"{path} is missing or not the file that {TRAINING_PICTURES} lists"
            raise ValueError(f"{problem}: see the README beside it")
        if row.kind == "photo":
            photos.append(CaptionedPhoto(path, "shipped", "train", [row.object_caption, row.detailed_caption]))
        else:
            cutouts.append((row.subject, open_picture(path).convert("RGBA")))
    return photos, cutouts


def read_folder(folder: Path) -> list[CaptionedPhoto]:
    """Returns the training and validation photos that `photos.csv` lists; every photo is decoded to find damaged ones.

    Captions lose doubled spaces, spaces before punctuation, quotation marks and the final full stop.
    """
    path, masks, photos = folder / "photos.csv", {}, []
    if not path.is_file():
        raise ValueError(f"no table {path}: name a folder with photos.csv, whose columns are {', '.join(COLUMNS)}")
    if (folder / "masks.csv").is_file():
        for row in read_table(folder / "masks.csv", ("file", "mask", "label")).itertuples():
            masks.setdefault(row.file, []).append((row.label, folder / row.mask))
    for row in read_table(path, COLUMNS).query("split in @SPLITS").itertuples():
        where = f"{path}: row {row.file!r}"
        with explained(f"{where}: captions or labels are no JSON list of texts", "correct the row", ValueError):
            captions, labels = map(TEXTS.validate_json, (row.captions, row.labels))
        captions = [re.sub(r"\s+", " ", re.sub(r"\s+([.,])", r"\1", text)).strip(' ."') for text in captions]
        if not all(captions):
            raise ValueError(f"{where} has an empty caption: remove it from the list")
        photo = CaptionedPhoto(folder / row.file, row.set, row.split, captions, labels, masks=masks.get(row.file, []))
        width, height = photo.open().size
        photo.stretched = row.set == "flickr8k" and width == height
        photos.append(photo)
    if "train" not in {photo.split for photo in photos}:
        raise ValueError(f"{path}: no row has the split 'train': add rows to train on")
    return photos


def random_crop(
    image: Image.Image, size: int, rng: np.random.Generator, mask: Image.Image | None = None, stretched: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """Cuts a random square out of a photo and its mask, mirrored half of the time.

    The square covers 60 to 100 % of the shorter side's area. The aspect ratio varies by 8 %, and by 35 % if the photo
    was `stretched` before. Returns uint8 RGB (size, size, 3), and the mask (size, size) in [0, 1] or None.
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
    """Returns the central square of a photo, uint8 RGB (size, size, 3)."""
    return np.asarray(crop_square(image, size))


def degrade(gray: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Makes a gray photo (h, w) in [0, 1] look old: another tone curve, faded, blurred, noisy; may leave [0, 1]."""
    gray = gray ** np.exp(rng.uniform(-0.5, 0.5))
    if rng.random() < 0.4:
        low = rng.uniform(0, 0.3)
        gray = low + gray * (rng.uniform(0.7, 1) - low)
    if rng.random() < 0.4:
        gray = cv2.GaussianBlur(gray, (0, 0), rng.uniform(0.3, 1.3))
    return gray + rng.normal(0, rng.uniform(0.01, 0.07), gray.shape) * (rng.random() < 0.4)
