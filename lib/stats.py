"""Paired effects: differences by photo, their intervals and tests.

A name is a prompt condition of the model, or a system without a prompt (`gray`); a contrast is a pair of names (first,
second) and means first - second. In all means photos weigh alike; interval and p are Student's t with a standard error
that is robust to photos of one subject being alike (Liang and Zeger 1986), with subjects - 1 degrees of freedom.
"""

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.multitest import multipletests

from lib.metrics import COLUMNS, METRICS
from lib.prompts import CONDITIONS, EXPLORATORY, FAMILIES, SECONDARY

HIGHER_IS_BETTER = ("psnr", "ssim")  # of all other metrics, lower is better
TESTED = ("psnr", "ssim", "ciede2000", "mean_error", "deviation_error", "hue_error_share")  # metrics with effects
METRIC, MARGIN = "ciede2000", 1.0  # what verdicts are about, and which difference is too small to matter
EFFECT_COLUMNS = ("family", "first", "second", "metric", "n", "mean", "low", "high", "p", "p_holm", "p_equal")
EFFECT_COLUMNS += ("median", "improved")

_PAIRS = {
    **{(name, "vague"): (c.family, c.question) for name, c in CONDITIONS.items() if c.question},
    ("detailed", "object"): (SECONDARY, "What do the colour words add to a description?"),
    ("detailed", "gray"): (SECONDARY, "Is a detailed prompt better than no colour?"),
    ("vague", "gray"): (SECONDARY, "Is the vague prompt better than no colour?"),
    ("detailed", "empty"): (SECONDARY, "Is a detailed prompt better than an empty one?"),
    ("detailed", "true_mean_color"): (SECONDARY, "Is it better than the photo's mean colour everywhere?"),
    ("regions", "detailed"): (SECONDARY, "Does it help to keep each colour to its own object?"),
    ("vague", "gan"): (SECONDARY, "Is the vague prompt better than a GAN without prompts?"),
    ("vague", "classification"): (SECONDARY, "Is it better than a classifier of colours without prompts?"),
    ("gray_caption", "gray"): (EXPLORATORY, "Is a caption of the gray photo better than no colour?"),
    ("mean_color_transfer", "vague"): (EXPLORATORY, "What does the detailed picture's mean colour alone give?"),
    ("detailed", "mean_color_transfer"): (EXPLORATORY, "What does placement add to the mean colour?"),
    ("detailed", "recolored"): (EXPLORATORY, "How much depends on the colour words being right?"),
    ("detailed", "permuted_colors"): (EXPLORATORY, "Does it matter which object has which colour?"),
    ("detailed", "colors_only"): (EXPLORATORY, "What do the other words add to the colour words?"),
    ("detailed", "keep_4_colors"): (EXPLORATORY, "What do more than four colours add?"),
}
# {(first, second): (family within which p is corrected, what first - second answers)}, family by family
QUESTIONS = dict(sorted(_PAIRS.items(), key=lambda item: FAMILIES.index(item[1][0])))


def read_metrics(path) -> pd.DataFrame:
    """Returns the `metrics.csv` that notebook 05 wrote; raises ValueError if there is none."""
    if not path.exists():
        raise ValueError(f"no {path}: run notebook 05_evaluate first, with the same -p reports")
    table = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"image_id": str})
    return table.fillna(dict.fromkeys(("subject", "category", "prompt_condition", "prompt"), ""))


def side_by_side(rows: pd.DataFrame, keys=("system", "prompt_condition", "restored")) -> pd.DataFrame:
    """Returns the rows of the photos that have every combination of `keys`: all are compared on equal photos."""
    counts = rows.drop_duplicates(["image_id", *keys]).groupby("image_id").size()
    complete = counts.index[counts == len(rows.drop_duplicates([*keys]))]
    return rows[rows["image_id"].isin(complete)]


def subjects_of(metrics: pd.DataFrame) -> pd.Series:
    """Returns the subject of each photo by image_id."""
    return metrics.drop_duplicates("image_id").set_index("image_id")["subject"]


