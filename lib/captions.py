"""Captions: which of their words are colours, the phrases that name an object and its colour, and rewritten captions.

Every word gets a one-letter tag, and regular expressions over the tags find the colours. A colour word is a colour if
a noun follows in its noun phrase ("a red and white bus"), or if it stands alone ("the bus is red", "painted red", "in
red and white", "a cat, gray and white, sleeps"). It is not a colour

- as a noun: "an orange and a banana", "coffee with cream", "the green";
- in the name of a kind: ice cream, brown bear, red wine, black and white photo.

Words of lightness and degree before a colour ("pale", "very dark") belong to it. The lists of words in `words.toml`
are short and unknown words count as nouns, so unusual sentences may be misread.
"""

import re
import tomllib
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

# CIELAB hue angles in degrees of the eight chromatic words, and of words near them.
HUES = dict(red=32, orange=62, yellow=92, green=130, turquoise=195, blue=268, purple=315, pink=357)
HUES_OF_WORDS = HUES | dict(golden=84, gold=84, blond=85, blonde=85, brown=62, tan=75, beige=82, cream=88, maroon=25)
HUES_OF_WORDS |= dict(burgundy=20, crimson=28, scarlet=34, magenta=340, violet=310, navy=280, teal=195, aqua=195)
HUES_OF_WORDS |= dict(reddish=32, brownish=62, yellowish=92, greenish=130, bluish=268, purplish=315, pinkish=357)
NEUTRALS = ("white", "gray", "grey", "silver", "black", "whitish", "grayish", "greyish", "blackish")
NEXT_NEUTRAL = {"white": "gray", "gray": "black", "grey": "black", "black": "silver"}  # others: white
NOUNS_TOO = ("orange", "cream", "gold", "silver", "tan", "violet", "blond", "blonde")
COLORS = "|".join((*HUES_OF_WORDS, *NEUTRALS))
COLOR_PATTERN = re.compile(rf"\b(?:{COLORS})\b", re.I)

# Tags, besides those in words.toml: C colour, O colour and noun, M modifier, V -ing, E -ed, N any other word.
WORDS = tomllib.loads(Path(__file__).with_name("words.toml").read_text("utf-8"))
LISTS = {name: "|".join(words) for name, words in WORDS.items() if isinstance(words, list)}
NAMES = LISTS["names"].replace("PICTURE", LISTS["picture"]).replace(" ", "[ -]")
TAGS = {"M": f"{LISTS['lightness']}|{LISTS['shades']}|{LISTS['degree']}"}
TAGS |= {tag: "|".join(words) for tag, words in WORDS["tags"].items()}
TAGS |= {"V": rf"(?!(?:{LISTS['nouns_in_ing']})ing$)\w{{3,}}ing", "E": r"\w{3,}(?<![be])ed|worn|drawn|woven"}
KNOWN = re.compile("|".join(f"(?P<{tag}>{pattern})" for tag, pattern in TAGS.items()))
VERBS = re.compile(f"(?:{LISTS['verbs']})(?:e?s)?")
PLURAL = re.compile(r"\w+[^su]s|people|m[ae]n|women|children|sheep|cattle")
PLAIN = re.compile(
    rf"\b(?P<N>(?:{NAMES})s?)\b|\b(?P<M>{LISTS['lightness']}|{LISTS['shades']})\b"
    rf"|\b(?P<C>{COLORS})\b|\b(?P<I>{TAGS['I']})\b|(?P<other>\w+(?:['-](?!(?:{COLORS})\b)\w+)*|[^\w\s])",
    re.I,
)
KINDS = "|".join(f"{word} (?:{nouns})(?:e?s)?" for word, nouns in WORDS["kinds"].items()).replace(" ", "[ -]")
WORD = re.compile(rf"\b(?P<name>{KINDS})\b|{PLAIN.pattern}", re.I)
UNIT = r"(?:M+A(?=M*[CO]))?(?:M*[CO])+"  # "dark gray", "bright and dark green", "pale blue gray"
GROUP = re.compile(rf"{UNIT}(?:(?:,?A|,|(?<=C)AD+){UNIT})*")  # "red, white and blue", "a gray and a white cat"
NO_OBJECT = re.compile(rf"(?:{LISTS['partial']})\b|(?:.* )?(?:{LISTS['no_objects']})$")
HEAD = re.compile(r"[EVL]*N(?:E*N)*|[EL]+(?=M*[CO])")  # the rest of a noun phrase: "striped cat", "stone wall"
SUFFIXES = ("haired", "headed", "eyed", "colored", "coloured")
VOWEL = re.compile(r"(?!uni(?!n)|us[ae]|eu|onc?e\b)[aeiou]|hour|honest|heir", re.I)
OTHER_LANGUAGES = re.compile("|".join(WORDS["other_languages"].values()))


class Group(NamedTuple):
    """Colours that belong together: tokens from `first` to before `last`, and whether their noun follows them."""

    first: int
    last: int
    has_noun: bool


