"""What was tried for the pocket model, and what each gave on the validation photos: `make pocket-trials`."""

import argparse
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
from skimage.color import deltaE_ciede2000

from lib import ROOT
from lib.batches import build_cache
from lib.color import srgb_to_lab, to_float
from lib.colorize import merge, sample, seed_of
from lib.dataset import build_dataset, pick_across_categories
from lib.files import write_text
from lib.metrics import chroma
from lib.models import add_controlnet, load_base, load_controlnet
from lib.pictures import make_dataset
from lib.pocket import stage_profile, write_card
from lib.profiles import add_field_option, get_profile
from lib.prompts import prompts_at
from lib.training import train_controlnet

SAMPLING = [{"num_inference_steps": n} for n in (1, 2, 5, 10, 50)] + [
    {"guidance_scale": scale} for scale in (1.0, 1.25, 1.5, 2.0, 3.0) if scale != get_profile("pocket").guidance_scale
]
TRIALS = {  # what is changed: fields of the ControlNet's stage, or arguments of make_dataset
    "the recipe, cut short": ({}, {}),
    "uniform timesteps": ({"timestep_bias": 1.0}, {}),
    "no prompt dropout": ({"prompt_dropout": 0.0}, {}),
    "no recolouring": ({}, {"recolor": False}),
    "no cut-outs": ({}, {"cutouts": False}),
}
TRIAL_STEPS, TRIAL_PICTURES, KNOWN_PHOTOS = 250, 3000, 60


def score(pipeline, rows, profile):
    """Mean CIEDE2000 of rows under the vague and the detailed prompt, and how much colour the detailed one gives."""
    truths = [srgb_to_lab(to_float(image)) for image in rows["image"]]
    gray, numbers = list(rows["conditioning_image"]), {}
    for level in ("vague", "detailed"):
        seeds = range(profile.n_seeds)
        noise = [seed_of(name, seed) for seed in seeds for name in rows["image_id"]]
        outputs = sample(pipeline, gray * len(seeds), prompts_at(level, rows) * len(seeds), noise, profile)
        labs = [srgb_to_lab(picture) for picture in merge(gray * len(seeds), outputs)]
        numbers[level] = np.mean([error(lab, truth) for lab, truth in zip(labs, truths * len(seeds), strict=True)])
        means = [np.mean(labs[row :: len(truths)], axis=0) for row in range(len(truths))]
        numbers[f"{level}, mean of seeds"] = np.mean([error(m, truth) for m, truth in zip(means, truths, strict=True)])
    numbers["chroma ratio"] = np.mean([chroma(lab) for lab in labs]) / np.mean([chroma(truth) for truth in truths])
    return {name: round(float(value), 2) for name, value in numbers.items()}


def error(lab, truth):
    """Mean CIEDE2000 of two CIELAB images."""
    return deltaE_ciede2000(lab, truth).mean()


def gray_error(rows):
    """Mean CIEDE2000 of the photos left gray."""
    truths = [srgb_to_lab(to_float(image)) for image in rows["image"]]
    return round(float(np.mean([error(truth * [1, 0, 0], truth) for truth in truths])), 2)


def run_trials(pictures, overrides, folder=ROOT / "build/pocket_trials", target=ROOT / "lib/pocket_model"):
    """Score the shipped model's sampling, train and score every trial, and write both tables into the model card."""
    pocket = get_profile("pocket", build=str(folder))
    triples = build_dataset(pocket)
    rows = triples["validation"]
    base = load_base(pocket)
    shipped = add_controlnet(base, load_controlnet(str(target / "controlnet"), base.unet))
    sampling = []
    for fields in SAMPLING:
        profile = replace(pocket, **fields)
        row = {"steps": profile.num_inference_steps, "guidance": profile.guidance_scale}
        sampling.append(row | score(shipped, rows, profile))
        write_text(pd.DataFrame(sampling).to_csv(index=False), target / "sampling.csv")
    trials = []
    known = pick_across_categories(triples["train"], KNOWN_PHOTOS)
    for name, part in (("", rows), (", photos it was trained on", known)):
        trials.append({"trial": f"left gray{name}", **dict.fromkeys(("vague", "detailed"), gray_error(part))})
        trials.append({"trial": f"this model{name}"} | score(shipped, part, pocket))
    for name, (fields, data) in TRIALS.items():
        place = folder / name.replace(" ", "_")
        dataset_folder = folder / "_".join(["dataset", *data])
        dataset = make_dataset(pictures, dataset_folder, TRIAL_PICTURES, pocket.resolution, **data)
        cache = build_cache(dataset, dataset["prompt"], base, folder / "cache")
        short = {"train_steps": TRIAL_STEPS, "lr_warmup_steps": 50, "checkpoint_every": 50}
        profile = stage_profile("controlnet", **{**short, **fields, **overrides})
        controlnet = train_controlnet(base, cache, profile, place, rows.select(range(4)))
        trials.append({"trial": name} | score(add_controlnet(base, controlnet), rows, pocket))
        write_text(pd.DataFrame(trials).to_csv(index=False), target / "trials.csv")
    write_card(target)


def main():
    """The command behind `make pocket-trials`."""
    parser = argparse.ArgumentParser(prog="python -m lib.trials", description="Fill the tables of the model card.")
    parser.add_argument("--pictures", default="", help="folder with the pictures of data_cards/training_pictures")
    add_field_option(parser, "a profile field for all trials, e.g. -p mixed_precision bf16")
    options = parser.parse_args()
    try:
        run_trials(options.pictures, dict(options.overrides))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
