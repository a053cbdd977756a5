"""What is said to the model: the generic sentences, the prompt levels of the study, and the colour words."""

import re

VAGUE_PROMPT = "Colorize this image."
GENERIC_PROMPTS = [  # the study's sentence and its kin
    VAGUE_PROMPT,
    "Colorize this photo.",
    "Add color to this picture.",
    "Make this grayscale photo colorful.",
    "Give this black and white photo its colors.",
    "Turn this photo into a color photo.",
    "Restore the colors of this image.",
    "Paint this photo in natural colors.",
]
PROMPT_LEVELS = ("vague", "detailed")
PROMPT_POLICIES = ("generic", "captions", "mix")

# CIELAB hue angles in degrees at which the eight chromatic words sit.
HUES = {
    "red": 32, "orange": 62, "yellow": 92, "green": 130, "turquoise": 195, "blue": 268, "purple": 315, "pink": 357,
}  # fmt: skip
HUES_OF_OTHER_WORDS = {"golden": 84, "brown": 62, "beige": 82, "cream": 88}
NEUTRALS = ("white", "gray", "silver", "black")
COLOR_WORDS = (*HUES, *HUES_OF_OTHER_WORDS, *NEUTRALS)
COLOR_PATTERN = re.compile(rf"\b({'|'.join(COLOR_WORDS)})\b")


def prompt_for(record, level):
    """The prompt of one photo's record (a mapping with its captions) at a prompt level; unknown level: ValueError."""
    if level == "vague":
        return VAGUE_PROMPT
    if level == "detailed":
        return record["detailed_caption"]
    raise ValueError(f"unknown prompt level {level!r}: known are {', '.join(PROMPT_LEVELS)}")


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
        word = match[0]
        if word in NEUTRALS:
            return word
        new = nearest_hue_word({**HUES, **HUES_OF_OTHER_WORDS}[word] + degrees)
        return {"brown": f"dark {new}", "beige": f"pale {new}", "cream": f"pale {new}"}.get(word, new)

    return fix_articles(COLOR_PATTERN.sub(rename, caption))


def fix_articles(caption):
    """`a` or `an` before every colour word, as its first letter asks."""
    return re.sub(rf"\ban? (?=({'|'.join(COLOR_WORDS)})\b)", lambda m: "an " if m[1][0] in "aeiou" else "a ", caption)
