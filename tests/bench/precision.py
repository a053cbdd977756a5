"""How many photos and seeds the interval of detailed - vague needs: `make precision` writes `reports/precision.csv`.

A photo's difference in CIEDE2000 varies between photos, and with the seed around each photo's own mean. Pictures of the
pocket model show how much of both there is. That gives the width of the 95 % interval of each plan, and how many photos
are `needed`, 60 with three seeds and the others with one, for an interval as narrow as that of 500 with three seeds.
"""

import argparse
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
from datasets import concatenate_datasets
from tqdm import tqdm

from lib import ROOT
from lib.color import srgb_to_lab, to_float
from lib.colorize import colorize_level, errors_of
from lib.dataset import build_dataset, pick_across_categories
from lib.files import write_text
from lib.luck import components, interval_width
from lib.models import add_controlnet, load_base, load_controlnet
from lib.profiles import get_profile
from lib.report import markdown_table
from lib.stats import interval

TEST_PHOTOS, SEEDS = 20, 2  # that are sampled, beside the validation photos
SAMPLING = {  # as the pocket model samples, and with several steps and guidance, as Stable Diffusion does
    "1 step": dict(num_inference_steps=1, guidance_scale=1.0),
    "10 steps, guidance 2": dict(num_inference_steps=10, guidance_scale=2.0),
}
OLD_PLAN = (500, 3, 500)  # photos, seeds, and how many photos have every seed; the others have one
PLANS = (OLD_PLAN, (500, 1, 0), (600, 1, 0), (600, 3, 60), (650, 1, 0), (650, 3, 60), (700, 3, 60), (800, 3, 60))
STUDIES = 400  # of the simulation


def sample_differences(pipeline, rows, sampling):
    """CIEDE2000 after the merge, detailed - vague under the same noise: (photos, seeds)."""
    truths, errors = [srgb_to_lab(to_float(image)) for image in rows["image"]], {}
    for level in ("vague", "detailed"):
        by_seed = (colorize_level(pipeline, rows, level, seed, sampling) for seed in range(SEEDS))
        errors[level] = np.array([errors_of(labs, truths) for labs in by_seed])
    return (errors["detailed"] - errors["vague"]).T


def draw_study(rng, plan, effects, noise):
    """A study's differences by photo: photos' own effects and seeds' noise, drawn from those that were seen."""
    photos, seeds, with_all = plan
    own = rng.choice(effects, photos)
    luck = rng.choice(noise, (photos, seeds))
    return own + np.where(np.arange(photos) < with_all, luck.mean(axis=1), luck[:, 0])


def simulate(plan, differences, studies=STUDIES):
    """`simulated width` and `coverage` of `stats.interval` over studies drawn with the components' variances."""
    between, within = components(differences)
    effects, noise = differences.mean(axis=1), (differences - differences.mean(axis=1, keepdims=True)).ravel()
    effects = effects.mean() + (effects - effects.mean()) * np.sqrt(between) / effects.std()
    noise = noise * np.sqrt(within) / noise.std()
    rng, ends = np.random.default_rng(0), []
    for _ in tqdm(range(studies), desc=f"{plan}", leave=False):
        values = draw_study(rng, plan, effects, noise)
        ends.append(interval(values)[1:])
    low, high = np.array(ends).T
    covered = (low <= effects.mean()) & (effects.mean() <= high)
    return {"simulated width": (high - low).mean(), "coverage": covered.mean()}


def photos_needed(differences, seeds=3, with_all=60):
    """The smallest number of photos, `with_all` with every seed, whose interval is no wider than the old plan's."""
    parts = components(differences)
    old, counts = interval_width(*parts, *OLD_PLAN), range(with_all, 10 * OLD_PLAN[0])
    return next(n for n in counts if interval_width(*parts, n, seeds, with_all) <= old)


def range_of_photos_needed(differences, resamples=500):
    """`needed` photos and their 95 % interval, `needed_low` and `needed_high`: percentiles over resampled photos."""
    rng, n = np.random.default_rng(0), len(differences)
    found = [photos_needed(differences[rng.integers(0, n, n)]) for _ in range(resamples)]
    low, high = np.percentile(found, [2.5, 97.5])
    return {"needed": photos_needed(differences), "needed_low": low, "needed_high": high}


def table_of_plans(sampling, differences, studies=STUDIES):
    """A row for each of `PLANS`: pictures under two prompts, width of the interval, and that over the old plan's."""
    between, within = components(differences)
    old, needed = interval_width(between, within, *OLD_PLAN), range_of_photos_needed(differences)
    rows = []
    for plan in PLANS:
        (photos, seeds, with_all), wide = plan, interval_width(between, within, *plan)
        row = {"sampling": sampling, "between photos": between, "between seeds": within, **needed}
        row |= {"photos": photos, "seeds": seeds, "with every seed": with_all}
        row |= {"pictures": 2 * (photos + with_all * (seeds - 1)), "width": wide, "of the old": wide / old}
        rows.append({**row, **simulate(plan, differences, studies)})
    return pd.DataFrame(rows)


def main():
    """The command behind `make precision`."""
    argparse.ArgumentParser(prog="python -m tests.bench.precision", description=__doc__.splitlines()[0]).parse_args()
    profile = get_profile("pocket")
    try:
        triples, base = build_dataset(profile), load_base(profile.model)
        rows = concatenate_datasets([triples["validation"], pick_across_categories(triples["test"], TEST_PHOTOS)])
        pipeline = add_controlnet(base, load_controlnet(profile.training.initial_controlnet, base.unet))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    tables = []
    for name, fields in SAMPLING.items():
        differences = sample_differences(pipeline, rows, replace(profile.sampling, **fields))
        tables.append(table_of_plans(name, differences))
    table = pd.concat(tables)
    write_text(table.to_csv(index=False, float_format="%.4g"), ROOT / "reports/precision.csv")
    print(markdown_table(table.round(3)))


if __name__ == "__main__":
    main()
