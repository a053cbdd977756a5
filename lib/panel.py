"""A small panel for JupyterLab: choose a photo, type a prompt, colorize, compare, try another word, save."""

from io import BytesIO
from pathlib import Path

import ipywidgets as widgets
import numpy as np
from PIL import Image

from lib.colorize import colorize_photo
from lib.fullsize import paint_gray
from lib.photo import made_with, open_photo_file, save_picture
from lib.prompts import VAGUE_PROMPT

SHOWN = 640  # px, the longer side on the screen


class Panel:
    """The panel; `box` is what a notebook shows. Pictures are saved to `folder`, uploads beside them."""

    def __init__(self, pipeline, profile, photos, folder):
        self.pipeline, self.profile, self.folder = pipeline, profile, Path(folder)
        self.before = self.after = None  # uint8 (H, W, 3)
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
        self.split.observe(lambda _: self.show(), "value")
        self.box = widgets.VBox([
            widgets.HBox([self.choose, self.upload]),
            self.prompt,
            widgets.HBox([self.seed, self.saturation, self.button, self.progress]),
            self.split,
            self.picture,
            widgets.HBox([self.save, self.message]),
        ])  # fmt: skip

    def path(self):
        """The chosen photo; an upload comes first, and is kept beside the results."""
        if not self.upload.value:
            return self.choose.value
        sent = self.upload.value[0]
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / Path(sent["name"]).name
        path.write_bytes(sent["content"])
        return path

    def colorize(self):
        """Colorize the chosen photo; what is wrong with it is said in the panel."""
        self.button.disabled, self.progress.value, self.message.value = True, 1, ""
        try:
            self.source = self.path()
            self.photo = open_photo_file(self.source)
            self.progress.value = 2
            prompt = self.prompt.value or VAGUE_PROMPT
            arguments = ([self.seed.value], self.pipeline, self.profile)
            self.after = colorize_photo(self.photo, prompt, *arguments, self.saturation.value)[0][0]
            self.before = paint_gray(self.photo.pixels)
            self.settings = made_with(self.source, prompt, self.seed.value, self.saturation.value, self.profile)
            self.message.value = "; ".join(f"the photo {note}" for note in self.photo.notes)
            self.split.disabled = self.save.disabled = False
            self.show()
            self.progress.value = 3
        except (ValueError, OSError) as error:
            self.message.value, self.progress.value = str(error), 0
        finally:
            self.button.disabled = False

    def show(self):
        """The photo left of the slider, its colours right of it, small enough for a screen."""
        edge = round(self.split.value / 100 * self.before.shape[1])
        both = Image.fromarray(np.hstack([self.before[:, :edge], self.after[:, edge:]]))
        both.thumbnail((SHOWN, SHOWN))
        file = BytesIO()
        both.save(file, "png")
        self.picture.value = file.getvalue()

    def write(self):
        """Save the colours at the photo's full size, and say where."""
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / f"{self.source.stem}.color.png"
        save_picture(self.after, self.photo, target, self.settings)
        self.message.value = f"saved: {target}"
