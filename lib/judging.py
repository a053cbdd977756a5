"""The human row: which pictures people are asked to choose between without knowing the prompts, and what they chose.

Each judge compares pictures of the same photo under the detailed and the vague prompt. The `QUESTIONS` come one after
the other, so that no sentence is seen before the first is finished. About one pair in eight is a catch trial: its right
answer is known, and shows whether the judge looks.
"""

import csv
import math
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from lib.cache import explained, hash_of, write_table
from lib.color import srgb_to_lab, to_float, to_pil
from lib.colorize import errors_of, read_image, read_images
from lib.dataset import load_dataset_dict

QUESTIONS = {"natural": "Which looks more natural?", "fits": "Which fits the sentence?"}
COMPARED = ("detailed", "vague")
CATCH = {"natural": ("true", "recolored"), "fits": ("detailed", "recolored")}  # (right, wrong), by question
PAIRS_PER_CATCH, CATCH_NEEDED = 8, 0.8  # one pair in eight; the share that a judge who counts has right
COLUMNS = ("judge", "question", "image_id", "left", "right", "chosen", "catch", "seconds", "pictures")
REMEDY = "correct it, or move the file elsewhere to start anew"


@dataclass(frozen=True)
class Pair:
    """Two pictures of a photo, named as in `load_photos`, and the question that is asked about them."""

    question: str
    image_id: str
    left: str
    right: str
    catch: bool


def load_photos(config, n_photos):
    """The pictures of the first `n_photos` test photos (0: all): {image_id: {name: picture}}, with a `sentence` each.

    PIL pictures at the model's size: `true`, and seed 0 after the merge as `vague`, `detailed` and, where there is one,
    `recolored`. All photos are in memory at once. Without the pictures of notebook 04, a ValueError.
    """
    images, photos = read_images(config).query("seed == 0"), {}
    rows = load_dataset_dict(config)["test"]
    index = {image_id: number for number, image_id in enumerate(rows["image_id"])}
    for image_id in images["image_id"].unique()[: n_photos or None]:
        own = images[images["image_id"] == image_id].set_index("prompt_level")
        names = [name for name in (*COMPARED, "recolored") if name in own.index]
        pictures = {name: to_pil(read_image(config.run_dir, own["after"][name])) for name in names}
        true = rows[index[image_id]]["image"].convert("RGB")
        photos[image_id] = {"sentence": own["prompt"]["detailed"], "true": true, **pictures}
    if not any("recolored" in photo for photo in photos.values()):
        raise ValueError("no picture under recolored, for catch trials: add it to prompt_levels, and run notebook 04")
    return photos


def hash_pair(photo, names):
    """A short text that changes with the pixels of two of a photo's pictures, not with their sides."""
    return hash_of([*sorted(names), *(np.asarray(photo[name]) for name in sorted(names))])


def tidy(judge):
    """A judge's name as it is kept: with single spaces, and the same in capitals and small letters."""
    return " ".join(str(judge).split()).casefold()


def draw_pairs(photos, judge):
    """The pairs that a judge is asked about, in order; the order and the sides are drawn from the judge's name.

    Each photo is asked about once a question, and not again after a catch trial has shown its true colours. So a judge
    skips some photos of clear colours, but other judges skip others.
    """
    rng = np.random.default_rng(int(hash_of(["judging", tidy(judge)]), 16))
    asked, pairs = list(photos), []
    for question, known in CATCH.items():
        order = [asked[number] for number in rng.permutation(len(asked))]
        clear = find_clear({image_id: photos[image_id] for image_id in order}, known)
        caught = [image_id for image_id in order if image_id in clear][: math.ceil(len(order) / PAIRS_PER_CATCH)]
        asked = [image_id for image_id in order if image_id not in caught]
        drawn = put_on_sides(question, caught, known, True, rng) + put_on_sides(question, asked, COMPARED, False, rng)
        pairs += [drawn[number] for number in rng.permutation(len(drawn))]
    return pairs


