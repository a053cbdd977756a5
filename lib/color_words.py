"""Colour words in captions: which words are colours, and to find, remove and replace them.

Every word gets a one-letter tag, and regular expressions over the tags find the colours. A colour word is a colour
where a noun follows in its noun phrase ("a red and white bus"), or where it stands for a colour by itself ("the bus is
red", "painted red", "in red and white", "a cat, gray and white, sleeps"). It is none

- as a noun: "an orange and a banana", "coffee with cream", "the green";
- in a name that says what a thing is, not what colour this one has: ice cream, brown bear, red wine, orange juice,
  Golden Gate, a black man, a black and white photo (`NAMES` and `OTHER_NAMES`).

Words of lightness and degree before a colour ("pale", "very dark") are part of it. The lists are short and the rules
are few: an unusual sentence may be misread, and most words that they don't know count as nouns.
"""

import re
from typing import NamedTuple

# CIELAB hue angles in degrees at which the eight chromatic words sit.
HUES = dict(red=32, orange=62, yellow=92, green=130, turquoise=195, blue=268, purple=315, pink=357)
HUES_OF_OTHER_WORDS = dict(golden=84, gold=84, blond=85, blonde=85, brown=62, tan=75, beige=82, cream=88, maroon=25)
HUES_OF_OTHER_WORDS |= dict(burgundy=20, crimson=28, scarlet=34, magenta=340, violet=310, navy=280)
HUES_OF_OTHER_WORDS |= dict(teal=195, aqua=195, reddish=32, brownish=62, yellowish=92, greenish=130, bluish=268)
HUES_OF_OTHER_WORDS |= dict(purplish=315, pinkish=357)
HUES_OF_WORDS = HUES | HUES_OF_OTHER_WORDS
NEUTRALS = ("white", "gray", "grey", "silver", "black", "whitish", "grayish", "greyish", "blackish")
COLOR_WORDS = (*HUES_OF_WORDS, *NEUTRALS)
NOUNS_TOO = ("orange", "cream", "gold", "silver", "tan", "violet", "blond", "blonde")
COLOR_PATTERN = re.compile(rf"\b(?:{'|'.join(COLOR_WORDS)})\b", re.I)

