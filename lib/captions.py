"""Captions: which of their words are colours, which objects have a colour, and captions with other colours.

Every word gets a one-letter tag (see `words.toml`; unknown words are nouns). Regular expressions over the tags find the
colours, before a noun ("a red and white bus") or alone ("the bus is red"), but no nouns ("an orange") and kinds ("ice
cream", "brown bear"). Words before a colour such as "pale" and "very dark" belong to it.
"""

import re
import tomllib
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

WORDS = tomllib.loads(Path(__file__).with_name("words.toml").read_text("utf-8"))
LISTS = {name: "|".join(words) for name, words in WORDS.items() if isinstance(words, list)}
HUES, HUES_OF_WORDS = WORDS["hues"], WORDS["hues"] | WORDS["hues_of_others"]
COLORS = "|".join((*HUES_OF_WORDS, *WORDS["neutrals"]))
COLOR_PATTERN = re.compile(rf"\b(?:{COLORS})\b", re.I)

MODIFIERS = f"{LISTS['lightness']}|{LISTS['shades']}"
TAGS = {"M": f"{MODIFIERS}|{LISTS['degree']}"} | {tag: "|".join(words) for tag, words in WORDS["tags"].items()}
KNOWN = re.compile("|".join(f"(?P<{tag}>{pattern})" for tag, pattern in TAGS.items()))
VERBS = re.compile(f"(?:{LISTS['verbs']})(?:e?s)?")
PLURAL = re.compile(r"\w+[^su]s|people|m[ae]n|women|children|sheep|cattle")
NAMES = LISTS["names"].replace("PICTURE", LISTS["picture"]).replace(" ", "[ -]")
PLAIN = re.compile(
    rf"\b(?P<N>(?:{NAMES})s?)\b|\b(?P<M>{MODIFIERS})\b|\b(?P<C>{COLORS})\b|\b(?P<I>{TAGS['I']})\b"
    rf"|(?P<other>\w+(?:['-](?!(?:{COLORS})\b)\w+)*|[^\w\s])",
    re.I,
)
KINDS = "|".join(f"{word} (?:{nouns})(?:e?s)?" for word, nouns in WORDS["kinds"].items()).replace(" ", "[ -]")
WORD = re.compile(rf"\b(?P<name>{KINDS})\b|{PLAIN.pattern}", re.I)
UNIT = re.compile(r"(?:M+A(?=M*[CO]))?(?:M*[CO])+")  # "dark gray", "bright and dark green", "pale blue gray"
GROUP = re.compile(rf"{UNIT.pattern}(?:(?:,?A|,|(?<=C)AD+){UNIT.pattern})*")  # "red, white and blue"
NO_OBJECT = re.compile(rf"(?:{LISTS['partial']})\b|(?:.* )?(?:{LISTS['no_objects']})$")
HEAD = re.compile(r"[EVL]*N(?:E*N)*|[EL]+(?=M*[CO])")  # the rest of a noun phrase: "striped cat", "stone wall"
VOWEL = re.compile(r"(?!uni(?!n)|us[ae]|eu|onc?e\b)[aeiou]|hour|honest|heir", re.I)


class Phrase(NamedTuple):
    """An object and its colours in lower case: "trees", "dark green"."""

    object: str
    colors: str


def hue_distance(first, second):
    """Returns the angle between hues in degrees, 0 to 180; numbers or arrays."""
    return abs((first - second + 180) % 360 - 180)


def article_of(text: str) -> str:
    """Returns "a" or "an", as the first letters of a text require."""
    return "an" if VOWEL.match(text) else "a"


def tag_words(caption: str) -> tuple[list[re.Match], str]:
    """Returns the tokens of a caption, and a string with one tag for each (see `TAGS`)."""
    tokens, tags, start = [], "", 0
    while found := (PLAIN if re.search("[MCO]A?$", tags) else WORD).search(caption, start):
        start = found.end()
        if found[0] != "-":
            tags += _tag(found[0].lower(), found.lastgroup, tokens, tags)
            tokens.append(found)

    degree, idle = re.compile(LISTS["degree"], re.I), r"M(?!M*(?:AM*)?[CO])"  # of no colour: "all over", "a dark bus"
    return tokens, re.sub(idle, lambda m: "P" if degree.fullmatch(tokens[m.start()][0]) else "N", tags)


