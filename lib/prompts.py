"""What is said to the model: the generic sentences, the prompt ladder of the study, and colours to ask for."""

import re
import zlib

import numpy as np

from lib import rewriting
from lib.color import srgb_to_lab, to_float
from lib.color_words import COLORS, HUES
from lib.rewriting import nearest_hue_word

VAGUE_PROMPT = "Colorize this image."
GENERIC_PROMPTS = [  # the study's sentence, and others like it
    VAGUE_PROMPT,
    "Colorize this photo.",
    "Add color to this picture.",
    "Make this grayscale photo colorful.",
    "Give this black and white photo its colors.",
    "Turn this photo into a color photo.",
    "Restore the colors of this image.",
    "Paint this photo in natural colors.",
]
CAPTIONS = ("object_caption", "detailed_caption", "gray_caption")
# To add a level: a name here, in the order of tables and charts; a rule in `prompts_at`; its contrasts in
# `stats.QUESTIONS`; a sentence in `templates/report.md.j2`.
LADDER = ("empty", "vague", "gray_caption", "auto_caption", "object", "detailed", "wrong_color", "other_photo")
DOSES = (0, 1, 2, 4)  # how many colours of the detailed caption are kept
PARTS = ("colors_only", "shuffled", "permuted", "one_color", "filler")  # what in a detailed caption works
WRITERS = ("writer_2", "writer_3", "writer_4", "writer_5")  # detailed captions by others, where a photo has them
TEXTS = {"gray_caption": "gray_caption", "object": "object_caption", "detailed": "detailed_caption"}  # by level
TEXTS |= {name: name for name in WRITERS}
PROBES = (*(f"dose_{k}" for k in DOSES), *PARTS, *WRITERS)
DRAWN = ("dose_1", "dose_2", "dose_4", "shuffled", "permuted")  # drawn anew for each seed of a photo
PROMPT_LEVELS = (*LADDER, *PROBES)
PROMPT_POLICIES = ("generic", "captions", "mix")

TARGETS = {  # word: hue, chroma and the range of mean L* in which a thing can be called so
    **{word: (hue, 45, (25, 85)) for word, hue in HUES.items()},
    "yellow": (HUES["yellow"], 60, (50, 95)),
    "red": (HUES["red"], 55, (20, 65)),
    "pink": (HUES["pink"], 35, (50, 90)),
    "brown": (60, 28, (15, 55)),
    "beige": (80, 16, (60, 92)),
    "white": (90, 2, (70, 100)),
    "gray": (90, 2, (25, 70)),
    "black": (90, 2, (0, 30)),
}
STEERING_WORDS = ("red", "orange", "yellow", "green", "blue", "purple", "brown", "white")


def ladder(rows, n_seeds=1):
    """{level: prompts} of all levels for records; a level of captions that not all have is left out.

    A prompt is a text, or for the levels in `DRAWN` a text for each of `n_seeds` draws. `auto_caption` is no photo's
    own: `lib.l4.captioner` writes it. `one_color` is left out where records have no `image`.
    """
    names = ("image_id", "category", *CAPTIONS, *WRITERS)
    records = [{name: row.get(name, "") for name in names} | _mean_color_of(row) for row in rows]
    needed = {**TEXTS, "one_color": "mean_lab"}
    own = [level for level in PROMPT_LEVELS if level != "auto_caption"]
    levels = [level for level in own if level not in needed or all(row[needed[level]] for row in records)]
    found = {level: prompts_at(level, records) for level in levels if level not in DRAWN}
    draws = {level: zip(*(prompts_at(level, records, seed) for seed in range(n_seeds)), strict=True) for level in DRAWN}
    return {level: found[level] if level in found else list(draws[level]) for level in levels}


def _mean_color_of(row):
    image = row.get("image")
    return {"mean_lab": tuple(srgb_to_lab(to_float(image)).mean(axis=(0, 1))) if image else ()}


