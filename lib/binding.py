"""Binding: do an object and its background each take the colour of their own word, and not the other's?

Photos with a mask of their dominant object are colorized with one colour for the object ("a red alpaca"), and with one
for the object and one for its background ("a red alpaca, green trees"), then with the two words swapped. A word is used
only if the lightness allows it. Each case is answered by several methods; `regions` composes pictures by masks.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pandas as pd

from lib.cache import progress
from lib.captions import article_of
from lib.color import luminance, srgb_to_lab, to_float
from lib.metrics import SAME_HUE, hue_and_chroma, name_color
from lib.prompts import TARGETS, VAGUE_PROMPT, allowed_words
from lib.regions import Region, compose, find_masks, share_out

PAIRS = 2  # pairs of words per photo, each used both ways
PLAN_COLUMNS = ("image_id", "category", "prompt_condition", "prompt", "seed")
RESULTS = ("own_object", "other_object", "own_background", "other_background")
RESULTS += ("shift_inside", "shift_outside", "chroma_deficit")
COLUMNS = ("image_id", "object", "object_word", "background", "background_word", "method", "masks", *RESULTS)


def mask_of(row: dict) -> np.ndarray | None:
    """Returns the mask of a data-set row's object, bool (H, W); None if there is none or it fills the photo."""
    mask = np.asarray(row["mask"]) > 127 if row["mask"] else None
    return mask if mask is not None and 0.01 < mask.mean() < 0.97 else None


def cases_of(row: dict) -> list[tuple[str, str]]:
    """Returns the cases of a data-set row: (word of the object, word of the background or "" for the object alone).

    Pairs of words are drawn from the photo's id; brown and orange, which have one hue, are not paired.
    """
    mask, plane = mask_of(row), luminance(to_float(row["image"]))
    if mask is None:
        return []
    words = allowed_words(plane[mask].mean())
    both = [word for word in allowed_words(plane[~mask].mean()) if word in words] if row["background"] else []
    pairs = [(a, b) for a in both for b in both if a < b and SAME_HUE.get(a, a) != SAME_HUE.get(b, b)]
    drawn = np.random.default_rng(zlib.crc32(row["image_id"].encode())).permutation(len(pairs))[:PAIRS]
    return [(word, "") for word in words] + [case for a, b in (pairs[k] for k in drawn) for case in ((a, b), (b, a))]


def prompts_of(row: dict, object_word: str, background_word: str) -> dict[str, str]:
    """Returns the prompts of a case: `vague`, `object` and `colored_object`, with two words `both`, and of regions."""
    name, background = row["object"], row["background"]
    colored = f"{article_of(object_word)} {object_word} {name}"
    prompts = {"vague": VAGUE_PROMPT, "object": f"{article_of(name)} {name}", "colored_object": colored}
    prompts["object_region"] = Region(name, object_word).phrase
    if background_word:
        prompts["both"] = f"{colored}, {background_word} {background}"
        prompts["background_region"] = Region(background, background_word).phrase
    return prompts


def plan_binding(rows: Iterable[dict]) -> pd.DataFrame:
    """Returns the pictures that the cases of data-set rows need, as a table of `PLAN_COLUMNS`, each prompt once."""
    records = {}
    for row in rows:
        for case in cases_of(row):
            for condition, prompt in prompts_of(row, *case).items():
                records[row["image_id"], prompt] = (row["image_id"], row["category"], condition, prompt, 0)
    return pd.DataFrame(records.values(), columns=PLAN_COLUMNS)


def measure_binding(rows, images: pd.DataFrame, read_picture: Callable, segment: Callable) -> pd.DataFrame:
    """Measures how words bind to objects: one row of `COLUMNS` for each case of data-set rows and each method.

    Methods: `plain`: the whole request is the prompt; `regions`: the picture of each `Region.phrase` colours its own
    region, a `true` mask or one `found` by name; `object`, `vague`: no colour is named, so what they reach is chance.

    Results: `own_*`, `other_*`: whether the mean colour of object or background is named its own word, or the other
    one; `shift_*`: mean distance in a*b* from the picture under `object`, inside and outside the mask;
    `chroma_deficit`: how far the chroma stays below that of the words, on the mean.

    Args:
        rows: data-set rows; those that `images` doesn't list are passed over.
        images: the listing of `plan_binding`'s pictures.
        read_picture: returns sRGB (H, W, 3) in [0, 1] of a file in the listing.
        segment: what `load_segmenter` returns.
    """
    files = images.set_index(["image_id", "prompt"])["after"]
    listed, table = set(images["image_id"]), []
    for row in progress(rows, desc="binding", leave=False):
        cases = cases_of(row) if row["image_id"] in listed else []
        if not cases:
            continue
        mask, plane = mask_of(row), luminance(to_float(row["conditioning_image"]))
        named = [Region(row["object"], ""), Region(row["background"] or "background", "")]
        found, ab = find_masks(named, plane, lambda: segment), {}
        for case in cases:
            prompts = prompts_of(row, *case)
            for prompt in set(prompts.values()) - set(ab):
                ab[prompt] = srgb_to_lab(read_picture(files[row["image_id"], prompt]))[..., 1:]
            ab_of = {condition: ab[prompt] for condition, prompt in prompts.items()}
            values = (row["image_id"], row["object"], case[0], row["background"], case[1])
            keys = dict(zip(COLUMNS, values, strict=False))
            for method, masks, picture in _answers(ab_of, mask, found, segment.threshold):
                table.append({**keys, "method": method, "masks": masks, **judge(picture, ab_of["object"], mask, *case)})
    return pd.DataFrame(table, columns=COLUMNS)


def _answers(ab, mask, found, threshold) -> Iterator[tuple[str, str, np.ndarray]]:
    """(method, masks, a*b* picture) of a case, from the a*b* of its prompts."""
    two = "both" in ab
    yield "plain", "", ab["both" if two else "colored_object"]
    layers = [ab["both"], ab["object_region"], ab["background_region"]] if two else [ab["object"], ab["object_region"]]
    for name, masks, sure in (("true", np.array([mask, ~mask], np.float32), 1), ("found", found, threshold)):
        yield "regions", name, compose(layers, share_out(masks[: len(layers) - 1], sure))
    yield "object", "", ab["object"]
    yield "vague", "", ab["vague"]


def judge(ab: np.ndarray, reference: np.ndarray, mask: np.ndarray, object_word: str, background_word: str) -> dict:
    """Returns the `RESULTS` of an a*b* picture (H, W, 2) for a case, without the background's if it has no word."""
    shift = np.hypot(*np.moveaxis(ab - reference, -1, 0))
    results = {"shift_inside": float(shift[mask].mean()), "shift_outside": float(shift[~mask].mean())}
    deficits = []
    words = (("object", mask, object_word, background_word), ("background", ~mask, background_word, object_word))
    for name, inside, own, other in words:
        if own:
            hue, chroma = hue_and_chroma(*ab[inside].mean(axis=0))
            color = name_color(hue, chroma)
            results[f"own_{name}"] = float(color == SAME_HUE.get(own, own))
            results[f"other_{name}"] = float(color == SAME_HUE.get(other, other)) if other else np.nan
            deficits.append(max(0.0, TARGETS[own][1] - chroma))
    return results | {"chroma_deficit": float(np.mean(deficits))}