def find_clear(photos, names):
    """The half of the photos whose two pictures differ most in CIEDE2000, so that whoever looks sees which is right."""
    labs = {}
    for image_id, photo in photos.items():
        if set(names) <= set(photo):
            labs[image_id] = [srgb_to_lab(to_float(photo[name].resize((32, 32)))) for name in names]
    order = sorted(labs, key=lambda image_id: errors_of(labs[image_id][1:], labs[image_id][:1]))
    return set(order[len(order) // 2 :])


def put_on_sides(question, image_ids, names, catch, rng):
    """A `Pair` for each photo; either picture is on the left in half of them, give or take one."""
    swapped = rng.permutation((np.arange(len(image_ids)) + rng.integers(2)) % 2)
    sides = [names[::-1] if swap else names for swap in swapped]
    return [Pair(question, image_id, *side, catch) for image_id, side in zip(image_ids, sides, strict=True)]


def read_judgements(path):
    """The answers in a CSV as a table of `COLUMNS`, none where there is no file; a ValueError names a damaged line."""
    lines = [list(COLUMNS)]
    if Path(path).exists():
        with explained(f"{path} can't be read as CSV", REMEDY, (ValueError, OSError, csv.Error)):
            text = Path(path).read_text("utf-8-sig")
            lines = list(csv.reader(StringIO(text, newline=""), strict=True))
    if lines[:1] != [list(COLUMNS)]:
        raise ValueError(f"{path}: the first line is not {','.join(COLUMNS)}: {REMEDY}")
    for number, fields in enumerate(lines[1:], 2):
        if flaw := find_flaw(fields):
            raise ValueError(f"{path}: line {number} {flaw}: {REMEDY}")
    table = pd.DataFrame(lines[1:], columns=COLUMNS, dtype=str)
    return table.assign(catch=table["catch"] == "True", seconds=table["seconds"].astype(float))


def find_flaw(fields):
    """What is wrong with a line of the CSV; "" where nothing is."""
    if len(fields) != len(COLUMNS):
        return f"has {len(fields)} fields, not {len(COLUMNS)}"
    row = dict(zip(COLUMNS, fields, strict=True))
    pairs = {"False": COMPARED, "True": CATCH.get(row["question"], ())}
    right = {
        "judge": row["judge"] == tidy(row["judge"]) != "",
        "question": row["question"] in QUESTIONS,
        "catch": row["catch"] in pairs,
        "left": row["left"] in pairs.get(row["catch"], ()),
        "right": row["right"] in pairs.get(row["catch"], ()) and row["right"] != row["left"],
        "chosen": row["chosen"] in (row["left"], row["right"]),
        "seconds": row["seconds"].replace(".", "", 1).isdecimal(),
        "pictures": row["pictures"] != "",
    }
    return next((f"has {row[name]!r} as {name}" for name, is_right in right.items() if not is_right), "")


def add_judgement(answer, path):
    """Add an answer, by column, to the CSV, which is written whole or not at all; a damaged one is a ValueError."""
    rows = [*read_judgements(path).to_dict("records"), answer]
    write_table(pd.DataFrame(rows, columns=COLUMNS), path)


def about_these(judgements, photos):
    """Those of the judgements that are about the pictures of `load_photos`, not about those of other weights."""
    pairs = [COMPARED, *CATCH.values()]
    known = {hash_pair(photo, names) for photo in photos.values() for names in pairs if set(names) <= set(photo)}
    return judgements[judgements["pictures"].isin(known)]


def check_judges(judgements):
    """A row a judge: `answers`, how many of them were `catch_trials`, which share of these was `right`, and `counts`.

    A judge counts who has answered at least `CATCH_NEEDED` of the catch trials right, and at least one of them.
    """
    caught = judgements[judgements["catch"]]
    right = caught["chosen"] == caught["question"].map({question: names[0] for question, names in CATCH.items()})
    table = judgements.groupby("judge")["catch"].agg(answers="size", catch_trials="sum")
    table["right"] = right.astype(float).groupby(caught["judge"]).mean()
    return table.assign(counts=table["right"] >= CATCH_NEEDED).reset_index()


def summarize(judgements):
    """A row a question, of the judges who count: how many `judges`, `photos` and `trials`; what they chose.

    `share`: how often the detailed prompt's picture was chosen, as the mean over photos of the share of judges;
    `low`, `high`: its 95 % interval over photos and judges (`crossed_interval`); `p`: a sign test over photos, each of
    which counts once, for the picture that most of its judges chose. Catch trials are left out.
    """
    judges = check_judges(judgements).query("counts")["judge"]
    kept = judgements[judgements["judge"].isin(judges) & ~judgements["catch"]]
    kept = kept.drop_duplicates(["judge", "question", "image_id"])  # two windows of one judge may both ask
    kept, rows = kept.assign(detailed=(kept["chosen"] == "detailed").astype(float)), []
    for question in [name for name in QUESTIONS if name in set(kept["question"])]:
        part = kept[kept["question"] == question]
        table = part.pivot_table(index="image_id", columns="judge", values="detailed")
        share, low, high = crossed_interval(table)
        won, lost = (int((sign * (table.mean(axis=1) - 0.5) > 0).sum()) for sign in (1, -1))
        p = binomtest(won, won + lost).pvalue if won + lost else 1.0
        rows.append((question, *table.shape[::-1], len(part), share, low, high, p))
    return pd.DataFrame(rows, columns=["question", "judges", "photos", "trials", "share", "low", "high", "p"])


def crossed_interval(table, n_resamples=5000, seed=0):
    """The mean of a table photos x judges and its 95 % percentile bootstrap interval, drawing both again.

    NaN: not judged. Photos weigh alike, however many judged them. The interval is for other photos and other judges
    (Owen 2007, "The pigeonhole bootstrap"), so it is rough for few judges; with one, it is for that judge. It is NaN
    for fewer than eight photos, and where all values are equal.
    """
    values, known = table.fillna(0).to_numpy(float), table.notna().to_numpy(float)
    mean, sizes, rng = float(table.mean(axis=1).mean()), table.shape, np.random.default_rng(seed)
    if sizes[0] < 8 or np.ptp(values[known > 0]) == 0:
        return mean, float("nan"), float("nan")
    photos, judges = (rng.multinomial(size, np.full(size, 1 / size), n_resamples).T for size in sizes)
    answers = known @ judges  # of each photo in each resample
    means = np.divide(values @ judges, answers, out=np.zeros_like(answers), where=answers > 0)
    counted = photos * (answers > 0)
    resampled = (means * counted).sum(axis=0)[counted.any(axis=0)] / counted.sum(axis=0)[counted.any(axis=0)]
    return mean, *(float(bound) for bound in np.percentile(resampled, [2.5, 97.5]))


def state_verdict(judgements):
    """What the judges chose, as one sentence or two for a report."""
    if judgements.empty:
        return "Nobody has judged yet: `make judge`."
    said = {"natural": "looks more natural", "fits": "fits the sentence better"}
    parts = []
    for row in summarize(judgements).itertuples():
        bounds = f"95 % interval {row.low:.0%} to {row.high:.0%}, " if row.low == row.low else ""
        counts = f"p {row.p:.2g}, {row.photos} photos, {row.judges} judge{'s' * (row.judges > 1)}"
        parts.append(f"{said[row.question]} in {row.share:.0%} of choices ({bounds}{counts})")
    found = f"The picture under the detailed prompt {' and '.join(parts)}." if parts else "No judge counts yet."
    checks = check_judges(judgements)
    left_out = ", ".join(checks.loc[~checks["counts"], "judge"])
    return found + (f" Left out for too few catch trials answered right: {left_out}." if left_out else "")