def prompts_at(level, rows, seed=0):
    """The prompts of records (mappings with `image_id`, `category` and captions) at one of `PROMPT_LEVELS`.

    `empty`: ""; `vague`: the study's sentence; `gray_caption`, `object`, `detailed`, `writer_2` ...: the photo's own
    captions; `wrong_color`: the detailed one with every colour changed (`change_color_words`); `other_photo`: the
    detailed one of a photo of another category. Of the detailed caption, `dose_k` keeps k colours, `colors_only` only
    the colours; `shuffled` has its words in another order, `permuted` its colours; `filler` has as many words that say
    nothing; `one_color` names the photo's mean colour. What is drawn, is drawn from the seed and the photo. An unknown
    level is a ValueError.
    """
    if level in TEXTS:
        return [row[TEXTS[level]] for row in rows]
    if level in ("empty", "vague"):
        return ["" if level == "empty" else VAGUE_PROMPT] * len(rows)
    if level == "other_photo":
        return _prompts_of_others(rows, seed)
    if level == "one_color":
        return [mean_color_prompt(*row["mean_lab"]) for row in rows]
    if level in REWRITTEN:
        return [REWRITTEN[level](row["detailed_caption"], _rng_of(row, seed)) for row in rows]
    raise ValueError(f"unknown prompt level {level!r}: known are {', '.join(PROMPT_LEVELS)}")


def _rng_of(row, seed):
    return np.random.default_rng((seed, zlib.crc32(row["image_id"].encode())))


def _prompts_of_others(rows, seed):
    by_category = {}
    for row in rows:
        by_category.setdefault(row["category"], []).append(row["detailed_caption"])
    if len(by_category) < 2:
        raise ValueError("prompt level 'other_photo' needs photos of two categories: raise n_images")
    prompts = []
    for row in rows:
        others = [text for name, part in by_category.items() if name != row["category"] for text in part]
        prompts.append(others[_rng_of(row, seed).integers(len(others))])
    return prompts


def allowed_words(lightness, words=STEERING_WORDS):
    """Those of some words of `TARGETS` in which a thing of this mean L* can be seen."""
    return [word for word in words if TARGETS[word][2][0] <= lightness <= TARGETS[word][2][1]]


def steering_prompt(thing, word):
    """A prompt that names one thing and one colour."""
    return fix_articles(f"a {word} {thing}")


def draw_training_prompt(record, policy, rng):
    """One training prompt of a photo under a policy.

    `generic`: one of `GENERIC_PROMPTS`, as the study did; `captions`: the detailed caption; `mix`: the detailed
    caption 7 times in 10, else the object caption or a generic prompt. `rng` is a numpy Generator.
    """
    if policy == "mix":
        policy = rng.choice(["captions", "objects", "generic"], p=[0.7, 0.15, 0.15])
    if policy == "generic":
        return str(rng.choice(GENERIC_PROMPTS))
    if policy == "objects":
        return record["object_caption"]
    if policy == "captions":
        return record["detailed_caption"]
    raise ValueError(f"unknown prompt policy {policy!r}: known are {', '.join(PROMPT_POLICIES)}")


def fix_articles(caption):
    """`a` or `an` before every colour word, as its first letter asks."""
    return re.sub(rf"\ban? (?=({COLORS})\b)", lambda m: "an " if m[1][0] in "aeiou" else "a ", caption)


def mean_color_prompt(lightness, a, b):
    """`a <colour> photo` for a mean colour in CIELAB: "gray" below a chroma of 5, else its hue's word.

    Yellow and orange below a chroma of 30 are called beige, or brown where L* is below 60.
    """
    chroma, word = np.hypot(a, b), nearest_hue_word(np.degrees(np.arctan2(b, a)))
    if word in ("orange", "yellow") and chroma < 30:
        word = "beige" if lightness >= 60 else "brown"
    return fix_articles(f"a {'gray' if chroma < 5 else word} photo")


REWRITTEN = {  # level: the detailed caption, rewritten
    **{f"dose_{k}": lambda caption, rng, k=k: rewriting.keep_colors(caption, k, rng) for k in DOSES},
    "wrong_color": rewriting.change_color_words,
    "permuted": rewriting.permute_colors,
    "shuffled": rewriting.shuffle_words,
    "colors_only": lambda caption, rng: rewriting.colors_alone(caption),
    "filler": lambda caption, rng: rewriting.filler_of(caption),
}