class Phrase(NamedTuple):
    """A noun phrase in lower case: `object` "trees", `colors` "dark green", `text` "tall dark green trees"."""

    object: str
    colors: str
    text: str


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
    for idle in re.finditer(r"M(?!M*(?:AM*)?[CO])", tags):  # "a dark street", "all over"
        tag = "P" if re.fullmatch(LISTS["degree"], tokens[idle.start()][0], re.I) else "N"
        tags = tags[: idle.start()] + tag + tags[idle.end() :]
    return tokens, tags


def _tag(word, kind, tokens, tags):
    if kind != "other":
        return "O" if word in NOUNS_TOO else "N" if kind == "name" else kind
    if not word[0].isalpha():
        return {"&": "A", "/": "A", ",": ","}.get(word, ".")
    if word in ("one", "ones", "inside", "outside") and tags.endswith(("C", "O", "N")):
        return "N"
    if VERBS.fullmatch(word):
        agrees = re.search("[NO]$", tags) and bool(PLURAL.fullmatch(tokens[-1][0].lower())) != word.endswith("s")
        return "F" if agrees or re.search("[BIL][MCOA]*[CO]A?$", tags) else "N"
    known = KNOWN.fullmatch(word)
    return known.lastgroup if known else "N"


def find_groups(caption: str) -> tuple[list[re.Match], str, list[Group]]:
    """Returns the tokens of a caption, their tags, and the groups of words that are colours."""
    tokens, tags = tag_words(caption)
    groups, start = [], 0
    while found := GROUP.search(tags, start):
        first, start = found.start(), _end_of_group(tags, *found.span())
        has_noun = _has_noun(tags, first, start)
        groups += [Group(first, start, has_noun)] if has_noun is not None else []
    return tokens, tags, groups


def _end_of_group(tags, first, last):
    """Where a group ends whose later colours belong to the next noun: "the sky is blue, green hills behind"."""
    predicate = re.search(r"N[R]?B$|[LI]$", tags[:first])
    if not predicate or not HEAD.match(tags, last):
        return last
    ends = r",?A|," if predicate[0].endswith("B") else r",?AD|,(?!.*A)"
    cut = re.search(rf"(?<=[CO])(?:{ends})", tags[first:last])
    return first + cut.start() if cut else last


def _has_noun(tags, first, last):
    """True for colours before a noun, False for colours that stand alone, None for what is no colour."""
    alone, after = tags[:first].endswith(("B", "L", "I")), tags[last:]
    if HEAD.match(after) and not (alone and after.startswith("V")):
        return True
    if not re.search("[CM]", tags[first:last]):  # only words that are nouns, too
        return False if alone else None
    if re.match("[EVL]*V", after) and not alone:  # "with black lettering"
        return True
    return None if tags[:first].endswith("D") else False


def find_color_words(caption: str) -> list[str]:
    """Returns the words of a caption that are colours, in lower case and in order."""
    tokens, tags, groups = find_groups(caption)
    return [tokens[k][0].lower() for group in groups for k in range(group.first, group.last) if tags[k] in "CO"]


def find_places(caption: str) -> list[tuple[int, int, int]]:
    """Returns (start, end, group) in characters of every colour with its modifiers: "very dark", "gray blue"."""
    tokens, tags, groups = find_groups(caption)
    places = []
    for number, group in enumerate(groups):
        for unit in re.finditer(UNIT, tags[group.first : group.last]):
            first, last = tokens[group.first + unit.start()], tokens[group.first + unit.end() - 1]
            places.append((first.start(), last.end(), number))
    return places


def without_color_words(caption: str, keep: Sequence[int] = ()) -> str:
    """Removes the colours of a caption: "the bus is red with a white stripe" becomes "the bus with a stripe".

    The words that introduce a colour go with it: `and`, "is", "painted", "in". A caption of nothing else stays as it
    is. `keep`: the numbers of the colours that stay, in the order of `find_places`.
    """
    tokens, tags, groups = find_groups(caption)
    kept, cuts, fill = [[] for _ in groups], [], []
    for number, (start, end, group) in enumerate(find_places(caption)):
        kept[group] += [caption[start:end]] if number in keep else []
    for (first, last, has_noun), texts in zip(groups, kept, strict=True):
        start, end = tokens[first].start(), tokens[last - 1].end()
        if not texts:
            held = first if has_noun else re.search("(?:R?F?B+)?[LIP]*$", tags[:first]).start()
            last += has_noun and tokens[last][0].lower() in SUFFIXES  # "a gray-haired man"
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
    """Returns the noun phrases of a prompt that name an object and its colour, in order.

    "the sky is blue" counts as "blue sky". What is unclear is left out: a colour without its noun ("a man in red"), a
    noun that is no object ("a blue tint"), a subject with more words between.
    """
    tokens, tags, groups = find_groups(prompt)

    def text(first, last):
        return prompt[tokens[first].start() : tokens[last - 1].end()].lower()

    phrases = []
    for group in groups:
        if group.has_noun:
            noun = HEAD.match(tags, group.last)
        else:  # the subject: "a bus that is red", or a clause that begins with it
            clause = tags[: group.first]
            noun = re.search("(N+)RB$", clause) or re.search("(?:^|[,.])D?(N+)B$|[BF].*AD(N+)B$", clause)
        if not noun or "N" not in noun[0] or "AD" in tags[group.first : group.last]:
            continue
        first, last = noun.span(noun.lastindex or 0)
        name = text(first, last)
        if NO_OBJECT.match(name):
            continue
        first += tokens[first][0].lower() in SUFFIXES
        name, colors = text(first, last), text(group.first, group.last)
        start = re.search("(?<![CO])D?[NE]*$|$", tags[: group.first]).start()
        phrases.append(Phrase(name, colors, text(start, last) if group.has_noun else f"{colors} {name}"))
    return phrases


