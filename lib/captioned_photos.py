"""Photos with captions to train on: a folder with `photos.csv`, or the photos that ship with the project.

`photos.csv` has the columns file, set, split, captions, labels; captions and labels are JSON lists and may be empty.
`masks.csv` may lie beside it, with the columns file, mask, label: a row for each object of a photo that has a mask.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from pydantic import TypeAdapter

from lib import ROOT
from lib.cache import explained, open_picture
from lib.dataset import open_photo, read_manifest, read_table

COLUMNS = ("file", "set", "split", "captions", "labels")
SPLITS = ("train", "validation")  # rows of other splits, such as a confirmatory test, are never opened
TEXTS = TypeAdapter(list[str])


@dataclass
class CaptionedPhoto:
    """A photo to train on."""

    path: Path
    set: str
    split: str
    captions: list[str]
    labels: list[str]
    masks: list[tuple[str, Path]]  # (name, file) of every object that has one
    object: str = ""  # its name in a shipped photo
    background: str = ""
    stretched: bool = False  # the true aspect ratio is unknown

    @property
    def sentences(self) -> list[str]:
        """The captions; its labels as one sentence if it has none."""
        return self.captions or [", ".join(self.labels[:4])]

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


def read_captioned_photos(folder: str = "", limit: int = 0, gigabytes: float = 0) -> tuple[list[CaptionedPhoto], ...]:
    """Returns the training and the validation photos: the shipped ones, and those of a folder with `photos.csv`.

    `limit`: so many of each at most, 0: all. Raises ValueError if the folder's tables or photos are damaged, or the
    disk has less free space than `gigabytes`.
    """
    if (free := shutil.disk_usage(ROOT).free / 1e9) < gigabytes:
        raise ValueError(f"{gigabytes:.0f} GB are needed on the disk of build/, {free:.0f} are free: make room")
    photos = read_shipped() + (read_folder(Path(folder)) if folder else [])
    return tuple([photo for photo in photos if photo.split == split][: limit or None] for split in SPLITS)


def read_shipped(splits: tuple[str, ...] = SPLITS) -> list[CaptionedPhoto]:
    """Returns the photos of some splits that ship with the project."""
    photos = []
    for row in read_manifest("data_cards/pocket_photos").query("split in @splits").itertuples():
        texts = [row.object_caption, row.detailed_caption]  # the colours of gray_caption are guesses
        masks = [(row.object, row.mask_path)] if row.mask_path else []
        photos.append(CaptionedPhoto(row.path, "shipped", row.split, texts, [], masks, row.object, row.background))
    return photos


def read_folder(folder: Path) -> list[CaptionedPhoto]:
    """Returns the training and validation photos that `photos.csv` lists; every photo is decoded to find damaged ones.

    Captions lose doubled spaces, spaces before punctuation, quotation marks and the final full stop.
    """
    path, masks, photos = folder / "photos.csv", {}, []
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
        photo = CaptionedPhoto(folder / row.file, row.set, row.split, captions, labels, masks.get(row.file, []))
        width, height = photo.open().size
        photo.stretched = row.set == "flickr8k" and width == height
        photos.append(photo)
    if "train" not in {photo.split for photo in photos}:
        raise ValueError(f"{path}: no row has the split 'train': add rows to train on")
    return photos


def random_crop(
    image: Image.Image, size: int, rng: np.random.Generator, mask: np.ndarray | None = None, stretched: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns a random square of a photo, uint8 RGB (size, size, 3), and of its float mask (height, width) in [0, 1].

    The square covers 60 to 100 % of the shorter side's area and is mirrored half of the time. The aspect ratio varies
    by 8 %, and by 35 % if the photo is `stretched`.
    """
    spread = 0.3 if stretched else 0.08
    aspect, side = np.exp(rng.uniform(-spread, spread)), min(image.size) * rng.uniform(0.6, 1) ** 0.5
    width, height = (max(1, int(side * min(1, ratio))) for ratio in (aspect, 1 / aspect))
    x, y = rng.integers(image.width - width + 1), rng.integers(image.height - height + 1)
    flip = rng.choice([-1, 1])

    def cut(picture):
        square = picture.crop((x, y, x + width, y + height)).resize((size, size), Image.LANCZOS)
        return np.ascontiguousarray(np.asarray(square)[:, ::flip])

    return cut(image), None if mask is None else cut(Image.fromarray(mask)).clip(0, 1)


def degrade(gray: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Makes a gray photo (h, w) in [0, 1] look old: another tone curve, faded, blurred, noisy; may leave [0, 1]."""
    gray = gray ** np.exp(rng.uniform(-0.5, 0.5))
    if rng.random() < 0.4:
        low = rng.uniform(0, 0.3)
        gray = low + gray * (rng.uniform(0.7, 1) - low)
    if rng.random() < 0.4:
        gray = cv2.GaussianBlur(gray, (0, 0), rng.uniform(0.3, 1.3))
    return gray + rng.normal(0, rng.uniform(0.01, 0.07), gray.shape) * (rng.random() < 0.4)
