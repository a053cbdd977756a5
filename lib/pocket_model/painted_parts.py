"""Training pictures of named parts: each part has a known place, and perhaps a new colour that the prompt gives it.

A part is a thing or its ground in a photo with a mask, or a cut-out. A part that is given no colour word keeps its own
colours, so that a word says nothing of other parts. The gray input is sometimes degraded like an old photo.
"""

import re
from dataclasses import dataclass

import cv2
import numpy as np
from datasets import Features, Image, List, Value
from PIL import Image as PILImage

from lib.color import gray_from_luminance, lab_to_srgb, srgb_to_lab, to_float, to_pil
from lib.color_words import article_of
from lib.dataset import FEATURES
from lib.files import progress
from lib.pocket_model.segmenter_pictures import APART, load_mask, spoil
from lib.pocket_model.training_pictures import lay, load_or_make, make_training_picture, paint, plain_ground, shrink
from lib.prompts import TARGETS, allowed_words, draw_training_prompt

CELLS, UNKNOWN = 32, 255  # places are numbers on a grid of CELLS x CELLS; where nothing is known, UNKNOWN
COLUMNS = Features({**FEATURES, "places": Image(), "spans": List(List(Value("int32")))})
SHARES = {"photo": 0.4, "masked": 0.25, "cut-outs": 0.35}  # of the pictures
EMPTY, ALONE, PAINTED, BORDERED, SPOILED = 0.08, 0.3, 0.8, 0.2, 0.3  # shares, see the functions below


@dataclass
class Part:
    """A part of a picture: its mask (H, W) in [0, 1], its bare `name`, and a phrase with its own colours, or ""."""

    mask: np.ndarray
    name: str
    phrase: str = ""
    article: bool = True  # whether one belongs before it


def crop_with_mask(scene, size, rng):
    """A random square of a photo with a mask, in CIELAB (size, size, 3), and of its mask (size, size) in [0, 1]."""
    image = scene["image"]
    mask = PILImage.fromarray((255 * load_mask(scene["mask"], (image.height, image.width))).astype(np.uint8))
    side = int(min(image.size) * rng.uniform(0.6, 1))
    x, y = rng.integers(image.width - side + 1), rng.integers(image.height - side + 1)
    box, flip = (x, y, x + side, y + side), slice(None, None, rng.choice([-1, 1]))
    image, mask = (np.asarray(part.crop(box).resize((size, size), PILImage.LANCZOS))[:, flip] for part in (image, mask))
    return srgb_to_lab(to_float(image)), mask.astype(np.float32) / 255


def masked_photo(scenes, size, rng):
    """A crop of a photo with a mask, and its parts: the thing, and the ground where that has a name."""
    for _ in range(20):
        scene = scenes[rng.integers(len(scenes))]
        lab, mask = crop_with_mask(scene, size, rng)
        if 0.05 < mask.mean() < 0.9:
            break
    parts = [Part(mask, scene["thing"], article=not scene["thing"].endswith("s"))]
    return lab, parts + ([Part(1 - mask, scene["ground"], article=False)] if scene["ground"] else [])


def cutouts_on_ground(scenes, cutouts, size, rng):
    """One to three cut-outs on a plain ground or a photo, and the parts: the cut-outs, and the ground with a name."""
    if rng.random() < 0.5 or not scenes:
        lab, _ = plain_ground(size, rng)
        lab[..., 1:] = 0  # a plain ground without a colour in the prompt is neutral
        ground = Part(np.ones((size, size), np.float32), str(rng.choice(["background", "wall", "ground"])))
        ground.phrase = f"a plain {ground.name}"
    else:
        scene = scenes[rng.integers(len(scenes))]
        lab, _ = crop_with_mask(scene, size, rng)
        name = str(rng.choice([scene["ground"] or "background", "background"]))
        ground = Part(np.ones((size, size), np.float32), name, article=False)
    things, n = [], min(rng.choice([1, 2, 3], p=[0.4, 0.4, 0.2]), len(cutouts))
    for index in rng.choice(len(cutouts), n, replace=False):
        cutout = cutouts[index]
        lab, alpha = lay_at_random(lab, cutout["image"], rng, 0.95 if not things else 0.6)
        for part in (ground, *things):
            part.mask = part.mask * (1 - alpha)
        things.append(Part(alpha, cutout["subject"], cutout["detailed_caption"]))
    return lab, [thing for thing in things if thing.mask.sum() > 0.02 * size**2] + [ground]