def _tag(word, kind, tokens, tags):
    if kind != "other":
        return "O" if word in WORDS["nouns_too"] else "N" if kind == "name" else kind
    if not word[0].isalpha():
        return {"&": "A", "/": "A", ",": ","}.get(word, ".")
    if word in ("one", "ones", "inside", "outside") and tags.endswith(("C", "O", "N")):
        return "N"
    if VERBS.fullmatch(word):
        agrees = re.search("[NO]$", tags) and bool(PLURAL.fullmatch(tokens[-1][0].lower())) != word.endswith("s")
        return "F" if agrees or re.search("[BIL][MCOA]*[CO]A?$", tags) else "N"
    return known.lastgroup if (known := KNOWN.fullmatch(word)) else "N"


def find_groups(caption: str) -> tuple[list[re.Match], str, list[tuple[int, int, bool]]]:
    """Returns tokens, their tags, and groups of colours: (first token, the one after its last, if its noun follows)."""
    tokens, tags = tag_words(caption)
    groups, last = [], 0
    while found := GROUP.search(tags, last):
        first, last = found.span()
        before, predicate = tags[:first], re.search("NR?B$|[LI]$", tags[:first])
        if predicate and HEAD.match(tags, last):  # a new noun phrase: "the sky is blue, green hills behind"
            ends = ",?A|," if predicate[0].endswith("B") else ",?AD|,(?!.*A)"
            cut = re.search(f"(?<=[CO])(?:{ends})", tags[first:last])
            last = first + cut.start() if cut else last
        after, alone = tags[last:], before.endswith(("B", "L", "I"))
        is_color = bool(re.search("[CM]", tags[first:last]))  # otherwise these words are nouns, too
        has_noun = bool(HEAD.match(after)) and not (alone and after.startswith("V"))
        has_noun |= is_color and not alone and bool(re.match("[EVL]*V", after))  # "with black lettering"
        if has_noun or alone or (is_color and not before.endswith("D")):
            groups.append((first, last, has_noun))
    return tokens, tags, groups


def find_color_words(caption: str) -> list[str]:
    """Returns the words of a caption that are colours, in lower case and in order."""
    tokens, tags, groups = find_groups(caption)
    return [tokens[k][0].lower() for first, last, _ in groups for k in range(first, last) if tags[k] in "CO"]


def find_places(caption: str) -> list[tuple[int, int, int]]:
    """Returns (start, end, group) in characters of every colour with its modifiers: "very dark", "gray blue"."""
    tokens, tags, groups = find_groups(caption)
    return [
        (tokens[unit.start()].start(), tokens[unit.end() - 1].end(), number)
        for number, (first, last, _) in enumerate(groups)
        for unit in UNIT.finditer(tags, first, last)
    ]


def without_color_words(caption: str, keep: Sequence[int] = ()) -> str:
    """Removes the colours of a caption: "the bus is red with a white stripe" becomes "the bus with a stripe".

    A caption of nothing else stays as it is. `keep`: the numbers of the colours that stay, as in `find_places`.
    """
    tokens, tags, groups = find_groups(caption)
    places, cuts, fill = list(enumerate(find_places(caption))), [], []
    for number, (first, last, has_noun) in enumerate(groups):
        texts = [caption[start:end] for k, (start, end, group) in places if group == number and k in keep]
        start, end = tokens[first].start(), tokens[last - 1].end()
        if not texts:
            held = first if has_noun else re.search("(?:R?F?B+)?[LIP]*$", tags[:first]).start()
            last += has_noun and tokens[last][0].lower() in WORDS["suffixes"]  # "a gray-haired man"
            if (more := re.match("A([BF])|AP?N(?=[.,]|$)", tags[last:])) and tags[:first].endswith("B"):
                held, last = held if more[1] else first, last + 1  # "is red and has wheels", "is blue and clear"
            start, end = tokens[held].start(), tokens[last].start() if last < len(tokens) else len(caption)
        cuts.append((start, end))
        fill.append(" and ".join(texts) or " ")
    plain = re.sub(r"\s+([,.;])", r"\1", " ".join(put_words(caption, cuts, fill).split()))
    plain = " ".join(re.sub(r"(,\s*)+([,.;]|$)", r"\2 ", plain).split()).strip(" ,")
    return plain if re.search(r"\w", plain) else caption


def put_words(caption: str, places: Iterable[tuple], texts: Iterable[str]) -> str:
    """Puts texts in the places (start, end, ...) of a caption, and adapts "a" or "an"; a leading capital stays."""
    result, done = "", 0
    for (start, end, *_), text in zip(places, texts, strict=True):
        article = article_of(text.strip() or caption[end:])
        result += caption[done:start]
        result = re.sub(r"\b([Aa])n?(?= $)", lambda m, article=article: m[1] + article[1:], result) + text
        done = end
    result = (result + caption[done:]).lstrip()
    return result[:1].upper() + result[1:] if caption[:1].isupper() else result


