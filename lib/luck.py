"""How much is luck: where the variance lies, what the noise does, and what several seeds of a photo would give."""

import numpy as np
import pandas as pd
from scipy import stats

from lib.prompts import LADDER
from lib.stats import HIGHER_IS_BETTER, of_model, with_all_seeds


def variance_shares(metrics, metric, levels):
    """A table `part`, `share` of a metric's variance: photo, prompt, their interaction, seed, and the rest.

    From the mean squares of the balanced table photo x seed x prompt of the merged pictures, where seeds are nested in
    photos, over the photos that have every seed under these prompts; an estimate below zero counts as zero.
    """
    rows = of_model(metrics)
    rows = with_all_seeds(rows[rows["prompt_level"].isin(levels)])
    cube = rows.set_index(["image_id", "prompt_level", "seed"])[metric].unstack("seed").unstack("prompt_level")
    seeds, prompts = rows["seed"].nunique(), len(levels)
    values = cube.to_numpy().reshape(-1, seeds, prompts)
    photos = len(values)
    photo, prompt = values.mean((1, 2), keepdims=True), values.mean((0, 1), keepdims=True)
    cell, draw, grand = values.mean(1, keepdims=True), values.mean(2, keepdims=True), values.mean()

    def mean_square(part, freedom):
        return (np.broadcast_to(part, values.shape) ** 2).sum() / max(freedom, 1)

    of_photo = mean_square(photo - grand, photos - 1)
    of_prompt = mean_square(prompt - grand, prompts - 1)
    of_cell = mean_square(cell - photo - prompt + grand, (photos - 1) * (prompts - 1))
    of_seed = mean_square(draw - photo, photos * (seeds - 1))
    of_rest = mean_square(values - cell - draw + photo, photos * (seeds - 1) * (prompts - 1))
    parts = {
        "photo": (of_photo - of_seed - of_cell + of_rest) / (seeds * prompts),
        "prompt": (of_prompt - of_cell) / (photos * seeds),
        "photo x prompt": (of_cell - of_rest) / seeds,
        "seed": (of_seed - of_rest) / prompts,
        "seed x prompt": of_rest,
    }
    shares = np.clip(list(parts.values()), 0, None)
    return pd.DataFrame({"part": list(parts), "share": shares / shares.sum()})


def differences_by_seed(metrics, first, second, metric="ciede2000"):
    """The metric under one prompt level less that under another with the same noise: (photos, seeds), for all seeds."""
    values = of_model(with_all_seeds(metrics)).set_index(["prompt_level", "image_id", "seed"])[metric]
    return (values[first] - values[second]).unstack("seed").to_numpy()


def components(differences):
    """The variance of differences (photos, seeds) between photos, at least 0, and that between a photo's seeds."""
    within = float(differences.var(axis=1, ddof=1).mean())
    return max(float(differences.mean(axis=1).var(ddof=1)) - within / differences.shape[1], 0.0), within


def interval_width(between, within, photos, seeds, with_all):
    """The width of the 95 % interval of a mean difference over photos, `with_all` of which have all seeds, others one.

    `between`, `within`: `components`. Photos weigh alike.
    """
    variance = between + within * (with_all / seeds + photos - with_all) / photos
    return float(2 * stats.norm.ppf(0.975) * np.sqrt(variance / photos))


def seed_gain(metrics, metric="ciede2000"):
    """By prompt level, the mean metric of a single sample, of the mean over seeds, and of the best seed (an oracle).

    Over the photos that have every seed under every prompt.
    """
    metrics = with_all_seeds(metrics)
    single = of_model(metrics).groupby(["prompt_level", "image_id"])[metric]
    best = single.max() if HIGHER_IS_BETTER[metric] else single.min()
    mean = metrics[metrics["system"] == "seed_mean"].set_index(["prompt_level", "image_id"])[metric]
    table = pd.DataFrame({"single sample": single.mean(), "mean of seeds": mean, "best seed (oracle)": best})
    table = table.groupby(level="prompt_level").mean()
    chroma = metrics[metrics["merged"]].groupby(["system", "prompt_level"])[["chroma", "true_chroma"]].sum()
    ratio = chroma["chroma"] / chroma["true_chroma"]
    table["chroma ratio, single"], table["chroma ratio, mean"] = ratio.loc["controlnet"], ratio.loc["seed_mean"]
    return table.loc[[level for level in LADDER if level in table.index]].reset_index()


def seed_share(metrics, photos):
    """The seed's `share` (0 to 1) of the variance of detailed - vague in CIEDE2000, and what all `seeds` would give.

    `width`: how wide the interval would be with all seeds for all photos, in shares of the present one; None where all
    have them. {} where no two photos have two seeds.
    """
    differences = differences_by_seed(metrics, "detailed", "vague")
    with_all, seeds = differences.shape
    if min(with_all, seeds) < 2 or not differences.any():
        return {}
    between, within = components(differences)
    widths = [interval_width(between, within, photos, seeds, n) for n in (photos, with_all)]
    width = widths[0] / widths[1] if with_all < photos else None
    return {"share": within / (between + within), "seeds": seeds, "width": width}
