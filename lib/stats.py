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

from lib.color_words import find_places
from lib.metrics import METRICS
from lib.prompts import CONDITIONS, EXPLORATORY, FAMILIES, SECONDARY, WRITERS

HIGHER_IS_BETTER = dict(psnr=True, ssim=True, ciede2000=False, mean_error=False, deviation_error=False)
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


def label(first, second):
    """A contrast as it is printed; the first name alone where there is no second."""
    return f"{first} - {second}" if second else first


def side_by_side(metrics):
    """The rows of those photos that every system and condition has, so that all are compared on the same photos."""
    photos = complete_photos(metrics, ["system", "prompt_condition", "merged"])
    return metrics[metrics["image_id"].isin(photos)]


def of_model(metrics):
    """The rows of the model's pictures after the merge."""
    return metrics[(metrics["system"] == "controlnet") & metrics["merged"]]


def complete_photos(rows, keys):
    """The ids of the photos that have every combination of `keys` that occurs in the rows."""
    found = rows.drop_duplicates(["image_id", *keys]).groupby("image_id").size()
    return found.index[found == len(rows.drop_duplicates(keys))]


def by_photo(metrics, metric, name, merged=True):
    """One value a photo (a Series by image_id): the metric of a prompt condition or system, averaged over its seeds.

    Photos weigh alike in what follows, whatever their seeds: the photo is the unit that is sampled, and weights would
    gain little, since most of the variance lies between photos (`reports/precision.csv`). A name without rows is a
    ValueError.
    """
    names = metrics["prompt_condition"].where(metrics["system"] == "controlnet", metrics["system"])
    rows = metrics[(names == name) & (metrics["merged"] == merged)]
    if rows.empty:
        raise ValueError(f"no rows for {name!r}, merged {merged}: known are {', '.join(names.unique())}")
    return rows.groupby("image_id")[metric].mean()


def subjects_of(metrics):
    """The subject of each photo, as a Series by image_id."""
    return metrics.drop_duplicates("image_id").set_index("image_id")["subject"]


def differences(metrics, metric, first, second, merged=True):
    """first - second by photo, over the photos that both have.

    Photos whose two prompts are the same text, as with a caption without colour words, are left out: they would show
    no difference whatever the model does.
    """
    values = by_photo(metrics, metric, first, merged) - by_photo(metrics, metric, second, merged)
    ours = metrics[metrics["system"] == "controlnet"]
    said = {
        name: ours[ours["prompt_condition"] == name].groupby("image_id")["prompt"].agg(set) for name in (first, second)
    }
    same = [name for name in values.index if name in said[second] and said[first].get(name) == said[second][name]]
    return values.drop(same).dropna()


def fit_mean(values, subjects=None):
    """statsmodels' fit of the mean of values by photo: its t has one degree of freedom less than there are subjects.

    `subjects`: one a value; None: each value is a subject of its own.
    """
    groups = pd.factorize(np.asarray(subjects))[0] if subjects is not None else np.arange(len(values))
    values = np.asarray(values, float)
    return OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)


def has_interval(values, subjects=None):
    """Whether values differ and are of at least three subjects, so that their mean has an interval."""
    return len(set(range(len(values)) if subjects is None else subjects)) >= 3 and np.ptp(values) > 0


def interval(values, subjects=None):
    """The mean of values and its 95 % interval, by the one rule of this module; NaN where there is none."""
    if not len(values):
        return (np.nan,) * 3
    if not has_interval(values, subjects):
        return float(np.mean(values)), np.nan, np.nan
    low, high = fit_mean(values, subjects).conf_int()[0]
    return float(np.mean(values)), float(low), float(high)


