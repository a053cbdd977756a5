"""Paired effects: differences by photo, their intervals and tests.

What is compared goes by one name: a prompt condition, whose pictures are the model's, or a system without a prompt
(`gray`). A contrast is a pair (first, second) of such names, and always means first - second.

One rule holds for all means: photos weigh alike, and the interval and p are those of Student's t with a standard error
that is robust to photos of one subject being alike (Liang and Zeger 1986), with one degree of freedom less than there
are subjects.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.multitest import multipletests

from lib.captions import find_places
from lib.metrics import COLUMNS, METRICS
from lib.prompts import CONDITIONS, EXPLORATORY, FAMILIES, SECONDARY

HIGHER_IS_BETTER = {"psnr": True, "ssim": True}  # of all other metrics, lower is better
TESTED = ("psnr", "ssim", "ciede2000", "mean_error", "deviation_error", "hue_error_share")  # metrics with effects
METRIC, MARGIN = "ciede2000", 1.0  # what verdicts are about, and which difference is too small to matter


class Question(NamedTuple):
    """What a contrast answers, and the family within which its p is corrected."""

    family: str
    text: str


_AGAINST_VAGUE = {(name, "vague"): Question(c.family, c.question) for name, c in CONDITIONS.items() if c.question}
_OTHERS = {
    ("detailed", "object"): Question(SECONDARY, "What do the colour words add to a description?"),
    ("detailed", "gray"): Question(SECONDARY, "Is a detailed prompt better than no colour?"),
    ("vague", "gray"): Question(SECONDARY, "Is the vague prompt better than no colour?"),
    ("detailed", "empty"): Question(SECONDARY, "Is a detailed prompt better than an empty one?"),
    ("detailed", "true_mean_color"): Question(SECONDARY, "Is it better than the photo's mean colour everywhere?"),
    ("regions", "detailed"): Question(SECONDARY, "Does it help to keep each colour to its own object?"),
    ("vague", "gan"): Question(SECONDARY, "Is the vague prompt better than a GAN without prompts?"),
    ("vague", "classification"): Question(SECONDARY, "Is it better than a classifier of colours without prompts?"),
    ("gray_caption", "gray"): Question(EXPLORATORY, "Is a caption of the gray photo better than no colour?"),
    ("mean_color_transfer", "vague"): Question(EXPLORATORY, "What does the detailed picture's mean colour alone give?"),
    ("detailed", "mean_color_transfer"): Question(EXPLORATORY, "What does placement add to the mean colour?"),
    ("detailed", "recolored"): Question(EXPLORATORY, "How much depends on the colour words being right?"),
    ("detailed", "permuted_colors"): Question(EXPLORATORY, "Does it matter which object has which colour?"),
    ("detailed", "colors_only"): Question(EXPLORATORY, "What do the other words add to the colour words?"),
    ("detailed", "keep_4_colors"): Question(EXPLORATORY, "What do more than four colours add?"),
}
# {(first, second): what first - second answers}, family by family
QUESTIONS = dict(sorted((_AGAINST_VAGUE | _OTHERS).items(), key=lambda item: FAMILIES.index(item[1].family)))


def read_metrics(path) -> pd.DataFrame:
    """Returns the table of `COLUMNS` that notebook 05 wrote; raises ValueError if there is none."""
    if not path.exists():
        again = "run notebook 05_evaluate first, with the same -p reports"
        raise ValueError(f"no {path.name} in this run's reports: {again}")
    numbers = pd.read_csv(path, nrows=0).columns[list(COLUMNS).index("psnr") :]
    return pd.read_csv(path, keep_default_na=False, na_values=dict.fromkeys(numbers, [""]), dtype={"image_id": str})


def label(first: str, second: str) -> str:
    """Returns a contrast as it is printed; the first name alone if there is no second."""
    return f"{first} - {second}" if second else first


def complete_photos(rows: pd.DataFrame, keys: list[str]) -> pd.Index:
    """Returns the ids of the photos that have every combination of `keys` that occurs in the rows."""
    counts = rows.drop_duplicates(["image_id", *keys]).groupby("image_id").size()
    return counts.index[counts == len(rows.drop_duplicates(keys))]


def side_by_side(metrics: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of the photos that every system and condition has, so that all are compared on equal photos."""
    return metrics[metrics["image_id"].isin(complete_photos(metrics, ["system", "prompt_condition", "restored"]))]


def subjects_of(metrics: pd.DataFrame) -> pd.Series:
    """Returns the subject of each photo by image_id."""
    return metrics.drop_duplicates("image_id").set_index("image_id")["subject"]


