"""Paired effects: differences by photo, their intervals, tests and power; where the variance and the luck lie."""

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from lib.metrics import SAME_HUE
from lib.prompts import PROMPT_LEVELS

HIGHER_IS_BETTER = {"psnr": True, "ssim": True, "ciede2000": False}
CONTRASTS = {  # name: what it asks
    "detailed - vague": "the study's question",
    "detailed - object": "what a description with colours adds to one without",
    "detailed - wrong_color": "what the colour words alone do, in the same sentence",
    "detailed - gray_caption": "what the writer gains by seeing the colours",
    "gray_caption - vague": "what can be had without looking at the answer",
    "auto_caption - vague": "what a captioner gives that sees the colours",
    "wrong_color - vague": "does it obey",
    "other_photo - vague": "does any long prompt do",
}


def side_by_side(metrics):
    """The rows of those photos that every system and prompt level has, so that levels are compared on the same photos.

    `seed_mean`, which needs every seed, is left out where it lacks some of these photos.
    """
    of_means = metrics["system"] == "seed_mean"
    photos = complete_photos(metrics[~of_means], ["system", "prompt_level", "merged"])
    averaged = complete_photos(metrics[of_means], ["prompt_level"])
    return metrics[metrics["image_id"].isin(photos) & ~(of_means & (not set(photos) <= set(averaged)))]


def with_all_seeds(metrics):
    """The rows of those photos that have every seed under every prompt level, where seeds can be told from photos."""
    photos = complete_photos(metrics[metrics["system"] == "controlnet"], ["prompt_level", "seed"])
    return metrics[metrics["image_id"].isin(photos)]


def complete_photos(rows, keys):
    """The ids of the photos that have every combination of `keys` that occurs in the rows."""
    found = rows.drop_duplicates(["image_id", *keys]).groupby("image_id").size()
    return found.index[found == len(rows.drop_duplicates(keys))]


def by_photo(metrics, metric, system, level="", merged=True):
    """One value a photo (a Series by image_id): the metric of a system and prompt level, averaged over its seeds.

    Photos weigh alike in what follows, whether they have one seed or several: the photo is the unit that is sampled, and
    weights by seeds would gain little, since most of the variance lies between photos (`reports/precision.csv`).
    """
    rows = metrics[(metrics["system"] == system) & (metrics["prompt_level"] == level) & (metrics["merged"] == merged)]
    if rows.empty:
        raise ValueError(f"no rows for system {system!r}, prompt level {level!r}, merged {merged}")
    return rows.groupby("image_id")[metric].mean()


def interval(values, confidence=0.95, n_resamples=5000, seed=0):
    """Mean and its bias-corrected, accelerated bootstrap interval (Efron 1987), resampling photos.

    Fewer than eight values have too few resamples: then it is Student's interval.
    """
    values = np.asarray(values, float)
    if len(values) < 3 or np.ptp(values) == 0:
        return float(values.mean()), float("nan"), float("nan")
    if len(values) < 8:
        bounds = stats.t.interval(confidence, len(values) - 1, values.mean(), stats.sem(values))
        return float(values.mean()), *(float(bound) for bound in bounds)
    result = stats.bootstrap(
        (values,), np.mean, confidence_level=confidence, n_resamples=n_resamples, method="BCa", rng=seed
    )
    return float(values.mean()), *(float(bound) for bound in result.confidence_interval)


def contrast(first, second, metric):
    """The paired effect first - second of two Series by photo.

    `mean`, `low`, `high`: mean and 95 % interval; `p`: Wilcoxon's signed-rank test; `effect_size`: Cohen's d of the
    differences; `improved`: the share of photos on which the first is better in the metric's own direction;
    `photos_needed`: how many would show this effect size in 80 % of studies, by a paired t-test at the 5 % level, and
    `power_of_five`: in what share of studies five photos would; both only where the interval leaves zero out.
    """
    difference = (first - second).dropna()
    mean, low, high = interval(difference)
    better = difference > 0 if HIGHER_IS_BETTER[metric] else difference < 0
    p = stats.wilcoxon(difference).pvalue if (difference != 0).any() else 1.0
    size = mean / difference.std() if difference.std() > 0 else float("nan")
    shown = power(abs(size)) if low > 0 or high < 0 else {"photos_needed": float("nan"), "power_of_five": float("nan")}
    return {"metric": metric, "n": len(difference), "mean": mean, "low": low, "high": high, "p": p,
            "effect_size": size, "improved": float(better.mean()), **shown}  # fmt: skip