def lay_at_random(lab, cutout, rng, largest):
    """Lay a cut-out (PIL, RGBA) at a random place and size on a CIELAB image; returns it and the alpha there (H, W)."""
    size = len(lab)
    scale = size * rng.uniform(0.4, largest) / max(cutout.size)
    pixels = np.asarray(shrink(cutout, scale))[:, :: rng.choice([-1, 1])]
    height, width = pixels.shape[:2]
    y, x = rng.integers(size - height + 1), rng.integers(size - width + 1)
    alpha, own = np.zeros((size, size), np.float32), pixels[..., 3].astype(np.float32) / 255
    alpha[y : y + height, x : x + width] = own
    return lay(lab, srgb_to_lab(to_float(pixels[..., :3])), own, x, y), alpha


def paint_parts(lab, parts, rng, painted=PAINTED):
    """Paint some parts anew and say so; returns the CIELAB image and the parts that are named, with their phrases.

    In a share ALONE of cases a single part is named, else all; of the named ones a share `painted` is painted in a word
    that its lightness allows, and the others are named with their own colours where these are known, or without.
    """
    named = [parts[rng.integers(len(parts))]] if rng.random() < ALONE else parts
    phrases = []
    for part in named:
        solid, word = part.mask > 0.5, ""
        if rng.random() < painted and solid.any():
            word = str(rng.choice(allowed_words(lab[solid, 0].mean(), TARGETS) or ["gray"]))
            lab = part.mask[..., None] * paint(lab, solid, word) + (1 - part.mask[..., None]) * lab
        phrases.append((part, describe(part, word, rng)))
    return lab, phrases


def describe(part, word, rng):
    """A phrase for a part: with a colour word in one of a few forms, or as it is without."""
    if not word:
        own = part.phrase if part.phrase and rng.random() < 0.7 else part.name
        return own if not part.article or own.startswith(("a ", "an ")) else f"{article_of(own)} {own}"
    text = f"{word} {part.name}"
    form = rng.random()
    if form < 0.1:
        return f"{part.name} that {'are' if part.name.endswith('s') else 'is'} {word}"
    return text if not part.article or form < 0.25 else f"{article_of(text)} {text}"


def join_phrases(phrases, rng):
    """One prompt of (part, phrase) pairs in random order, and the characters of each: [(part, start, end)]."""
    order = [phrases[index] for index in rng.permutation(len(phrases))]
    prompt, spans = "", []
    for part, phrase in order:
        if prompt:
            prompt += str(rng.choice([", ", " and ", " beside "] if part is not phrases[-1][0] else [", ", " before "]))
        spans.append((part, len(prompt), len(prompt) + len(phrase)))
        prompt += phrase
    return prompt, spans


def clauses_of(caption, parts):
    """The clause of a photo's caption that names each part, [(part, start, end)]; parts that no or two name lack."""
    ends = [(match.start(), match.end()) for match in APART.finditer(caption)] + [(len(caption), 0)]
    clauses = list(zip([0, *(after for _, after in ends)], (end for end, _ in ends), strict=False))
    found = []
    for part in parts:
        own = [(a, b) for a, b in clauses if re.search(rf"\b{re.escape(part.name)}\b", caption[a:b])]
        found += [(part, *own[0])] if len(own) == 1 else []
    return found


