"""A panel for JupyterLab; its side in the browser, `panel.js`, draws the traits of `Panel` and sends messages."""

import base64
from io import BytesIO
from itertools import count
from pathlib import Path
from threading import Event, Thread

import anywidget
import torch
import traitlets
from matplotlib.colors import XKCD_COLORS
from PIL import Image

from lib.cache import new_file, one_line
from lib.color import gray_from_luminance, to_pil
from lib.photo.colorizer import SAMPLING, Colorizer
from lib.photo.formats import EXPECT, Photo, open_photo
from lib.photo.full_resolution import reduce_lightness
from lib.prompts import VAGUE_PROMPT

SHOWN = 640  # px, the longer side of a picture on the screen, at most
WORDS = ("red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink", "brown", "beige", "white", "gray")
NAMES = [*WORDS, *(f"{shade} {word}" for word in WORDS for shade in ("dark", "pale"))]
COLORS = {name: XKCD_COLORS[f"xkcd:{name}"] for name in NAMES if f"xkcd:{name}" in XKCD_COLORS}  # {name: "#rrggbb"}


class Panel(anywidget.AnyWidget):
    """The panel of a `Colorizer`; a `folder` takes the pictures, at full size, and the photos that are uploaded.

    `photos`: {path: descriptions to choose from, the first filled in} of photos to begin with.
    """

    _esm, _css = (Path(__file__).with_name(f"panel.{ending}") for ending in ("js", "css"))
    names = traitlets.List().tag(sync=True)  # of the photos to choose from
    photo = traitlets.Dict().tag(sync=True)  # the chosen one: name, before (a data URL), descriptions
    history = traitlets.List().tag(sync=True)  # its results, newest first: settings, after (a data URL), caption, file
    shown = traitlets.Int(0).tag(sync=True)  # index in `history`
    progress = traitlets.List([0, 0]).tag(sync=True)  # steps done and to do; 0 to do: nothing is being done
    message, expect = traitlets.Unicode().tag(sync=True), traitlets.Unicode(EXPECT).tag(sync=True)
    colors, options = traitlets.Dict(COLORS).tag(sync=True), traitlets.Dict().tag(sync=True)  # {option: first value}

    def __init__(self, colorizer: Colorizer, photos: dict[Path, list[str]], folder: str | Path):
        super().__init__()
        self.colorizer, self.folder, self.results, self.opened = colorizer, Path(folder), {}, None
        self.stopped, self.worker = Event(), Thread()
        self.cancel = self.stopped.set  # ends the work on a picture before the network's next layer
        self.descriptions = {Path(path).name: texts for path, texts in photos.items()}
        uploads = sorted((self.folder / "uploads").glob("[!.]*"), key=lambda path: path.stat().st_mtime, reverse=True)
        self.paths = {path.name: path for path in [*map(Path, photos), *uploads]}
        self.options = {"seed": 0, "saturation": 1.0, **colorizer.config.values(*SAMPLING), "bind": False}
        self.on_msg(self.handle)
        next(filter(self.choose, list(self.paths)), None)

    def handle(self, _, content: dict, buffers: list) -> None:
        """Does what a message of the browser asks for; what goes wrong is said in the panel."""
        try:
            getattr(self, content.pop("action"))(**content, **({"content": bytes(buffers[0])} if buffers else {}))
        except Exception as error:  # which is seen nowhere else
            self.message = one_line(error, None)

    def choose(self, name: str) -> bool:
        """Shows a photo, and returns whether it can be read; one that can't is said and dropped from the list."""
        try:
            self.opened = opened = open_photo(self.paths[name])
        except ValueError as error:
            del self.paths[name]
            self.names, self.message = list(self.paths), f"dropped: {error}"
            self.send({"action": "chosen"})  # the browser's list shows the photo of before
            return False
        height, width = opened.plane.shape
        before = to_url(to_pil(gray_from_luminance(reduce_lightness(opened.plane, SHOWN))))
        with self.hold_sync():
            self.names, self.history, self.shown = list(self.paths), self.results.setdefault(name, []), 0
            self.photo = {"name": name, "before": before, "descriptions": list(self.descriptions.get(name, []))}
            self.message = "; ".join([f"{name}, {width} x {height}", *opened.notes])
        return True

    def upload(self, name: str, content: bytes) -> None:
        """Keeps an uploaded photo under a name that is free, puts it first in the list, and shows it."""
        open_photo(content)  # a broken one is not kept
        path = self.folder / "uploads" / Path(name.replace("\\", "/")).name
        if not (path.exists() and path.read_bytes() == content):
            path = free_name(path, self.paths)
            with new_file(path) as partial:
                partial.write_bytes(content)
        self.paths = {path.name: path, **self.paths}
        self.choose(path.name)

    def colorize(self, settings: dict) -> None:
        """Begins to make a picture with arguments of `Colorizer.__call__`; shows the earlier one if there is one."""
        made = [result["settings"] for result in self.history]
        if self.worker.is_alive() or settings in made:
            self.shown = made.index(settings) if settings in made else self.shown
            return
        self.stopped.clear()
        self.progress = [0, settings["num_inference_steps"] * (2 if settings["bind"] or settings["colors"] else 1)]
        self.worker = Thread(target=self.work, args=(self.photo["name"], self.opened, settings))
        self.worker.start()

    def work(self, name: str, opened: Photo, settings: dict) -> None:
        """Makes a picture, saves it, and puts it first in the photo's history."""

        def follow(module, _):
            if self.stopped.is_set():
                raise InterruptedError("cancelled")
            if module is self.colorizer.pipeline.unet:
                self.progress = [self.progress[0] + 1, self.progress[1]]

        hook = torch.nn.modules.module.register_module_forward_pre_hook(follow)
        try:
            prompt = settings["prompt"] or VAGUE_PROMPT
            picture = self.colorizer(opened, **{**settings, "prompt": prompt})
            bound = f"each colour only on its object: {picture.made['bind'] or 'no object found'}"
            mode = bound if settings["bind"] else "the prompt colours the whole photo"
            caption = [mode, *self.colorizer.prompt_notes(prompt), *picture.notes]
            target = free_name(self.folder / f"{opened.path.stem}.color.png")
            picture.save(target)
            self.message, after = f"saved: {target}", to_url(picture.convert("RGB"))
            result = {"settings": settings, "after": after, "caption": caption, "file": target.name}
            self.results[name] = [result, *self.results[name]]
            if self.photo["name"] == name:
                self.history, self.shown = self.results[name], 0
        except Exception as error:  # a thread's errors are seen nowhere else
            self.message = one_line(error, None)
        finally:
            hook.remove()
            self.progress = [0, 0]

    def download(self, file: str) -> None:
        """Sends a saved picture to the browser."""
        self.send({"action": "save", "file": file}, [(self.folder / Path(file).name).read_bytes()])


def free_name(path: Path, taken=()) -> Path:
    """Returns a path, with a number before its ending if there is such a file or its name is taken."""
    paths = (path.with_name(f"{path.stem}{f'.{k}' if k > 1 else ''}{path.suffix}") for k in count(1))
    return next(path for path in paths if not path.exists() and path.name not in taken)


def to_url(image: Image.Image) -> str:
    """Returns a PIL image, reduced in place to a size for the screen, as a data URL."""
    image.thumbnail((SHOWN, SHOWN))
    image.save(file := BytesIO(), "webp", quality=90)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
