"""What the segmenter is trained on: cut-outs on photos and plain grounds, and photos with masks of their own.

Where a photo's caption gives colours to its things, the photo's own colours tell where each of them is.
"""

import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image
from skimage.segmentation import slic

from lib import ROOT
from lib.color import make_conditioning_image, srgb_to_lab, to_float
from lib.color_words import COLOR_PATTERN, HUES_OF_WORDS
from lib.dataset import read_manifest
from lib.files import hash_of_file, open_picture
from lib.profiles import resolve
from lib.prompts import TARGETS
from lib.segmenter import COLORS, SHADES, bare_name

PHOTOS = "data_cards/pocket_photos"
GROUNDS = ("background", "ground behind", "surroundings")  # what a phrase for all that is no thing can be
SIZES = ((128, 128), (128, 128), (96, 160), (160, 96))
LONGEST = {"scene": 224, "cutout": 160}  # px of the longer side that pictures are kept at
SAME, OTHER, ABSENT = 0.8, 0.6, 0.5  # cosines of names: one thing above; of things that are apart, and absent, below
N_PHRASES = 5
APART = re.compile(r",|\b(?:with|on|in|of|above|below|under|behind|between|before|at|to|from|over|around|near)\b")
COLORED = re.compile(rf"(?:\b({'|'.join(SHADES)}) )?({COLOR_PATTERN.pattern})", re.I)
ABOVE, BELOW = re.compile(r"\b(sky|clouds?)\b"), re.compile(r"\b(grass|lawn|ground|road|water|sand|floor|field|sea)\b")
SHADE = {"dark": (-20, 0.7), "deep": (-10, 1), "pale": (15, 0.5), "light": (15, 0.6), "bright": (8, 1.2)}  # L*, chroma


@dataclass
class Region:
    """A named part of a picture: its name, its mask (h, w) in [0, 1], and how sure it is (h, w)."""

    name: str
    mask: np.ndarray
    sure: np.ndarray

    @property
    def trust(self):
        """How sure the mask is within itself, in [0, 1]."""
        return float((self.mask * self.sure).sum() / max(self.mask.sum(), 1))

    def map(self, function):
        """The region with its planes changed by a function."""
        return Region(self.name, function(self.mask), function(self.sure))


@dataclass
class Scene:
    """A gray photo (h, w), uint8, with the regions known in it, and the names that its caption mentions."""

    gray: np.ndarray
    regions: list
    mentioned: tuple


@dataclass
class Cutout:
    """A gray thing (h, w) and its alpha (h, w), uint8, under its name."""

    gray: np.ndarray
    alpha: np.ndarray
    name: str


def is_new(name):
    """Whether things of that name are left out of the training, to measure it by: about 15 % of them."""
    return zlib.crc32(name.encode()) % 100 < 15


def to_gray(image, longest):
    """A PIL picture as 8-bit gray of its L* (h, w), its longer side at most `longest` px."""
    image = image.copy()
    image.thumbnail((longest, longest))
    return np.asarray(make_conditioning_image(image).convert("L"))


def load_cutouts(cutouts):
    """Cut-outs in gray, cropped to what is solid in them, from records with a PIL `image` and a `subject`."""
    made = []
    for record in cutouts:
        image = record["image"].crop(record["image"].getchannel("A").point(lambda value: 255 * (value > 99)).getbbox())
        image.thumbnail((LONGEST["cutout"], LONGEST["cutout"]))
        made.append(Cutout(to_gray(image, 9999), np.asarray(image)[..., 3], bare_name(record["subject"])))
    return made


def load_scene(record):
    """A scene from a record with a PIL `image`, captions, and perhaps `thing`, `mask` and `ground`."""
    gray = to_gray(record["image"], LONGEST["scene"])
    regions = regions_by_color(record, gray.shape)
    if record.get("mask"):
        thing = load_mask(record["mask"], gray.shape)
        sure, name, ground = np.ones_like(thing), bare_name(record["thing"]), bare_name(record["ground"])
        regions = [Region(r.name, r.mask * (1 - thing), np.maximum(r.sure, thing)) for r in regions if r.name != name]
        if ground and ground not in [region.name for region in regions]:
            regions.append(Region(ground, 1 - thing, sure))
        regions.append(Region(name, thing, sure))
    return Scene(gray, regions, mentioned_names(record))


def load_mask(name, shape):
    """A mask of the pocket photos, by the name in their manifest, at a size: (h, w) in [0, 1]."""
    with open_picture(resolve(PHOTOS) / name) as mask:
        return np.asarray(mask.convert("L").resize(shape[::-1], Image.BILINEAR), np.float32) / 255


def mentioned_names(record):
    """The names in a photo's captions, subject and thing, bare: everything that may be in it."""
    text = ", ".join(
        record.get(key, "") for key in ("detailed_caption", "object_caption", "subject", "thing", "ground")
    )
    parts = [part for piece in APART.split(text) for part in piece.split(" and ")]
    return tuple(dict.fromkeys(name for name in map(bare_name, parts) if name))