def add_border(lab, parts, rng):
    """Put a neutral border, of paper or black, around a picture; the parts' masks end there."""
    size = len(lab)
    margins = [int(size * rng.uniform(0.03, 0.14)) for _ in range(4)] if rng.random() < 0.4 else 4 * [0]
    margins = margins if any(margins) else 4 * [int(size * rng.uniform(0.04, 0.12))]
    top, bottom, left, right = margins
    inner = (size - left - right, size - top - bottom)
    framed = np.zeros_like(lab)
    framed[..., 0] = rng.choice([rng.uniform(88, 100), rng.uniform(0, 15)], p=[0.65, 0.35])
    window = np.s_[top : top + inner[1], left : left + inner[0]]
    framed[window] = cv2.resize(lab, inner, interpolation=cv2.INTER_AREA)
    for part in parts:
        mask = np.zeros((size, size), np.float32)
        mask[window] = cv2.resize(part.mask, inner, interpolation=cv2.INTER_AREA)
        part.mask = mask
    return framed


def number_places(spans, size, elsewhere):
    """The number, from 1 on, of the span that each cell of a CELLS x CELLS grid belongs to, and `elsewhere` others."""
    masks = [np.full((size, size), 0.5, np.float32), *(part.mask for part, *_ in spans)]
    cells = np.stack([cv2.resize(mask, (CELLS, CELLS), interpolation=cv2.INTER_AREA) for mask in masks])
    numbers = cells.argmax(axis=0)
    return np.where(numbers, numbers, elsewhere).astype(np.uint8)


def photo_and_prompt(scenes, size, rng):
    """A photo as in the first stages and its prompt, with the places of what its own caption names where known."""
    scene = scenes[rng.integers(len(scenes))]
    if not scene.get("mask") or rng.random() < 0.5:
        record = make_training_picture([scene], [], size, rng)
        policy = "captions" if record["recolored"] else "mix"
        return srgb_to_lab(to_float(record["image"])), [], draw_training_prompt(record, policy, rng), []
    lab, parts = masked_photo([scene], size, rng)
    caption = scene["detailed_caption"]
    return lab, parts, caption, clauses_of(caption, parts)


def make_painted_picture(scenes, cutouts, size, rng):
    """One record with the columns of `COLUMNS`: a photo as it is, or a picture whose parts are painted.

    A share EMPTY has the empty prompt, for guidance; borders and spoiled gray pictures come at the shares BORDERED and
    SPOILED. `spans`: [first character, last + 1] of each part that is named, `places` their numbers from 1 on; 0 is
    what the prompt doesn't name.
    """
    masked = [scene for scene in scenes if scene.get("mask")]
    kinds = [kind for kind in SHARES if cutouts or kind != "cut-outs"]
    weights = np.array([SHARES[kind] for kind in kinds])
    kind, empty = str(rng.choice(kinds, p=weights / weights.sum())), rng.random() < EMPTY
    if kind == "photo":
        lab, parts, prompt, spans = photo_and_prompt(scenes, size, rng)
    else:
        cutout = kind == "cut-outs"
        lab, parts = cutouts_on_ground(masked, cutouts, size, rng) if cutout else masked_photo(masked, size, rng)
        lab, phrases = paint_parts(lab, parts, rng, 0 if empty else PAINTED)
        prompt, spans = join_phrases(phrases, rng)
    if empty:
        prompt, spans = "", []
    if rng.random() < BORDERED:
        lab = add_border(lab, parts, rng)
    image = to_pil(lab_to_srgb(lab))
    plane = srgb_to_lab(to_float(image))[..., 0]
    if rng.random() < SPOILED:
        plane = 100 * spoil(plane / 100, rng)
    places = number_places(spans, size, UNKNOWN if kind == "photo" or empty else 0)
    record = {"prompt": prompt, "image": image, "conditioning_image": to_pil(gray_from_luminance(plane))}
    return record | {"places": PILImage.fromarray(places), "spans": [[start, end] for _, start, end in spans]}


def make_painted(pictures, folder, n, size, seed=0):
    """A data set of `n` pictures with the columns of `COLUMNS`, made once and kept in `folder`."""

    def rows(scenes, things):
        for index in progress(range(n), desc="painted pictures"):
            yield make_painted_picture(scenes, things, size, np.random.default_rng((seed, index)))

    return load_or_make(pictures, folder, {"pictures": n, "size": size, "seed": seed}, rows, COLUMNS)
