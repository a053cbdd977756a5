"""What the pocket model was to reach, measured on the validation photos: `goals.csv`, a part of its card."""

from dataclasses import replace

import numpy as np
import pandas as pd

from lib.binding import answers, cases_of, judge, mask_of, prompts_of
from lib.color import gray_from_luminance, luminance, srgb_to_lab, to_float, to_pil
from lib.color_words import hue_distance
from lib.colorize import colorize_level, errors_of, merge, seed_of
from lib.figures import save_sheet
from lib.inference import sample
from lib.models import add_controlnet
from lib.pocket_model.grounding import attention_in_place
from lib.prompts import TARGETS
from lib.report import with_interval
from lib.stats import interval, named_ends

SETTINGS = ((1, 1.0),)  # steps and guidance that every model is measured with
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

CONTRASTS = {
    "over_gray": ("detailed", "gray"),
    "over_vague": ("detailed", "vague"),
    "over_flat": ("detailed", "flat"),
    "object_over_vague": ("object", "vague"),
}


def measure_goals(pipeline, rows, known, sampling):
    """The columns of `GOALS` for data-set rows that weren't trained on, and `known` ones that were; one seed.

    Differences in CIEDE2000 have the ends of their 95 % intervals beside them (`_low`, `_high`).
    """
    found = measure_errors(pipeline, rows, sampling) | measure_words(pipeline, rows, sampling)
    found |= {"known_gain": measure_errors(pipeline, known, sampling, ("detailed",))["new_gain"]}
    found |= {"border": chroma_of_borders(pipeline, rows, sampling), "attention": attention_in_place(pipeline, rows)}
    return {name: round(float(value), 3) for name, value in found.items()}


def measure_errors(pipeline, rows, sampling, levels=("vague", "object", "detailed")):
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
    """A row of `measure_goals` for each ControlNet, {name: ControlNet}, and each of `SETTINGS`."""
    table = []
    for name, controlnet in controlnets.items():
        pipeline = add_controlnet(base, controlnet)
        for steps, guidance in SETTINGS:
            tried = replace(sampling, num_inference_steps=steps, guidance_scale=guidance)
            row = {"model": name, "steps": steps, "guidance": guidance}
            table.append(row | measure_goals(pipeline, rows, known, tried))
    return pd.DataFrame(table)


def goals_table(measured):
    """A row of text for each of `GOALS`, and a column for each row of `measure_models`."""
    table = pd.DataFrame(GOALS.values(), columns=["measure", "wanted"])
    for row in measured.to_dict("records"):
        steps = f"{row['steps']} step{'s' if row['steps'] > 1 else ''}"
        ends = [(row[f"{name}_low"], row[f"{name}_high"]) if name in CONTRASTS else (np.nan,) * 2 for name in GOALS]
        forms = ["+.2f" if name in CONTRASTS else ".2f" for name in GOALS]
        found = zip([row[name] for name in GOALS], ends, forms, strict=True)
        table[f"{row['model']}, {steps}"] = [with_interval(value, *of_value, form) for value, of_value, form in found]
    return table


def flat_tint(truth):
    """A CIELAB picture of the same L* whose every place has the photo's mean a*, b*."""
    return np.dstack([truth[..., 0], np.broadcast_to(truth[..., 1:].mean(axis=(0, 1)), truth[..., 1:].shape)])


def measure_words(pipeline, rows, sampling):
    """`own`, `other`, `reached` and `bleed` over the cases of `binding`, each asked in one plain prompt."""
    asked = [(row, case) for row in rows for case in cases_of(row)]
    jobs = {}
    for row, case in asked:
        for prompt in prompts_of(row, *case).values():
            jobs[row["image_id"], prompt] = row["conditioning_image"]
    noise = [seed_of(image_id, 0) for image_id, _ in jobs]
    outputs = sample(pipeline, list(jobs.values()), [prompt for _, prompt in jobs], noise, **vars(sampling))
    ab = {job: srgb_to_lab(lab)[..., 1:] for job, lab in zip(jobs, merge(jobs.values(), outputs), strict=True)}
    table = []
    for row, case in asked:
        of_case = {level: ab[row["image_id"], prompt] for level, prompt in prompts_of(row, *case).items()}
        _, _, plain = next(answers(of_case, mask_of(row), None, 0))
        table.append(judge(plain, of_case["object"], mask_of(row), *case) | {"two": bool(case[1])})
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
        outputs = sample(pipeline, framed, list(rows["detailed_caption"]), noise, **vars(sampling))
        for picture in merge(framed, outputs):
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
        pipeline = add_controlnet(base, controlnet)
        outputs = sample(pipeline, images, prompts, [0] * len(images), **vars(sampling))
        for number, picture in enumerate(merge(images, outputs)):
            sheet[number // 3].append(picture)
    columns = ["gray", *(f"{name}: {what}" for name in controlnets for what in ("words", "exchanged", "old photo"))]
    save_sheet(sheet, path, row_titles=titles, column_titles=columns)