def named_ends(name, ends):
    """A mean and the ends of its interval by the names of their columns: `name`, `name_low`, `name_high`."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))


def p_of_equality(fit):
    """p of the two one-sided tests (Schuirmann 1987) that a mean lies within plus or minus `MARGIN`."""
    (mean,), (error,), freedom = fit.params, fit.bse, fit.df_resid_inference
    return float(max(stats.t.sf((mean + MARGIN) / error, freedom), stats.t.cdf((mean - MARGIN) / error, freedom)))


def contrast(difference, metric, subjects=None):
    """The effect in differences by photo, with subjects as in `fit_mean`.

    `mean`, `low`, `high`, `p`: mean, its 95 % interval and p; `p_equal`: `p_of_equality`, in CIEDE2000; `median`;
    `improved`: the share of photos on which the first is better in the metric's own direction.
    """
    fit = fit_mean(difference, subjects) if has_interval(difference, subjects) else None
    low, high = fit.conf_int()[0] if fit else (np.nan, np.nan)
    better = difference > 0 if HIGHER_IS_BETTER[metric] else difference < 0
    return {
        "metric": metric,
        "n": len(difference),
        "mean": float(np.mean(difference)),
        "low": low,
        "high": high,
        "p": float(fit.pvalues[0]) if fit else 1.0,
        "p_equal": p_of_equality(fit) if fit and metric == METRIC else np.nan,
        "median": float(np.median(difference)),
        "improved": float(better.mean()),
    }


EFFECT_COLUMNS = ("family", "first", "second", "metric", "n", "mean", "low", "high", "p", "p_holm", "p_equal")
EFFECT_COLUMNS += ("median", "improved")


def contrasts(metrics, pairs, merged=True):
    """A table of `EFFECT_COLUMNS`: the `contrast` of pairs (first, second) of names, in every metric.

    `p_holm` and `p_equal` are corrected by Holm's method within the secondary and within the exploratory family, in
    CIEDE2000; the primary question stands alone. Other metrics describe and are not tested. A pair
    whose prompts are the same on every photo is left out.
    """
    rows, subjects = [], subjects_of(metrics)
    for first, second in pairs:
        for metric in HIGHER_IS_BETTER:
            difference = differences(metrics, metric, first, second, merged)
            if len(difference):
                facts = {"family": QUESTIONS[first, second].family, "first": first, "second": second}
                rows.append(facts | contrast(difference, metric, subjects[difference.index]))
    table = pd.DataFrame(rows, columns=EFFECT_COLUMNS)
    for _, part in table[table["metric"] == METRIC].groupby("family"):
        table.loc[part.index, "p_holm"] = holm(part["p"])
        table.loc[part.index, "p_equal"] = holm(part["p_equal"])
    return table


def holm(p):
    """p values corrected by Holm's method; those that are missing stay so."""
    known = p.notna()
    return p.mask(known, pd.Series(multipletests(p[known], method="holm")[1], p.index[known])) if known.any() else p


def verdict(row):
    """What a row with `mean`, `p_holm` and perhaps `p_equal` allows to say, in the metric's own direction.

    "better" or "worse" if the corrected p is below 0.05; else "equivalent" if two one-sided tests exclude a difference
    of `MARGIN`, or "inconclusive"; "not tested" without a p.
    """
    if row.p_holm != row.p_holm:
        return "not tested"
    if row.p_holm < 0.05:
        return "better" if (row.mean > 0) == HIGHER_IS_BETTER[row.metric] else "worse"
    return "equivalent" if getattr(row, "p_equal", 1) < 0.05 else "inconclusive"


def effect_over_draws(table, subjects=None):
    """The mean of a table (photos, draws) where photos and draws, such as writers, are crossed random effects.

    The variance is that of the means over photos plus that of the means over draws, less the residual's, which both
    contain; its degrees of freedom are Satterthwaite's (1946). Returns `mean`, `low`, `high` and `p`, by Student's t,
    and its degrees of freedom, `df`. If three draws make up most of the variance, p is somewhat too small: 7 % of null
    effects are found at the 5 % level. With one draw the interval is that of photos alone, and there is no p.
    """
    table = np.asarray(table, float)
    by_photo, (photos, draws) = table.mean(axis=1), table.shape
    if draws < 2 or not has_interval(by_photo, subjects):
        mean, low, high = interval(by_photo, subjects)
        return {"mean": mean, "low": low, "high": high, "p": np.nan, "df": np.nan}
    fit, freedom = fit_mean(by_photo, subjects), (photos - 1) * (draws - 1)
    residual = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    parts = [(fit.bse[0] ** 2, fit.df_resid_inference), (table.mean(axis=0).var(ddof=1) / draws, draws - 1)]
    parts.append((-(residual**2).sum() / freedom / (photos * draws), freedom))
    variance = max(sum(part for part, _ in parts), parts[0][0])
    freedom = variance**2 / sum(part**2 / of_part for part, of_part in parts)
    mean, error = float(by_photo.mean()), np.sqrt(variance)
    reach = error * stats.t.ppf(0.975, freedom)
    p = float(2 * stats.t.sf(abs(mean) / error, freedom))
    return {"mean": mean, "low": float(mean - reach), "high": float(mean + reach), "p": p, "df": float(freedom)}


