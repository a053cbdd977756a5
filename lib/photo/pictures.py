"""Colour pictures that keep the photo's metadata and say in words how they were made."""

import html
from contextlib import nullcontext
from numbers import Integral, Real
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from lib.cache import new_file, one_line, printable
from lib.photo.formats import Photo

SAMPLING_OPTIONS = ("num_inference_steps", "guidance_scale", "controlnet_conditioning_scale")
LIMITS = {  # of numbers: type, lowest, highest
    "seed": (int, 0, 2**62),
    "saturation": (float, 0, 5),
    "num_inference_steps": (int, 1, 1000),
    "guidance_scale": (float, 0, 100),
    "controlnet_conditioning_scale": (float, 0, 10),
}
MAX_TEXT = 10_000  # characters of how a picture was made; a JPEG holds 64 kB
PACKET = (  # XMP, which JPEG, PNG, WebP, TIFF and AVIF hold
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:description><rdf:Alt>'
    '<rdf:li xml:lang="x-default">{}</rdf:li></rdf:Alt></dc:description></rdf:Description></rdf:RDF></x:xmpmeta>'
)
MAX_SIDE = {"JPEG": 65_500, "WEBP": 16_383}  # px
LOSSY = {"quality": 95, "subsampling": "4:4:4"}  # of JPEG, WebP and AVIF: colour edges stay as sharp as the others


def check_number(name: str, value) -> int | float:
    """A number of any library as Python's; one outside its `LIMITS` is a ValueError."""
    kind, low, high = LIMITS[name]
    if isinstance(value, bool) or not isinstance(value, Integral if kind is int else Real) or not low <= value <= high:
        raise ValueError(f"{name} {one_line(repr(value), 60)} should be a number from {low} to {high}")
    return kind(value)


def format_of(path: str | Path) -> str:
    """PIL's name of the format of a picture's ending; "" if there is none."""
    return Image.registered_extensions().get(Path(path).suffix.lower(), "")


def check_target(path: str | Path, size: tuple[int, ...], transparent: bool) -> None:
    """Raise ValueError if the format of a path's ending can't hold a picture of this size or its transparency."""
    format, side = format_of(path), max(size)
    if side > MAX_SIDE.get(format, side):
        raise ValueError(f"{path}: {format} holds at most {MAX_SIDE[format]} px a side, not {side}: save it as .png")
    if format == "JPEG" and transparent:
        raise ValueError(f"{path}: JPEG holds no transparency: save it as .png or .webp")


class ColorPicture(Image.Image):
    """A colorized photo as a PIL image, RGB or RGBA, that is saved with the photo's metadata and how it was made.

    These are in `info`, so that copies keep them: `made`, {name: value} of how it was made, and `notes`, what was not
    found in the photo, among them.
    """

    def __init__(self, pixels: np.ndarray, photo: Photo, made: dict, notes: list):
        image = Image.fromarray(pixels if photo.alpha is None else np.dstack([pixels, photo.alpha]))
        self.__dict__ |= vars(image)
        self.info = {"exif": photo.exif, "dpi": photo.dpi, "made": made, "notes": notes}

    made = property(lambda self: self.info["made"])
    notes = property(lambda self: self.info["notes"])

    def save(self, target, format: str | None = None, **options) -> None:
        """Save like PIL. A path is written completely or not at all; what the format can't hold is a ValueError."""
        to_path = isinstance(target, (str, Path))
        format = (format or (format_of(target) if to_path else "PNG")).upper()
        if not format:
            raise ValueError(f"{target}: can't be saved (unknown ending): name an ending that is known, such as .png")
        if to_path:
            check_target(target, self.size, self.mode == "RGBA")
        words = printable("; ".join(f"{name}: {value}" for name, value in self.made.items()))
        packet = PACKET.format(html.escape(words[:MAX_TEXT]))
        kept = {name: self.info[name] for name in ("exif", "dpi") if self.info[name]}
        if format == "PNG":
            kept |= {"pnginfo": PngImagePlugin.PngInfo(), "compress_level": 1}
            kept["pnginfo"].add_itxt("XML:com.adobe.xmp", packet)
        else:
            kept |= {"xmp": packet.encode(), **(LOSSY if format in ("JPEG", "WEBP", "AVIF") else {})}
        with new_file(target) if to_path else nullcontext(target) as place:
            try:
                super().save(place, format=format, **{**kept, **options})
            except (KeyError, ValueError, TypeError, OSError) as error:
                if isinstance(error, OSError) and error.errno:
                    raise
                raise ValueError(f"{target}: can't be saved ({one_line(error)}): save it as .png") from None
