"""How far a colorized photo is from the true one: one dictionary of numbers a picture.

Conventions: pictures are float sRGB (H, W, 3) in [0, 1]; PSNR and SSIM are taken on the three sRGB channels, `ssim_luma`
on L*/100; CIEDE2000 is the mean over pixels (Sharma, Wu, Dalal 2005), as is `ab_error`, the distance in (a*, b*);
`hue_error` is the mean absolute difference of hue in degrees where both pictures have a C*ab of at least 10, empty where
no pixel has, and `hue_share` the share of the photo's such pixels on which it could be taken; colourfulness is that of Hasler and Suesstrunk 2003 with signed opponent channels on the 0-255 scale;
`chroma` is mean C*ab. `true_colorfulness` and `true_chroma` are the photo's own.
"""

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
from tqdm import tqdm

from lib import ROOT
from lib.color import lab_to_srgb, luminance, merge_luminance, srgb_to_lab, to_float, to_pil
from lib.files import hash_of, new_file
from lib.prompts import STEERING_WORDS, TARGETS

METRICS = ("psnr", "ssim", "ssim_luma", "ciede2000", "ab_error", "hue_error", "hue_share", "colorfulness", "true_colorfulness",
           "chroma", "true_chroma")  # fmt: skip
COLUMNS = ("image_id", "category", "system", "prompt_level", "prompt", "seed", "merged", *METRICS)
REFERENCES = ("gray", "mean_color", "true_mean_color", "half_chroma", "autoencoder")
SAME_HUE = {"brown": "orange"}  # told apart by lightness and chroma, not by hue
NO_PROMPT = {"prompt_level": "", "prompt": "", "seed": 0}
HUE_NEEDS_CHROMA = 10  # C*ab below which a hue says little
CODE, PACKAGES = ("metrics.py", "color.py"), ("numpy", "scipy", "scikit-image")  # that measurements depend on
PHOTOS_PER_SAVE = 64  # after how many photos the cache is written: what a stopped machine loses at most


def psnr(truth, output):
    """Peak signal-to-noise ratio in dB; infinite for equal pictures."""
    if np.array_equal(truth, output):
        return float("inf")
    return float(peak_signal_noise_ratio(truth, output, data_range=1))


