"""Colour pictures that say how they were made, and the bounds of what they may say."""

import html
import json
import os
import re
from base64 import b64decode, b64encode
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from lib import ROOT
from lib.files import hash_of_file, new_file, one_line, open_picture
from lib.photo.formats import UnfitError, regular_file
from lib.profiles import PROFILES, resolve
from lib.regions import MAX_REGIONS, to_regions

SAMPLING_OPTIONS = ("num_inference_steps", "guidance_scale", "controlnet_conditioning_scale")
LIMITS = {  # of numbers, on the command line and in what a picture says of itself: type, lowest, highest
    "seed": (int, 0, 2**62),
    "saturation": (float, 0, 5),
    "num_inference_steps": (int, 1, 1000),
    "guidance_scale": (float, 0, 100),
    "controlnet_conditioning_scale": (float, 0, 10),
}
MAX_TEXT = 10_000  # characters of a prompt or a name in what a picture says of itself
METADATA_NAMES = (
    "photo",
    "sha256",
    "prompt",
    "seed",
    "saturation",
    "colors",
    "bind",
    "profile",
    "base_model",
    "controlnet",
    *SAMPLING_OPTIONS,
)
PACKET = (  # XMP, which JPEG, PNG, WebP and TIFF hold: a JSON text of how a picture was made
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:colorize="urn:colorize" colorize:made="{}"/></rdf:RDF></x:xmpmeta>'
)
LOSSY = {"quality": 95, "subsampling": 0}  # of JPEG and WebP: colour edges stay as sharp as the others


def folder_or_id(name):
    """A folder as an absolute path; any other name, such as a Hub id, as it is."""
    return str(Path(name).resolve()) if Path(name).is_dir() else str(name)


def made_with(path, prompt, seed, saturation, colors, bind, profile, controlnet):
    """All that makes a picture again: the photo and its SHA-256, the model, the words, and the numbers.

    `colors`: `Region`s; `path`: None for a photo that is no file, from which the picture can't be made again.
    """
    name = os.fsencode(path.name).decode("utf-8", "replace") if path else ""
    made = {"photo": name, "sha256": hash_of_file(path) if path else "", "prompt": prompt, "seed": seed}
    made |= {"saturation": saturation, "colors": [[to_json(region.place), region.color] for region in colors]}
    made |= {"bind": bind, "profile": profile.name, "controlnet": place_in_project(controlnet)}
    made |= {"base_model": place_in_project(profile.model.base_model)}
    return made | profile.values(*SAMPLING_OPTIONS)


def place_in_project(name):
    """A folder of this repository by its path there, which says nothing of the machine; any other name as it is."""
    folder, root = resolve(name).resolve(), ROOT.resolve()
    return str(folder.relative_to(root)) if folder.is_dir() and folder.is_relative_to(root) else str(name)


def to_json(place):
    """A region's place as JSON holds it: a name, a box as a list, a mask as a PNG in base 64."""
    if not isinstance(place, np.ndarray):
        return place
    file = BytesIO()
    Image.fromarray((place * 255).round().astype(np.uint8)).save(file, "png")
    return {"mask": b64encode(file.getvalue()).decode()}


def from_json(place):
    """A place that `to_json` wrote."""
    if not isinstance(place, dict):
        return place
    with Image.open(BytesIO(b64decode(place["mask"])), formats=["PNG"]) as image:
        return np.asarray(image)


def packet_of(made):
    """The XMP packet that says how a picture was made."""
    return PACKET.format(html.escape(json.dumps(made, ensure_ascii=False)))


def read_metadata(path):
    """How a picture was made: what `made_with` said; a file that does not say is a ValueError."""
    try:
        with open_picture(regular_file(path)) as image:
            packet = image.info["xmp"].decode()
        made = json.loads(html.unescape(re.search('colorize:made="([^"]*)"', packet)[1]))
        made = {name: made[name] for name in METADATA_NAMES}
    except UnfitError as error:
        raise ValueError(f"{path}: {error}") from None
    except Exception:  # whatever a reader of another file raises
        raise ValueError(f"{path}: does not say how it was made: only pictures written by `colorize` do") from None
    for name, value in made.items():
        if wanted := flaw_of_metadata(name, value):
            said = f"says {name} {repr(value)[:60]}, which should be {wanted}"
            raise ValueError(f"{path}: {said}: it can't be made again")
    made["colors"] = [(from_json(place), color) for place, color in made["colors"]]
    return made


def check_number(name, value):
    """Refuse a number outside its `LIMITS`: ValueError."""
    if wanted := flaw_of_metadata(name, value):
        raise ValueError(f"{name} {value!r} should be {wanted}")


def flaw_of_metadata(name, value):
    """What a value of a picture's metadata should be, where it is something else; "" where it is good."""
    if name in LIMITS:
        kind, low, high = LIMITS[name]
        fits = type(value) in (int, kind) and low <= value <= high
        return "" if fits else f"a number from {low} to {high}"
    if name == "bind":
        return "" if isinstance(value, bool) else "true or false"
    if name == "colors":
        try:
            to_regions([(from_json(place), color) for place, color in value])
        except Exception:  # whatever stands in its place
            return f"a list of at most {MAX_REGIONS} places and colours"
        return ""
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        return f"a text of at most {MAX_TEXT} characters"
    if name == "profile" and value not in PROFILES:
        return f"one of {', '.join(PROFILES)}"
    if name == "sha256" and not re.fullmatch("[0-9a-f]{64}|", value):
        return "64 hexadecimal digits"
    return ""


class ColorPicture(Image.Image):
    """A colorized photo as a PIL image, RGB or RGBA, that keeps what is known of it.

    `photo`: the `Photo` that it was made from; `made`: what makes it again; `lost`: the share of its pixels that lost
    chroma to fit sRGB; `notes`: what was not found, in words.
    """

    def __init__(self, pixels, photo, made, lost, notes=()):
        self.__dict__ |= vars(Image.fromarray(pixels if photo.alpha is None else np.dstack([pixels, photo.alpha])))
        self.photo, self.made, self.lost, self.notes = photo, made, lost, notes

    def paler(self):
        """A sentence where much of the picture had to be paler than the network said; "" elsewhere."""
        if self.lost < 0.05:
            return ""
        return f"{self.lost:.0%} of it is paler than the model wanted: a screen has no such colour at this lightness"

    def save(self, target, format=None, **options):
        """Save like PIL, with the photo's EXIF and resolution, and with how it was made (`read_metadata`).

        A path is written whole or not at all, and replaces what is there. What the format can't hold is a ValueError.
        """
        to_path = isinstance(target, (str, Path))
        format = format or (Image.registered_extensions().get(Path(target).suffix.lower(), "") if to_path else "PNG")
        if not format:
            raise ValueError(f"{target}: can't be saved (unknown ending): name an ending that is known, such as .png")
        kept = {"dpi": self.photo.dpi} if self.photo.dpi else {}
        kept |= {"exif": self.photo.exif} if self.photo.exif else {}
        if format.upper() == "PNG":
            kept |= {"pnginfo": PngImagePlugin.PngInfo(), "compress_level": 1}
            kept["pnginfo"].add_itxt("XML:com.adobe.xmp", packet_of(self.made))
        else:
            kept |= {"xmp": packet_of(self.made).encode(), **LOSSY}
        with new_file(target) if to_path else nullcontext(target) as place:
            try:
                super().save(place, format=format, **{**kept, **options})
            except (KeyError, ValueError, OSError) as error:
                if isinstance(error, OSError) and error.errno:
                    raise
                raise ValueError(f"{target}: can't be saved ({one_line(error)}): save it as .png") from None
