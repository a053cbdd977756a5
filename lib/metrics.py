"""How far a colorized photo is from the true one: one dictionary of numbers a picture.

Conventions: pictures are float sRGB (H, W, 3) in [0, 1]; PSNR and SSIM are taken on the three sRGB channels, `ssim_luma`
on L*/100; CIEDE2000 is the mean over pixels (Sharma, Wu, Dalal 2005), as is `ab_error`, the distance in (a*, b*);
`hue_error` is the mean absolute difference of hue in degrees where both pictures have a C*ab of at least 10, empty where
no pixel has, and `hue_share` the share of the photo's such pixels on which it could be taken; colourfulness is that of Hasler and Suesstrunk 2003 with signed opponent channels on the 0-255 scale;
`chroma` is mean C*ab. `true_colorfulness` and `true_chroma` are the photo's own.
"""

from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pandas as pd
from skimage.color import deltaE_ciede2000
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from tqdm import tqdm

from lib.color import lab_to_srgb, luminance, merge_luminance, srgb_to_lab, to_float, to_pil
from lib.prompts import STEERING_WORDS, TARGETS

METRICS = ("psnr", "ssim", "ssim_luma", "ciede2000", "ab_error", "hue_error", "hue_share", "colorfulness", "true_colorfulness",
           "chroma", "true_chroma")  # fmt: skip
COLUMNS = ("image_id", "category", "system", "prompt_level", "prompt", "seed", "merged", *METRICS)
REFERENCES = ("gray", "mean_color", "true_mean_color", "half_chroma", "autoencoder")
SAME_HUE = {"brown": "orange"}  # told apart by lightness and chroma, not by hue
HUE_NEEDS_CHROMA = 10  # C*ab below which a hue says little


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


def measure(truth, output):
    """All metrics of one output against its truth, by the names in `METRICS`; shapes must agree."""
    if truth.shape != output.shape:
        raise ValueError(f"truth is {truth.shape}, output is {output.shape}: they must be of one size")
    truth_lab, output_lab = srgb_to_lab(truth), srgb_to_lab(output)
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


def reference_pictures(truth, plane, training_ab, round_trip):
    """The pictures that no prompt touched, by (system, merged).

    `plane`: L* of the conditioning image; `training_ab`: mean (a*, b*) of the training photos; `round_trip`: the
    autoencoder's picture of the truth.
    """
    return {
        ("gray", True): flat_color(plane, (0, 0)),
        ("mean_color", True): flat_color(plane, training_ab),
        ("true_mean_color", True): flat_color(plane, mean_ab([truth])),
        ("half_chroma", True): lab_to_srgb(np.dstack([plane, srgb_to_lab(truth)[..., 1:] / 2])),
        ("autoencoder", False): round_trip,
        ("autoencoder", True): merge_luminance(plane, round_trip),
    }


def flat_color(plane, ab):
    """The L* plane (H, W) in one colour (a*, b*): float sRGB."""
    return lab_to_srgb(np.dstack([plane, *(np.full_like(plane, value) for value in ab)]))


def measure_references(rows, training_ab, round_trips):
    """One row of `COLUMNS` for each reference picture of each data-set row, in 8 bits as the model's pictures are."""
    table = []
    for row, round_trip in zip(rows, round_trips, strict=True):
        truth = to_float(row["image"])
        who = {"image_id": row["image_id"], "category": row["category"], "prompt_level": "", "prompt": "", "seed": 0}
        plane = luminance(to_float(row["conditioning_image"]))
        for (system, merged), picture in reference_pictures(truth, plane, training_ab, round_trip).items():
            scores = measure(truth, to_float(to_pil(picture)))
            table.append({**who, "system": system, "merged": merged, **scores})
    return pd.DataFrame(table, columns=COLUMNS)


def measure_images(rows, images, read_picture, workers=0):
    """Two rows of `COLUMNS`, before and after the merge, for each colorized picture that `images` lists.

    Photo by photo, in `workers` processes (0: this one); `read_picture` reads a file name of the table.
    """
    parts = [(to_float(row["image"]), images[images["image_id"] == row["image_id"]], read_picture) for row in rows]
    if workers:
        with ProcessPoolExecutor(workers) as pool:
            measured = list(tqdm(pool.map(_measure_photo, parts), total=len(parts), desc="measuring", leave=False))
    else:
        measured = [_measure_photo(part) for part in tqdm(parts, desc="measuring", leave=False)]
    return pd.DataFrame([row for part in measured for row in part], columns=COLUMNS)


def _measure_photo(part):
    truth, images, read_picture = part
    return [
        {**record, "system": "controlnet", "merged": merged, **measure(truth, read_picture(record[column]))}
        for record in images.to_dict("records") for merged, column in ((False, "before"), (True, "after"))
    ]  # fmt: skip


def measure_seed_means(rows, images, read_picture):
    """Merged rows of `COLUMNS` for the system `seed_mean`: a*, b* averaged over the seeds of each photo and level."""
    by_id = {row["image_id"]: row for row in rows}
    table = []
    keys = ["image_id", "category", "prompt_level", "prompt"]
    for who, group in tqdm(images.groupby(keys, sort=False), desc="means over seeds", leave=False):
        row = by_id[who[0]]
        plane = luminance(to_float(row["conditioning_image"]))
        ab = np.mean([srgb_to_lab(read_picture(name))[..., 1:] for name in group["after"]], axis=0)
        scores = measure(to_float(row["image"]), to_float(to_pil(lab_to_srgb(np.dstack([plane, ab])))))
        table.append({**dict(zip(keys, who, strict=True)), "system": "seed_mean", "seed": 0, "merged": True, **scores})
    return pd.DataFrame(table, columns=COLUMNS)


def measure_ab(rows, predicted):
    """Merged rows of `COLUMNS` for systems that give a*, b* alone: `predicted` is {system: [(H, W, 2) a row]}."""
    table = []
    for index, row in enumerate(rows):
        truth, plane = to_float(row["image"]), luminance(to_float(row["conditioning_image"]))
        who = {"image_id": row["image_id"], "category": row["category"], "prompt_level": "", "prompt": "", "seed": 0}
        for system, planes in predicted.items():
            picture = lab_to_srgb(np.dstack([plane, planes[index]]))
            table.append({**who, "system": system, "merged": True, **measure(truth, to_float(to_pil(picture)))})
    return pd.DataFrame(table, columns=COLUMNS)


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
