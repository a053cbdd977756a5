"""Binding: does a thing take the colour of its own words, and does the rest of the photo keep out of it?

Photos with a mask of their dominant thing are asked for it in one colour ("a red alpaca"), and for the thing and what
surrounds it in a colour each ("a red alpaca, green trees"), then with the two words swapped. Lightness must allow the
words. Each request is answered by several methods; `regions` lays pictures that are all in one colour over another.
"""

import zlib

import numpy as np
import pandas as pd

from lib.cache import progress
from lib.color import luminance, srgb_to_lab, to_float
from lib.color_words import article_of
from lib.metrics import SAME_HUE, hue_and_chroma, name_color
from lib.prompts import TARGETS, VAGUE_PROMPT, allowed_words, colored_object
from lib.regions import Region, compose, find_masks, share_out

PAIRS = 2  # of words for a photo, each asked both ways
PLAN_COLUMNS = ("image_id", "category", "prompt_level", "prompt", "seed")
RESULTS = ("own_thing", "other_thing", "own_ground", "other_ground", "shift_inside", "shift_outside", "chroma_deficit")
COLUMNS = ("image_id", "thing", "thing_word", "ground", "ground_word", "method", "masks", *RESULTS)


def mask_of(row):
    """The mask of a data-set row's thing, bool (H, W); None where it has none, or nothing is left beside it."""
    mask = np.asarray(row["mask"]) > 127 if row["mask"] else None
    return mask if mask is not None and 0.01 < mask.mean() < 0.97 else None


def cases_of(row):
    """What a data-set row is asked: pairs (word of the thing, word of the ground), the second "" for the thing alone.

    Pairs of words are drawn from the photo's id; brown and orange, which have one hue, are no pair.
    """
    mask, plane = mask_of(row), luminance(to_float(row["image"]))
    if mask is None:
        return []
    words = allowed_words(plane[mask].mean())
    both = [word for word in allowed_words(plane[~mask].mean()) if word in words] if row["ground"] else []
    pairs = [(a, b) for a in both for b in both if a < b and SAME_HUE.get(a, a) != SAME_HUE.get(b, b)]
    drawn = np.random.default_rng(zlib.crc32(row["image_id"].encode())).permutation(len(pairs))[:PAIRS]
    chosen = [pairs[index] for index in drawn]
    return [(word, "") for word in words] + [case for a, b in chosen for case in ((a, b), (b, a))]


def prompts_of(row, thing_word, ground_word):
    """The prompts of a case: `vague`, `object`, `thing`, `thing_region`, and with two words `both`, `ground_region`."""
    thing, ground = colored_object(row["thing"], thing_word), f"{ground_word} {row['ground']}"
    prompts = {"vague": VAGUE_PROMPT, "object": f"{article_of(row['thing'])} {row['thing']}", "thing": thing}
    prompts["thing_region"] = Region(row["thing"], thing_word).phrase
    if ground_word:
        prompts |= {"both": f"{thing}, {ground}", "ground_region": Region(row["ground"], ground_word).phrase}
    return prompts


def plan_binding(rows):
    """The pictures that the cases of data-set rows need, as a table of `PLAN_COLUMNS`: one seed, each prompt once."""
    records = {}
    for row in rows:
        for case in cases_of(row):
            for level, prompt in prompts_of(row, *case).items():
                records[row["image_id"], prompt] = (row["image_id"], row["category"], level, prompt, 0)
    return pd.DataFrame(records.values(), columns=PLAN_COLUMNS)


def measure_binding(rows, images, read_picture, locate):
    """The binding table: one row of `COLUMNS` for each case of data-set rows and each method.

    `images`: the listing of `plan_binding`'s pictures, perhaps of some of the rows only; `locate`: what
    `load_segmenter` returns. Methods:

    - `plain`: the whole request is the prompt
    - `regions`: the picture of each `Region.phrase` colours its own place, which is the `true` mask or `found` by name
    - `object`, `vague`: no colour is asked for, so what they reach is chance

    `own_*`, `other_*`: whether the mean colour of thing or ground is named its own word, or the other one; `shift_*`:
    mean distance in a*b* from the picture under `object`, in and outside the thing's mask; `chroma_deficit`: how far
    the chroma of what was asked for stays below its word's, on the mean.
    """
    files = images.set_index(["image_id", "prompt"])["after"]
    asked, table = set(images["image_id"]), []
    for row in progress(rows, desc="binding", leave=False):
        cases = cases_of(row) if row["image_id"] in asked else []
        if not cases:
            continue
        mask, plane = mask_of(row), luminance(to_float(row["conditioning_image"]))
        named = [Region(row["thing"], ""), Region(row["ground"] or "background", "")]
        found = find_masks(named, plane, lambda: locate)
        ab = {}
        for case in cases:
            prompts = prompts_of(row, *case)
            for prompt in set(prompts.values()) - set(ab):
                ab[prompt] = srgb_to_lab(read_picture(files[row["image_id"], prompt]))[..., 1:]
            of_case = {level: ab[prompt] for level, prompt in prompts.items()}
            facts = dict(zip(COLUMNS, (row["image_id"], row["thing"], case[0], row["ground"], case[1]), strict=False))
            for method, masks, picture in answers(of_case, mask, found, locate.threshold):
                said = {"method": method, "masks": masks}
                table.append(facts | said | judge(picture, of_case["object"], mask, *case))
    return pd.DataFrame(table, columns=COLUMNS)


def answers(ab, mask, found, threshold):
    """(method, masks, a*b* picture) of a case, from the a*b* of its prompts; `mask` of the thing, `found` by name."""
    two = "both" in ab
    yield "plain", "", ab["both" if two else "thing"]
    true = np.array([mask, ~mask], np.float32)
    for name, masks, sure in (("true", true, 1), ("found", found, threshold)):
        layers = [ab["both"], ab["thing_region"], ab["ground_region"]] if two else [ab["object"], ab["thing_region"]]
        yield "regions", name, compose(layers, share_out(masks if two else masks[:1], sure))
    yield "object", "", ab["object"]
    yield "vague", "", ab["vague"]


def judge(ab, reference, mask, thing_word, ground_word):
    """The `RESULTS` of an a*b* picture (H, W, 2) for a case; nothing is said of a ground that was not asked for."""
    shift = np.hypot(*np.moveaxis(ab - reference, -1, 0))
    results = {"shift_inside": float(shift[mask].mean()), "shift_outside": float(shift[~mask].mean())}
    deficits = []
    for name, part, own, other in (
        ("thing", mask, thing_word, ground_word),
        ("ground", ~mask, ground_word, thing_word),
    ):
        if own:
            hue, chroma = hue_and_chroma(*ab[part].mean(axis=0))
            named = name_color(hue, chroma)
            results[f"own_{name}"] = float(named == SAME_HUE.get(own, own))
            results[f"other_{name}"] = float(named == SAME_HUE.get(other, other)) if other else np.nan
            deficits.append(max(0.0, TARGETS[own][1] - chroma))
    return results | {"chroma_deficit": float(np.mean(deficits))}


def read_binding(path):
    """The table that notebook 05 wrote."""
    return pd.read_csv(path, keep_default_na=False, na_values={name: [""] for name in RESULTS}, dtype={"image_id": str})