def power(effect_size):
    """`photos_needed` and `power_of_five` of `contrast` for Cohen's d; above d = 2, photos as for 2."""
    needed = TTestPower().solve_power(min(effect_size, 2), power=0.8, alpha=0.05)
    return {"photos_needed": np.ceil(needed), "power_of_five": TTestPower().power(effect_size, 5, 0.05)}


def contrasts(metrics, pairs, merged=True):
    """A table of `contrast` rows for named pairs {name: ((system, level), (system, level))} in every metric.

    `p_holm` is p corrected by Holm's method over all rows of the table.
    """
    rows = [
        {"contrast": name}
        | contrast(by_photo(metrics, metric, *first, merged), by_photo(metrics, metric, *second, merged), metric)
        for name, (first, second) in pairs.items()
        for metric in HIGHER_IS_BETTER
    ]
    return corrected(pd.DataFrame(rows))


def corrected(table):
    """A table of contrasts with a column `p_holm` beside `p`: corrected by Holm's method over all rows."""
    table.insert(table.columns.get_loc("p") + 1, "p_holm", multipletests(table["p"], method="holm")[1])
    return table


def effects_by_category(metrics, metric, first, second):
    """The contrast of two (system, level) in each category of photos, the one with most photos first."""
    names = metrics.drop_duplicates("image_id")["category"].value_counts().index
    parts = {name: metrics[metrics["category"] == name] for name in names}
    rows = [
        {"category": name} | contrast(by_photo(part, metric, *first), by_photo(part, metric, *second), metric)
        for name, part in parts.items()
    ]
    return pd.DataFrame(rows)[["category", "n", "mean", "low", "high", "improved"]]


def variance_shares(metrics, metric, levels):
    """A table `part`, `share` of a metric's variance: components of photo, prompt, their interaction, seed, and the rest.

    From the mean squares of the balanced table photo x seed x prompt of the merged pictures, where seeds are nested in
    photos, over the photos that have every seed under these prompts; an estimate below zero counts as zero.
    """
    rows = metrics[(metrics["system"] == "controlnet") & metrics["merged"] & metrics["prompt_level"].isin(levels)]
    rows = with_all_seeds(rows)
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
    rows = with_all_seeds(metrics)
    rows = rows[(rows["system"] == "controlnet") & rows["merged"]].set_index(["prompt_level", "image_id", "seed"])[
        metric
    ]
    return (rows[first] - rows[second]).unstack("seed").to_numpy()


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
    single = metrics[(metrics["system"] == "controlnet") & metrics["merged"]].groupby(["prompt_level", "image_id"])[
        metric
    ]
    best = single.max() if HIGHER_IS_BETTER[metric] else single.min()
    mean = metrics[metrics["system"] == "seed_mean"].set_index(["prompt_level", "image_id"])[metric]
    table = pd.DataFrame({"single sample": single.mean(), "mean of seeds": mean, "best seed (oracle)": best})
    table = table.groupby(level="prompt_level").mean()
    chroma = metrics[metrics["merged"]].groupby(["system", "prompt_level"])[["chroma", "true_chroma"]].sum()
    ratio = chroma["chroma"] / chroma["true_chroma"]
    table["chroma ratio, single"], table["chroma ratio, mean"] = ratio.loc["controlnet"], ratio.loc["seed_mean"]
    return table.loc[[level for level in PROMPT_LEVELS if level in table.index]].reset_index()


