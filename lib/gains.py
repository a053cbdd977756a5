"""Where the gain of a detailed prompt comes from: tint or placement, how many colours, which writer, which photos."""

import numpy as np
import pandas as pd
from statsmodels.regression.linear_model import OLS
from statsmodels.tools.tools import add_constant

from lib.color import srgb_to_lab, to_float
from lib.color_words import HUES, find_places, hue_distance
from lib.metrics import HUE_NEEDS_CHROMA
from lib.prompts import DOSES, WRITERS
from lib.stats import (
    METRIC,
    by_photo,
    contrast,
    differences,
    effect_over_draws,
    interval,
    named_ends,
    ratio_interval,
    subjects_of,
)

SPLIT = (("detailed", "vague"), ("writer_2", "vague"), ("writer_3", "vague"), ("detailed", "object"))
SPLIT += (("detailed", "permuted"), ("detailed", "gray"))
HUE_SHARE = 0.05  # of a photo's pixels that make a hue count


def tint_shares(metrics, pairs=SPLIT):
    """What the fall in squared a*b* error is made of: a table by `first` and `second`.

    A picture's mean squared error in a*b* is that of its mean colour (`mean_error`, its tint) plus that of the
    deviations from it (`deviation_error`, where the colours are). `fall`: how much the sum falls from the second to the
    first; `share`: the tint's part of that, with a bootstrap interval over subjects; `tint_falls`, `placement_falls`:
    each part's own fall, as a share of what it was.
    """
    squares = metrics.assign(tint=metrics["mean_error"] ** 2, place=metrics["deviation_error"] ** 2)
    rows, subjects = [], subjects_of(metrics)
    for first, second in pairs:
        tint, place = (-differences(squares, part, first, second) for part in ("tint", "place"))
        was = [by_photo(squares, part, second)[tint.index].mean() for part in ("tint", "place")]
        share = ratio_interval((tint + place).to_numpy(), tint.to_numpy(), subjects[tint.index])
        ends = named_ends("share", share)
        falls = {"tint_falls": tint.mean() / was[0], "placement_falls": place.mean() / was[1]}
        rows.append({"first": first, "second": second, "fall": (tint + place).mean(), **ends, **falls})
    return pd.DataFrame(rows)


def dose_table(effects):
    """The rows of a table of effects for more and more colours of the caption, with `kept`: how many."""
    rows = effects[(effects["metric"] == METRIC) & (effects["second"] == "vague")].set_index("first")
    names = {**{f"dose_{k}": str(k) for k in DOSES}, "detailed": "all"}
    table = rows.loc[[name for name in names if name in rows.index]].reset_index()
    return table.assign(kept=table["first"].map(names))


def writers_of(metrics):
    """The prompt levels that hold one writer's captions each, `detailed` first; several are needed to compare them."""
    return [level for level in ("detailed", *WRITERS) if (metrics["prompt_level"] == level).any()]


def effect_of_writers(metrics):
    """What captions change against the vague prompt in CIEDE2000, by writer and over them, as a table of effects.

    A row for each writer, with photos random; then `others`, all but `detailed`, and `all`, in which photos and writers
    are random (`effect_over_draws`). Over the photos that all of them described. `colors`: colours in a caption, on the
    mean.
    """
    gain = pd.DataFrame({name: differences(metrics, METRIC, name, "vague") for name in writers_of(metrics)}).dropna()
    subjects, rows = subjects_of(metrics)[gain.index], []
    said = metrics[metrics["image_id"].isin(gain.index)].drop_duplicates(["image_id", "prompt_level"])
    colors = said["prompt"].map(lambda text: len(find_places(text))).groupby(said["prompt_level"]).mean()
    for name in gain:
        rows.append({"writer": name, "colors": colors[name], **contrast(gain[name], METRIC, subjects)})
    for name, columns in (("others", list(gain)[1:]), ("all", list(gain))):
        if len(columns) > 1:
            effect = effect_over_draws(gain[columns], subjects=subjects)
            rows.append({"writer": name, "colors": colors[columns].mean(), "n": len(gain), **effect})
    return pd.DataFrame(rows, columns=["writer", "colors", "n", "mean", "low", "high", "p", "df"])


def count_hues(lab):
    """How many of the eight hues a CIELAB picture (H, W, 3) shows, each on `HUE_SHARE` of its pixels at least."""
    a, b = lab[..., 1].ravel(), lab[..., 2].ravel()
    colored = np.hypot(a, b) >= HUE_NEEDS_CHROMA
    distances = hue_distance(np.array(list(HUES.values())), np.degrees(np.arctan2(b, a))[colored, None])
    counts = np.bincount(distances.argmin(axis=1), minlength=len(HUES))
    return int((counts >= HUE_SHARE * len(a)).sum())


def gains_by_photo(metrics, rows):
    """One row a photo: `subject`, `category`, `true_chroma`, `hues`, and what the detailed prompt gains in CIEDE2000
    over the vague one and over gray (above zero: it is better)."""
    facts = metrics.drop_duplicates("image_id").set_index("image_id")[["subject", "category", "true_chroma"]]
    hues = {row["image_id"]: count_hues(srgb_to_lab(to_float(row["image"]))) for row in rows}
    detailed = by_photo(metrics, METRIC, "detailed")
    table = facts.loc[detailed.index].assign(hues=pd.Series(hues))
    over = {f"over_{name}": by_photo(metrics, METRIC, name) - detailed for name in ("vague", "gray")}
    return table.assign(**over).reset_index()


def fit_gains(gains):
    """What a photo's colour has to do with its gain: least squares on `true_chroma` and `hues` together.

    Rows `gain`, `term`, `slope`, `low`, `high`, `p` (errors robust to photos of one subject), and `r_squared`.
    """
    rows, terms = [], ["true_chroma", "hues"]
    groups = pd.factorize(gains["subject"])[0]
    for name in ("over_vague", "over_gray"):
        model = OLS(gains[name], add_constant(gains[terms].astype(float)))
        fit = model.fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
        for term in terms:
            low, high = fit.conf_int().loc[term]
            facts = {"slope": fit.params[term], "low": low, "high": high, "p": fit.pvalues[term]}
            rows.append({"gain": name, "term": term, **facts, "r_squared": fit.rsquared})
    return pd.DataFrame(rows)


def gains_by_third(gains):
    """The mean gain, with its interval, in the thirds of photos with least, middling and most chroma."""
    third = pd.qcut(gains["true_chroma"], 3, labels=["least chroma", "middle", "most chroma"])
    rows = []
    for name, part in gains.groupby(third, observed=True):
        row = {"third": name, "n": len(part), "true_chroma": part["true_chroma"].mean()}
        for gain in ("over_vague", "over_gray"):
            row |= named_ends(gain, interval(part[gain], part["subject"]))
        rows.append(row)
    return pd.DataFrame(rows)
