"""People judge pictures: they choose between two pictures of a photo without knowing the prompts.

Each judge compares pictures of the same photo under the detailed and the vague prompt. The `QUESTIONS` are asked one
after the other, so that no sentence is seen before the first question is finished. About one pair in eight is a catch
trial with a known answer, which shows whether the judge pays attention.
"""

import math
import time
from collections import namedtuple
from html import escape
from io import BytesIO
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import pandas as pd
from PIL import Image
from scipy.stats import binomtest
from skimage.color import deltaE_ciede2000

from lib.cache import hash_of, one_line, write_table
from lib.color import srgb_to_lab, to_float, to_pil
from lib.colorize import read_image, read_images
from lib.config import Config
from lib.dataset import load_dataset_dict, read_table
from lib.stats import interval

QUESTIONS = {"natural": "Which looks more natural?", "fits": "Which fits the sentence?"}
COMPARED = ("detailed", "vague")
CATCH = {"natural": ("true", "recolored"), "fits": ("detailed", "recolored")}  # (right, wrong), by question
PAIRS_PER_CATCH, CATCH_NEEDED = 8, 0.8  # one pair in eight; the share that a judge who counts has right
PAIR_COLUMNS = ("question", "image_id", "left", "right", "catch")
COLUMNS = ("judge", *PAIR_COLUMNS, "chosen", "seconds", "pictures")
SIDE, FASTEST = 320, 0.3  # px of a picture on the screen; seconds: faster is the second half of a double click
Pair = namedtuple("Pair", PAIR_COLUMNS)  # two pictures of a photo, named as in `load_photos`


def load_photos(config: Config, n_photos: int = 0) -> dict[str, dict]:
    """Returns {image_id: {"sentence": ..., name: PIL picture}} of the first `n_photos` test photos, 0: all.

    The names are `true`, `vague`, `detailed` and, if it was colorized, `recolored`, of seed 0. Raises ValueError if
    notebook 04 hasn't made these pictures.
    """
    images, photos = read_images(config).query("seed == 0"), {}
    rows = load_dataset_dict(config)["test"]
    index = {image_id: number for number, image_id in enumerate(rows["image_id"])}
    for image_id in images["image_id"].unique()[: n_photos or None]:
        own = images[images["image_id"] == image_id].set_index("prompt_condition")
        true = rows[index[image_id]]["image"].convert("RGB")
        photos[image_id] = {"sentence": own["prompt"]["detailed"], "true": true}
        for name in own.index.intersection([*COMPARED, "recolored"]):
            photos[image_id][name] = to_pil(read_image(config.run_dir, own["after"][name]))
    if not any("recolored" in photo for photo in photos.values()):
        raise ValueError("catch trials need pictures under recolored: add it to prompt_conditions, run notebook 04")
    return photos


def hash_pair(photo: dict, names: tuple[str, str]) -> str:
    """Returns a short text that changes with the pixels of two of a photo's pictures, not with their sides."""
    return hash_of([*sorted(names), *(np.asarray(photo[name]) for name in sorted(names))])


