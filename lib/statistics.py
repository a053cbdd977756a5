"""Paired effects: differences by photo, their intervals, tests and power; where the variance and the luck lie."""

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from lib.prompts import PROMPT_LEVELS

HIGHER_IS_BETTER = {"psnr": True, "ssim": True, "ciede2000": False}
CONTRASTS = {  # name: what it asks
    "detailed - vague": "the study's question",
    "detailed - object": "what the colour words add",
    "gray_caption - vague": "what can be had without looking at the answer",
    "wrong_color - vague": "does it obey",
    "other_photo - vague": "does any long prompt do",
}


def by_photo(metrics, metric, system, level="", merged=True):
    """One value a photo (a Series by image_id): the metric of a system and prompt level, averaged over seeds."""
    rows = metrics[(metrics["system"] == system) & (metrics["prompt_level"] == level) & (metrics["merged"] == merged)]
    if rows.empty:
        raise ValueError(f"no rows for system {system!r}, prompt level {level!r}, merged {merged}")
    return rows.groupby("image_id")[metric].mean()


def interval(values, confidence=0.95, n_resamples=5000, seed=0):
    """Mean and its bias-corrected, accelerated bootstrap interval (Efron 1987), resampling photos."""
    values = np.asarray(values, float)
    if len(values) < 3 or np.ptp(values) == 0:
        return float(values.mean()), float("nan"), float("nan")
    result = stats.bootstrap(
        (values,), np.mean, confidence_level=confidence, n_resamples=n_resamples, method="BCa", rng=seed
    )
    return float(values.mean()), *(float(bound) for bound in result.confidence_interval)


def contrast(first, second, metric):
    """The paired effect first - second of two Series by photo.

    `mean`, `low`, `high`: mean and 95 % interval; `p`: Wilcoxon's signed-rank test; `effect_size`: Cohen's d of the
    differences; `improved`: the share of photos on which the first is better in the metric's own direction;
    `photos_needed`: how many would show this effect size in 80 % of studies (paired t-test, 5 % level); `power_of_five`:
    in what share of studies five photos would.
    """
    difference = (first - second).dropna()
    mean, low, high = interval(difference)
    better = difference > 0 if HIGHER_IS_BETTER[metric] else difference < 0
    p = stats.wilcoxon(difference).pvalue if (difference != 0).any() else 1.0
    size = mean / difference.std() if difference.std() > 0 else float("nan")
    return {"metric": metric, "n": len(difference), "mean": mean, "low": low, "high": high, "p": p,
            "effect_size": size, "improved": float(better.mean()), **power(abs(size))}  # fmt: skip


def power(effect_size):
    """`photos_needed` and `power_of_five` of `contrast`; NaN where the effect is none or below 0.01."""
    if not effect_size > 0.01:
        return {"photos_needed": float("nan"), "power_of_five": float("nan")}
    needed = TTestPower().solve_power(min(effect_size, 2), power=0.8, alpha=0.05)
    return {"photos_needed": np.ceil(needed), "power_of_five": TTestPower().power(effect_size, 5, 0.05)}


def contrasts(metrics, pairs, merged=True):
    """A table of `contrast` rows for named pairs {name: ((system, level), (system, level))} in every metric.

    `p_holm` is p corrected by Holm's method over the pairs of each metric.
    """
    rows = [
        {"contrast": name}
        | contrast(by_photo(metrics, metric, *first, merged), by_photo(metrics, metric, *second, merged), metric)
        for name, (first, second) in pairs.items()
        for metric in HIGHER_IS_BETTER
    ]
    table = pd.DataFrame(rows)
    table.insert(7, "p_holm", table.groupby("metric")["p"].transform(lambda p: multipletests(p, method="holm")[1]))
    return table


def effects_by_category(metrics, metric, first, second):
    """The contrast of two (system, level) in each category of photos, largest category first."""
    names = metrics["category"].value_counts().index
    parts = {name: metrics[metrics["category"] == name] for name in names}
    rows = [
        {"category": name} | contrast(by_photo(part, metric, *first), by_photo(part, metric, *second), metric)
        for name, part in parts.items()
    ]
    return pd.DataFrame(rows)[["category", "n", "mean", "low", "high", "improved"]]


def variance_shares(metrics, metric, levels):
    """A table `part`, `share` of a metric's variance: in photos, prompts, their interaction, seeds, and the rest.

    Sums of squares of the balanced table photo x prompt x seed of the merged pictures; a photo's seeds are its own.
    """
    rows = metrics[(metrics["system"] == "controlnet") & metrics["merged"] & metrics["prompt_level"].isin(levels)]
    cube = rows.set_index(["image_id", "prompt_level", "seed"])[metric].unstack("seed")
    n_seeds = cube.shape[1]
    values = cube.unstack("prompt_level").to_numpy().reshape(-1, n_seeds, len(levels))  # photo, seed, prompt
    photo, prompt = values.mean((1, 2), keepdims=True), values.mean((0, 1), keepdims=True)
    cell, draw, grand = values.mean(1, keepdims=True), values.mean(2, keepdims=True), values.mean()
    parts = {
        "photo": photo - grand,
        "prompt": prompt - grand,
        "photo x prompt": cell - photo - prompt + grand,
        "seed": draw - photo,
        "seed x prompt": values - cell - draw + photo,
    }
    total = ((values - grand) ** 2).sum()
    shares = {name: float((np.broadcast_to(part, values.shape) ** 2).sum() / total) for name, part in parts.items()}
    return pd.DataFrame({"part": list(shares), "share": list(shares.values())})


def seed_gain(metrics, metric="ciede2000"):
    """By prompt level, the mean metric of a single sample, of the mean over seeds, and of the best seed (an oracle)."""
    single = metrics[(metrics["system"] == "controlnet") & metrics["merged"]].groupby(["prompt_level", "image_id"])[
        metric
    ]
    best = single.max() if HIGHER_IS_BETTER[metric] else single.min()
    mean = metrics[metrics["system"] == "seed_mean"].set_index(["prompt_level", "image_id"])[metric]
    table = pd.DataFrame({"single sample": single.mean(), "mean of seeds": mean, "best seed (oracle)": best})
    table = table.groupby(level="prompt_level").mean()
    return table.loc[[level for level in PROMPT_LEVELS if level in table.index]].reset_index()


def summary(metrics):
    """Means of the metrics by system, prompt level and merge: photos weigh alike whatever their seeds.

    `colorfulness_difference`: mean colourfulness of the outputs less that of the photos; `colorfulness_error`: mean of
    the absolute differences (both are in use); `chroma_ratio`: mean chroma of the outputs over that of the photos.
    """
    keys = ["system", "prompt_level", "merged"]
    names = ["psnr", "ssim", "ssim_luma", "ciede2000", "ab_error", "hue_error", "colorfulness", "true_colorfulness"]
    error = (metrics["colorfulness"] - metrics["true_colorfulness"]).abs()
    photos = metrics.assign(colorfulness_error=error).groupby([*keys, "image_id"], sort=False)
    photos = photos[[*names, "colorfulness_error", "chroma", "true_chroma"]].mean()
    table = photos.groupby(level=keys, sort=False).mean().reset_index()
    table["colorfulness_difference"] = table["colorfulness"] - table["true_colorfulness"]
    table["chroma_ratio"] = table["chroma"] / table["true_chroma"]
    return table.drop(columns=["true_colorfulness", "chroma", "true_chroma"])
