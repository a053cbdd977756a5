"""Paired effects: differences by photo, their intervals and tests."""

import numpy as np
import pandas as pd
from scipy import stats

HIGHER_IS_BETTER = {"psnr": True, "ssim": True, "ciede2000": False}


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
    """The paired effect first - second of two Series by photo: mean, 95 % interval, Wilcoxon p, share improved.

    `improved` is the share of photos on which the first is better in the metric's own direction.
    """
    difference = (first - second).dropna()
    mean, low, high = interval(difference)
    better = difference > 0 if HIGHER_IS_BETTER[metric] else difference < 0
    p = stats.wilcoxon(difference).pvalue if (difference != 0).any() else 1.0
    return {"metric": metric, "n": len(difference), "mean": mean, "low": low, "high": high, "p": p,
            "improved": float(better.mean())}  # fmt: skip


def contrasts(metrics, pairs, merged=True):
    """A table of `contrast` rows for named pairs {name: ((system, level), (system, level))} in every metric."""
    rows = [
        {"contrast": name}
        | contrast(by_photo(metrics, metric, *first, merged), by_photo(metrics, metric, *second, merged), metric)
        for name, (first, second) in pairs.items()
        for metric in HIGHER_IS_BETTER
    ]
    return pd.DataFrame(rows)


def summary(metrics, columns):
    """Mean of each metric column by system, prompt level and merge: photos weigh alike whatever their seeds."""
    keys = ["system", "prompt_level", "merged"]
    photos = metrics.groupby([*keys, "image_id"], sort=False)[list(columns)].mean()
    return photos.groupby(level=keys, sort=False).mean().reset_index()
