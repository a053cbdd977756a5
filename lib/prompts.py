"""What is said to the model: the generic sentences, the prompt ladder of the study, and the colour words."""

import re
import zlib

import numpy as np

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
# `stats.CONTRASTS`; a sentence in `templates/report.md.j2`.
PROMPT_LEVELS = ("empty", "vague", "gray_caption", "auto_caption", "object", "detailed", "wrong_color", "other_photo")
PROMPT_POLICIES = ("generic", "captions", "mix")

# CIELAB hue angles in degrees at which the eight chromatic words sit.
HUES = dict(red=32, orange=62, yellow=92, green=130, turquoise=195, blue=268, purple=315, pink=357)
HUES_OF_OTHER_WORDS = dict(golden=84, gold=84, blond=85, blonde=85, brown=62, tan=75, beige=82, cream=88, maroon=25)
HUES_OF_OTHER_WORDS |= dict(teal=195, violet=310)
NEUTRALS = ("white", "gray", "grey", "silver", "black")
COLOR_WORDS = (*HUES, *HUES_OF_OTHER_WORDS, *NEUTRALS)
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
COLOR_PATTERN = re.compile(rf"\b({'|'.join(COLOR_WORDS)})\b", re.I)


def ladder(rows, seed=0):
    """{level: prompts} of the whole ladder for records; `gray_caption` is left out where a photo has none.

    `auto_caption` is no photo's own: `lib.l4.captioner` writes it.
    """
    rows = [{name: row[name] for name in ("image_id", "category", *CAPTIONS)} for row in rows]
    own = [level for level in PROMPT_LEVELS if level != "auto_caption"]
    levels = [level for level in own if level != "gray_caption" or all(row[level] for row in rows)]
    return {level: prompts_at(level, rows, seed) for level in levels}


def prompts_at(level, rows, seed=0):
    """The prompts of records (mappings with `image_id`, `category` and captions) at one level of the ladder.

    `empty`: ""; `vague`: the study's sentence; `gray_caption`, `object`, `detailed`: the photo's own captions;
    `wrong_color`: the detailed one with every colour word changed; `other_photo`: the detailed one of a photo of
    another category. Both `wrong_color` and `other_photo` are drawn from the seed and the photo. An unknown level is a
    ValueError.
    """
    captions = {"gray_caption": "gray_caption", "object": "object_caption", "detailed": "detailed_caption"}
    if level in captions:
        return [row[captions[level]] for row in rows]
    if level in ("empty", "vague"):
        return ["" if level == "empty" else VAGUE_PROMPT] * len(rows)
    if level == "wrong_color":
        return [change_color_words(row["detailed_caption"], _rng_of(row, seed)) for row in rows]
    if level == "other_photo":
        return _prompts_of_others(rows, seed)
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


def nearest_hue_word(degrees):
    """The chromatic word whose CIELAB hue is nearest to an angle."""
    return min(HUES, key=lambda word: abs((HUES[word] - degrees + 180) % 360 - 180))


def rotate_color_words(caption, degrees):
    """Rename the colours of a caption as a rotation of all hues by an angle changes them; neutral words stay."""

    def rename(match):
        word = match[0].lower()
        if word in NEUTRALS:
            return match[0]
        new = nearest_hue_word({**HUES, **HUES_OF_OTHER_WORDS}[word] + degrees)
        return {"brown": f"dark {new}", "beige": f"pale {new}", "cream": f"pale {new}"}.get(word, new)

    return fix_articles(COLOR_PATTERN.sub(rename, caption))


def change_color_words(caption, rng):
    """Give every colour word of a caption another colour: hues turn by 100 to 260 degrees, neutral words get a hue."""
    angle, new_hues = rng.uniform(100, 260), {word: str(rng.choice(list(HUES))) for word in NEUTRALS}
    hues = {**HUES, **HUES_OF_OTHER_WORDS}
    return fix_articles(
        COLOR_PATTERN.sub(lambda m: new_hues.get(m[1].lower()) or nearest_hue_word(hues[m[1].lower()] + angle), caption)
    )


def fix_articles(caption):
    """`a` or `an` before every colour word, as its first letter asks."""
    return re.sub(rf"\ban? (?=({'|'.join(COLOR_WORDS)})\b)", lambda m: "an " if m[1][0] in "aeiou" else "a ", caption)