def colored_names(caption):
    """The names in a caption that have colours, each with its (shade, colour) pairs."""
    names = {}
    for part in APART.split(caption.lower()):
        before = ""
        for piece in part.split(" and "):
            piece, before = f"{before} {piece}".strip(), ""
            name, colors = bare_name(piece), [(match[1], match[2]) for match in COLORED.finditer(piece)]
            if COLORS.fullmatch(name):  # "white and gray clouds": both belong to the clouds
                before = piece
            elif colors:
                names[name] = colors
    return names


def typical_lab(shade, word):
    """A CIELAB colour that a word, perhaps with a shade, stands for."""
    hue, chroma, (low, high) = TARGETS.get(word) or (HUES_OF_WORDS.get(word, 90), 25, (40, 80))
    lighter, paler = SHADE.get(shade, (0, 1))
    angle = np.deg2rad(hue)
    return np.array([(low + high) / 2 + lighter, chroma * paler * np.cos(angle), chroma * paler * np.sin(angle)])


def split_into_parts(lab):
    """Superpixels of a CIELAB picture: their numbers (h, w), mean colours (N, 3), and centres y and x in [0, 1]."""
    parts = slic(lab / (100, 60, 60), n_segments=120, compactness=0.15, convert2lab=False, start_label=0)
    y, x = np.indices(parts.shape) / np.reshape(parts.shape, (2, 1, 1))
    planes = [*lab.transpose(2, 0, 1), y, x]
    *mean, y, x = (np.bincount(parts.ravel(), plane.ravel()) / np.bincount(parts.ravel()) for plane in planes)
    return parts, np.stack(mean, axis=1), y, x


def regions_by_color(record, shape):
    """Where the coloured names of a photo's caption are: superpixels go to the name whose colours they come nearest.

    What is near to none, or to several, is not sure. A sky is looked for above, a ground below, a thing in its box.
    """
    names = colored_names(record["detailed_caption"])
    if not names:
        return []
    small = record["image"].resize((128, round(128 * shape[0] / shape[1])))
    parts, mean, y, x = split_into_parts(srgb_to_lab(to_float(small)))
    distance = np.empty((len(names), len(mean)))
    for row, (name, colors) in zip(distance, names.items(), strict=True):
        row[:] = np.min([np.linalg.norm((mean - typical_lab(*one)) * (0.5, 1, 1), axis=1) for one in colors], axis=0)
        if ABOVE.search(name):
            row += 60 * (y - 0.45).clip(0)
        elif BELOW.search(name):
            row += 60 * (0.5 - y).clip(0)
        if record.get("thing_box") and name.split()[-1] == record["thing"].split()[-1]:
            left, top, right, bottom = map(float, record["thing_box"].split())
            row -= 20 * ((x > left) & (x < right) & (y > top) & (y < bottom))
    share = np.exp(-distance / 6)
    share /= share.sum(axis=0) + np.exp(-30 / 6)
    planes = [cv2.resize(plane[parts].astype(np.float32), shape[::-1]) for plane in share]
    sure = [((plane > 0.6) | (plane < 0.15)).astype(np.float32) / 2 for plane in planes]
    return [Region(*found) for found in zip(names, planes, sure, strict=True) if found[1].max() > 0.6]


def resize(plane, size):
    """A plane (h, w) resized to (height, width), averaging where it shrinks."""
    return cv2.resize(plane, size[::-1], interpolation=cv2.INTER_AREA if plane.shape[0] > size[0] else cv2.INTER_LINEAR)


def crop_scene(scene, size, rng):
    """A random part of a scene at `size`: gray float (h, w) in [0, 1] and its regions."""
    height, width = scene.gray.shape
    scale = min(height / size[0], width / size[1]) * rng.uniform(0.6, 1)
    h, w = int(size[0] * scale), int(size[1] * scale)
    y, x = rng.integers(height - h + 1), rng.integers(width - w + 1)
    window, flip = np.s_[y : y + h, x : x + w], slice(None, None, rng.choice([-1, 1]))
    gray = resize(scene.gray[window].astype(np.float32) / 255, size)[:, flip]
    return gray, [region.map(lambda plane: resize(plane[window], size)[:, flip].copy()) for region in scene.regions]


def plain_ground(size, rng):
    """A soft gradient (h, w) in [0, 1]."""
    corners = rng.uniform(0, 1) + rng.uniform(-0.3, 0.3, (2, 2))
    return cv2.resize(corners.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR).clip(0, 1)


def change_tone(gray, rng):
    """An 8-bit gray picture in [0, 1], under a random tone curve."""
    return np.interp(gray / 255, (0, 0.5, 1), np.sort(rng.uniform((0, 0.25, 0.7), (0.25, 0.75, 1)))).astype(np.float32)


