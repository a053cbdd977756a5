"""What was tried for the pocket model, and what each gave on the validation photos: `make pocket-trials`."""

import numpy as np
import pandas as pd

from lib import ROOT
from lib.color import srgb_to_lab, to_float
from lib.colorize import colorize_level, errors_of
from lib.dataset import build_dataset, pick_across_categories
from lib.files import write_table
from lib.latents import build_cache
from lib.metrics import chroma
from lib.models import add_controlnet, load_base, load_controlnet
from lib.pocket_model.goals import KNOWN_PHOTOS
from lib.pocket_model.recipe import stage_profile, write_card
from lib.pocket_model.training_pictures import make_dataset, run_recipe
from lib.profiles import get_profile
from lib.training import train_controlnet

TRIALS = {  # what is changed: fields of the ControlNet's stage, or arguments of make_dataset
    "the recipe, cut short": ({}, {}),
    "uniform timesteps": ({"timestep_bias": 1.0}, {}),
    "no prompt dropout": ({"prompt_dropout": 0.0}, {}),
    "no recolouring": ({}, {"recolor": False}),
    "no cut-outs": ({}, {"cutouts": False}),
}
TRIAL_STEPS, TRIAL_PICTURES, SEEDS = 250, 3000, 3


def score(pipeline, rows, sampling):
    """Mean CIEDE2000 of rows under the vague and the detailed prompt, and how much colour the detailed one gives."""
    truths, numbers = [srgb_to_lab(to_float(image)) for image in rows["image"]], {}
    for level in ("vague", "detailed"):
        by_seed = [colorize_level(pipeline, rows, level, seed, sampling) for seed in range(SEEDS)]
        numbers[level] = np.mean([errors_of(labs, truths) for labs in by_seed])
        means = [np.mean(labs, axis=0) for labs in zip(*by_seed, strict=True)]
        numbers[f"{level}, mean of seeds"] = np.mean(errors_of(means, truths))
    colors = [chroma(lab) for labs in by_seed for lab in labs]
    numbers["chroma ratio"] = np.mean(colors) / np.mean([chroma(truth) for truth in truths])
    return {name: round(float(value), 2) for name, value in numbers.items()}


def gray_error(rows):
    """Mean CIEDE2000 of the photos left gray."""
    truths = [srgb_to_lab(to_float(image)) for image in rows["image"]]
    return round(float(np.mean(errors_of([truth * [1, 0, 0] for truth in truths], truths))), 2)


def run_trials(pictures, overrides, folder=ROOT / "build/pocket_trials", target=ROOT / "lib/pocket_model"):
    """Train and score every trial, beside the shipped model, and write the table into the model card."""
    pocket = get_profile("pocket", build=str(folder))
    triples = build_dataset(pocket)
    rows = triples["validation"]
    base = load_base(pocket.model)
    shipped = add_controlnet(base, load_controlnet(str(target / "controlnet"), base.unet))
    trials = []
    known = pick_across_categories(triples["train"], KNOWN_PHOTOS)
    for name, part in (("", rows), (", photos it was trained on", known)):
        trials.append({"trial": f"left gray{name}", **dict.fromkeys(("vague", "detailed"), gray_error(part))})
        trials.append({"trial": f"this model{name}"} | score(shipped, part, pocket.sampling))
    for name, (fields, data) in TRIALS.items():
        place = folder / name.replace(" ", "_")
        dataset_folder = folder / "_".join(["dataset", *data])
        dataset = make_dataset(pictures, dataset_folder, TRIAL_PICTURES, pocket.data.resolution, **data)
        cache = build_cache(dataset, dataset["prompt"], base, folder / "cache")
        short = {"train_steps": TRIAL_STEPS, "lr_warmup_steps": 50, "checkpoint_every": 50}
        profile = stage_profile("controlnet", **{**short, **fields, **overrides})
        controlnet = train_controlnet(base, cache, profile, place, rows.select(range(4)))
        trials.append({"trial": name} | score(add_controlnet(base, controlnet), rows, pocket.sampling))
        write_table(pd.DataFrame(trials), target / "trials.csv")
    write_card(target)


if __name__ == "__main__":
    run_recipe(run_trials, "lib.pocket_model.trials", "Fill the tables of the model card.")
