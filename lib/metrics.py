"""How far a colorized photo is from the true one; pictures are float sRGB (H, W, 3) in [0, 1]."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from PIL import Image
from skimage.color import deltaE_ciede2000
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from lib.cache import progress
from lib.captions import hue_distance
from lib.color import srgb_to_lab, to_float
from lib.prompts import OBJECT_COLORS, TARGETS

METRICS = (  # in the order of `measure`; notebook 05 defines them
    "psnr", "ssim", "ssim_luma", "ciede2000", "ab_error", "mean_error", "deviation_error", "hue_error_share",
    "colorfulness", "true_colorfulness", "chroma", "true_chroma",
)  # fmt: skip
# Of a picture, where `system` is "controlnet" for the model, and `restored` tells if it has the photo's own lightness.
COLUMNS = ("image_id", "subject", "category", "system", "prompt_condition", "prompt", "seed", "restored", *METRICS)
REFERENCES = ("gray", "mean_color", "true_mean_color", "half_chroma", "autoencoder")  # systems that need no ControlNet
SAME_HUE = {"brown": "orange"}  # they differ in lightness and chroma, not in hue
HUE_NEEDS_CHROMA, VISIBLE_CHROMA = 10, 2  # C*ab below which a hue says little, and a pixel looks gray


def psnr(truth: np.ndarray, output: np.ndarray) -> float:
    """Returns the peak signal-to-noise ratio in dB; infinite for equal pictures."""
    with np.errstate(divide="ignore"):
        return float(peak_signal_noise_ratio(truth, output, data_range=1))


def ssim(truth: np.ndarray, output: np.ndarray) -> float:
    """Returns the structural similarity of (H, W, C) in [0, 1] with the Gaussian window of Wang et al. 2004."""
    window = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    return float(structural_similarity(truth, output, channel_axis=-1, data_range=1.0, **window))


def colorfulness(image: np.ndarray) -> float:
    """Returns Hasler and Suesstrunk's (2003) colourfulness, from signed opponent channels on the 0-255 scale."""
    red, green, blue = np.moveaxis(image.astype(np.float64) * 255, -1, 0)
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    spread = np.hypot(red_green.std(), yellow_blue.std())
    return float(spread + 0.3 * np.hypot(red_green.mean(), yellow_blue.mean()))


def chroma(lab: np.ndarray) -> float:
    """Returns the mean C*ab of a CIELAB image."""
    return float(np.hypot(lab[..., 1], lab[..., 2]).mean())


def hue_error_share(truth_lab: np.ndarray, output_lab: np.ndarray) -> float:
    """Returns the share of coloured pixels whose hue is more than 60 degrees off; NaN if no pixel is coloured.

    An output paler than `VISIBLE_CHROMA` has no hue and counts as off: gray pictures have 1, random hues 2/3.
    """
    truth, output = (lab[..., 1] + 1j * lab[..., 2] for lab in (truth_lab, output_lab))
    off = (np.abs(np.angle(output * truth.conj())) > np.radians(60)) | (np.abs(output) < VISIBLE_CHROMA)
    colored = np.abs(truth) > HUE_NEEDS_CHROMA
    return float(off[colored].mean()) if colored.any() else float("nan")


def ab_errors(truth_lab: np.ndarray, output_lab: np.ndarray) -> tuple[float, float, float]:
    """Returns the mean distance in a*b*, that of the mean a*b* (the tint), and that of deviations from the mean.

    The last is a root mean square, so the squares of the last two add up to the mean squared distance.
    """
    off = output_lab[..., 1:] - truth_lab[..., 1:]
    mean = off.mean(axis=(0, 1))
    spread = np.sqrt(((off - mean) ** 2).sum(axis=-1).mean())
    return float(np.linalg.norm(off, axis=-1).mean()), float(np.linalg.norm(mean)), float(spread)


def ciede2000(labs: list[np.ndarray], truths: list[np.ndarray]) -> list[float]:
    """Returns the mean CIEDE2000 (Sharma, Wu, Dalal 2005) of CIELAB images from the true ones, image by image."""
    return [float(deltaE_ciede2000(truth, lab).mean()) for truth, lab in zip(truths, labs, strict=True)]


def measure(truth: np.ndarray, output: np.ndarray, own: dict[str, Callable] | None = None) -> dict[str, float]:
    """Returns `METRICS` of an output; `own`: {name: function of the CIELAB images (truth, output)}, lower is better."""
    truth_lab, output_lab = srgb_to_lab(truth), srgb_to_lab(output)
    values = [
        *(psnr(truth, output), ssim(truth, output), ssim(truth_lab[..., :1] / 100, output_lab[..., :1] / 100)),
        *ciede2000([output_lab], [truth_lab]),
        *ab_errors(truth_lab, output_lab),
        hue_error_share(truth_lab, output_lab),
        *(colorfulness(output), colorfulness(truth), chroma(output_lab), chroma(truth_lab)),
    ]
    measured = dict(zip(METRICS, values, strict=True))
    return measured | {name: float(function(truth_lab, output_lab)) for name, function in (own or {}).items()}


def measure_pictures(rows, pictures: pd.DataFrame, own: dict[str, Callable] | None = None, workers: int = -1):
    """Returns a table of `COLUMNS` and `own` metrics, as in `measure`, of picture files; by -1 workers: all cores.

    `rows`: data-set rows. `pictures`: a row a picture: `file`, its path; `image_id`, and further columns of `COLUMNS`.
    """

    def measure_photo(truth, files):
        return pd.DataFrame([measure(truth, to_float(Image.open(file)), own) for file in files], index=files.index)

    rows = [{name: row[name] for name in ("image_id", "subject", "category", "image")} for row in rows]
    files = pictures.groupby("image_id")["file"]
    jobs = (delayed(measure_photo)(to_float(row["image"]), files.get_group(row["image_id"])) for row in rows)
    measured = Parallel(n_jobs=workers, return_as="generator")(jobs)
    measured = pd.concat(progress(measured, total=len(rows), desc="measuring photos", leave=False))
    photos = pd.DataFrame(rows).set_index("image_id")[["subject", "category"]]
    table = pictures.drop(columns="category", errors="ignore").join(photos, on="image_id").join(measured)
    return table[[*COLUMNS, *(own or {})]]


def measure_sets(config, rows, images: pd.DataFrame) -> pd.DataFrame:
    """Returns FID, KID, LPIPS and CLIP score by prompt condition."""
    from lib.l4 import set_metrics  # needs packages that only l4 installs

    return set_metrics.measure_sets(rows, images, lambda name: to_float(Image.open(config.run_dir / name)), config)


def hue_and_chroma(a: float, b: float) -> tuple[float, float]:
    """Returns hue in degrees, from 0 on, and chroma of a colour's a* and b*."""
    return float(np.degrees(np.arctan2(b, a))) % 360, float(np.hypot(a, b))


def name_color(hue: float, chroma: float) -> str:
    """Returns the word of `OBJECT_COLORS`: `white` below a chroma of 8, none below 10, else the nearest hue."""
    if chroma < HUE_NEEDS_CHROMA:
        return "white" if chroma < 8 else ""
    words = [word for word in OBJECT_COLORS if word != "white" and word not in SAME_HUE]
    return min(words, key=lambda word: hue_distance(TARGETS[word][0], hue))
