"""Photo files that people have, read as lightness at full resolution; colour pictures that say how they were made."""

import json
import os
import re
import warnings
from contextlib import nullcontext
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from lib import ROOT
from lib.files import hash_of_file, new_file, one_line, open_picture, printable
from lib.profiles import PROFILES, resolve

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".gif", ".bmp")
MAX_MEGAPIXELS = 250
MIN_SIDE, MAX_ASPECT = 16, 50
SAMPLING_OPTIONS = ("num_inference_steps", "guidance_scale", "controlnet_conditioning_scale")
LIMITS = {  # of numbers, on the command line and in what a picture says of itself: type, lowest, highest
    "seed": (int, 0, 2**62),
    "saturation": (float, 0, 5),
    "num_inference_steps": (int, 1, 1000),
    "guidance_scale": (float, 0, 100),
    "controlnet_conditioning_scale": (float, 0, 10),
}
MAX_TEXT = 10_000  # characters of a prompt or a name in what a picture says of itself
GPS = 0x8825  # the EXIF tag of where a photo was taken
METADATA_NAMES = (
    "photo",
    "sha256",
    "prompt",
    "seed",
    "saturation",
    "profile",
    "base_model",
    "controlnet",
    *SAMPLING_OPTIONS,
)
FILE_TAGS = (254, 256, 257, 258, 259, 262, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339, 34675)
# of EXIF: how the old file holds its pixels (and 274, orientation, which is applied); the rest is kept
EXPECT = (
    "The pocket model is small (12 million parameters, a few hundred photos): expect tints more than exact colours, "
    "and no repair of scratches or noise. The l4 profile uses Stable Diffusion and needs a GPU."
)
METADATA_KEY = "colorize"  # the PNG text chunk that says how a picture was made
Image.MAX_IMAGE_PIXELS = MAX_MEGAPIXELS * 10**6 // 2  # PIL refuses what is twice as large


@dataclass
class Photo:
    """An opened photo: `pixels` (H, W) or (H, W, 3), sRGB in uint8 or uint16, upright; what is kept of its file."""

    pixels: np.ndarray
    alpha: np.ndarray | None  # (H, W) uint8
    exif: bytes
    dpi: tuple | None
    notes: list  # what was left out, in words
    path: Path | None = None  # of its file


def open_photo(source, keep_gps=False):
    """Read a photo of any usual format, or take a PIL image, as a `Photo`: the first frame, upright, in sRGB.

    Where it was taken is dropped from its EXIF unless `keep_gps`.

    What can't be a photo is a ValueError of one line that begins with the path: damaged, empty, too small, too large,
    too narrow, not numbers.
    """
    name = "image" if isinstance(source, Image.Image) else printable(str(source))
    try:
        if isinstance(source, Image.Image):
            return to_photo(source, keep_gps)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF, and of sizes that are allowed here
            with open_picture(regular_file(source)) as image:
                return replace(to_photo(image, keep_gps), path=Path(source))
    except UnfitError as error:
        raise ValueError(f"{name}: {error}") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{name}: larger than {MAX_MEGAPIXELS} megapixels: reduce it first") from None
    except Image.UnidentifiedImageError:
        reason = "is no picture that can be read" if Path(source).stat().st_size else "is empty"
        raise ValueError(f"{name}: {reason}: replace it") from None
    except MemoryError:
        raise
    except Exception as error:  # readers of damaged files raise anything
        reason = getattr(error, "strerror", None) or (one_line(error, None) if str(error) else "damaged")
        raise ValueError(f"{name}: can't be read ({reason}): replace it or allow reading it") from None


class UnfitError(ValueError):
    """Says what is wrong with a photo."""


def regular_file(source):
    """The path of a regular file; another thing, such as a pipe that would never end, is an UnfitError."""
    path = Path(source)
    if not path.is_file():
        raise UnfitError("is no regular file" if os.path.lexists(path) else "no such file")
    return path


def check_dimensions(width, height):
    """Refuse what is too small, too large, or too narrow to colorize: UnfitError."""
    size = f"{width}x{height} is"
    if width * height > MAX_MEGAPIXELS * 10**6:
        raise UnfitError(f"{size} larger than {MAX_MEGAPIXELS} megapixels: reduce it first")
    if min(width, height) < MIN_SIDE:
        raise UnfitError(f"{size} too small: both sides need {MIN_SIDE} px or more")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UnfitError(f"{size} too narrow: cut it into parts of at most 1:{MAX_ASPECT}")


def to_photo(image, keep_gps):
    """A PIL image of any mode as a `Photo`, of its first frame."""
    check_dimensions(*image.size)
    frames, notes = getattr(image, "n_frames", 1), []
    if frames > 1:
        notes.append(f"has {frames} frames: only the first is used")
    image.load()
    exif, info = Image.Exif(), dict(image.info)
    exif.load(image.getexif().tobytes())  # a copy: what is dropped below stays with the caller's image
    image = ImageOps.exif_transpose(image)
    for tag in FILE_TAGS if keep_gps else (*FILE_TAGS, GPS):
        exif.pop(tag, None)
    if image.mode.startswith(("I", "F")):
        pixels, alpha = deep_gray(np.asarray(image), info, notes)
    else:
        alpha = None
        if image.mode != "LAB" and ("A" in image.getbands() or "transparency" in info):
            alpha = np.asarray(image.convert("RGBA").getchannel("A"))
            image = image.convert("L" if image.mode in ("L", "LA") else "RGB")
        pixels = np.asarray(to_srgb(image, info.get("icc_profile"), notes))
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    if pixels.ndim == 3:
        notes.append("is a colour photo: its colour was discarded")
    return Photo(pixels, alpha, exif.tobytes() if len(exif) else b"", info.get("dpi"), notes)