def paste(gray, regions, cutout, rng, sides=(0.3, 0.9)):
    """Lay a cut-out on a gray picture at a random place; False where it would hide another thing."""
    size = gray.shape
    scale = min(size) * rng.uniform(*sides) / max(cutout.gray.shape)
    h, w = (max(8, round(side * scale)) for side in cutout.gray.shape)
    h, w = min(h, size[0]), min(w, size[1])
    y, x = rng.integers(size[0] - h + 1), rng.integers(size[1] - w + 1)
    flip = slice(None, None, rng.choice([-1, 1]))
    alpha = np.zeros(size, np.float32)
    alpha[y : y + h, x : x + w] = resize(cutout.alpha, (h, w))[:, flip] / 255
    if any((region.mask * (1 - alpha)).sum() < 0.6 * region.mask.sum() for region in regions):
        return False
    thing = np.zeros(size, np.float32)
    thing[y : y + h, x : x + w] = change_tone(resize(cutout.gray, (h, w))[:, flip], rng)
    gray[:] = alpha * thing + (1 - alpha) * gray
    for region in regions:
        region.mask *= 1 - alpha
    regions.append(Region(cutout.name, alpha, np.ones(size, np.float32)))
    return True


def make_picture(scenes, cutouts, size, rng, photos=0.35):
    """A picture and what is known of it: gray (h, w) in [0, 1], regions, and all names that may be elsewhere in it.

    A share, `photos`, are photos with regions as they are. The others are one to four cut-outs of different names on a
    photo or a plain ground; `background` is then all but the cut-outs.
    """
    if rng.random() < photos:
        scene = scenes[rng.integers(len(scenes))]
        return *crop_scene(scene, size, rng), scene.mentioned
    gray, behind, elsewhere = plain_ground(size, rng), [], ()
    if rng.random() < 0.7:
        scene = scenes[rng.integers(len(scenes))]
        (gray, behind), elsewhere = crop_scene(scene, size, rng), scene.mentioned
    n_things, things = rng.choice([1, 2, 3, 4], p=[0.25, 0.4, 0.2, 0.15]), []
    sides = {1: (0.35, 1), 2: (0.35, 0.8), 3: (0.3, 0.65), 4: (0.3, 0.55)}[n_things]
    for _ in range(12):
        cutout = cutouts[rng.integers(len(cutouts))]
        if cutout.name not in [thing.name for thing in things]:
            paste(gray, things, cutout, rng, sides)
        if len(things) == n_things:
            break
    free = 1 - np.max([thing.mask for thing in things], axis=0)
    for region in behind:
        region.mask *= free
    return gray, [*things, Region("background", free, np.ones(size, np.float32)), *behind], elsewhere


def spoil(gray, rng):
    """A picture (h, w) in [0, 1] as old photos are: with another tone curve, faded, blurred, noisy, compressed."""
    gray = gray ** np.exp(rng.uniform(-0.5, 0.5))
    if rng.random() < 0.4:
        low = rng.uniform(0, 0.3)
        gray = low + gray * (rng.uniform(0.7, 1) - low)
    if rng.random() < 0.4:
        gray = cv2.GaussianBlur(gray, (0, 0), rng.uniform(0.3, 1.3))
    if rng.random() < 0.4:
        gray = gray + rng.normal(0, rng.uniform(0.01, 0.07), gray.shape)
    gray = (gray.clip(0, 1) * 255).round().astype(np.uint8)
    if rng.random() < 0.3:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))]
        gray = cv2.imdecode(cv2.imencode(".jpg", gray, quality)[1], cv2.IMREAD_GRAYSCALE)
    return gray.astype(np.float32) / 255


def load_training_pictures(pictures):
    """Scenes and cut-outs, as records with a PIL `image` and captions.

    The scenes are the training split of the pocket photos and, where `pictures` names the folder that holds them, the
    training-only photos and cut-outs that `data_cards/training_pictures/metadata.csv` lists.
    """
    manifest = read_manifest("data_cards/pocket_photos")
    scenes = [
        {**record, "image": open_picture(record["path"]).convert("RGB")}
        for record in manifest[manifest["split"] == "train"].to_dict("records")
    ]
    cutouts = []
    if pictures:
        listed = pd.read_csv(ROOT / "data_cards/training_pictures/metadata.csv", keep_default_na=False)
        for record in listed.to_dict("records"):
            path = Path(pictures) / record["file"]
            if not path.is_file() or hash_of_file(path) != record["sha256"]:
                raise ValueError(f"{path} is missing or not the file of data_cards/training_pictures/metadata.csv")
            image = open_picture(path)
            image.thumbnail((512, 512), Image.LANCZOS)
            if record["kind"] == "photo":
                scenes.append({**record, "image": image.convert("RGB")})
            else:
                cutouts.append({**record, "image": image.convert("RGBA")})
    return scenes, cutouts


def load_data(folder):
    """Scenes, cut-outs to train on, new ones to measure with, and names for what is absent."""
    photos, things = load_training_pictures(folder)
    scenes = [load_scene(record) for record in photos]
    cutouts = load_cutouts(things)
    mentioned = {name for scene in scenes for name in scene.mentioned if len(name.split()) < 3}
    trained = [cutout for cutout in cutouts if not is_new(cutout.name)]
    new = [cutout for cutout in cutouts if is_new(cutout.name) and cutout.name not in mentioned]
    absent = sorted(mentioned | {cutout.name for cutout in trained})
    return scenes, trained, new, absent