LIGHTNESS = "pale|dark(?:er)?|light(?:er)?|deep|bright(?:er)?|medium|dull|faint|vivid|pastel|neon|pure|solid"
SHADES = (  # of one colour word: they go when it changes
    r"off(?=[ -]white)|jet(?=[ -]black)|hot(?=[ -]pink)|burnt(?=[ -]orange)|(?:lemon|mustard)(?=[ -]yellow)"
    r"|(?:navy|baby|sky|royal|powder|ice)(?=[ -]blue)|(?:lime|olive|forest|mint|emerald|sea|apple)(?=[ -]green)"
)
DEGREE = r"very|nearly|almost|mostly|partly|slightly|entirely|all|both"
NAMES = {  # unless another colour or its shade comes before: "dark brown bear", "golden brown bread"
    "black": "bear|pepper|bean|tea|coffee|olive|widow|belt|tie|ice",
    "white": "wine|rice|bread|chocolate|sauce|rhino|shark|water rafting",
    "red": "panda|fox|wine|onion|cabbage|bean|potato|snapper|squirrel|deer|kangaroo|pepper flake|velvet|meat",
    "brown": "bear|rice|sugar|bread",
    "gr[ae]y": "whale|wolf|squirrel",
    "green": "bean|tea|onion|card",
    "blue": "jay|whale|heron|cheese",
    "yellow": "lab|labrador|squash|jacket",
    "golden": "retriever|labrador|eagle|gate|arche",
    "orange": "juice|slice|wedge|half|halve|peel|rind|segment|section|quarter|zest|soda|grove|marmalade|chicken",
    "cream": "cheese|sauce|puff|pie|soda|cake|filling|soup",
    "gold": "fish",
    "tan": "line",
}
PICTURE = "photo|photograph|picture|image|shot|film|movie|print|drawing|sketch|scene"
OTHER_NAMES = (
    r"(?:ice|whipped|whipping|sour|shaving|clotted|heavy|pastry|sun|hand|skin) cream|red (?:and|or) white wine"
    r"|(?:black|white)(?: and (?:black|white))? (?:man|men|woman|women|boy|girl|person|people|guy|lady|child|children)"
    rf"|black and white (?:(?:old|vintage|framed|aerial|antique) )?(?:{PICTURE})"
    r"|egg white|(?:putting|village|bowling|collard) green|(?:begin|start)\w* to brown"
    r"|(?-i:White House|Red Sox|Red Bull|Red Cross|Green Bay|Golden Gate|Blue Angel|Orange County)"
)
TAGS = {  # C: a colour; O: a colour that is a noun, too; N: nouns, adjectives and all other words
    "M": f"{LIGHTNESS}|{SHADES}|{DEGREE}",
    "A": "and|or|to",
    "D": "an?|the|this|these|those|his|her|its|their|my|our|your|it|it's|they|he|she|there|one|two|three|four|five|six"
    "|seven|eight|nine|ten|some|several|many|few|each|every|another|other|no|more",
    "R": "that|which|who|that's|who's",
    "B": "is|are|was|were|be|been|looks?|seems?|appears?|turn(?:s|ed|ing)|becom(?:es|ing)",
    "L": "painted|colou?red|dyed|tinted|wearing|wears?|wore|dressed|clothed|clad|decorated|trimmed|lit|show(?:s|ing)",
    "I": "in|(?:shade|hue|tone|colou?r)s? of",
    "P": "of|on|at|by|with|without|from|into|onto|over|under|above|below|beneath|underneath|behind|beside|between"
    "|among|amid|against|across|along|around|near|nearby|next|through|towards?|inside|outside|off|up|down|out|as"
    "|for|like|than|while|where|when|during|after|before|about|upon|within|beyond|atop|past|but|so|because|if"
    "|here|together|today|away|ahead|not|also|just|only|too|overall|then",
    "F": "has|have|had|will|would|does|do|made|cut|seen|hung|sat|grew",
    "V": r"(?!(?:ceil|build|paint|rail|sid|frost|ic|letter|awn|topp|cloth|bedd|wedd|str|spr|even|morn|park|floor|mold"
    r"|light|stuff|fill|dress|stock|cover|earr|dumpl|pudd|pav|cross)ing$)\w{3,}ing",
    "E": r"\w{3,}(?<![be])ed|worn|drawn|woven",
}
VERBS = re.compile(  # verbs after a noun that they agree with, nouns elsewhere: "a bus stands", "blue stands"
    "(?:sit|stand|lie|lay|hang|rest|walk|run|ride|fly|flie|eat|swim|sleep|play|wait|jump|lean|grow|float|hover|move"
    "|pass|hold|drive|stare|graze|contain|feature|surround|cover|fill|carry|carrie|pull|fix|direct|take|serve|drift"
    "|throw|catch|shine|reflect|rise|fall|come|go|make|reach|overlook|approach|follow|chase|kick|read|bend|set)(?:e?s)?"
)
PLURAL = re.compile(r"\w+[^su]s|people|m[ae]n|women|children|sheep|cattle")
UNIT = r"(?:M+A(?=M*[CO]))?(?:M*[CO])+"  # "dark gray", "bright and dark green", "pale blue gray"
GROUP = re.compile(rf"{UNIT}(?:(?:,?A|,|(?<=C)AD+){UNIT})*")  # "red, white and blue", "a gray and a white cat"
HEAD = re.compile(r"[EVL]*N(?:E*N)*|[EL]+(?=M*[CO])")  # the rest of a noun phrase: "striped cat", "stone wall"
JOINED = re.compile("AN|,[EN]+N")  # "a red and shiny car", "a gray, rainy day"
SUFFIXES = ("haired", "headed", "eyed", "colored", "coloured")
ADJECTIVES = ("large", "big", "small", "little", "tiny", "tall", "short", "long", "old", "new", "shiny", "dry")