def deep_gray(values, info, notes):
    """Gray of more than 8 bits as uint16 sRGB, and alpha where one gray is transparent.

    16-bit codes stay; integers of 32 bits and floats are scaled so that 1, 255, 65535, or their maximum where it is
    larger, is white. What is no number is an UnfitError.
    """
    alpha = None
    if isinstance(info.get("transparency"), int):
        alpha = np.where(values == info["transparency"], 0, 255).astype(np.uint8)
    if values.dtype != np.uint16:
        values = values.astype(np.float64)
        if not np.isfinite(values).all():
            raise UnfitError("holds values that are no numbers (NaN or infinite): correct it first")
        top = next((top for top in (1, 255, 65535) if values.max() <= top), values.max())
        values = (np.clip(values / top, 0, 1) * 65535).round().astype(np.uint16)
    if info.get("icc_profile"):
        steps = np.arange(256, dtype=np.uint8)[None]
        curve = np.asarray(to_srgb(Image.fromarray(steps), info["icc_profile"], notes).convert("L"))[0]
        values = np.interp(values, np.arange(256) * 257, curve * 257.0).round().astype(np.uint16)
    return values, alpha


def to_srgb(image, icc, notes):
    """A PIL image of any 8-bit mode as L or RGB in sRGB; a colour profile that does not fit is ignored, with a note."""
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode in ("P", "PA"):
        image = image.convert("RGB")
    if icc:
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(icc))
            return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            notes.append("has a colour profile that does not fit: taken as sRGB")
    return image if image.mode == "L" else image.convert("RGB")


def folder_or_id(name):
    """A folder as an absolute path; any other name, such as a Hub id, as it is."""
    return str(Path(name).resolve()) if Path(name).is_dir() else str(name)


def made_with(path, prompt, seed, saturation, profile, controlnet):
    """All that makes a picture again: the photo and its SHA-256, the model, the words, and the numbers.

    `path`: None for a photo that is no file, from which the picture can't be made again.
    """
    name = os.fsencode(path.name).decode("utf-8", "replace") if path else ""
    made = {"photo": name, "sha256": hash_of_file(path) if path else "", "prompt": prompt, "seed": seed}
    made |= {"saturation": saturation, "profile": profile.name, "controlnet": place_in_project(controlnet)}
    made |= {"base_model": place_in_project(profile.model.base_model)}
    return made | profile.values(*SAMPLING_OPTIONS)


def place_in_project(name):
    """A folder of this repository by its path there, which says nothing of the machine; any other name as it is."""
    folder, root = resolve(name).resolve(), ROOT.resolve()
    return str(folder.relative_to(root)) if folder.is_dir() and folder.is_relative_to(root) else str(name)


def read_metadata(path):
    """How a picture was made: what `made_with` said; a file that does not say is a ValueError."""
    try:
        with open_picture(regular_file(path)) as image:
            made = json.loads(image.text[METADATA_KEY])
            made = {name: made[name] for name in METADATA_NAMES}
    except UnfitError as error:
        raise ValueError(f"{path}: {error}") from None
    except Exception:  # whatever a reader of another file raises
        raise ValueError(f"{path}: does not say how it was made: only PNGs written by `colorize` do") from None
    for name, value in made.items():
        if wanted := flaw_of_metadata(name, value):
            raise ValueError(
                f"{path}: says {name} {repr(value)[:60]}, which should be {wanted}: it can't be made again"
            )
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
    chroma to fit sRGB.
    """

    def __init__(self, pixels, photo, made, lost):
        self.__dict__ |= vars(Image.fromarray(pixels if photo.alpha is None else np.dstack([pixels, photo.alpha])))
        self.photo, self.made, self.lost = photo, made, lost

    def paler(self):
        """A sentence where much of the picture had to be paler than the network said; "" elsewhere."""
        if self.lost < 0.05:
            return ""
        return f"{self.lost:.0%} of it is paler than the model wanted: a screen has no such colour at this lightness"

    def save(self, target, format=None, **options):
        """Save like PIL, with the photo's EXIF and resolution; a PNG also says how it was made (`read_metadata`).

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
            kept["pnginfo"].add_itxt(METADATA_KEY, json.dumps(self.made, ensure_ascii=False))
        with new_file(target) if to_path else nullcontext(target) as place:
            try:
                super().save(place, format=format, **{**kept, **options})
            except (KeyError, OSError) as error:
                if isinstance(error, OSError) and error.errno:
                    raise
                raise ValueError(f"{target}: can't be saved ({one_line(error)}): save it as .png") from None