def draw_pairs(photos: dict, judge: str) -> list[Pair]:
    """Draws the pairs for a judge, in order, with the judge's name as the seed; each side has a picture half the time.

    A photo comes once a question, and not again after a catch trial has shown its true colours. Catch trials are drawn
    from the half of the photos whose two pictures differ most in CIEDE2000.
    """
    rng = np.random.default_rng(int(hash_of(["judging", judge]), 16))
    left, pairs = list(photos), []
    for question, known in CATCH.items():
        order, differences = [left[number] for number in rng.permutation(len(left))], {}
        for image_id in order:
            if set(known) <= set(photos[image_id]):
                small = [srgb_to_lab(to_float(photos[image_id][name].resize((32, 32)))) for name in known]
                differences[image_id] = deltaE_ciede2000(*small).mean()
        clear = sorted(differences, key=differences.get)[len(differences) // 2 :]
        caught = [image_id for image_id in order if image_id in clear][: math.ceil(len(order) / PAIRS_PER_CATCH)]
        left, drawn = [image_id for image_id in order if image_id not in caught], []
        for image_ids, names in ((caught, known), (left, COMPARED)):
            swapped = rng.permutation((np.arange(len(image_ids)) + rng.integers(2)) % 2)
            sides = [names[::-1] if swap else names for swap in swapped]
            drawn += [Pair(question, i, *s, names is known) for i, s in zip(image_ids, sides, strict=True)]
        pairs += [drawn[number] for number in rng.permutation(len(drawn))]
    return pairs


def read_judgements(path) -> pd.DataFrame:
    """Returns the answers in a CSV as a table of `COLUMNS`, empty if there is no file; ValueError if it is damaged."""
    if not Path(path).exists():
        return pd.DataFrame(columns=COLUMNS).astype({"catch": bool})
    table = read_table(path, COLUMNS)
    left, right, chosen = (table[name] for name in ("left", "right", "chosen"))
    valid = (left != right) & ((chosen == left) | (chosen == right))
    if not valid.all():
        raise ValueError(f"{path}: line {valid.argmin() + 2} is damaged: correct it, or move the file elsewhere")
    return table.assign(catch=table["catch"] == "True")[list(COLUMNS)]


def about_these(judgements: pd.DataFrame, photos: dict) -> pd.DataFrame:
    """Returns the judgements about the pictures of `load_photos`, without those about pictures of other weights."""
    pairs = [COMPARED, *CATCH.values()]
    known = {hash_pair(photo, names) for photo in photos.values() for names in pairs if set(names) <= set(photo)}
    return judgements[judgements["pictures"].isin(known)]


class ChoicePanel:
    """The panel of one judge; `box` is what a notebook shows. Each answer is written to the CSV at `path` at once."""

    def __init__(self, photos: dict, judge: str, path):
        self.photos, self.judge, self.path = photos, " ".join(judge.split()).casefold(), Path(path)
        self.question, self.sentence, self.message = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.pictures = [widgets.Image(layout={"width": f"{SIDE}px", "height": f"{SIDE}px"}) for _ in range(2)]
        self.buttons = [widgets.Button(description=name, layout={"width": f"{SIDE}px"}) for name in ("left", "right")]
        self.back, self.place = widgets.Button(description="back"), widgets.Label()
        for number, button in enumerate(self.buttons):
            button.on_click(lambda _, number=number: self.choose(number))
        self.back.on_click(lambda _: self.ask(self.position - 1))
        columns = [widgets.VBox(both) for both in zip(self.pictures, self.buttons, strict=True)]
        self.choice, steps = widgets.HBox(columns), widgets.HBox([self.back, self.place])
        self.box = widgets.VBox([self.question, self.sentence, self.choice, steps, self.message])
        if not self.judge:
            raise ValueError("write your name or initials as judge in the first cell, and run the cells again")
        own = about_these(read_judgements(self.path), photos).query("judge == @self.judge")
        answered = set(zip(own["question"], own["image_id"], strict=True))
        self.pairs = sorted(draw_pairs(photos, self.judge), key=lambda pair: pair[:2] not in answered)
        self.ask(len(answered))

    def ask(self, position: int):
        """Shows the pair at a position, or that there are no more; the browser gets pictures and no names."""
        self.position, self.shown_at, n = position, time.monotonic(), len(self.pairs)
        self.back.disabled, self.place.value = position == 0, f"pair {min(position + 1, n)} of {n}"
        self.choice.layout.display, self.sentence.value = "" if position < n else "none", ""
        if position == n:
            self.question.value = "<h3>That was the last pair. Thank you!</h3>"
            return
        pair = self.pairs[position]
        self.question.value = f"<h3>{QUESTIONS[pair.question]}</h3>"
        if pair.question == "fits":
            self.sentence.value = f"<p>{escape(self.photos[pair.image_id]['sentence'])}</p>"
        for image, name in zip(self.pictures, (pair.left, pair.right), strict=True):
            file, pixels = BytesIO(), Image.fromarray(np.asarray(self.photos[pair.image_id][name]))  # no metadata
            pixels.resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(file, "png")
            image.value = file.getvalue()

    def choose(self, number: int):
        """Writes the answer, 0 for left and 1 for right, in place of an earlier one, and shows the next pair."""
        seconds = time.monotonic() - self.shown_at
        if self.position == len(self.pairs) or seconds < FASTEST:
            return
        pair = self.pairs[self.position]
        pictures = hash_pair(self.photos[pair.image_id], (pair.left, pair.right))
        answer = (self.judge, *pair, (pair.left, pair.right)[number], round(seconds, 2), pictures)
        try:
            rows = [*read_judgements(self.path).itertuples(index=False, name=None), answer]
            table = pd.DataFrame(rows, columns=COLUMNS)
            write_table(table.drop_duplicates(["judge", "question", "image_id", "pictures"], keep="last"), self.path)
        except (ValueError, OSError) as error:
            self.message.value = escape(f"Your answer was not kept: {one_line(error)}")
        else:
            self.message.value = ""
            self.ask(self.position + 1)


def state_verdict(judgements: pd.DataFrame) -> str:
    """Returns what the judges chose, who had `CATCH_NEEDED` of their catch trials right, in a sentence for a report.

    Shares are means over photos of the share of judges, with 95 % intervals over photos; p is of a sign test over
    photos of what most judges chose.
    """
    if judgements.empty:
        return "Nobody has judged yet: `make judge`."
    caught = judgements[judgements["catch"]]
    right = caught["chosen"] == caught["question"].map({question: names[0] for question, names in CATCH.items()})
    shares = right.astype(float).groupby(caught["judge"]).mean()
    counted, results = judgements["judge"].isin(shares.index[shares >= CATCH_NEEDED]) & ~judgements["catch"], []
    words = {"natural": "looks more natural", "fits": "fits the sentence better"}
    for question, own in judgements[counted].groupby("question", sort=False):
        share = own["chosen"].eq("detailed").groupby(own["image_id"]).mean()
        (mean, low, high), won, lost = interval(share), int((share > 0.5).sum()), int((share < 0.5).sum())
        p = binomtest(won, won + lost).pvalue if won + lost else 1.0
        numbers = f"95 % interval {low:.0%} to {high:.0%}, p {p:.2g}, photos: {len(share)}"
        results.append(f"{words[question]} in {mean:.0%} of choices ({numbers}, judges: {own['judge'].nunique()})")
    return f"The picture under the detailed prompt {' and '.join(results)}." if results else "No judge counts yet."