def by_photo(metrics: pd.DataFrame, metric: str | list[str], name: str):
    """Returns a metric, or several, by image_id, of a name's pictures with restored lightness; seeds are averaged."""
    names = metrics["prompt_condition"].where(metrics["system"] == "controlnet", metrics["system"])
    return metrics[(names == name) & metrics["restored"]].groupby("image_id")[metric].mean()


def differences(metrics: pd.DataFrame, metric: str | list[str], first: str, second: str):
    """Returns first - second by image_id in a metric, or in several, of photos that have both, in different prompts."""
    values = by_photo(metrics, metric, first) - by_photo(metrics, metric, second)
    ours = metrics[metrics["system"] == "controlnet"]
    prompts = ours.groupby(["prompt_condition", "image_id"])["prompt"].agg(set)
    same = [name for name in values.index if prompts.get((first, name), 0) == prompts.get((second, name))]
    return values.drop(same).dropna(how="all")


def fit_mean(values, subjects=None):
    """Returns statsmodels' fit of a mean; None for equal values or fewer than 3 `subjects` (None: each its own)."""
    values = np.asarray(values, float)
    groups = pd.factorize(np.asarray(subjects))[0] if subjects is not None else np.arange(len(values))
    if len(set(groups)) < 3 or np.ptp(values) == 0:
        return None
    return OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)


def interval(values, subjects=None) -> tuple[float, float, float]:
    """Returns the mean of values and its 95 % interval; NaN if there is none."""
    if not len(values):
        return (np.nan,) * 3
    fit = fit_mean(values, subjects)
    low, high = fit.conf_int()[0] if fit else (np.nan, np.nan)
    return float(np.mean(values)), float(low), float(high)


def named_ends(name: str, ends: tuple) -> dict:
    """Returns a mean and the ends of its interval by the names of their columns: `name`, `name_low`, `name_high`."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))


def contrast(difference: pd.Series, metric: str, subjects=None) -> dict:
    """Returns the effect in differences by photo.

    `low`, `high`: 95 % interval of the mean; `p_equal`: the larger p of two one-sided tests (Schuirmann 1987) that the
    mean lies within plus or minus `MARGIN`, in CIEDE2000; `improved`: share of photos on which the first is better.
    """
    fit, (mean, low, high) = fit_mean(difference, subjects), interval(difference, subjects)
    effect = dict(metric=metric, n=len(difference), mean=mean, low=low, high=high)
    effect |= dict(p=float(fit.pvalues[0]) if fit else 1.0, p_equal=np.nan)
    if fit and metric == METRIC:
        effect["p_equal"] = float(stats.t.cdf((abs(mean) - MARGIN) / fit.bse[0], fit.df_resid_inference))
    better = difference > 0 if metric in HIGHER_IS_BETTER else difference < 0
    return effect | dict(median=float(np.median(difference)), improved=float(better.mean()))


def contrasts(metrics: pd.DataFrame, pairs=None) -> pd.DataFrame:
    """Returns a table of `EFFECT_COLUMNS`: the `contrast` of pairs (first, second) in every tested metric.

    Without `pairs`: all `QUESTIONS` that were measured, and conditions of one's own less the vague one. `p_holm` and
    `p_equal` are Holm's within a family, and of CIEDE2000 alone.
    """
    if pairs is None:
        measured = {*metrics["prompt_condition"], *metrics["system"]}
        pairs = [pair for pair in QUESTIONS if measured.issuperset(pair)]
        pairs += [(name, "vague") for name in metrics["prompt_condition"].unique() if name not in {"", *CONDITIONS}]
    rows, subjects, tested = [], subjects_of(metrics), [*TESTED, *(name for name in metrics if name not in COLUMNS)]
    for first, second in pairs:
        names = {"family": QUESTIONS.get((first, second), [EXPLORATORY])[0], "first": first, "second": second}
        for metric, values in differences(metrics, tested, first, second).items():
            if len(difference := values.dropna()):
                rows.append(names | contrast(difference, metric, subjects[difference.index]))
    table = pd.DataFrame(rows, columns=EFFECT_COLUMNS)
    for _, family in table[table["metric"] == METRIC].groupby("family"):
        table.loc[family.index, "p_holm"] = holm(family["p"])
        table.loc[family.index, "p_equal"] = holm(family["p_equal"])
    return table


def holm(p: pd.Series) -> pd.Series:
    """Returns p values corrected by Holm's method; missing ones stay missing."""
    known = p.notna()
    return p.mask(known, pd.Series(multipletests(p[known], method="holm")[1], p.index[known])) if known.any() else p