def by_photo(metrics: pd.DataFrame, metric: str | list[str], name: str, restored: bool = True):
    """Returns one value a photo, by image_id: the metric of a prompt condition or system, averaged over its seeds.

    A Series, or a DataFrame for a list of metrics.

    Photos weigh alike in what follows, whatever their number of seeds: the photo is the unit that is sampled, and most
    of the variance lies between photos (`reports/precision.csv`).

    Raises:
        ValueError: if there are no rows of that name.
    """
    names = metrics["prompt_condition"].where(metrics["system"] == "controlnet", metrics["system"])
    rows = metrics[(names == name) & (metrics["restored"] == restored)]
    if rows.empty:
        raise ValueError(f"no rows for {name!r}, restored {restored}: known are {', '.join(names.unique())}")
    return rows.groupby("image_id")[metric].mean()


def differences(metrics: pd.DataFrame, metric: str | list[str], first: str, second: str, restored: bool = True):
    """Returns first - second by photo, over the photos that both have: a Series, or a DataFrame for a list of metrics.

    Photos whose two prompts are the same text, as with a caption without colour words, are left out: they would show
    no difference whatever the model does.
    """
    values = by_photo(metrics, metric, first, restored) - by_photo(metrics, metric, second, restored)
    ours = metrics[metrics["system"] == "controlnet"]
    texts = {
        name: ours[ours["prompt_condition"] == name].groupby("image_id")["prompt"].agg(set) for name in (first, second)
    }
    same = [name for name in values.index if name in texts[second] and texts[first].get(name) == texts[second][name]]
    return values.drop(same).dropna(how="all")


def fit_mean(values, subjects=None):
    """Returns statsmodels' fit of the mean of values by photo; None if they are equal or of fewer than three subjects.

    Its t has one degree of freedom less than there are subjects. `subjects`: one a value; None: each value is a
    subject of its own.
    """
    values = np.asarray(values, float)
    groups = pd.factorize(np.asarray(subjects))[0] if subjects is not None else np.arange(len(values))
    if len(set(groups)) < 3 or np.ptp(values) == 0:
        return None
    return OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)


def interval(values, subjects=None) -> tuple[float, float, float]:
    """Returns the mean of values and its 95 % interval, by the one rule of this module; NaN if there is none."""
    if not len(values):
        return (np.nan,) * 3
    fit = fit_mean(values, subjects)
    low, high = fit.conf_int()[0] if fit else (np.nan, np.nan)
    return float(np.mean(values)), float(low), float(high)


def named_ends(name: str, ends: tuple) -> dict:
    """Returns a mean and the ends of its interval by the names of their columns: `name`, `name_low`, `name_high`."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))


def contrast(difference: pd.Series, metric: str, subjects=None) -> dict:
    """Returns the effect in differences by photo, with subjects as in `fit_mean`.

    `mean`, `low`, `high`, `p`: mean, its 95 % interval and p; `p_equal`: p of the two one-sided tests (Schuirmann 1987)
    that the mean lies within plus or minus `MARGIN`, in CIEDE2000; `median`; `improved`: the share of photos on which
    the first is better in the metric's own direction.
    """
    fit, p_equal, mean = fit_mean(difference, subjects), np.nan, float(np.mean(difference))
    low, high = fit.conf_int()[0] if fit else (np.nan, np.nan)
    if fit and metric == METRIC:
        error, freedom = fit.bse[0], fit.df_resid_inference
        above, below = (mean + MARGIN) / error, (mean - MARGIN) / error
        p_equal = float(max(stats.t.sf(above, freedom), stats.t.cdf(below, freedom)))
    better = difference > 0 if metric in HIGHER_IS_BETTER else difference < 0
    return {
        **{"metric": metric, "n": len(difference), "mean": mean, "low": low, "high": high},
        **{"p": float(fit.pvalues[0]) if fit else 1.0, "p_equal": p_equal},
        **{"median": float(np.median(difference)), "improved": float(better.mean())},
    }


EFFECT_COLUMNS = ("family", "first", "second", "metric", "n", "mean", "low", "high", "p", "p_holm", "p_equal")
EFFECT_COLUMNS += ("median", "improved")


def contrasts(metrics: pd.DataFrame, pairs=None, restored: bool = True) -> pd.DataFrame:
    """Returns a table of `EFFECT_COLUMNS`: the `contrast` of pairs (first, second) of names, in every tested metric.

    `p_holm` and `p_equal` are corrected by Holm's method within the secondary and within the exploratory family, in
    CIEDE2000; the primary question stands alone. Other metrics describe and are not tested.

    Args:
        metrics: `metrics.csv`.
        pairs: None: all of `QUESTIONS` that were measured, and each prompt condition that has none there against the
            vague one. Pairs whose prompts are the same on every photo are left out.
        restored: whether pictures have the photo's own lightness.
    """
    if pairs is None:
        measured = {*metrics["prompt_condition"], *metrics["system"]}
        pairs = [pair for pair in QUESTIONS if measured.issuperset(pair)]
        pairs += [(name, "vague") for name in metrics["prompt_condition"].unique() if name not in {"", *CONDITIONS}]
    rows, subjects = [], subjects_of(metrics)
    tested = [*TESTED, *(name for name in metrics if name not in COLUMNS)]
    for first, second in pairs:
        family = QUESTIONS.get((first, second), Question(EXPLORATORY, "")).family
        names = {"family": family, "first": first, "second": second}
        for metric, values in differences(metrics, tested, first, second, restored).items():
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

    "better" or "worse" if the corrected p is below 0.05; else "equivalent" if two one-sided tests exclude a difference
    of `MARGIN`, or "inconclusive"; "not tested" without a p.
    """
    if row.p_holm != row.p_holm:
        return "not tested"
    if row.p_holm < 0.05:
        return "better" if (row.mean > 0) == (row.metric in HIGHER_IS_BETTER) else "worse"
    return "equivalent" if getattr(row, "p_equal", 1) < 0.05 else "inconclusive"


