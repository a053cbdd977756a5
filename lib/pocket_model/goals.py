"""What the pocket model was to reach, measured on the validation photos: `goals.csv`, a part of its card."""

import numpy as np
import pandas as pd

from lib.binding import cases_of, judge, mask_of, plan_binding, prompts_of
from lib.color import gray_from_luminance, luminance, srgb_to_lab, to_float, to_pil
from lib.color_words import hue_distance
from lib.colorize import colorize_level, errors_of, sample_and_merge, seed_of
from lib.figures import save_sheet
from lib.models import add_controlnet
from lib.pocket_model.grounding import attention_in_place
from lib.prompts import TARGETS
from lib.report import with_interval
from lib.stats import interval, named_ends

KNOWN_PHOTOS, SHOWN = 60, 9
NEUTRAL = 5  # chroma below which a true colour is neutral
BORDER, BORDERS = 12, (97, 4)  # px of the border that is put around the photos of 128 px, and its L*
GOALS = {  # by column: what it says, and what was wanted
    "own": ("two things with a word each: took its own word's colour", "at least 0.55"),
    "other": ("two things with a word each: took the other's", "at most 0.20"),
    "reached": ("one thing with a word: took its colour", "no target"),
    "bleed": ("one thing with a word: change elsewhere over change in the thing", "at most 0.45"),
    "over_gray": ("CIEDE2000, detailed - gray", "below zero, clear"),
    "over_vague": ("CIEDE2000, detailed - vague", "at most -2.0, clear"),
    "over_flat": ("CIEDE2000, detailed - the true mean colour everywhere", "at most +0.5"),
    "object_over_vague": ("CIEDE2000, object - vague", "at most 0"),
    "chroma_ratio": ("chroma, detailed over the true one", "0.85 to 1.15"),
    "neutral": ("chroma where the true one is below 5", "at most 6"),
    "border": ("chroma on white and black borders", "at most 6"),
    "known_gain": ("error over gray: photos it was trained on", "near that of validation photos"),
    "new_gain": ("error over gray: validation photos", "near that of photos it was trained on"),
    "attention": ("attention with the right one of two colour words (chance 0.5)", "no target"),
}
IN_TRIALS = {  # the measures of trials, and what their table calls them
    "own": "two things: own colour",
    "other": "the other's",
    "reached": "one thing: its colour",
    "bleed": "its bleed",
    "over_gray": "detailed - gray",
    "border": "chroma on borders",
    "attention": "attention in place",
}
CONTRASTS = {  # of CIEDE2000
    "over_gray": ("detailed", "gray"),
    "over_vague": ("detailed", "vague"),
    "over_flat": ("detailed", "flat"),
    "object_over_vague": ("object", "vague"),
}


def measure_goals(pipeline, rows, known, sampling):
    """The columns of `GOALS` for data-set rows that weren't trained on, and `known` ones that were; one seed.

    Differences in CIEDE2000 have the ends of their 95 % intervals beside them (`_low`, `_high`).
    """
    known_gain = measure_errors(pipeline, known, sampling, ("detailed",))["new_gain"]
    return measure_new(pipeline, rows, sampling) | {"known_gain": round(float(known_gain), 3)}


def measure_new(pipeline, rows, sampling, levels=("vague", "object", "detailed")):
    """The columns of `GOALS` that need no photos of the training; of `CONTRASTS` those of these levels."""
    found = measure_errors(pipeline, rows, sampling, levels) | measure_words(pipeline, rows, sampling)
    found |= {"border": chroma_of_borders(pipeline, rows, sampling), "attention": attention_in_place(pipeline, rows)}
    return {name: round(float(value), 3) for name, value in found.items()}


def measure_errors(pipeline, rows, sampling, levels):
    """The measures of `GOALS` that need the true photos: `CONTRASTS` of these levels, chroma, the gain over gray."""
    truths, errors = [srgb_to_lab(to_float(image)) for image in rows["image"]], {}
    references = {"gray": [truth * [1, 0, 0] for truth in truths], "flat": [flat_tint(truth) for truth in truths]}
    for name, labs in references.items():
        errors[name] = np.array(errors_of(labs, truths))
    for level in levels:  # the detailed one last
        labs = colorize_level(pipeline, rows, level, 0, sampling)
        errors[level] = np.array(errors_of(labs, truths))
    ours, true = (np.concatenate([chroma_of_pixels(lab) for lab in part]) for part in (labs, truths))
    found = {"chroma_ratio": ours.mean() / true.mean(), "neutral": ours[true < NEUTRAL].mean()}
    for name, (first, second) in CONTRASTS.items():
        if {first, second} <= errors.keys():
            found |= named_ends(name, interval(errors[first] - errors[second], rows["subject"]))
    return found | {"new_gain": errors["detailed"].mean() / errors["gray"].mean()}


def chroma_of_pixels(lab):
    """The chroma of each pixel of a CIELAB picture, (H * W,)."""
    return np.hypot(lab[..., 1], lab[..., 2]).ravel()


def measure_models(base, controlnets, rows, known, sampling):
    """A row of `measure_goals` for each ControlNet, {name: ControlNet}."""
    table, settings = [], {"steps": sampling.num_inference_steps, "guidance": sampling.guidance_scale}
    for name, controlnet in controlnets.items():
        found = measure_goals(add_controlnet(base, controlnet), rows, known, sampling)
        table.append({"model": name} | settings | found)
    return pd.DataFrame(table)


