"""A caption rewritten: its colours changed, fewer, alone or in other places."""

import re
from itertools import pairwise

from lib.color_words import (
    COLOR_PATTERN,
    HUES,
    HUES_OF_WORDS,
    SHADES,
    find_places,
    hue_distance,
    put_words,
    without_color_words,
)

NEXT_NEUTRAL = {"white": "gray", "gray": "black", "grey": "black", "black": "silver"}  # others: white


def nearest_hue_word(degrees):
    """The chromatic word whose CIELAB hue is nearest to an angle."""
    return min(HUES, key=lambda word: hue_distance(HUES[word], degrees))


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
        far = [new for new, hue in HUES.items() if hue_distance(hue, HUES_OF_WORDS[word]) >= 60]
        free = [new for new in far if new not in turned.values()] or far
        turned[word] = min(free, key=lambda new: hue_distance(HUES[new], HUES_OF_WORDS[word] + degrees))
    return turned


def _flaws(old, new, groups):
    """How many places of a draw keep their colour, plus how many words stand beside themselves in a group."""
    words = [(group, word) for group, text in zip(groups, new, strict=True) for word in COLOR_PATTERN.findall(text)]
    repeats = sum(first == second for first, second in pairwise(words))
    return repeats + sum(_alike(_hues(before), _hues(after)) for before, after in zip(old, new, strict=True))


def _alike(first, second):
    return first == second == [] or any(hue_distance(a, b) < 60 for a in first for b in second)


def _hues(text):
    return [HUES_OF_WORDS[word] for word in COLOR_PATTERN.findall(text) if word in HUES_OF_WORDS]


def keep_colors(caption, k, rng):
    """A caption with `k` of its colours, drawn at random, and without the others; with fewer colours, as it is.

    `rng` is a numpy Generator.
    """
    places = find_places(caption)
    if len(places) <= k:
        return caption
    return without_color_words(caption, keep=sorted(rng.permutation(len(places))[:k]))


def colors_alone(caption):
    """The colours of a caption in their order, without what they belong to; "" where there are none."""
    return ", ".join(caption[start:end].lower() for start, end, _ in find_places(caption))


def permute_colors(caption, rng):
    """A caption whose colours have changed places, as many as possible of them; `rng` is a numpy Generator."""
    places = find_places(caption)
    texts = [caption[start:end] for start, end, _ in places]
    draws = [rng.permutation(len(texts)) for _ in range(20)]
    order = min(draws, key=lambda draw: sum(texts[k].lower() == texts[n].lower() for n, k in enumerate(draw)))
    return put_words(caption, [(start, end, texts[k]) for (start, end, _), k in zip(places, order, strict=True)])