def effect_over_draws(table, subjects=None) -> dict:
    """Returns the mean of a table (photos, draws) whose photos and draws, such as writers, are crossed random effects.

    The variance is that of the means over photos plus that of the means over draws, less the residual's, which both
    contain; its degrees of freedom are Satterthwaite's (1946). Keys: `mean`, `low`, `high` and `p`, by Student's t,
    and its degrees of freedom, `df`. If three draws make up most of the variance, p is somewhat too small: 7 % of null
    effects are found at the 5 % level. With one draw the interval is that of photos alone, and there is no p.
    """
    table = np.asarray(table, float)
    photo_means, (photos, draws) = table.mean(axis=1), table.shape
    fit = fit_mean(photo_means, subjects)
    if draws < 2 or not fit:
        mean, low, high = interval(photo_means, subjects)
        return {"mean": mean, "low": low, "high": high, "p": np.nan, "df": np.nan}
    freedom = (photos - 1) * (draws - 1)
    residual = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    components = [(fit.bse[0] ** 2, fit.df_resid_inference), (table.mean(axis=0).var(ddof=1) / draws, draws - 1)]
    components.append((-(residual**2).sum() / freedom / (photos * draws), freedom))
    variance = max(sum(component for component, _ in components), components[0][0])
    df = variance**2 / sum(component**2 / own_df for component, own_df in components)
    mean, error = float(photo_means.mean()), np.sqrt(variance)
    reach = error * stats.t.ppf(0.975, df)
    p = float(2 * stats.t.sf(abs(mean) / error, df))
    return {"mean": mean, "low": float(mean - reach), "high": float(mean + reach), "p": p, "df": float(df)}


def ratio_interval(below, above, subjects, seed=0) -> tuple[float, float, float]:
    """Returns the ratio of two means, above / below, and its 95 % percentile bootstrap interval over subjects."""
    if not below.mean() > 0:
        return (np.nan,) * 3
    sums = pd.DataFrame({"below": below, "above": above}).groupby(np.asarray(subjects)).sum().to_numpy()
    chosen = np.random.default_rng(seed).integers(len(sums), size=(5000, len(sums)))
    low, high = np.percentile(sums[chosen, 1].sum(axis=1) / sums[chosen, 0].sum(axis=1), [2.5, 97.5])
    return float(above.mean() / below.mean()), float(low), float(high)


def summary(metrics: pd.DataFrame) -> pd.DataFrame:
    """Returns means of the metrics by system, prompt condition and lightness, `side_by_side`; photos weigh alike.

    `colorfulness_difference`: mean colourfulness of the outputs less that of the photos; `chroma_ratio`: mean chroma of
    the outputs over that of the photos.
    """
    metrics, keys = side_by_side(metrics), ["system", "prompt_condition", "restored"]
    measures = [*METRICS, *(name for name in metrics if name not in COLUMNS)]
    photos = metrics.groupby([*keys, "image_id"], sort=False)[measures].mean()
    table = photos.groupby(level=keys, sort=False).mean().reset_index()
    table["colorfulness_difference"] = table["colorfulness"] - table["true_colorfulness"]
    table["chroma_ratio"] = table["chroma"] / table["true_chroma"]
    return table.drop(columns=["true_colorfulness", "chroma", "true_chroma"])


def effect_with_colors(metrics: pd.DataFrame, first: str = "detailed", least: int = 2) -> dict:
    """The effect of a condition against the vague one on photos whose own prompt under it has some colour words.

    A detailed caption that names no colour can't help; this says what one that names at least `least` does.

    Returns:
        A row as `contrasts` has them, with the number of such photos as `n`.
    """
    own = metrics[metrics["prompt_condition"] == first].drop_duplicates("image_id")
    prompts = own.set_index("image_id")["prompt"]
    colorful = prompts.index[[len(find_places(prompt)) >= least for prompt in prompts]]
    difference = differences(metrics[metrics["image_id"].isin(colorful)], METRIC, first, "vague")
    row = {"first": first, "second": "vague", "metric": METRIC, "colors": least}
    return row | contrast(difference, METRIC, subjects_of(metrics)[difference.index])
