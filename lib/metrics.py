"""How far a colorized photo is from the true one: one dictionary of numbers a picture.

Pictures are float sRGB (H, W, 3) in [0, 1]. The metrics, by column of the table:

- `psnr`, `ssim`: on the three sRGB channels; `ssim_luma`: SSIM on L*/100
- `ciede2000` (Sharma, Wu, Dalal 2005), `ab_error` (distance in a*b*): means over pixels
- `mean_error`, `deviation_error`: the distance of the mean a*b* from the photo's, and the root mean squared distance of
  the deviations from it; the sum of their squares is the mean squared error in a*b*
- `hue_error`: mean absolute difference of hue in degrees, over the pixels where both pictures have a chroma of at least
  10, empty where there are none; `hue_share`: these pixels as a share of those where the true photo has such a chroma
- `colorfulness`: Hasler and Suesstrunk 2003, with signed opponent channels on the 0-255 scale
- `chroma`: mean C*ab; `true_colorfulness`, `true_chroma`: those of the true photo
"""

from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import lru_cache
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
import pandas as pd
from skimage.color import deltaE_ciede2000
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from lib import ROOT
from lib.cache import hash_of, new_file, progress
from lib.color import lab_to_srgb, luminance, merge_luminance, srgb_to_lab, to_float, to_pil
from lib.color_words import hue_distance
from lib.prompts import COMPARED, OBJECT_COLORS, TARGETS, VAGUE_PROMPT
from lib.regions import compose, find_masks, regions_of, share_out

ERRORS = (
    "psnr",
    "ssim",
    "ssim_luma",
    "ciede2000",
    "ab_error",
    "mean_error",
    "deviation_error",
    "hue_error",
    "hue_share",
)
METRICS = (*ERRORS, "colorfulness", "true_colorfulness", "chroma", "true_chroma")
COLUMNS = ("image_id", "subject", "category", "system", "prompt_level", "prompt", "seed", "merged", *METRICS)
REFERENCES = ("gray", "mean_color", "true_mean_color", "half_chroma", "autoencoder")
SAME_HUE = {"brown": "orange"}  # they differ in lightness and chroma, not in hue
HUE_NEEDS_CHROMA = 10  # C*ab below which a hue says little
CODE = ("metrics.py", "color.py", "regions.py")  # that measurements depend on, and
PACKAGES = ("numpy", "scipy", "scikit-image")
PHOTOS_PER_SAVE = 64  # after how many photos the cache is written: what a stopped machine loses at most


def psnr(truth, output):
    """Peak signal-to-noise ratio in dB; infinite for equal pictures."""
    if np.array_equal(truth, output):
        return float("inf")
    return float(peak_signal_noise_ratio(truth, output, data_range=1))


def ssim(truth, output):
    """Structural similarity with the Gaussian window of Wang et al. 2004, mean over channels (H, W, C) in [0, 1]."""
    window = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    return float(structural_similarity(truth, output, channel_axis=-1, data_range=1.0, **window))


def colorfulness(image):
    """Hasler and Suesstrunk 2003: sqrt(s_rg^2 + s_yb^2) + 0.3 sqrt(m_rg^2 + m_yb^2), channels signed, 0-255 scale."""
    red, green, blue = np.moveaxis(image.astype(np.float64) * 255, -1, 0)
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    spread = np.hypot(red_green.std(), yellow_blue.std())
    return float(spread + 0.3 * np.hypot(red_green.mean(), yellow_blue.mean()))


def chroma(lab):
    """Mean C*ab of a CIELAB image."""
    return float(np.hypot(lab[..., 1], lab[..., 2]).mean())


def hue_error(truth_lab, output_lab):
    """(`hue_error` in [0, 180], NaN where no pixel has chroma enough; `hue_share` in [0, 1]) of two CIELAB images."""
    truth_ab, output_ab = (lab[..., 1] + 1j * lab[..., 2] for lab in (truth_lab, output_lab))
    colored = np.abs(truth_ab) >= HUE_NEEDS_CHROMA
    both = colored & (np.abs(output_ab) >= HUE_NEEDS_CHROMA)
    if not both.any():
        return float("nan"), 0.0
    error = np.degrees(np.abs(np.angle(output_ab[both] * truth_ab[both].conj()))).mean()
    return float(error), float(both.sum() / colored.sum())


def ab_errors(truth_lab, output_lab):
    """`ab_error`, `mean_error` and `deviation_error` of two CIELAB images."""
    off = output_lab[..., 1:] - truth_lab[..., 1:]
    mean = off.mean(axis=(0, 1))
    spread = np.sqrt(((off - mean) ** 2).sum(axis=-1).mean())
    return float(np.linalg.norm(off, axis=-1).mean()), float(np.linalg.norm(mean)), float(spread)


