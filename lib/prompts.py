"""Prompts: the prompt conditions of the study, the training prompts, and colours to ask for."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lib.captions import WORDS, change_color_words, colors_only, keep_colors, permute_colors

GENERIC_PROMPTS = WORDS["generic_prompts"]  # the prompt of the 2024 project, and similar ones
VAGUE_PROMPT = GENERIC_PROMPTS[0]
CAPTIONS = ("object_caption", "detailed_caption", "gray_caption")
WRITERS = ("writer_2", "writer_3", "writer_4", "writer_5")  # detailed captions by others, if a photo has them
COMPARED = ("vague", "detailed")  # the conditions of the primary question: under these, every photo is colorized
PRIMARY, SECONDARY, EXPLORATORY = FAMILIES = ("primary", "secondary", "exploratory")
PROMPT_POLICIES = ("generic", "captions", "mix")
TARGETS = WORDS["targets"]  # {word: (hue, chroma, range of mean L* in which an object can have this colour)}
OBJECT_COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "brown", "white")


class Condition(NamedTuple):
    """A prompt condition.

    `prompt(record, rng, records)` returns the prompt of a photo, or None if the photo lacks the text: `record` and
    `records` map the text columns of one photo and of all, `rng` is a numpy Generator of photo and seed.
    `question` is what the contrast with the vague prompt answers ("": not tested), within `family`.
    """

    prompt: Callable
    question: str = ""
    family: str = EXPLORATORY


def _column(name):
    return lambda record, *_: record.get(name) or None


def _edited(function, *arguments):
    return lambda record, rng, _: function(record["detailed_caption"], *arguments, rng)


def _mismatched(record, rng, records):
    others = [other["detailed_caption"] for other in records if other["category"] != record["category"]]
    if not others:
        raise ValueError("prompt condition 'mismatched' needs photos of two categories: raise n_images")
    return others[rng.integers(len(others))]


# In the order of tables and charts. To add a condition, add an entry: notebooks 04 to 06 colorize, measure and test it.
CONDITIONS = {
    "empty": Condition(lambda *_: "", "Is an empty prompt better than the vague one?"),
    "vague": Condition(lambda *_: VAGUE_PROMPT),
    "object": Condition(_column("object_caption"), "Does it help to name objects without their colours?", SECONDARY),
    "detailed": Condition(_column("detailed_caption"), "Do detailed prompts colorize better than vague ones?", PRIMARY),
    "gray_caption": Condition(_column("gray_caption"), "Does a caption of the gray photo help?", SECONDARY),
    "auto_caption": Condition(_column("auto_caption"), "Does the caption of a network help?", SECONDARY),
    "narrative": Condition(_column("narrative"), "Does a long spoken description help?"),
    "recolored": Condition(_edited(change_color_words), "Does the model follow wrong colour words?"),
    "mismatched": Condition(_mismatched, "Does any long prompt help?"),
    "colors_only": Condition(_edited(lambda caption, _: colors_only(caption)), "Do colour words alone help?"),
    "permuted_colors": Condition(_edited(permute_colors), "Do the caption's colours help at the wrong objects?"),
    "keep_1_colors": Condition(_edited(keep_colors, 1), "Does the caption help with one colour, drawn at random?"),
    "keep_2_colors": Condition(_edited(keep_colors, 2), "Does it with two?"),
    "keep_4_colors": Condition(_edited(keep_colors, 4), "Does it with four?"),
    **{name: Condition(_column(name), "Does another writer's caption help?") for name in WRITERS},
}


def _rng_of(record, seed):
    return np.random.default_rng((seed, zlib.crc32(record["image_id"].encode())))


def prompts_under(condition: str, records: Sequence[Mapping], seed: int = 0) -> list[str | None]:
    """Returns the prompt of each record under a condition; None for one that lacks the text."""
    return [CONDITIONS[condition].prompt(record, _rng_of(record, seed), records) for record in records]


def write_prompts(rows) -> dict[str, list[str]]:
    """Returns {condition: a prompt for each row}, without conditions for which a photo lacks the text."""
    records = [{name: value for name, value in row.items() if isinstance(value, str)} for row in rows]
    prompts = {name: prompts_under(name, records) for name in CONDITIONS}
    return {name: texts for name, texts in prompts.items() if None not in texts}


def allowed_words(lightness: float, words: Sequence[str] = OBJECT_COLORS) -> list[str]:
    """Returns those of some words of `TARGETS` that an object of this mean L* can have as its colour."""
    return [word for word in words if TARGETS[word][2][0] <= lightness <= TARGETS[word][2][1]]


def draw_training_prompt(record: Mapping, policy: str, seed: int) -> str:
    """Draws the training prompt of a photo under a policy: the same for the same seed and `image_id`.

    `generic`: one of `GENERIC_PROMPTS`; `captions`: the detailed caption; `mix`: the same 7 times in 10, else others.
    """
    rng = _rng_of(record, seed)
    if policy == "mix":
        policy = rng.choice(["captions", "objects", "generic"], p=[0.7, 0.15, 0.15])
    if policy == "generic":
        return str(rng.choice(GENERIC_PROMPTS))
    return record[{"captions": "detailed_caption", "objects": "object_caption"}[policy]]