NO_THINGS = ("one", "ones", "tint", "tone", "sheen", "glow", "color", "colour", "hue", "shade", "low", *ADJECTIVES)
MARKED = ("haired", "headed", "eyed", "bearded", "edged", "tipped", "ringed", "rimmed", "trimmed")  # in part only
PARTS = ("bunch", "pile", "group", "pair", "row", "piece", "slice", "side", "top", "bottom", "front", "back")
VOWEL = re.compile(r"(?!uni(?!n)|us[ae]|eu|onc?e\b)[aeiou]|hour|honest|heir", re.I)
ELLIPTIC = ("one", "another", "other", "some", "each")  # "one black and the other white"


def hue_distance(first, second):
    """The angle between hues in degrees, 0 to 180; numbers or arrays."""
    return abs((first - second + 180) % 360 - 180)


class Token(NamedTuple):
    """A word or sign of a caption, lower case, and its characters from `start` to before `end`."""

    word: str
    start: int
    end: int


class Group(NamedTuple):
    """Colours that belong together: tokens from `first` to before `last`, and whether their noun follows them."""

    first: int
    last: int
    has_noun: bool


COLORS = "|".join(COLOR_WORDS)
COLOR_NAMES = "|".join(f"{word} (?:{nouns})(?:e?s)?" for word, nouns in NAMES.items()).replace(" ", "[ -]")
PLAIN = re.compile(
    rf"\b(?P<N>(?:{OTHER_NAMES.replace(' ', '[ -]')})s?)\b|\b(?P<M>{LIGHTNESS}|{SHADES})\b|\b(?P<C>{COLORS})\b"
    rf"|\b(?P<I>{TAGS['I']})\b|(?P<other>\w+(?:['-](?!(?:{COLORS})\b)\w+)*|[^\w\s])",
    re.I,
)
WORD = re.compile(rf"\b(?P<name>{COLOR_NAMES})\b|{PLAIN.pattern}", re.I)
KNOWN = re.compile("|".join(f"(?P<{tag}>{pattern})" for tag, pattern in TAGS.items()))


def tag_words(caption):
    """The tokens of a caption, and a string with one tag for each (see `TAGS`)."""
    tokens, tags, start = [], "", 0
    titled = not re.search(r"\b[a-z]{4}", caption)  # in "A Red Bus" a capital says nothing
    while found := (PLAIN if re.search("[MCO]A?$", tags) else WORD).search(caption, start):
        start = found.end()
        if found[0] != "-":
            named = tags and not titled and re.match(r"[A-Z][a-z]+ [A-Z]", caption[found.start() :])
            kind = "N" if named or found.lastgroup == "name" else found.lastgroup
            tags += _tag(found[0].lower(), kind, tokens, tags)
            tokens.append(Token(found[0].lower(), *found.span()))
    for idle in re.finditer(r"M(?!M*(?:AM*)?[CO])", tags):  # "a dark street", "all over"
        tag = "P" if re.fullmatch(DEGREE, tokens[idle.start()].word) else "N"
        tags = tags[: idle.start()] + tag + tags[idle.end() :]
    return tokens, tags


def _tag(word, kind, tokens, tags):
    if kind != "other":
        return "O" if word in NOUNS_TOO else kind
    if not word[0].isalpha():
        return {"&": "A", "/": "A", ",": ","}.get(word, ".")
    if word in ("one", "ones", "inside", "outside") and tags.endswith(("C", "O", "N")):
        return "N"
    if VERBS.fullmatch(word):
        agrees = re.search("[NO]$", tags) and bool(PLURAL.fullmatch(tokens[-1].word)) != word.endswith("s")
        return "F" if agrees or re.search("[BIL][MCOA]*[CO]A?$", tags) else "N"
    known = KNOWN.fullmatch(word)
    return known.lastgroup if known else "N"


