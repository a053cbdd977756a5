"""A panel for JupyterLab: choose a photo, type prompts, colour single things, compare, go back, download."""

import os
from dataclasses import dataclass
from html import escape
from io import BytesIO
from itertools import chain, count
from pathlib import Path
from urllib.parse import quote

import ipywidgets as widgets
import numpy as np
from IPython.display import HTML
from PIL import Image

from lib.photo.boxes import ColoredThings
from lib.photo.formats import EXPECT, open_photo
from lib.photo.full_resolution import paint_gray
from lib.photo.pictures import LIMITS
from lib.prompts import VAGUE_PROMPT

SHOWN = 640  # px, the longer side of a picture on the screen, at most
MAX_PROMPTS = 6  # at a time
NAMES = {  # of the options, for the screen
    "seed": "seed",
    "saturation": "saturation",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "controlnet_conditioning_scale": "strength",
}


@dataclass(eq=False)
class Result:
    """One picture of the history: what makes it again, how it looks, what to say of it, and where it was saved."""

    prompt: str
    options: dict  # by the names of `Colorizer.__call__`: numbers, `colors`, `bind`
    preview: np.ndarray  # (H, W, 3) in uint8
    notes: list
    saved: Path | None = None

    @property
    def words(self):
        """The prompt and the colours of things."""
        colors = [color if isinstance(place, tuple) else f"{place}: {color}" for place, color in self.options["colors"]]
        return " + ".join([self.prompt, *colors])

    @property
    def name(self):
        """All that it was made with, in a line."""
        said = [f"{said} {self.options[name]:g}" for name, said in NAMES.items()]
        return f"{self.words} ({', '.join(said + ['each colour kept to its thing'] * self.options['bind'])})"