def goals_table(measured):
    """A row of text for each of `GOALS`, and a column for each row of `measure_models`."""
    table = pd.DataFrame(GOALS.values(), columns=["measure", "wanted"])
    for row in measured.to_dict("records"):
        steps = f"{row['steps']} step{'s' if row['steps'] > 1 else ''}"
        table[f"{row['model']}, {steps}"] = [text_of(name, row) for name in GOALS]
    return table


def text_of(name, row):
    """A measure in a row of `measure_models`, as text; those of `CONTRASTS` with their intervals."""
    if name in CONTRASTS:
        return with_interval(row[name], row[f"{name}_low"], row[f"{name}_high"])
    return f"{row[name]:.2f}"


def trials_table(measured):
    """A row of text for each trial of `trials.csv`: each measure's mean over the seeds, with the lowest and highest."""
    of_trials = measured.groupby("trial", sort=False)[list(IN_TRIALS)]
    text = of_trials.agg(lambda found: f"{found.mean():.2f} ({found.min():.2f} to {found.max():.2f})")
    return text.rename(columns=IN_TRIALS).reset_index()


def flat_tint(truth):
    """A CIELAB picture of the same L* whose every place has the photo's mean a*, b*."""
    return np.dstack([truth[..., 0], np.broadcast_to(truth[..., 1:].mean(axis=(0, 1)), truth[..., 1:].shape)])


def measure_words(pipeline, rows, sampling):
    """`own`, `other`, `reached` and `bleed` over the cases of `binding`, each asked in one plain prompt."""
    plan, gray = plan_binding(rows), {row["image_id"]: row["conditioning_image"] for row in rows}
    plan = plan[plan["prompt_level"].isin(("object", "thing", "both"))]
    noise = [seed_of(image_id, 0) for image_id in plan["image_id"]]
    shown = [gray[image_id] for image_id in plan["image_id"]]
    pictures = sample_and_merge(pipeline, shown, list(plan["prompt"]), noise, sampling)
    jobs, table = zip(plan["image_id"], plan["prompt"], strict=True), []
    ab = {job: srgb_to_lab(picture)[..., 1:] for job, picture in zip(jobs, pictures, strict=True)}
    for row in rows:
        for case in cases_of(row):
            prompts, two = prompts_of(row, *case), bool(case[1])
            plain, reference = (ab[row["image_id"], prompts[level]] for level in ("both" if two else "thing", "object"))
            table.append(judge(plain, reference, mask_of(row), *case) | {"two": two})
    table = pd.DataFrame(table)
    two, one = table[table["two"]], table[~table["two"]]
    words = {name: two[[f"{name}_thing", f"{name}_ground"]].mean().mean() for name in ("own", "other")}
    words["reached"] = one["own_thing"].mean()
    return words | {"bleed": one["shift_outside"].mean() / one["shift_inside"].mean()}


def frame(image, lightness):
    """A gray PIL picture made smaller, with a border of BORDER px and this L* around it."""
    plane = np.full((image.height, image.width), lightness, np.float32)
    inner = image.resize((image.width - 2 * BORDER, image.height - 2 * BORDER))
    plane[BORDER:-BORDER, BORDER:-BORDER] = luminance(to_float(inner))
    return to_pil(gray_from_luminance(plane))


def chroma_of_borders(pipeline, rows, sampling):
    """Mean chroma on a white and a black border around photos, under their detailed prompts."""
    found = []
    for lightness in BORDERS:
        framed = [frame(image, lightness) for image in rows["conditioning_image"]]
        noise = [seed_of(image_id, 0) for image_id in rows["image_id"]]
        for picture in sample_and_merge(pipeline, framed, list(rows["detailed_caption"]), noise, sampling):
            ab = srgb_to_lab(picture)[..., 1:]
            ab[BORDER:-BORDER, BORDER:-BORDER] = np.nan
            found.append(np.nanmean(np.hypot(*np.moveaxis(ab, -1, 0))))
    return np.mean(found)


def apart(words):
    """How many degrees lie between the hues of two words."""
    return hue_distance(*(TARGETS[word][0] for word in words))


def save_goal_sheet(base, controlnets, rows, sampling, path):
    """A sheet of what each ControlNet makes of photos: two things with a word each, the words exchanged, an old photo.

    The old photo has a border, is faded and grainy, and comes under its detailed prompt. Shown are the first SHOWN rows
    that `binding` gives two words.
    """
    pairs = [(row, [case for case in cases_of(row) if case[1]]) for row in rows]
    shown = [(row, *max(cases, key=apart)) for row, cases in pairs if cases][:SHOWN]
    images, prompts, titles, draw = [], [], [], np.random.default_rng(0)
    for row, first, second in shown:
        plane = luminance(to_float(frame(row["conditioning_image"], BORDERS[0])))
        old = to_pil(gray_from_luminance(15 + 0.7 * plane + draw.normal(0, 3, plane.shape)))
        images += [row["conditioning_image"], row["conditioning_image"], old]
        prompts += [prompts_of(row, *case)["both"] for case in ((first, second), (second, first))]
        prompts.append(row["detailed_caption"])
        titles.append(f"{row['thing']}, {row['ground']}:\n{first}, {second}")
    sheet = [[row["conditioning_image"]] for row, *_ in shown]
    for controlnet in controlnets.values():
        pictures = sample_and_merge(add_controlnet(base, controlnet), images, prompts, [0] * len(images), sampling)
        for number, picture in enumerate(pictures):
            sheet[number // 3].append(picture)
    columns = ["gray", *(f"{name}: {what}" for name in controlnets for what in ("words", "exchanged", "old photo"))]
    save_sheet(sheet, path, row_titles=titles, column_titles=columns)
