"""Paired effects: differences by photo, their intervals, tests and power; where the variance and the luck lie.

What is compared goes by one name: a prompt level, whose pictures are the model's, or a system without a prompt, such as
`gray`. A contrast is a pair (first, second) of such names, and always means first - second.
"""

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from lib.metrics import METRICS, SAME_HUE
from lib.prompts import PROMPT_LEVELS

ENDS = ("", "_low", "_high")  # of the columns of a mean and its interval
HIGHER_IS_BETTER = {"psnr": True, "ssim": True, "ciede2000": False}
CONTRASTS = {  # (first, second): what first - second answers
    ("detailed", "vague"): "Do detailed prompts colorize better than vague ones?",
    ("detailed", "object"): "What does a description with colours add to one without?",
    ("detailed", "wrong_color"): "How much depends on the colour words?",
    ("detailed", "gray_caption"): "What does the writer gain by seeing the colours?",
    ("gray_caption", "vague"): "What can be had without looking at the answer?",
    ("auto_caption", "vague"): "What does a captioner give that sees the colours?",
    ("regions", "detailed"): "Does it help to keep each colour to its own thing?",
    ("wrong_color", "vague"): "Does the model follow wrong words too?",
    ("other_photo", "vague"): "Does any long prompt help?",
    ("vague", "gray"): "Is a vague prompt better than no colour?",
    ("gray_caption", "gray"): "Is a caption of the gray photo better than no colour?",
    ("detailed", "gray"): "Is a detailed prompt better than no colour?",
}


def label(first, second):
    """A contrast as it is printed; the first name alone where there is no second."""
    return f"{first} - {second}" if second else first


def side_by_side(metrics):
    """The rows of those photos that every system and prompt level has, so that levels are compared on the same photos.

    `seed_mean`, which needs every seed, is left out where it lacks some of these photos.
    """
    of_means = metrics["system"] == "seed_mean"
    photos = complete_photos(metrics[~of_means], ["system", "prompt_level", "merged"])
    averaged = complete_photos(metrics[of_means], ["prompt_level"])
    return metrics[metrics["image_id"].isin(photos) & ~(of_means & (not set(photos) <= set(averaged)))]


def of_model(metrics):
    """The rows of the model's pictures after the merge."""
    return metrics[(metrics["system"] == "controlnet") & metrics["merged"]]


def with_all_seeds(metrics):
    """The rows of those photos that have every seed under every prompt level, where seeds can be told from photos."""
    photos = complete_photos(metrics[metrics["system"] == "controlnet"], ["prompt_level", "seed"])
    return metrics[metrics["image_id"].isin(photos)]


def complete_photos(rows, keys):
    """The ids of the photos that have every combination of `keys` that occurs in the rows."""
    found = rows.drop_duplicates(["image_id", *keys]).groupby("image_id").size()
    return found.index[found == len(rows.drop_duplicates(keys))]


def by_photo(metrics, metric, name, merged=True):
    """One value a photo (a Series by image_id): the metric of a prompt level or system, averaged over its seeds.

    Photos weigh alike in what follows, whatever their seeds: the photo is the unit that is sampled, and weights would
    gain little, since most of the variance lies between photos (`reports/precision.csv`). A name without rows is a
    ValueError.
    """
    names = metrics["prompt_level"].where(metrics["system"] == "controlnet", metrics["system"])
    rows = metrics[(names == name) & (metrics["merged"] == merged)]
    if rows.empty:
        raise ValueError(f"no rows for {name!r}, merged {merged}: known are {', '.join(names.unique())}")
    return rows.groupby("image_id")[metric].mean()


def interval(values, confidence=0.95, n_resamples=5000, seed=0):
    """Mean and its bias-corrected, accelerated bootstrap interval (Efron 1987), resampling photos.

    Fewer than eight values have too few resamples: then it is Student's interval.
    """
    values = np.asarray(values, float)
    if not len(values):
        return (float("nan"),) * 3
    if len(values) < 3 or np.ptp(values) == 0:
        return float(values.mean()), float("nan"), float("nan")
    if len(values) < 8:
        bounds = stats.t.interval(confidence, len(values) - 1, values.mean(), stats.sem(values))
        return float(values.mean()), *(float(bound) for bound in bounds)
    options = dict(confidence_level=confidence, n_resamples=n_resamples, method="BCa", rng=seed)
    bounds = stats.bootstrap((values,), np.mean, **options).confidence_interval
    return float(values.mean()), *(float(bound) for bound in bounds)


def crossed_interval(table, n_resamples=5000, seed=0):
    """The mean of a table photos x judges and its 95 % percentile bootstrap interval, drawing both again.

    NaN: not judged. Photos weigh alike, however many judged them. The interval is for other photos and other judges
    (Owen 2007, "The pigeonhole bootstrap"), so it is rough for few judges; with one, it is for that judge. It is NaN
    for fewer than eight photos, and where all values are equal.
    """
    values, known = table.fillna(0).to_numpy(float), table.notna().to_numpy(float)
    mean, sizes, rng = float(table.mean(axis=1).mean()), table.shape, np.random.default_rng(seed)
    if sizes[0] < 8 or np.ptp(values[known > 0]) == 0:
        return mean, float("nan"), float("nan")
    photos, judges = (rng.multinomial(size, np.full(size, 1 / size), n_resamples).T for size in sizes)
    answers = known @ judges  # of each photo in each resample
    means = np.divide(values @ judges, answers, out=np.zeros_like(answers), where=answers > 0)
    counted = photos * (answers > 0)
    resampled = (means * counted).sum(axis=0)[counted.any(axis=0)] / counted.sum(axis=0)[counted.any(axis=0)]
    return mean, *(float(bound) for bound in np.percentile(resampled, [2.5, 97.5]))


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
    shown = power(abs(size)) if low > 0 or high < 0 else dict.fromkeys(("photos_needed", "power_of_five"), float("nan"))
    effect = dict(metric=metric, n=len(difference), mean=mean, low=low, high=high, p=p)
    return {**effect, "effect_size": size, "improved": float(better.mean()), **shown}