def measure(truth, output, truth_lab=None):
    """All metrics of one output against its truth, by the names in `METRICS`; two shapes are a ValueError.

    `truth_lab`: the truth in CIELAB, where it is at hand.
    """
    if truth.shape != output.shape:
        raise ValueError(f"truth is {truth.shape}, output is {output.shape}: they must be of one size")
    truth_lab, output_lab = srgb_to_lab(truth) if truth_lab is None else truth_lab, srgb_to_lab(output)
    values = [
        psnr(truth, output),
        ssim(truth, output),
        ssim(truth_lab[..., :1] / 100, output_lab[..., :1] / 100),
        float(deltaE_ciede2000(truth_lab, output_lab).mean()),
        *ab_errors(truth_lab, output_lab),
        *hue_error(truth_lab, output_lab),
        *(colorfulness(output), colorfulness(truth)),
        *(chroma(output_lab), chroma(truth_lab)),
    ]
    return dict(zip(METRICS, values, strict=True))


def mean_ab(images):
    """The mean (a*, b*) over all pixels of all pictures."""
    return np.mean([srgb_to_lab(image)[..., 1:].mean(axis=(0, 1)) for image in images], axis=0)


class Truth(NamedTuple):
    """What a picture is made from: the true photo, L* of its conditioning image, and how to read a picture's file."""

    truth: np.ndarray
    plane: np.ndarray
    read: Callable


class Picture(NamedTuple):
    """A picture to measure: `make(Truth, *arguments)` gives it, the rest is said of it in the table."""

    image_id: str
    system: str
    make: Callable
    arguments: tuple = ()
    merged: bool = True
    prompt_level: str = ""
    prompt: str = ""
    seed: int = 0


def measure_pictures(rows, pictures, read_picture=None, cache=None, workers=0):
    """A table with one row of `COLUMNS` for each `Picture` of these data-set rows, in their order, measured in 8 bits.

    `read_picture` reads a file by its name, which must change with whatever makes the picture. `cache`: a file of
    earlier measurements (None: none), to which the new ones are added; a measurement is known again by the photo's
    pixels, the function, its arguments and the code that measures. `workers`: how many processes (0: this one).
    """
    known, listed, missing = read_cache(cache), defaultdict(list), []
    for position, picture in enumerate(pictures):
        listed[picture.image_id].append((position, picture))
    table = {}
    for row in rows:
        photo = [np.asarray(row[column].convert("RGB")) for column in ("image", "conditioning_image")]
        photo_key, new = key_of(*photo), {}
        for position, picture in listed[row["image_id"]]:
            key = key_of(photo_key, picture.make.__name__, *picture.arguments)
            table[position] = (key, {**picture._asdict(), "subject": row["subject"], "category": row["category"]})
            if key not in known:
                new[key] = picture
        if new:
            missing.append((*photo, read_picture, new))
    known = _measure_missing(missing, known, cache, workers)
    return pd.DataFrame([known[key] | facts for _, (key, facts) in sorted(table.items())], columns=COLUMNS)


def _measure_missing(missing, known, cache, workers):
    """`known` with the missing measurements; the cache is written after every `PHOTOS_PER_SAVE` photos."""
    bar = progress(total=len(missing), desc="measuring photos", leave=False)
    with bar, ProcessPoolExecutor(workers) if workers else nullcontext() as pool:
        for start in range(0, len(missing), PHOTOS_PER_SAVE):
            for measured in (pool.map if pool else map)(_measure_photo, missing[start : start + PHOTOS_PER_SAVE]):
                known |= measured
                bar.update()
            if cache:
                with new_file(cache) as partial:  # parquet keeps every bit
                    pd.DataFrame.from_dict(known, orient="index", columns=METRICS).to_parquet(partial)
    return known


def _measure_photo(part):
    image, conditioning, read_picture, pictures = part
    photo = Truth(to_float(image), luminance(to_float(conditioning)), read_picture)
    lab, measured = srgb_to_lab(photo.truth), {}
    for key, picture in pictures.items():
        output = to_float(to_pil(picture.make(photo, *picture.arguments)))
        measured[key] = measure(photo.truth, output, lab)
    return measured


def key_of(*facts):
    """A short text that changes with arrays, texts and numbers, and with the code and the packages that measure."""
    return hash_of((_measured_by(), *facts))


@lru_cache
def _measured_by():
    return hash_of([*(ROOT / "lib" / name for name in CODE), *map(version, PACKAGES)])


def read_cache(path):
    """{key: metrics} of a file of measurements; nothing where there is no such file or it is damaged."""
    try:
        return pd.read_parquet(path).to_dict("index") if path else {}
    except (OSError, ValueError):  # pyarrow's errors are among them
        return {}


def with_ab(photo, ab):
    """The photo with these a*, b*: (H, W, 2), or one colour (2,) everywhere."""
    return lab_to_srgb(np.dstack([photo.plane, np.broadcast_to(ab, (*photo.plane.shape, 2))]))


def in_own_mean_color(photo):
    """The photo in the mean of its own colours."""
    return with_ab(photo, mean_ab([photo.truth]))


def in_half_chroma(photo):
    """The photo with its true a*, b* halved."""
    return with_ab(photo, srgb_to_lab(photo.truth)[..., 1:] / 2)


def as_it_is(photo, picture):
    """A picture that is there."""
    return picture