def phrases_of(prompt: str) -> list[Phrase]:
    """Returns the objects of a prompt that have a colour, in order: "green trees", "the sky is blue", not "in red"."""
    tokens, tags, groups = find_groups(prompt)

    def text(first, last):
        return prompt[tokens[first].start() : tokens[last - 1].end()].lower()

    phrases = []
    for first, last, has_noun in groups:
        if has_noun:
            noun = HEAD.match(tags, last)
        else:  # the subject: "a bus that is red", or a clause that begins with it
            before = tags[:first]
            noun = re.search("(N+)RB$", before) or re.search("(?:^|[,.])D?(N+)B$|[BF].*AD(N+)B$", before)
        if noun and "N" in noun[0] and "AD" not in tags[first:last]:
            start, end = noun.span(noun.lastindex or 0)
            if not NO_OBJECT.match(text(start, end)):
                start += tokens[start][0].lower() in WORDS["suffixes"]
                phrases.append(Phrase(text(start, end), text(first, last)))
    return phrases


def bare_name(phrase: str) -> str:
    """Returns a phrase without articles and colours: "a dark red tram" is "tram"; a colour alone stays."""
    plain = without_color_words(" ".join(phrase.lower().split()))
    return " ".join(re.sub(r"\b(?:an?|the|some)\b", " ", plain).split())


def colors_in(caption: str) -> tuple[list[tuple[int, int, int]], list[str]]:
    """Returns `find_places`, and the texts there without shades that belong to one word ("lime" in "lime green")."""
    places = find_places(caption)
    return places, [re.sub(f"(?:{LISTS['shades']})[ -]", "", caption[start:end].lower()) for start, end, _ in places]


def change_color_words(caption: str, rng: np.random.Generator) -> str:
    """Gives every colour of a caption another one, with as many chromatic and neutral words as before.

    All hues turn by one angle of 100 to 260 degrees, to words at least 60 degrees away, different ones if possible. The
    colours then trade places with their modifiers ("dark gray blue"); a neutral word in the place of another becomes
    the next of them. Returns the one of up to 100 draws with the fewest unchanged places and repetitions.
    """
    places, colors = colors_in(caption)

    def hues_of(text):
        return {word: HUES_OF_WORDS[word] for word in COLOR_PATTERN.findall(text) if word in HUES_OF_WORDS}

    def draw():
        angle, turned = rng.uniform(100, 260), {}
        for word, hue in hues_of(" ".join(colors)).items():
            far = [new for new in HUES if hue_distance(HUES[new], hue) >= 60]
            free = [new for new in far if new not in turned.values()] or far
            turned[word] = min(free, key=lambda new, goal=hue + angle: hue_distance(HUES[new], goal))
        drawn = [COLOR_PATTERN.sub(lambda m: turned.get(m[0], m[0]), colors[k]) for k in rng.permutation(len(colors))]
        for k, old in enumerate(colors):
            if not hues_of(f"{old} {drawn[k]}"):
                drawn[k] = COLOR_PATTERN.sub(lambda m: WORDS["next_neutral"].get(m[0], "white"), drawn[k])
        return drawn

    def count_flaws(drawn):
        hues = [(hues_of(old).values(), hues_of(new).values()) for old, new in zip(colors, drawn, strict=True)]
        same = sum(not (old or new) or any(hue_distance(a, b) < 60 for a in new for b in old) for old, new in hues)
        words = [(k, word) for (*_, k), new in zip(places, drawn, strict=True) for word in COLOR_PATTERN.findall(new)]
        return same + sum(first == second for first, second in pairwise(words))

    best = draw()
    for _ in range(100):
        if not count_flaws(best):
            break
        best = min(best, draw(), key=count_flaws)
    return put_words(caption, places, best)


def keep_colors(caption: str, k: int, rng: np.random.Generator) -> str:
    """Keeps `k` colours of a caption, drawn at random, and removes the others; with fewer colours, as it is."""
    n = len(find_places(caption))
    return caption if n <= k else without_color_words(caption, keep=rng.permutation(n)[:k])


def colors_only(caption: str) -> str:
    """Returns the colours of a caption in their order, without what they belong to; "" if there are none."""
    return ", ".join(caption[start:end].lower() for start, end, _ in find_places(caption))


def permute_colors(caption: str, rng: np.random.Generator) -> str:
    """Moves the colours of a caption to each other's places, as many as possible of them."""
    places = find_places(caption)
    texts = [caption[start:end] for start, end, _ in places]
    draws = [rng.permutation(len(texts)) for _ in range(20)]
    order = min(draws, key=lambda draw: sum(texts[k].lower() == texts[n].lower() for n, k in enumerate(draw)))
    return put_words(caption, places, [texts[k] for k in order])
