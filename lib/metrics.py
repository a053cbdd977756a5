"""How far a colorized photo is from the true one: one dictionary of numbers a picture.

Conventions: pictures are float sRGB (H, W, 3) in [0, 1]; PSNR and SSIM are taken on the three sRGB channels; CIEDE2000
is the mean over pixels (Sharma, Wu, Dalal 2005); colourfulness is that of Hasler and Suesstrunk 2003 with signed
opponent channels on the 0-255 scale; the chroma ratio is mean C*ab of the output over that of the truth.
"""

import numpy as np
import pandas as pd
from skimage.color import deltaE_ciede2000
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from tqdm.auto import tqdm

from lib.color import lab_to_srgb, luminance, merge_luminance, srgb_to_lab, to_float, to_pil

METRICS = ("psnr", "ssim", "ciede2000", "colorfulness", "chroma_ratio")
COLUMNS = ("image_id", "category", "system", "prompt_level", "prompt", "seed", "merged", *METRICS)
REFERENCES = ("gray", "mean_color", "true_mean_color", "autoencoder")


def psnr(truth, output):
    """Peak signal-to-noise ratio in dB; infinite for equal pictures."""
    if np.array_equal(truth, output):
        return float("inf")
    return float(peak_signal_noise_ratio(truth, output, data_range=1))


def ssim(truth, output):
    """Structural similarity with the Gaussian window of Wang et al. 2004, mean over the three sRGB channels."""
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


def measure(truth, output):
    """All metrics of one output against its truth, by the names in `METRICS`; shapes must agree."""
    if truth.shape != output.shape:
        raise ValueError(f"truth is {truth.shape}, output is {output.shape}: they must be of one size")
    truth_lab, output_lab = srgb_to_lab(truth), srgb_to_lab(output)
    return {
        "psnr": psnr(truth, output),
        "ssim": ssim(truth, output),
        "ciede2000": float(deltaE_ciede2000(truth_lab, output_lab).mean()),
        "colorfulness": colorfulness(output),
        "chroma_ratio": chroma(output_lab) / max(chroma(truth_lab), 1e-6),
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


def measure_images(rows, images, read_picture):
    """Two rows of `COLUMNS`, before and after the merge, for each colorized picture that `images` lists."""
    truths = {row["image_id"]: to_float(row["image"]) for row in rows}
    table = []
    for record in tqdm(images.to_dict("records"), desc="measuring", leave=False):
        truth = truths[record["image_id"]]
        for merged, column in ((False, "before"), (True, "after")):
            picture = read_picture(record[column])
            table.append({**record, "system": "controlnet", "merged": merged, **measure(truth, picture)})
    return pd.DataFrame(table, columns=COLUMNS)


def read_metrics(path):
    """The table that notebook 05 wrote; without it, a ValueError that says to run 05."""
    if not path.exists():
        raise ValueError(f"no metrics in {path}: run notebook 05_evaluate first")
    return pd.read_csv(path, keep_default_na=False, dtype={"image_id": str})
