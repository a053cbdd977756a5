"""A panel for JupyterLab: choose a photo, type prompts, colour single objects, compare, go back, download."""

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

from lib.photo.boxes import ColoredObjects
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
ERRORS = (ValueError, OSError, RuntimeError, MemoryError)  # that are said in the panel


@dataclass(eq=False)
class Result:
    """One picture of the history: what makes it again, how it looks, what to say of it, and where it was saved."""

    prompt: str
    options: dict  # by the names of `Colorizer.__call__`: numbers, `colors`, `bind`
    preview: np.ndarray  # (H, W, 3) in uint8
    notes: list
    saved: Path | None = None

    @property
    def words(self) -> str:
        """The prompt and the colours of objects."""
        colors = [color if isinstance(place, tuple) else f"{place}: {color}" for place, color in self.options["colors"]]
        return " + ".join([self.prompt, *colors])

    @property
    def name(self) -> str:
        """All that it was made with, in a line."""
        said = [f"{said} {self.options[name]:g}" for name, said in NAMES.items()]
        return f"{self.words} ({', '.join(said + ['each colour kept to its object'] * self.options['bind'])})"


class Panel:
    """The panel of a `Colorizer`; `box` is what a notebook shows. Pictures and uploads are kept in `folder`."""

    def __init__(self, colorizer, photos, folder):
        self.colorizer, self.folder = colorizer, Path(folder)
        self.photo, self.results_of = None, {}
        wide = widgets.Layout(width="46em")
        self.choose = widgets.Dropdown(options=[(Path(p).name, Path(p)) for p in photos], description="photo")
        self.upload = widgets.FileUpload(accept="image/*", description="or upload")
        self.prompts = widgets.Textarea(placeholder=VAGUE_PROMPT, description="prompts", rows=3, layout=wide)
        self.objects, self.options = ColoredObjects(), make_options(colorizer.config)
        self.button = widgets.Button(description="Colorize", button_style="primary")
        self.progress, self.message = widgets.IntProgress(layout=widgets.Layout(width="10em")), widgets.HTML()
        self.history = widgets.SelectMultiple(description="history", rows=4, layout=wide)
        self.split = widgets.IntSlider(value=50, description="before", readout=False, layout=wide)
        self.columns = widgets.HBox()
        self.button.on_click(lambda _: self.colorize())
        self.choose.observe(self.take_chosen, "value")
        self.upload.observe(lambda _: self.take_upload(), "value")
        self.history.observe(lambda _: self.show(), "value")
        self.split.observe(lambda _: self.draw(), "value")
        options, line = list(self.options.values()), widgets.HBox
        rows = [line([self.choose, self.upload]), self.objects.box, self.prompts, line(options[:2]), line(options[2:])]
        rows += [line([self.button, self.progress, self.message]), self.history, self.split, self.columns]
        self.box = widgets.VBox([*rows, widgets.HTML(f"<i>{escape(EXPECT)}</i>")])
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
        except ERRORS as error:
            self.say(f"not opened: {error}")
        self.objects.show(self.before)
        self.results = self.results_of.setdefault(path, []) if self.photo else []
        self.remember([])

    def colorize(self):
        """Colorize the photo under each prompt; what is wrong is said in the panel, and the history stays."""
        prompts = [line.strip() for line in self.prompts.value.splitlines() if line.strip()] or [VAGUE_PROMPT]
        if not self.photo or len(prompts) > MAX_PROMPTS:
            return self.say(f"at most {MAX_PROMPTS} prompts at a time" if self.photo else "no photo is chosen")
        options = {name: widget.value for name, widget in self.options.items()} | {"bind": self.objects.bind.value}
        self.button.disabled, self.progress.value, self.progress.max = True, 0, len(prompts)
        results = []
        try:
            options["colors"] = self.objects.colors()
            for prompt in prompts:
                picture, unread = self.colorizer(self.photo, prompt, **options), self.colorizer.unread(prompt)
                notes = [f"the end of the prompt is not read: {unread}"] if unread else []
                preview = reduced(np.asarray(picture.convert("RGB")))
                results.append(Result(prompt, options, preview, [*notes, *picture.notes]))
                self.progress.value += 1
            self.say("; ".join([self.photo.path.name, *(f"the photo {note}" for note in self.photo.notes)]))
        except ERRORS as error:
            self.say(f"not colorized: {error}")
        finally:
            self.button.disabled = False
        if results:
            self.remember(results)

    def remember(self, results):
        """Put new results first in this photo's history, and show them."""
        self.results[:0] = results
        self.history.options = [(result.name, result) for result in self.results]
        self.history.value = results
        self.show()

    def show(self):
        """A column for each result that is chosen in the history: its picture, words, notes, and a way to save it."""
        self.split.disabled = not self.history.value
        width = widgets.Layout(width=f"{98 // max(len(self.history.value), 1)}%", max_width=f"{SHOWN}px")
        self.shown, columns = [(widgets.Image(format="png"), result) for result in self.history.value], []
        for image, result in self.shown:
            words = widgets.HTML("<br>".join([f"<b>{escape(result.words)}</b>", *map(escape, result.notes)]))
            save = link_to(result.saved) if result.saved else widgets.Button(description="Save")
            if not result.saved:
                save.on_click(lambda _, result=result: self.write(result))
            columns.append(widgets.VBox([image, words, save], layout=width))
        self.draw()
        self.columns.children = columns

    def draw(self):
        """Draw the results that are shown: the photo left of the slider, its colours right of it."""
        for image, result in self.shown:
            edge, file = round(self.split.value / 100 * self.before.shape[1]), BytesIO()
            Image.fromarray(np.hstack([self.before[:, :edge], result.preview[:, edge:]])).save(file, "png")
            image.value = file.getvalue()

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
        except ERRORS as error:
            self.say(f"not saved: {error}")

    def say(self, text):
        """Say something in the panel's line of messages."""
        self.message.value = escape(text, quote=False)


def make_options(config) -> dict[str, widgets.Widget]:
    """A widget for each option of `NAMES`, by name; they start from the configuration."""
    narrow, options = widgets.Layout(width="12em"), {}
    for name, said in NAMES.items():
        start = {"value": getattr(config, name, LIMITS[name][0](name != "seed")), "description": said}
        if name in ("saturation", "controlnet_conditioning_scale"):
            options[name] = widgets.FloatSlider(**start, min=0, max=2, step=0.1)
        else:
            kind = widgets.BoundedIntText if LIMITS[name][0] is int else widgets.BoundedFloatText
            options[name] = kind(**start, min=LIMITS[name][1], max=min(LIMITS[name][2], 10**9), layout=narrow)
    return options


def link_to(path: Path) -> widgets.Output:
    """A link that downloads a file, below what the Jupyter server serves; JupyterLab adds its address."""
    output, place = widgets.Output(), quote(os.path.relpath(path).replace(os.sep, "/"))
    output.append_display_data(HTML(f'<a href="{place}" download>Download {escape(path.name)}</a>'))
    return output


def reduced(pixels: np.ndarray) -> np.ndarray:
    """Pixels (H, W, 3) at a size for the screen."""
    image = Image.fromarray(pixels)
    image.thumbnail((SHOWN, SHOWN))
    return np.asarray(image)