class Panel:
    """The panel of a `Colorizer`; `box` is what a notebook shows. Pictures and uploads are kept in `folder`."""

    def __init__(self, colorizer, photos, folder):
        self.colorizer, self.folder = colorizer, Path(folder)
        self.photo, self.results_of = None, {}
        wide = widgets.Layout(width="46em")
        self.choose = widgets.Dropdown(options=[(Path(p).name, Path(p)) for p in photos], description="photo")
        self.upload = widgets.FileUpload(accept="image/*", description="or upload")
        self.prompts = widgets.Textarea(placeholder=VAGUE_PROMPT, description="prompts", rows=3, layout=wide)
        self.things = ColoredThings()
        self.options = make_options(colorizer.profile.sampling)
        self.button = widgets.Button(description="Colorize", button_style="primary")
        self.progress = widgets.IntProgress(layout=widgets.Layout(width="10em"))
        self.message = widgets.HTML()
        self.history = widgets.SelectMultiple(description="history", rows=4, layout=wide)
        self.split = widgets.IntSlider(value=50, description="before", readout=False, layout=wide)
        self.columns = widgets.HBox()
        self.button.on_click(lambda _: self.colorize())
        self.choose.observe(self.take_chosen, "value")
        self.upload.observe(lambda _: self.take_upload(), "value")
        self.history.observe(lambda _: self.show(), "value")
        self.split.observe(lambda _: self.draw(), "value")
        rows = [[self.choose, self.upload], [self.things.box], [self.prompts]]
        rows += [
            list(self.options.values())[:2],
            list(self.options.values())[2:],
            [self.button, self.progress, self.message],
        ]
        rows += [[self.history], [self.split], [self.columns], [widgets.HTML(f"<i>{escape(EXPECT)}</i>")]]
        self.box = widgets.VBox([row[0] if len(row) == 1 else widgets.HBox(row) for row in rows])
        if self.choose.value:
            self.take(self.choose.value)

    def take_chosen(self, change):
        """Take the photo that was chosen in the list."""
        self.take(change["new"])

    def take_upload(self):
        """Keep an uploaded photo beside the results, put it first in the list, and take it."""
        if not self.upload.value:
            return
        sent = self.upload.value[0]
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / Path(sent["name"]).name
        path.write_bytes(sent["content"])
        self.results_of.pop(path, None)  # of an earlier photo of this name
        others = [option for option in self.choose.options if option[1] != path]
        self.choose.unobserve(self.take_chosen, "value")
        self.choose.options = [(path.name, path), *others]  # the first is chosen
        self.choose.observe(self.take_chosen, "value")
        self.take(path)

    def take(self, path):
        """Take a photo to colorize: show it, gray, and its name; one that can't be read is named, and none is taken."""
        self.photo = self.before = None
        try:
            self.photo = open_photo(path)
            height, width = self.photo.pixels.shape[:2]
            self.before = reduced(paint_gray(self.photo.pixels))
            self.say(f"{path.name}, {width} x {height}")
        except (ValueError, OSError, MemoryError) as error:
            self.say(f"not opened: {error}")
        self.things.show(self.before)
        self.results = self.results_of.setdefault(path, []) if self.photo else []
        self.remember([])

    def colorize(self):
        """Colorize the photo under each prompt; what is wrong is said in the panel, and the history stays."""
        prompts = [line.strip() for line in self.prompts.value.splitlines() if line.strip()] or [VAGUE_PROMPT]
        if not self.photo or len(prompts) > MAX_PROMPTS:
            return self.say(f"at most {MAX_PROMPTS} prompts at a time" if self.photo else "no photo is chosen")
        options = {name: widget.value for name, widget in self.options.items()} | {"bind": self.things.bind.value}
        self.button.disabled, self.progress.value, self.progress.max = True, 0, len(prompts)
        made = []
        try:
            options["colors"] = self.things.colors()
            for prompt in prompts:
                picture = self.colorizer(self.photo, prompt, **options)
                notes = self.notes_on(prompt, picture)
                made.append(Result(prompt, options, reduced(np.asarray(picture.convert("RGB"))), notes))
                self.progress.value += 1
            self.say("; ".join([self.photo.path.name, *(f"the photo {note}" for note in self.photo.notes)]))
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            self.say(f"not colorized: {error}")
        finally:
            self.button.disabled = False
        if made:
            self.remember(made)

    def notes_on(self, prompt, picture):
        """What there is to say of a picture and its prompt, in a list."""
        unread = self.colorizer.unread(prompt)
        said = f"the end of the prompt is not read: {unread}" if unread else ""
        return [note for note in (said, *picture.notes, picture.paler()) if note]

    def remember(self, results):
        """Put new results first in this photo's history, and show them."""
        self.results[:0] = results
        self.history.options = [(result.name, result) for result in self.results]
        self.history.value = results
        self.show()

    def show(self):
        """A column for each result that is chosen in the history."""
        self.split.disabled = not self.history.value
        width = widgets.Layout(width=f"{98 // max(len(self.history.value), 1)}%", max_width=f"{SHOWN}px")
        self.shown = [(widgets.Image(format="png"), result) for result in self.history.value]
        self.draw()
        columns = [[image, *self.below(result)] for image, result in self.shown]
        self.columns.children = [widgets.VBox(column, layout=width) for column in columns]

    def draw(self):
        """Draw the results that are shown: the photo left of the slider, its colours right of it."""
        for image, result in self.shown:
            edge, file = round(self.split.value / 100 * self.before.shape[1]), BytesIO()
            Image.fromarray(np.hstack([self.before[:, :edge], result.preview[:, edge:]])).save(file, "png")
            image.value = file.getvalue()

    def below(self, result):
        """What stands below a result: its words, notes, and a button that saves it, or the link to its file."""
        save = widgets.Button(description="Save")
        save.on_click(lambda _: self.write(result))
        said = "<br>".join([f"<b>{escape(result.words)}</b>", *map(escape, result.notes)])
        return [widgets.HTML(said), link_to(result.saved) if result.saved else save]

    def write(self, result):
        """Make a result again at the photo's full size, and save it under a new name made of the photo's."""
        stem = self.photo.path.stem
        names = chain([f"{stem}.color.png"], (f"{stem}.color.{n}.png" for n in count(2)))
        try:
            target = next(self.folder / name for name in names if not (self.folder / name).exists())
            self.colorizer(self.photo, result.prompt, **result.options).save(target)
            result.saved = target
            self.say(f"saved: {target}")
            self.show()
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            self.say(f"not saved: {error}")

    def say(self, text):
        """Say something in the panel's line of messages."""
        self.message.value = escape(text, quote=False)


def make_options(sampling):
    """A widget for each option of `NAMES`, by name; `sampling`: the profile's, from which they start."""
    narrow, values = widgets.Layout(width="12em"), vars(sampling)

    def start(name, **bounds):
        return {"value": values.get(name, 1), "description": NAMES[name], **bounds}

    made = {
        "seed": widgets.BoundedIntText(value=0, max=10**9, description="seed", layout=narrow),
        "saturation": widgets.FloatSlider(**start("saturation", min=0, max=2, step=0.1)),
    }
    for name, kind in (("num_inference_steps", widgets.BoundedIntText), ("guidance_scale", widgets.BoundedFloatText)):
        made[name] = kind(**start(name, min=LIMITS[name][1], max=LIMITS[name][2]), layout=narrow)
    name = "controlnet_conditioning_scale"
    return made | {name: widgets.FloatSlider(**start(name, min=0, max=2, step=0.1))}


def link_to(path):
    """A link that downloads a file, below what the Jupyter server serves; JupyterLab adds its address."""
    output, place = widgets.Output(), quote(os.path.relpath(path).replace(os.sep, "/"))
    output.append_display_data(HTML(f'<a href="{place}" download>Download {escape(path.name)}</a>'))
    return output


def reduced(pixels):
    """Pixels (H, W, 3) at a size for the screen."""
    image = Image.fromarray(pixels)
    image.thumbnail((SHOWN, SHOWN))
    return np.asarray(image)