def find_groups(caption):
    """The tokens of a caption, their tags, and a list of the groups of words that are colours."""
    tokens, tags = tag_words(caption)
    groups, start = [], 0
    while found := GROUP.search(tags, start):
        first, last = found.start(), _end_of_group(tags, *found.span())
        has_noun = _use(tokens, tags, first, last)
        groups += [Group(first, last, has_noun)] if has_noun is not None else []
        start = last
    return tokens, tags, groups


def _end_of_group(tags, first, last):
    """Where a group ends whose later part belongs to the next noun: "the sky is blue, green hills behind"."""
    licence = re.search(r"N[R]?B$|[LI]$", tags[:first])
    if not licence or not HEAD.match(tags, last):
        return last
    ends = r",?A|," if licence[0].endswith("B") else r",?AD|,(?!.*A)"
    cut = re.search(rf"(?<=[CO])(?:{ends})", tags[first:last])
    return first + cut.start() if cut else last


def _use(tokens, tags, first, last):
    """True before a noun, False for a colour by itself, None for no colour."""
    licensed, noun_too = tags[:first].endswith(("B", "L", "I")), not re.search("[CM]", tags[first:last])
    after = tags[last:]
    if HEAD.match(after) and not (licensed and after.startswith("V")):
        return True
    if noun_too:
        return False if licensed else None
    elliptic = first and tokens[first - 1].word in ELLIPTIC
    if re.match("[EVL]*V", after) and not licensed:  # "with black lettering"
        return True
    by_itself = not tags[:first].endswith("D") or elliptic or JOINED.match(after)
    return False if by_itself else None


def find_color_words(caption):
    """The words of a caption that are colours, in lower case and in order."""
    tokens, tags, groups = find_groups(caption)
    return [tokens[k].word for group in groups for k in range(group.first, group.last) if tags[k] in "CO"]


def has_color_words(caption):
    """Whether a caption names any colour: without one, object, detailed and recolored are the same."""
    return bool(find_color_words(caption))


def find_places(caption):
    """(start, end, group) in characters of every colour with its modifiers, such as "very dark" and "gray blue"."""
    return _places_in(*find_groups(caption))


def _places_in(tokens, tags, groups):
    places = []
    for number, group in enumerate(groups):
        for unit in re.finditer(UNIT, tags[group.first : group.last]):
            first, last = tokens[group.first + unit.start()], tokens[group.first + unit.end() - 1]
            places.append((first.start, last.end, number))
    return places


def without_color_words(caption, keep=()):
    """A caption without its colours: "the bus is red with a white stripe" is "the bus with a stripe".

    What held a colour goes with it: its `and`, "is", "painted", "in". A caption of nothing else stays as it is.
    `keep`: the numbers of the colours that stay, in the order of `find_places`.
    """
    tokens, tags, groups = find_groups(caption)
    kept, cuts = [[] for _ in groups], []
    for number, (start, end, group) in enumerate(_places_in(tokens, tags, groups)):
        kept[group] += [caption[start:end]] if number in keep else []
    for group, texts in zip(groups, kept, strict=True):
        if texts:
            cuts.append((tokens[group.first].start, tokens[group.last - 1].end, " and ".join(texts)))
            continue
        first, last = _first_to_cut(tokens, tags, group), _last_to_cut(tokens, tags, group)
        end = tokens[last].start if last < len(tokens) else len(caption)
        cuts.append((tokens[first].start, end, " "))
    plain = re.sub(r"\s+([,.;])", r"\1", " ".join(put_words(caption, cuts).split()))
    plain = " ".join(re.sub(r"(,\s*)+([,.;]|$)", r"\2 ", plain).split()).strip(" ,")
    return plain if re.search(r"\w", plain) else caption