def bare_name(phrase: str) -> str:
    """Returns a phrase without articles and colours: "a dark red tram" is "tram"; a colour alone stays."""
    plain = without_color_words(" ".join(phrase.lower().split()))
    return " ".join(re.sub(r"\b(?:an?|the|some)\b", " ", plain).split())


def _colors_in(caption):
    """The places of colours, and their texts without shades that belong to one word ("lime" in "lime green")."""
    places, shades = find_places(caption), re.compile(f"(?:{LISTS['shades']})[ -]")
    return places, [shades.sub("", caption[start:end].lower()) for start, end, _ in places]


def _hues(text):
    return [HUES_OF_WORDS[word] for word in COLOR_PATTERN.findall(text) if word in HUES_OF_WORDS]


def rotate_color_words(caption: str, degrees: float) -> str:
    """Renames the colours of a caption as a rotation of all hues by an angle changes them; neutral words stay."""

    def rename(match):
        word = match[0]
        if word not in HUES_OF_WORDS:
            return word
        new = min(HUES, key=lambda name: hue_distance(HUES[name], HUES_OF_WORDS[word] + degrees))
        return {"brown": f"dark {new}", "beige": f"pale {new}", "cream": f"pale {new}"}.get(word, new)

    places, colors = _colors_in(caption)
    return put_words(caption, places, [COLOR_PATTERN.sub(rename, text) for text in colors])


def change_color_words(caption: str, rng: np.random.Generator) -> str:
    """Gives every colour of a caption another one, with as many chromatic and neutral words as before.

    All hues turn by one angle of 100 to 260 degrees, to a word at least 60 degrees away; different words become
    different ones as far as the eight words go. The colours, each with its modifiers and neighbours ("dark gray
    blue"), then trade places, so that hues and neutral words replace each other as far as there are both; a neutral
    word that still replaces a neutral one becomes the next of white, gray, black and silver. Of up to 100 draws, the
    one with the fewest unchanged places and words repeated side by side is returned.
    """
    places, colors = _colors_in(caption)
    groups = [group for *_, group in places]

    def draw():
        angle, turned = rng.uniform(100, 260), {}
        for word in dict.fromkeys(COLOR_PATTERN.findall(" ".join(colors))):
            if word in HUES_OF_WORDS:
                far = [new for new, hue in HUES.items() if hue_distance(hue, HUES_OF_WORDS[word]) >= 60]
                free = [new for new in far if new not in turned.values()] or far
                turned[word] = min(free, key=lambda new: hue_distance(HUES[new], HUES_OF_WORDS[word] + angle))
        new = [COLOR_PATTERN.sub(lambda m: turned.get(m[0], m[0]), colors[k]) for k in rng.permutation(len(colors))]
        for k, (before, after) in enumerate(zip(colors, new, strict=True)):
            if not _hues(before) and not _hues(after):
                new[k] = COLOR_PATTERN.sub(lambda m: NEXT_NEUTRAL.get(m[0], "white"), after)
        return new

    def count_flaws(new):
        hues = [(_hues(before), _hues(after)) for before, after in zip(colors, new, strict=True)]
        same = sum(a == b == [] or any(hue_distance(x, y) < 60 for x in a for y in b) for a, b in hues)
        words = [(group, word) for group, text in zip(groups, new, strict=True) for word in COLOR_PATTERN.findall(text)]
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


def looks_english(prompt: str) -> bool:
    """Returns False if most of the words that tell a language are not English, which the `pocket` model doesn't read.

    German, French, Spanish and Italian are told by frequent words and colours, others by letters that are not Latin.
    """
    words = re.findall(r"[^\W\d_]+", prompt.lower())
    other = sum(bool(OTHER_LANGUAGES.fullmatch(word)) or max(word) > "\u024f" for word in words)
    return other <= sum(bool(KNOWN.fullmatch(word) or COLOR_PATTERN.fullmatch(word)) for word in words)
