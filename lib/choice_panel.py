"""A panel for JupyterLab in which a judge chooses between two pictures, not knowing what they were made with."""

import time
from dataclasses import asdict
from html import escape
from io import BytesIO
from pathlib import Path

import ipywidgets as widgets
import numpy as np
from PIL import Image

from lib.cache import one_line
from lib.judging import QUESTIONS, about_these, add_judgement, draw_pairs, hash_pair, read_judgements, tidy

SIDE = 320  # px of a picture on the screen
FASTEST = 0.3  # seconds; what comes sooner is the second half of a double click


class ChoicePanel:
    """The panel of one judge; `box` is what a notebook shows. Each answer is added to the CSV at `path` at once."""

    def __init__(self, photos, judge, path):
        self.photos, self.judge, self.path = photos, tidy(judge), Path(path)
        self.question, self.sentence, self.message = widgets.HTML(), widgets.HTML(), widgets.HTML()
        size = widgets.Layout(width=f"{SIDE}px", height=f"{SIDE}px", object_fit="contain")
        self.pictures = [widgets.Image(value=b"", format="png", layout=size) for _ in range(2)]
        wide = widgets.Layout(width=f"{SIDE}px")
        self.buttons = [widgets.Button(description=side, layout=wide) for side in ("left", "right")]
        self.progress = widgets.IntProgress(layout=widgets.Layout(width="20em"))
        self.pairs, self.waiting, self.shown_at = [], [], time.monotonic()
        for number, button in enumerate(self.buttons):
            button.on_click(lambda _, number=number: self.choose(number))
        columns = [widgets.VBox(both) for both in zip(self.pictures, self.buttons, strict=True)]
        self.choice = widgets.VBox([widgets.HBox(columns), self.progress])
        self.choice.layout.display = "none"  # until there is something to choose
        self.box = widgets.VBox([self.question, self.sentence, self.choice, self.message])
        if self.judge:
            self.begin()
        else:
            self.say("Write your name or initials as judge in the first cell, and run the cells again.")

    def begin(self):
        """Leave out what the judge has answered already, and ask about the first pair that is left."""
        try:
            there = read_judgements(self.path)
        except ValueError as error:
            return self.say(one_line(error, None))
        current = about_these(there, self.photos)
        own = current[current["judge"] == self.judge]
        answered = set(zip(own["question"], own["image_id"], strict=True))
        self.pairs = draw_pairs(self.photos, self.judge)
        self.waiting = [pair for pair in self.pairs if (pair.question, pair.image_id) not in answered]
        outdated = (there["judge"] == self.judge).sum() - len(own)
        self.say(f"{outdated} of your answers are about other pictures and don't count here." if outdated else "")
        self.ask()

    def ask(self):
        """Show the next pair, or that there is none; the browser gets no names, only pictures of one size."""
        self.progress.max, self.progress.value = len(self.pairs), len(self.pairs) - len(self.waiting)
        self.choice.layout.display = "" if self.waiting else "none"
        if not self.waiting:
            self.question.value, self.sentence.value = "<h3>That was the last pair. Thank you!</h3>", ""
            return
        pair = self.waiting[0]
        photo, part = self.photos[pair.image_id], list(QUESTIONS).index(pair.question) + 1
        self.question.value = f"<h3>Part {part} of {len(QUESTIONS)}: {QUESTIONS[pair.question]}</h3>"
        self.sentence.value = f"<p>{escape(photo['sentence'])}</p>" if pair.question == "fits" else ""
        for image, name in zip(self.pictures, (pair.left, pair.right), strict=True):
            image.value = encode(photo[name])
        self.shown_at = time.monotonic()

    def choose(self, number):
        """Keep the answer, 0 for left and 1 for right, and go on; where it can't be kept, ask again and say why."""
        seconds = time.monotonic() - self.shown_at
        if not self.waiting or seconds < FASTEST:
            return
        pair, names = self.waiting[0], (self.waiting[0].left, self.waiting[0].right)
        pictures = hash_pair(self.photos[pair.image_id], names)
        answer = {**asdict(pair), "chosen": names[number], "seconds": round(seconds, 2), "pictures": pictures}
        try:
            add_judgement({"judge": self.judge, **answer}, self.path)
        except (ValueError, OSError) as error:
            return self.say(f"Your answer was not kept: {one_line(error, None)}")
        self.waiting.pop(0)
        self.say("")
        self.ask()

    def say(self, text):
        """Say something in the panel's line of messages."""
        self.message.value = escape(text, quote=False)


def encode(picture):
    """A picture at the size of the screen, as a PNG that holds its pixels and nothing else."""
    file = BytesIO()
    shown = Image.fromarray(np.asarray(picture)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    shown.save(file, "png")
    return file.getvalue()
