"""What is said to the model: the generic sentences, the prompt ladder of the study, and colours to ask for."""

import re
import zlib
from itertools import pairwise

import numpy as np

from lib.color_words import COLOR_PATTERN, COLORS, HUES, HUES_OF_WORDS, SHADES, find_places, put_words

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
NEXT_NEUTRAL = {"white": "gray", "gray": "black", "grey": "black", "black": "silver"}  # others: white


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
    `wrong_color`: the detailed one with every colour changed (`change_color_words`); `other_photo`: the detailed one of
    a photo of another category; both are drawn from the seed and the photo. An unknown level is a ValueError.
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


def nearest_hue_word(degrees):
    """The chromatic word whose CIELAB hue is nearest to an angle."""
    return min(HUES, key=lambda word: _angle(HUES[word], degrees))


def rotate_color_words(caption, degrees):
    """Rename the colours of a caption as a rotation of all hues by an angle changes them; neutral words stay."""

    def rename(match):
        word = match[0].lower()
        if word not in HUES_OF_WORDS:
            return match[0]
        new = nearest_hue_word(HUES_OF_WORDS[word] + degrees)
        return {"brown": f"dark {new}", "beige": f"pale {new}", "cream": f"pale {new}"}.get(word, new)

    changes = []
    for start, end, _ in find_places(caption):
        text = re.sub(f"(?:{SHADES})[ -]", "", caption[start:end], flags=re.I)
        changes.append((start, end, COLOR_PATTERN.sub(rename, text)))
    return put_words(caption, changes)


def change_color_words(caption, rng):
    """Give every colour of a caption another one, with as many chromatic and neutral words as before.

    All hues turn by one angle of 100 to 260 degrees, to a word at least 60 degrees away; different words become
    different ones as far as the eight words go. The colours, each with its modifiers and neighbours ("dark gray
    blue"), then trade places, so that hues stand where neutral words stood and the other way round as far as there are
    both; a neutral word that still stands for a neutral one becomes the next of white, gray, black and silver. Of up
    to 100 draws the one counts that leaves the fewest places as they were and repeats the fewest words side by side.
    `rng` is a numpy Generator.
    """
    places = find_places(caption)
    old = [re.sub(f"(?:{SHADES})[ -]", "", caption[start:end].lower()) for start, end, _ in places]
    groups = [group for *_, group in places]
    best = _draw_wrong_colors(old, rng)
    for _ in range(100):
        if not _flaws(old, best, groups):
            break
        best = min(best, _draw_wrong_colors(old, rng), key=lambda new: _flaws(old, new, groups))
    return put_words(caption, [(start, end, text) for (start, end, _), text in zip(places, best, strict=True)])


def _draw_wrong_colors(old, rng):
    turned = _turn_hues(dict.fromkeys(COLOR_PATTERN.findall(" ".join(old))), rng.uniform(100, 260))
    new = [COLOR_PATTERN.sub(lambda m: turned.get(m[0], m[0]), old[k]) for k in rng.permutation(len(old))]
    stays = [not _hues(before) and not _hues(after) for before, after in zip(old, new, strict=True)]
    return [
        COLOR_PATTERN.sub(lambda m: NEXT_NEUTRAL.get(m[0], "white"), after) if stay else after
        for after, stay in zip(new, stays, strict=True)
    ]


def _turn_hues(words, degrees):
    turned = {}
    for word in [word for word in words if word in HUES_OF_WORDS]:
        far = [new for new, hue in HUES.items() if _angle(hue, HUES_OF_WORDS[word]) >= 60]
        free = [new for new in far if new not in turned.values()] or far
        turned[word] = min(free, key=lambda new: _angle(HUES[new], HUES_OF_WORDS[word] + degrees))
    return turned


def _flaws(old, new, groups):
    """How many places of a draw keep their colour, plus how many words stand beside themselves in a group."""
    words = [(group, word) for group, text in zip(groups, new, strict=True) for word in COLOR_PATTERN.findall(text)]
    repeats = sum(first == second for first, second in pairwise(words))
    return repeats + sum(_alike(_hues(before), _hues(after)) for before, after in zip(old, new, strict=True))


def _alike(first, second):
    return first == second == [] or any(_angle(a, b) < 60 for a in first for b in second)


def _hues(text):
    return [HUES_OF_WORDS[word] for word in COLOR_PATTERN.findall(text) if word in HUES_OF_WORDS]


def _angle(first, second):
    return abs((first - second + 180) % 360 - 180)


def fix_articles(caption):
    """`a` or `an` before every colour word, as its first letter asks."""
    return re.sub(rf"\ban? (?=({COLORS})\b)", lambda m: "an " if m[1][0] in "aeiou" else "a ", caption)