def _first_to_cut(tokens, tags, group):
    before = tags[: group.first]
    if group.has_noun:
        joined = before.endswith(("A", ",")) and group.first > 1 and tokens[group.first - 2].word in ADJECTIVES
        return group.first - (joined or _is_one(tokens, tags, group))  # "a tall and white tower"
    if _is_one_of_two(tags, group):
        return group.first
    held = re.search("(?:R?F?B+)?[LIP]*$", before).start()
    return held - (held == group.first > 0 and tokens[held - 1].word in ELLIPTIC)


def _last_to_cut(tokens, tags, group):
    if group.has_noun:
        return group.last + (tokens[group.last].word in SUFFIXES)
    shared = tags[: group.first].endswith("D") and JOINED.match(tags, group.last)
    goes_on = re.match("A[BF]", tags[group.last :])  # "is red and has a white roof"
    return group.last + bool(shared or goes_on or _is_one_of_two(tags, group))


def _is_one(tokens, tags, group):
    """Whether a group is that of "a white one", which is "one" without it."""
    return tokens[group.last].word == "one" and tags[: group.first].endswith("D")


def _is_one_of_two(tags, group):
    """Whether an adjective follows in the same predicate: "is blue and clear"."""
    return tags[: group.first].endswith(("B", ",")) and re.match("AP?N(?![^.,])", tags[group.last :]) is not None


def article_of(text):
    """`a` or `an`, as the text after it asks."""
    return "an" if VOWEL.match(text) else "a"


def put_words(caption, changes):
    """Put texts in the place of characters, [(start, end, text)], with `a` or `an` before them as they ask.

    A caption that begins with a capital still does.
    """
    put, done = "", 0
    for start, end, text in changes:
        put += caption[done:start]
        article = article_of(text.strip() or caption[end:])
        put = re.sub(r"\b([Aa])n?(?= $)", lambda m, article=article: m[1] + article[1:], put) + text
        done = end
    put = (put + caption[done:]).lstrip()
    return put[:1].upper() + put[1:] if caption[:1].isupper() else put


class Phrase(NamedTuple):
    """A noun phrase in lower case: `thing` "trees", `colors` "dark green", `text` "tall dark green trees"."""

    thing: str
    colors: str
    text: str


def phrases_of(prompt):
    """The noun phrases of a prompt that name a thing and its colour, in order, as a list of `Phrase`.

    "the sky is blue" counts as "blue sky". What is unclear is left out: a colour without its noun ("a man in red"), a
    noun that is no thing to colour ("a blue tint", "a red pair of shoes"), a subject with more words between.
    """
    tokens, tags, groups = find_groups(prompt)

    def text(first, last):
        return prompt[tokens[first].start : tokens[last - 1].end].lower()

    found = []
    for group in groups:
        first, last = _noun_after(tags, group) if group.has_noun else _noun_before(tags, group)
        if first == last or _is_no_thing(tokens, first, last) or "AD" in tags[group.first : group.last]:
            continue
        first += tokens[first].word in ("colored", "coloured")
        thing, colors = text(first, last), text(group.first, group.last)
        start = re.search("(?<![CO])D?[NE]*$|$", tags[: group.first]).start()
        found.append(Phrase(thing, colors, text(start, last) if group.has_noun else f"{colors} {thing}"))
    return found


def _noun_after(tags, group):
    head = HEAD.match(tags, group.last)
    return head.span() if head and "N" in head[0] else (0, 0)


def _noun_before(tags, group):
    """The subject of "is blue" before a group: of "a bus that is red", or a phrase that begins its clause."""
    before = tags[: group.first]
    subject = re.search("(N+)RB$", before) or re.search("(?:^|[,.])D?(N+)B$|[BF].*AD(N+)B$", before)
    return subject.span(subject.lastindex) if subject else (0, 0)


def _is_no_thing(tokens, first, last):
    word, is_of = tokens[last - 1].word, last < len(tokens) and tokens[last].word == "of"
    return tokens[first].word in MARKED or word in NO_THINGS or (word in PARTS and is_of)
