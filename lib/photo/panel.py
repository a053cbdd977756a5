"""A small panel for JupyterLab: choose a photo, type a prompt, colorize, compare, try another word, save."""

from io import BytesIO
from itertools import chain, count
from pathlib import Path

import ipywidgets as widgets
import numpy as np
from PIL import Image

from lib.photo.formats import EXPECT, open_photo
from lib.photo.full_resolution import paint_gray
from lib.prompts import VAGUE_PROMPT

SHOWN = 640  # px, the longer side on the screen


class Panel:
    """The panel of a `Colorizer`; `box` is what a notebook shows. Pictures and uploads are kept in `folder`."""

    def __init__(self, colorizer, photos, folder):
        self.colorizer, self.folder = colorizer, Path(folder)
        wide = widgets.Layout(width="36em")
        self.choose = widgets.Dropdown(options=[(Path(p).name, Path(p)) for p in photos], description="photo")
        self.upload = widgets.FileUpload(accept="image/*", description="or upload")
        self.prompt = widgets.Text(placeholder=VAGUE_PROMPT, description="prompt", layout=wide)
        self.seed = widgets.IntText(value=0, description="seed", layout=widgets.Layout(width="12em"))
        self.saturation = widgets.FloatSlider(value=1, min=0, max=2, step=0.1, description="saturation")
        self.button = widgets.Button(description="Colorize", button_style="primary")
        self.progress = widgets.IntProgress(max=3, layout=widgets.Layout(width="10em"))
        self.split = widgets.IntSlider(value=50, description="before", readout=False, disabled=True, layout=wide)
        self.picture = widgets.Image(format="png")
        self.save = widgets.Button(description="Save", disabled=True)
        self.message = widgets.Label()
        self.button.on_click(lambda _: self.colorize())
        self.save.on_click(lambda _: self.write())
        self.choose.observe(lambda _: self.take(self.choose.value), "value")
        self.upload.observe(lambda _: self.take_upload(), "value")
        self.split.observe(lambda _: self.show(), "value")
        rows = [[self.choose, self.upload], [self.prompt], [self.seed, self.saturation, self.button, self.progress]]
        rows += [[self.split], [self.picture], [self.save, self.message], [widgets.Label(EXPECT)]]
        self.photo = self.result = None
        self.box = widgets.VBox([widgets.HBox(row) for row in rows])
        if photos is not None and len(photos):
            self.take(self.choose.value)

    def take_upload(self):
        """Keep an uploaded photo beside the results, and take it."""
        if self.upload.value:
            sent = self.upload.value[0]
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / Path(sent["name"]).name
            path.write_bytes(sent["content"])
            self.take(path)

    def take(self, path):
        """Take a photo to colorize: show it, gray, and its name; one that can't be read is named, and none is taken."""
        self.photo = None
        try:
            self.photo = open_photo(path)
        except (ValueError, OSError, MemoryError) as error:
            self.message.value = f"not opened: {error}"
            return
        height, width = self.photo.pixels.shape[:2]
        self.before = self.after = reduced(paint_gray(self.photo.pixels))
        self.result, self.save.disabled, self.split.disabled = None, True, True
        self.message.value = f"{path.name}, {width} x {height}"
        self.show()

    def colorize(self):
        """Colorize the photo that is shown; what is wrong is said in the panel, and the last picture stays."""
        if not self.photo:
            return
        self.button.disabled, self.progress.value = True, 1
        try:
            prompt = self.prompt.value or VAGUE_PROMPT
            self.result = self.colorizer(self.photo, prompt, self.seed.value, self.saturation.value)
            self.progress.value = 2
            self.after = reduced(np.asarray(self.result.convert("RGB")))
            said = [self.photo.path.name, *(f"the photo {note}" for note in self.photo.notes)]
            if unread := self.colorizer.unread(prompt):
                said.append(f"the end of the prompt is not read: {unread}")
            if paler := self.result.paler():
                said.append(paler)
            self.message.value = "; ".join(said)
            self.split.disabled = self.save.disabled = False
            self.show()
            self.progress.value = 3
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            self.message.value, self.progress.value = f"not colorized: {error}", 0
        finally:
            self.button.disabled = False

    def show(self):
        """The photo left of the slider, its colours right of it, small enough for a screen."""
        edge = round(self.split.value / 100 * self.before.shape[1])
        file = BytesIO()
        Image.fromarray(np.hstack([self.before[:, :edge], self.after[:, edge:]])).save(file, "png")
        self.picture.value = file.getvalue()

    def write(self):
        """Save the last picture at the photo's full size, under a new name made of the photo's, and say where."""
        if not self.result:
            return
        stem = self.result.photo.path.stem
        names = chain([f"{stem}.color.png"], (f"{stem}.color.{n}.png" for n in count(2)))
        try:
            target = next(self.folder / name for name in names if not (self.folder / name).exists())
            self.result.save(target)
            self.message.value = f"saved: {target}"
        except OSError as error:
            self.message.value = f"not saved: {error}"


def reduced(pixels):
    """Pixels (H, W, 3) at a size for the screen."""
    image = Image.fromarray(pixels)
    image.thumbnail((SHOWN, SHOWN))
    return np.asarray(image)