def effects_by_chroma(metrics: pd.DataFrame) -> pd.DataFrame:
    """Returns detailed - vague and detailed - gray in CIEDE2000 in the thirds of photos by their true mean chroma.

    Columns: `third`, `first`, `second`, `n`, `true_chroma` (the mean of the third), `mean`, `low`, `high`.
    """
    photos = metrics.drop_duplicates("image_id").set_index("image_id")
    photos = photos.loc[by_photo(metrics, METRIC, "detailed").index]
    thirds = pd.qcut(photos["true_chroma"], 3, labels=["least chroma", "middle", "most chroma"])
    rows = []
    for second in ("vague", "gray"):
        difference = differences(metrics, METRIC, "detailed", second)
        for third, values in difference.groupby(thirds[difference.index], observed=True):
            row = {"third": third, "first": "detailed", "second": second, "n": len(values)}
            row["true_chroma"] = photos["true_chroma"][values.index].mean()
            ends = interval(values, photos["subject"][values.index])
            rows.append(row | dict(zip(("mean", "low", "high"), ends, strict=True)))
    return pd.DataFrame(rows)


def effect_of_writers(metrics: pd.DataFrame) -> pd.DataFrame:
    """Returns what captions change against the vague prompt in CIEDE2000, by writer and over writers.

    A row for each writer, with photos random; then `others`, all but `detailed`, and `all`, in which photos and writers
    are crossed random effects (`effect_over_draws`). Over the photos that all of them described. `colors`: mean number
    of colours in a caption.
    """
    writers = [name for name in ("detailed", *WRITERS) if (metrics["prompt_condition"] == name).any()]
    gain = pd.DataFrame({name: differences(metrics, METRIC, name, "vague") for name in writers}).dropna()
    subjects, rows = subjects_of(metrics)[gain.index], []
    texts = metrics[metrics["image_id"].isin(gain.index)].drop_duplicates(["image_id", "prompt_condition"])
    colors = texts["prompt"].map(lambda text: len(find_places(text))).groupby(texts["prompt_condition"]).mean()
    for name in gain:
        rows.append({"writer": name, "colors": colors[name], **contrast(gain[name], METRIC, subjects)})
    for name, columns in (("others", list(gain)[1:]), ("all", list(gain))):
        if len(columns) > 1:
            effect = effect_over_draws(gain[columns], subjects=subjects)
            rows.append({"writer": name, "colors": colors[columns].mean(), "n": len(gain), **effect})
    return pd.DataFrame(rows, columns=["writer", "colors", "n", "mean", "low", "high", "p", "df"])


def binding(table, subjects):
    """Means of a binding table over photos with 95 % intervals, by task, method and masks; `subjects`: by photo.

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
        of_photo = subjects[part.index.get_level_values("image_id")].to_numpy()
        bounds = {}
        for measure in measures:
            known = part[measure].notna().to_numpy()
            bounds[measure] = interval(part[measure][known], of_photo[known])
        shifted = part[shifts].to_numpy().T
        bounds["bleed"] = ratio_interval(*shifted, of_photo) if values[0] == "one" else (np.nan,) * 3
        row = {**dict(zip(keys, values, strict=True)), "photos": len(part)}
        for name, ends in bounds.items():
            row |= named_ends(name, ends)
        rows.append(row)
    return pd.DataFrame(rows)


def ratio_interval(below, above, subjects, seed=0):
    """The ratio of two means, above / below, and its 95 % percentile bootstrap interval, resampling subjects."""
    if not below.mean() > 0:
        return (np.nan,) * 3
    sums = pd.DataFrame({"below": below, "above": above}).groupby(np.asarray(subjects)).sum().to_numpy()
    chosen = np.random.default_rng(seed).integers(len(sums), size=(5000, len(sums)))
    low, high = np.percentile(sums[chosen, 1].sum(axis=1) / sums[chosen, 0].sum(axis=1), [2.5, 97.5])
    return float(above.mean() / below.mean()), float(low), float(high)


def summary(metrics):
    """Means of the metrics by system, prompt condition and merge, `side_by_side`; photos weigh alike.

    `colorfulness_difference`: mean colourfulness of the outputs less that of the photos; `colorfulness_error`: mean of
    the absolute differences (both are in use); `chroma_ratio`: mean chroma of the outputs over that of the photos.
    """
    metrics, keys = side_by_side(metrics), ["system", "prompt_condition", "merged"]
    error = (metrics["colorfulness"] - metrics["true_colorfulness"]).abs()
    photos = metrics.assign(colorfulness_error=error).groupby([*keys, "image_id"], sort=False)
    photos = photos[[*METRICS, "colorfulness_error"]].mean()
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
