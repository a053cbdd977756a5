"""Steps and guidance, chosen on validation photos by one rule for both prompts: the lowest error with enough colour."""

import json
from itertools import product

import numpy as np
import pandas as pd

from lib.cache import hash_of, write_table, write_text
from lib.color import srgb_to_lab, to_float
from lib.colorize import DATA_FIELDS, MODEL_FIELDS, colorize_under, errors_of, hash_of_controlnet
from lib.config import resolve
from lib.dataset import load_dataset_dict, pick_across_categories
from lib.metrics import chroma
from lib.models import load_pipeline, process_state
from lib.prompts import COMPARED
from lib.stats import interval, named_ends

N_VALIDATION, CHROMA_RATIO = 24, (0.8, 1.3)  # photos that sampling is chosen on, and how colourful it must be


def choose_sampling(config):
    """Try `steps_to_try` x `guidance_to_try` on validation photos, and keep the best, once for a ControlNet and grid.

    Writes `sampling.csv`, a row a trial, and `sampling.json`, the choice, to the run's folder; nothing where there is
    nothing to try. Under accelerate's launchers the main process does it, and the others wait.
    """
    state = process_state()
    if state.is_main_process and grid(config) and not _read_choice(config):
        validation = load_dataset_dict(config.for_test_photos)["validation"]
        table = try_sampling(load_pipeline(config), pick_across_categories(validation, N_VALIDATION), config)
        best = pick_sampling(table)
        fields = {"num_inference_steps": int(best["steps"]), "guidance_scale": float(best["guidance"])}
        write_table(table, config.run_dir / "sampling.csv")
        made_from = _made_from(config)
        write_text(json.dumps({"made_from": made_from, "fields": fields}), config.run_dir / "sampling.json")
    state.wait_for_everyone()


def try_sampling(pipeline, rows, config):
    """A row for each number of steps and guidance scale: CIEDE2000 of data-set rows with seed 0, after the merge.

    `vague`, `detailed`: means by prompt; `over_vague`, `over_gray`: detailed less vague, and less the photos left gray,
    with 95 % intervals (`_low`, `_high`); `chroma_ratio`: mean chroma under the detailed prompt over the photos' own.
    """
    truths, table = [srgb_to_lab(to_float(image)) for image in rows["image"]], []
    errors = {"gray": np.array(errors_of([truth * [1, 0, 0] for truth in truths], truths))}
    for steps, scale in grid(config):
        tried = config.replace(num_inference_steps=steps, guidance_scale=scale)
        for level in COMPARED:  # the detailed one last
            labs = colorize_under(pipeline, rows, level, 0, tried)
            errors[level] = np.array(errors_of(labs, truths))
        row = {"steps": steps, "guidance": scale, "photos": len(rows)} | {
            level: errors[level].mean() for level in COMPARED
        }
        for other in ("vague", "gray"):
            row |= named_ends(f"over_{other}", interval(errors["detailed"] - errors[other], rows["subject"]))
        ratio = np.mean([chroma(lab) for lab in labs]) / np.mean([chroma(truth) for truth in truths])
        table.append(row | {"chroma_ratio": ratio})
    return pd.DataFrame(table).round(3)


def pick_sampling(table):
    """The row of `try_sampling` with the lowest mean error of both prompts, if its chroma ratio is in `CHROMA_RATIO`.

    Choosing for the detailed prompt alone would favour the one that the study expects to win. If no chroma ratio is in
    the range, the nearest count; of equal rows the one with fewer steps, then less guidance.
    """
    low, high = CHROMA_RATIO
    away = np.maximum(low - table["chroma_ratio"], table["chroma_ratio"] - high).clip(lower=0)
    of_both = table.assign(error=table[list(COMPARED)].mean(axis=1))[away == away.min()]
    return table.loc[of_both.sort_values(["error", "steps", "guidance"]).index[0]]


def with_chosen_sampling(config):
    """The profile with the steps and guidance that `choose_sampling` chose; itself where it names none to try.

    Not chosen yet, or for another ControlNet or grid, is a ValueError that says to run 04.
    """
    if not grid(config):
        return config
    choice = _read_choice(config)
    if not choice:
        raise ValueError(f"no steps and guidance chosen in {config.run_dir}: run notebook 04_colorize_photos first")
    return config.replace(**choice)


def read_tried(config):
    """The table of `try_sampling` that has the steps and guidance of the configuration; None if there is none."""
    path = config.run_dir / "sampling.csv" if grid(config) else config.sampling_tried
    if not path or not resolve(path).is_file():
        return None
    table = pd.read_csv(resolve(path))
    is_own = (table["steps"] == config.num_inference_steps) & (table["guidance"] == config.guidance_scale)
    return table if is_own.any() else None


def grid(config):
    """The (steps, guidance scale) to try; none if there is no choice."""
    tried = list(product(config.steps_to_try, config.guidance_to_try))
    return tried if len(tried) > 1 else []


def _made_from(config):
    """What a choice of sampling rests on, as a short text."""
    fields = config.values(*DATA_FIELDS, "guidance_share", *MODEL_FIELDS)
    return hash_of([fields, grid(config), hash_of_controlnet(config)])


def _read_choice(config):
    """The fields that were chosen for this ControlNet and grid; None where they were not."""
    path = config.run_dir / "sampling.json"
    choice = json.loads(path.read_text()) if path.exists() else {}
    return choice["fields"] if choice.get("made_from") == _made_from(config) else None