def merged(photo, picture):
    """A picture with the photo's L*."""
    return merge_luminance(photo.plane, picture)


def from_file(photo, name):
    """A picture by its file name."""
    return photo.read(name)


def mean_color_transfer(photo, name, other):
    """The photo with a*, b* of one file, shifted to the mean of another's."""
    ab, of_other = (srgb_to_lab(photo.read(file))[..., 1:] for file in (name, other))
    return with_ab(photo, ab + of_other.mean(axis=(0, 1)) - ab.mean(axis=(0, 1)))


def composed(photo, weights, *names):
    """The photo with a*, b* of several files, each weighed where its region is: weights (files, H, W)."""
    return with_ab(photo, compose([srgb_to_lab(photo.read(name))[..., 1:] for name in names], weights))


def reference_pictures(image_ids, training_ab, round_trips):
    """The pictures that need no model, of the systems in `REFERENCES`, photo by photo.

    `training_ab`: mean (a*, b*) of the training photos; `round_trips`: the autoencoder's pictures of the true photos.
    """
    for name, round_trip in zip(image_ids, round_trips, strict=True):
        yield Picture(name, "gray", with_ab, ((0, 0),))
        yield Picture(name, "mean_color", with_ab, (training_ab,))
        yield Picture(name, "true_mean_color", in_own_mean_color)
        yield Picture(name, "half_chroma", in_half_chroma)
        yield Picture(name, "autoencoder", as_it_is, (round_trip,), merged=False)
        yield Picture(name, "autoencoder", merged, (round_trip,))


def ab_pictures(image_ids, predicted):
    """The pictures of systems that give a*, b* alone: `predicted` is {system: [(H, W, 2) a photo]}."""
    for index, name in enumerate(image_ids):
        for system, planes in predicted.items():
            yield Picture(name, system, with_ab, (planes[index],))


def model_pictures(image_ids, images):
    """The pictures that the table `images` lists, photo by photo; those of `COMPARED` before the merge, too."""
    by_photo = dict(list(images.groupby("image_id")))
    for name in image_ids:
        for row in by_photo[name].itertuples():
            said = dict(prompt_level=row.prompt_level, prompt=row.prompt, seed=row.seed)
            if row.prompt_level in COMPARED:
                yield Picture(name, "controlnet", from_file, (row.before,), merged=False, **said)
            yield Picture(name, "controlnet", from_file, (row.after,), **said)


def transfer_pictures(images):
    """The vague prompt's pictures shifted to the mean colour of the detailed one's: what a tint alone would give."""
    files = images.set_index(["prompt_level", "image_id", "seed"])["after"]
    for (name, seed), vague in files["vague"].items():
        said = dict(prompt_level="vague", prompt=VAGUE_PROMPT, seed=seed)
        yield Picture(name, "mean_color_transfer", mean_color_transfer, (vague, files["detailed", name, seed]), **said)


def region_pictures(rows, images, phrases, locate):
    """The detailed prompt's pictures with each phrase's colour kept to its place, as the system `regions`.

    `images`, `phrases`: the listings of the pictures under the prompts and of their regions; `locate`: what
    `load_segmenter` returns. Photos whose phrases were not colorized are left out; what isn't found keeps the
    prompt's own colours.
    """
    files = phrases.set_index(["image_id", "prompt", "seed"])["after"]
    there = set(phrases["image_id"])
    detailed = images[images["prompt_level"] == "detailed"]
    for row in rows:
        regions = regions_of(row["detailed_caption"])
        if regions and row["image_id"] not in there:
            continue
        masks = find_masks(regions, luminance(to_float(row["conditioning_image"])), lambda: locate)
        weights = share_out(masks, locate.threshold)
        for picture in detailed[detailed["image_id"] == row["image_id"]].itertuples():
            names = [files[row["image_id"], region.phrase, picture.seed] for region in regions]
            said = dict(prompt_level="detailed", prompt=picture.prompt, seed=picture.seed)
            yield Picture(row["image_id"], "regions", composed, (weights, picture.after, *names), **said)


def hue_and_chroma(a, b):
    """Hue in degrees, from 0 on, and chroma of a colour's a* and b*."""
    return float(np.degrees(np.arctan2(b, a))) % 360, float(np.hypot(a, b))


def name_color(hue, chroma):
    """The word of `OBJECT_COLORS`: `white` below a chroma of 8, none below 10, else the nearest hue (not brown)."""
    if chroma < HUE_NEEDS_CHROMA:
        return "white" if chroma < 8 else ""
    words = [word for word in OBJECT_COLORS if word != "white" and word not in SAME_HUE]
    return min(words, key=lambda word: hue_distance(TARGETS[word][0], hue))


def read_metrics(path):
    """The table that notebook 05 wrote; without it, a ValueError that says to run 05."""
    if not path.exists():
        again = "run notebook 05_evaluate first, with the same -p reports"
        raise ValueError(f"no {path.name} in this run's reports: {again}")
    return pd.read_csv(path, keep_default_na=False, na_values={"hue_error": [""]}, dtype={"image_id": str})