def ssim(truth, output):
    """Structural similarity with the Gaussian window of Wang et al. 2004, mean over channels (H, W, C) in [0, 1]."""
    return float(
        structural_similarity(
            truth,
            output,
            channel_axis=-1,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


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
    """Mean absolute hue difference in degrees, [0, 180], where both have hue enough (NaN without any such pixel), and
    the share of such pixels among those where the truth has."""
    truth_ab, output_ab = (lab[..., 1] + 1j * lab[..., 2] for lab in (truth_lab, output_lab))
    colored = np.abs(truth_ab) >= HUE_NEEDS_CHROMA
    both = colored & (np.abs(output_ab) >= HUE_NEEDS_CHROMA)
    if not both.any():
        return float("nan"), 0.0
    error = np.degrees(np.abs(np.angle(output_ab[both] * truth_ab[both].conj()))).mean()
    return float(error), float(both.sum() / colored.sum())


def measure(truth, output, truth_lab=None):
    """All metrics of one output against its truth, by the names in `METRICS`; shapes must agree.

    `truth_lab`: the truth in CIELAB, where it is at hand.
    """
    if truth.shape != output.shape:
        raise ValueError(f"truth is {truth.shape}, output is {output.shape}: they must be of one size")
    truth_lab, output_lab = srgb_to_lab(truth) if truth_lab is None else truth_lab, srgb_to_lab(output)
    hue, hue_share = hue_error(truth_lab, output_lab)
    return {
        "psnr": psnr(truth, output),
        "ssim": ssim(truth, output),
        "ssim_luma": ssim(truth_lab[..., :1] / 100, output_lab[..., :1] / 100),
        "ciede2000": float(deltaE_ciede2000(truth_lab, output_lab).mean()),
        "ab_error": float(np.linalg.norm(truth_lab[..., 1:] - output_lab[..., 1:], axis=-1).mean()),
        "hue_error": hue,
        "hue_share": hue_share,
        "colorfulness": colorfulness(output),
        "true_colorfulness": colorfulness(truth),
        "chroma": chroma(output_lab),
        "true_chroma": chroma(truth_lab),
    }


def mean_ab(images):
    """The mean (a*, b*) over all pixels of all pictures."""
    return np.mean([srgb_to_lab(image)[..., 1:].mean(axis=(0, 1)) for image in images], axis=0)


class Photo(NamedTuple):
    """What a picture is made from: the true photo, L* of its conditioning image, and how to read a picture's file."""

    truth: np.ndarray
    plane: np.ndarray
    read: Callable


def measure_pictures(rows, pictures_of, read_picture=None, cache=None, workers=0):
    """One row of `COLUMNS` for each picture that `pictures_of(index, row)` lists, in 8 bits, photo by photo.

    A picture is (columns beside the metrics, function, *arguments): the function makes it from a `Photo` and the arguments.
    `cache`: a file of earlier measurements (None: none), to which the new ones are added. What tells them apart is the
    photo's pixels, the function, its arguments and the code that measures. `workers`: how many processes (0: this one).
    """
    known, table, missing = read_cache(cache), [], []
    for index, row in enumerate(rows):
        photo = [np.asarray(row[column].convert("RGB")) for column in ("image", "conditioning_image")]
        photo_key, makers = key_of(*photo), {}
        for who, make, *arguments in pictures_of(index, row):
            key = key_of(photo_key, make.__name__, *arguments)
            table.append(({"image_id": row["image_id"], "category": row["category"], **who}, key))
            if key not in known:
                makers[key] = (make, arguments)
        if makers:
            missing.append((*photo, read_picture, makers))
    bar = tqdm(total=len(missing), desc="measuring photos", leave=False)
    with bar, ProcessPoolExecutor(workers) if workers else nullcontext() as pool:
        for start in range(0, len(missing), PHOTOS_PER_SAVE):
            for measured in (pool.map if pool else map)(_measure_photo, missing[start : start + PHOTOS_PER_SAVE]):
                known |= measured
                bar.update()
            write_cache(known, cache)
    return pd.DataFrame([{**who, **known[key]} for who, key in table], columns=COLUMNS)


def _measure_photo(part):
    image, conditioning, read_picture, makers = part
    photo = Photo(to_float(image), luminance(to_float(conditioning)), read_picture)
    lab = srgb_to_lab(photo.truth)
    pictures = ((key, to_float(to_pil(make(photo, *arguments)))) for key, (make, arguments) in makers.items())
    return {key: measure(photo.truth, picture, lab) for key, picture in pictures}


def key_of(*facts):
    """A short text that changes with arrays, texts and numbers, and with the code and the packages that measure."""
    return hash_of((_measured_by(), *facts))


@lru_cache
def _measured_by():
    return hash_of([*(ROOT / "lib" / name for name in CODE), *map(version, PACKAGES)])


def read_cache(path):
    """{key: metrics} of a file that `write_cache` wrote; nothing where there is no such file or it is damaged."""
    try:
        return pd.read_parquet(path).to_dict("index") if path else {}
    except (OSError, ValueError):  # pyarrow's errors are among them
        return {}


def write_cache(known, path):
    """Write measurements by key to a parquet file, which keeps every bit, whole or not at all; nowhere for None."""
    if path:
        with new_file(path) as partial:
            pd.DataFrame.from_dict(known, orient="index", columns=METRICS).to_parquet(partial)


def reference_pictures(training_ab, round_trip):
    """The pictures that no prompt touched, by (system, merged), each as a function of `Photo` and its arguments.

    `training_ab`: mean (a*, b*) of the training photos; `round_trip`: the autoencoder's picture of the truth.
    """
    return {
        ("gray", True): (in_one_color, (0, 0)),
        ("mean_color", True): (in_one_color, training_ab),
        ("true_mean_color", True): (in_own_mean_color,),
        ("half_chroma", True): (in_half_chroma,),
        ("autoencoder", False): (as_it_is, round_trip),
        ("autoencoder", True): (merged, round_trip),
    }


def in_one_color(photo, ab):
    """The photo in one colour (a*, b*)."""
    return flat_color(photo.plane, ab)


def in_own_mean_color(photo):
    """The photo in the mean of its own colours."""
    return flat_color(photo.plane, mean_ab([photo.truth]))


def in_half_chroma(photo):
    """The photo with its true a*, b* halved."""
    return with_ab(photo, srgb_to_lab(photo.truth)[..., 1:] / 2)


def with_ab(photo, ab):
    """The photo with these a*, b* (H, W, 2)."""
    return lab_to_srgb(np.dstack([photo.plane, ab]))


def as_it_is(photo, picture):
    """A picture that is there."""
    return picture


def merged(photo, picture):
    """A picture with the photo's L*."""
    return merge_luminance(photo.plane, picture)


def from_file(photo, name):
    """A picture by its file name."""
    return photo.read(name)


def mean_over_seeds(photo, *names):
    """The photo with the mean a*, b* of several files."""
    return with_ab(photo, np.mean([srgb_to_lab(photo.read(name))[..., 1:] for name in names], axis=0))


def flat_color(plane, ab):
    """The L* plane (H, W) in one colour (a*, b*): float sRGB."""
    return lab_to_srgb(np.dstack([plane, *(np.full_like(plane, value) for value in ab)]))


def measure_references(rows, training_ab, round_trips, **options):
    """`measure_pictures` of the reference pictures of each data-set row."""

    def pictures_of(index, row):
        return [
            ({**NO_PROMPT, "system": system, "merged": is_merged}, *recipe)
            for (system, is_merged), recipe in reference_pictures(training_ab, round_trips[index]).items()
        ]

    return measure_pictures(rows, pictures_of, **options)


def measure_ab(rows, predicted, **options):
    """`measure_pictures` of systems that give a*, b* alone: `predicted` is {system: [(H, W, 2) a row]}."""

    def pictures_of(index, row):
        return [
            ({**NO_PROMPT, "system": system, "merged": True}, with_ab, planes[index])
            for system, planes in predicted.items()
        ]

    return measure_pictures(rows, pictures_of, **options)


def measure_images(rows, images, read_picture, **options):
    """`measure_pictures` of the colorized pictures that `images` lists, before and after the merge.

    `read_picture` reads a file name of the table; names must change with whatever makes the pictures.
    """
    by_photo = dict(list(images.groupby("image_id")))

    def pictures_of(index, row):
        return [
            ({**record, "system": "controlnet", "merged": is_merged}, from_file, record[column])
            for record in by_photo[row["image_id"]].to_dict("records")
            for is_merged, column in ((False, "before"), (True, "after"))
        ]

    return measure_pictures(rows, pictures_of, read_picture, **options)


def measure_seed_means(rows, images, read_picture, **options):
    """`measure_pictures` of the system `seed_mean`: a*, b* averaged over the seeds of each photo and level.

    Only where the photo has every seed at that level; in the order of `images`.
    """
    groups, keys = {}, ["image_id", "prompt_level", "prompt"]
    for who, group in images.groupby(keys, sort=False):
        if group["seed"].nunique() == images["seed"].nunique():
            who = {**NO_PROMPT, **dict(zip(keys, who, strict=True)), "system": "seed_mean", "merged": True}
            groups.setdefault(who["image_id"], []).append((who, mean_over_seeds, *group["after"]))
    table = measure_pictures(rows, lambda index, row: groups.get(row["image_id"], []), read_picture, **options)
    order = {name: position for position, name in enumerate(groups)}
    return table.sort_values("image_id", key=lambda names: names.map(order), kind="stable", ignore_index=True)


def measure_steering(rows, images, read_picture):
    """What colour a thing took: one row a picture of `images`, whose level is the word of its prompt.

    `lightness`, `hue`, `chroma`: of the mean colour in the thing's box; `named`: the word of that colour; `allowed`: the
    word's range of L* in `TARGETS` holds the thing's; `reached`: it took the colour of its prompt.
    """
    by_id = {row["image_id"]: row for row in rows}
    columns = ("image_id", "thing", "word", "lightness", "hue", "chroma", "named", "allowed", "reached")
    table = []
    for record in images.to_dict("records"):
        row, word = by_id[record["image_id"]], record["prompt_level"]
        color = color_in_box(read_picture(record["after"]), row["thing_box"])
        named, (low, high) = name_color(color["hue"], color["chroma"]), TARGETS[word][2]
        table.append({"image_id": row["image_id"], "thing": row["thing"], "word": word, **color, "named": named,
                      "allowed": low <= color["lightness"] <= high, "reached": named == SAME_HUE.get(word, word)})  # fmt: skip
    return pd.DataFrame(table, columns=columns)


def color_in_box(picture, box):
    """`lightness`, `hue` in degrees and `chroma` of the mean colour in a box ("left top right bottom", fractions)."""
    height, width = picture.shape[:2]
    left, top, right, bottom = (
        round(float(v) * side) for v, side in zip(box.split(), [width, height] * 2, strict=True)
    )
    lightness, a, b = (float(v) for v in srgb_to_lab(picture)[top:bottom, left:right].mean(axis=(0, 1)))
    return {"lightness": lightness, "hue": float(np.degrees(np.arctan2(b, a))) % 360, "chroma": float(np.hypot(a, b))}


def name_color(hue, chroma):
    """The steering word of a colour: `white` below a chroma of 8, none below 10, else the nearest hue (brown is orange's)."""
    if chroma < HUE_NEEDS_CHROMA:
        return "white" if chroma < 8 else ""
    words = [word for word in STEERING_WORDS if word != "white" and word not in SAME_HUE]
    return min(words, key=lambda word: abs((TARGETS[word][0] - hue + 180) % 360 - 180))


def read_metrics(path):
    """The table that notebook 05 wrote; without it, a ValueError that says to run 05."""
    if not path.exists():
        raise ValueError(f"no metrics in {path}: run notebook 05_evaluate first")
    return pd.read_csv(path, keep_default_na=False, na_values={"hue_error": [""]}, dtype={"image_id": str})