def obedience(steering):
    """How often things took the colour that their prompt named, where their lightness allows it.

    `reached` with `low`, `high`: mean over photos and its 95 % interval; `chance`: how often a picture made for another
    word would have passed; `cases`, `photos`: how many.
    """
    allowed = steering[steering["allowed"]]
    mean, low, high = interval(allowed.groupby("image_id")["reached"].mean())
    pairs = allowed.merge(allowed[["image_id", "word", "named"]], on="image_id", suffixes=("", "_other"))
    others = pairs[pairs["word"].replace(SAME_HUE) != pairs["word_other"].replace(SAME_HUE)]
    chance = (others["named_other"] == others["word"].replace(SAME_HUE)).mean()
    return {"reached": mean, "low": low, "high": high, "chance": float(chance), "cases": len(allowed),
            "photos": allowed["image_id"].nunique()}  # fmt: skip


def goals(summary, effects, steering):
    """What a model must reach for the question to have an answer on it: a table `goal`, `wanted`, `found`, `reached`."""
    merged = summary[summary["merged"]].set_index(["system", "prompt_level"])
    found = effects.set_index(["contrast", "metric"])
    rows = [("autoencoder, CIEDE2000", "at most 3.0", merged.loc[("autoencoder", ""), "ciede2000"], lambda v: v <= 3)]
    for contrast, metric, wanted, holds in (
        ("detailed - vague", "ciede2000", "at most -1.5, clear of zero", lambda e: e["mean"] <= -1.5 and e["high"] < 0),
        ("detailed - vague", "psnr", "above zero, clear of it", lambda e: e["low"] > 0),
        ("detailed - gray", "ciede2000", "below zero, clear of it", lambda e: e["high"] < 0),
        ("wrong_color - vague", "ciede2000", "above zero, clear of it", lambda e: e["low"] > 0),
    ):
        rows.append((f"{contrast}, {metric}", wanted, found.loc[(contrast, metric)], holds))
    rows.append(("chroma ratio, detailed", "0.7 to 1.3", merged.loc[("controlnet", "detailed"), "chroma_ratio"],
                 lambda v: 0.7 <= v <= 1.3))  # fmt: skip
    rows.append(
        ("things that took the named colour", "at least 70 %", obedience(steering)["reached"], lambda v: v >= 0.7)
    )
    return pd.DataFrame([
        {"goal": goal, "wanted": wanted, "reached": "yes" if holds(value) else "no",
         "found": f"{value['mean']:+.2f} [{value['low']:+.2f}, {value['high']:+.2f}]" if isinstance(value, pd.Series)
         else f"{value:.2f}"}
        for goal, wanted, value, holds in rows
    ])  # fmt: skip


def summary(metrics):
    """Means of the metrics by system, prompt level and merge, `side_by_side`: photos weigh alike whatever their seeds.

    `colorfulness_difference`: mean colourfulness of the outputs less that of the photos; `colorfulness_error`: mean of
    the absolute differences (both are in use); `chroma_ratio`: mean chroma of the outputs over that of the photos.
    """
    metrics, keys = side_by_side(metrics), ["system", "prompt_level", "merged"]
    names = [
        "psnr",
        "ssim",
        "ssim_luma",
        "ciede2000",
        "ab_error",
        "hue_error",
        "hue_share",
        "colorfulness",
        "true_colorfulness",
    ]
    error = (metrics["colorfulness"] - metrics["true_colorfulness"]).abs()
    photos = metrics.assign(colorfulness_error=error).groupby([*keys, "image_id"], sort=False)
    photos = photos[[*names, "colorfulness_error", "chroma", "true_chroma"]].mean()
    table = photos.groupby(level=keys, sort=False).mean().reset_index()
    table["colorfulness_difference"] = table["colorfulness"] - table["true_colorfulness"]
    table["chroma_ratio"] = table["chroma"] / table["true_chroma"]
    return table.drop(columns=["true_colorfulness", "chroma", "true_chroma"])