def verdict(row) -> str:
    """Returns what a row with `mean`, `p_holm` and perhaps `p_equal` allows to say, in the metric's own direction.

    "better" or "worse" if `p_holm` is below 0.05; else "equivalent" if `p_equal` is, or "inconclusive".
    """
    if row.p_holm < 0.05:
        return "better" if (row.mean > 0) == (row.metric in HIGHER_IS_BETTER) else "worse"
    return "equivalent" if getattr(row, "p_equal", 1) < 0.05 else "inconclusive"


def effect_over_draws(table, subjects=None) -> dict:
    """Returns the mean of a table (photos, draws) whose photos and draws, such as writers, are crossed random effects.

    The variance is that of the means over photos plus that over draws, less the residual's, which both contain; its
    degrees of freedom `df` are Satterthwaite's (1946). With one draw the interval is that of photos alone.
    """
    table = np.asarray(table, float)
    photo_means, (photos, draws) = table.mean(axis=1), table.shape
    fit = fit_mean(photo_means, subjects)
    if draws < 2 or not fit:
        return dict(zip(("mean", "low", "high"), interval(photo_means, subjects), strict=True), p=np.nan, df=np.nan)
    freedom = (photos - 1) * (draws - 1)
    residual = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    components = [(fit.bse[0] ** 2, fit.df_resid_inference), (table.mean(axis=0).var(ddof=1) / draws, draws - 1)]
    components.append((-(residual**2).sum() / freedom / (photos * draws), freedom))
    variance = max(sum(component for component, _ in components), components[0][0])
    df = variance**2 / sum(component**2 / own_df for component, own_df in components)
    mean, error = float(photo_means.mean()), np.sqrt(variance)
    low, high = mean + error * stats.t.ppf([0.025, 0.975], df)
    p = float(2 * stats.t.sf(abs(mean) / error, df))
    return {"mean": mean, "low": float(low), "high": float(high), "p": p, "df": float(df)}


def ratio_interval(below, above, subjects, seed=0) -> tuple[float, float, float]:
    """Returns the ratio of two means, above / below, and its 95 % percentile bootstrap interval over subjects."""
    if not below.mean() > 0:
        return (np.nan,) * 3
    sums = pd.DataFrame({"below": below, "above": above}).groupby(np.asarray(subjects)).sum().to_numpy()
    chosen = np.random.default_rng(seed).integers(len(sums), size=(5000, len(sums)))
    low, high = np.percentile(sums[chosen, 1].sum(axis=1) / sums[chosen, 0].sum(axis=1), [2.5, 97.5])
    return float(above.mean() / below.mean()), float(low), float(high)


def summary(metrics: pd.DataFrame) -> pd.DataFrame:
    """Returns means of the metrics by system, prompt condition and lightness, `side_by_side`; photos weigh alike."""
    metrics, keys = side_by_side(metrics), ["system", "prompt_condition", "restored"]
    measures = [*METRICS, *(name for name in metrics if name not in COLUMNS)]
    photos = metrics.groupby([*keys, "image_id"], sort=False)[measures].mean()
    table = photos.groupby(level=keys, sort=False).mean().reset_index()
    table["colorfulness_difference"] = table["colorfulness"] - table["true_colorfulness"]
    table["chroma_ratio"] = table["chroma"] / table["true_chroma"]
    return table.drop(columns=["true_colorfulness", "chroma", "true_chroma"])