def power(effect_size):
    """`photos_needed` and `power_of_five` of `contrast` for Cohen's d; above d = 2, photos as for 2."""
    needed = TTestPower().solve_power(min(effect_size, 2), power=0.8, alpha=0.05)
    return {"photos_needed": np.ceil(needed), "power_of_five": TTestPower().power(effect_size, 5, 0.05)}


def contrasts(metrics, pairs, merged=True):
    """A table of `contrast` rows in every metric, for pairs (first, second) of names, which are its first columns.

    `p_holm` is p corrected by Holm's method over all rows of the table.
    """
    rows = []
    for first, second in pairs:
        for metric in HIGHER_IS_BETTER:
            values = [by_photo(metrics, metric, name, merged) for name in (first, second)]
            rows.append({"first": first, "second": second, **contrast(*values, metric)})
    return corrected(pd.DataFrame(rows))


def corrected(table):
    """A table of contrasts with a column `p_holm` beside `p`: corrected by Holm's method over all rows."""
    table.insert(table.columns.get_loc("p") + 1, "p_holm", multipletests(table["p"], method="holm")[1])
    return table


def effects_by_category(metrics, metric, first, second):
    """The contrast of two names in each category of photos, the one with most photos first."""
    rows = []
    for category in metrics.drop_duplicates("image_id")["category"].value_counts().index:
        part = metrics[metrics["category"] == category]
        effect = contrast(by_photo(part, metric, first), by_photo(part, metric, second), metric)
        rows.append({"category": category, **effect})
    return pd.DataFrame(rows)[["category", "n", "mean", "low", "high", "improved"]]


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
    counts = dict(cases=len(allowed), photos=allowed["image_id"].nunique())
    return {"reached": mean, "low": low, "high": high, "chance": float(chance), **counts}


def binding(table):
    """Means of a binding table over photos with 95 % intervals, by task, method and masks.

    `own_word`, `other_word`: the shares of things and grounds that took the colour of their own word, or of the other
    (task `two`); `bleed` (task `one`): mean `shift_outside` over mean `shift_inside`; `chroma_deficit`. Each has
    `_low` and `_high`.
    """
    table = table.assign(task=np.where(table["ground_word"] == "", "one", "two"))
    for kind in ("own", "other"):
        table[f"{kind}_word"] = table[[f"{kind}_thing", f"{kind}_ground"]].mean(axis=1)
    keys, measures = ["task", "method", "masks"], ["own_word", "other_word", "chroma_deficit"]
    shifts, rows = ["shift_inside", "shift_outside"], []
    photos = table.groupby([*keys, "image_id"], sort=False)[measures + shifts].mean()
    for values, part in photos.groupby(level=keys, sort=False):
        bounds = {measure: interval(part[measure].dropna()) for measure in measures}
        bounds["bleed"] = ratio_interval(*part[shifts].to_numpy().T) if values[0] == "one" else (np.nan,) * 3
        ends = {f"{name}{end}": v for name, three in bounds.items() for end, v in zip(ENDS, three, strict=True)}
        rows.append({**dict(zip(keys, values, strict=True)), "photos": len(part), **ends})
    return pd.DataFrame(rows)


def ratio_interval(below, above, seed=0):
    """The ratio of two means, above / below, and its 95 % percentile bootstrap interval, resampling photos."""
    if not below.mean() > 0:
        return (np.nan,) * 3
    chosen = np.random.default_rng(seed).integers(len(below), size=(5000, len(below)))
    low, high = np.percentile(above[chosen].mean(axis=1) / below[chosen].mean(axis=1), [2.5, 97.5])
    return float(above.mean() / below.mean()), float(low), float(high)


def summary(metrics):
    """Means of the metrics by system, prompt level and merge, `side_by_side`: photos weigh alike whatever their seeds.

    `colorfulness_difference`: mean colourfulness of the outputs less that of the photos; `colorfulness_error`: mean of
    the absolute differences (both are in use); `chroma_ratio`: mean chroma of the outputs over that of the photos.
    """
    metrics, keys = side_by_side(metrics), ["system", "prompt_level", "merged"]
    error = (metrics["colorfulness"] - metrics["true_colorfulness"]).abs()
    photos = metrics.assign(colorfulness_error=error).groupby([*keys, "image_id"], sort=False)
    photos = photos[[*METRICS, "colorfulness_error"]].mean()
    table = photos.groupby(level=keys, sort=False).mean().reset_index()
    table["colorfulness_difference"] = table["colorfulness"] - table["true_colorfulness"]
    table["chroma_ratio"] = table["chroma"] / table["true_chroma"]
    return table.drop(columns=["true_colorfulness", "chroma", "true_chroma"])
