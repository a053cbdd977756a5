"""Photo files: any that people have, as lightness at full resolution; and colour pictures written with what made them."""

import json
import warnings
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from lib.files import hash_of_file, new_file, one_line

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".gif", ".bmp")
MAX_MEGAPIXELS = 250
MIN_SIDE, MAX_ASPECT = 16, 50
SAMPLING_FIELDS = ("num_inference_steps", "guidance_scale", "controlnet_conditioning_scale")
METADATA_NAMES = (
    "photo",
    "sha256",
    "prompt",
    "seed",
    "saturation",
    "profile",
    "base_model",
    "controlnet",
    *SAMPLING_FIELDS,
)
FILE_TAGS = (254, 256, 257, 258, 259, 262, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339, 34675)
# of EXIF: how the old file holds its pixels (and 274, orientation, which is applied); the rest is kept
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


def open_photo(source):
    """Read a photo of any usual format, or take a PIL image, as a `Photo`: the first frame, upright, in sRGB.

    What can't be a photo is a ValueError of one line that begins with the path: damaged, empty, too small, too large,
    too narrow, not numbers.
    """
    if isinstance(source, Image.Image):
        check_size("image", *source.size)
        return to_photo("image", source, [])
    path = Path(source)
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")  # of damaged EXIF, and of sizes that are allowed here
            check_size(path, *image.size)
            frames = getattr(image, "n_frames", 1)
            image.load()
            photo = to_photo(path, image, [f"has {frames} frames: only the first is used"] if frames > 1 else [])
            return replace(photo, path=path)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{path}: larger than {MAX_MEGAPIXELS} megapixels: reduce it first") from None
    except Image.UnidentifiedImageError:
        empty = path.stat().st_size == 0
        raise ValueError(f"{path}: {'is empty' if empty else 'is no picture that can be read'}: replace it") from None
    except MemoryError:
        raise
    except Exception as error:  # readers of damaged files raise anything
        if str(error).startswith(f"{path}: "):
            raise
        reason = getattr(error, "strerror", None) or (one_line(error, None) if str(error) else "damaged")
        raise ValueError(f"{path}: can't be read ({reason}): replace it or allow reading it") from None


def check_size(path, width, height):
    """Refuse what is too small, too large, or too narrow to colorize: ValueError."""
    if width * height > MAX_MEGAPIXELS * 10**6:
        raise ValueError(f"{path}: {width}x{height} is larger than {MAX_MEGAPIXELS} megapixels: reduce it first")
    if min(width, height) < MIN_SIDE:
        raise ValueError(f"{path}: {width}x{height} is too small: both sides need {MIN_SIDE} px or more")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(f"{path}: {width}x{height} is too narrow: cut it into parts of at most 1:{MAX_ASPECT}")


def to_photo(path, image, notes):
    """A loaded PIL image of any mode as a `Photo`."""
    exif, info = image.getexif(), dict(image.info)
    image = ImageOps.exif_transpose(image)
    for tag in FILE_TAGS:
        exif.pop(tag, None)
    if image.mode.startswith(("I", "F")):
        pixels, alpha = deep_gray(path, np.asarray(image), info, notes)
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


def deep_gray(path, values, info, notes):
    """Gray of more than 8 bits as uint16 sRGB, and alpha where one gray is transparent.

    16-bit codes stay; integers of 32 bits and floats are scaled so that 1, 255, 65535, or their maximum where it is larger,
    is white. What is no number is a ValueError.
    """
    alpha = None
    if isinstance(info.get("transparency"), int):
        alpha = np.where(values == info["transparency"], 0, 255).astype(np.uint8)
    if values.dtype != np.uint16:
        values = values.astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError(f"{path}: holds values that are no numbers (NaN or infinite): mend it first")
        top = next((top for top in (1, 255, 65535) if values.max() <= top), values.max())
        values = (np.clip(values / top, 0, 1) * 65535).round().astype(np.uint16)
    if info.get("icc_profile"):
        steps = np.arange(256, dtype=np.uint8)[None]
        curve = np.asarray(to_srgb(Image.fromarray(steps), info["icc_profile"], notes).convert("L"))[0]
        values = np.interp(values, np.arange(256) * 257, curve * 257.0).round().astype(np.uint16)
    return values, alpha


def to_srgb(image, icc, notes):
    """A PIL image of any 8-bit mode as L or RGB in sRGB; a colour profile that does not fit is passed over, with a note."""
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
    photo = {"photo": str(Path(path).resolve()), "sha256": hash_of_file(path)} if path else {"photo": "", "sha256": ""}
    made = photo | {"prompt": prompt, "seed": seed, "saturation": saturation, "profile": profile.name}
    return made | {"controlnet": str(controlnet)} | profile.values("base_model", *SAMPLING_FIELDS)


def read_metadata(path):
    """How a picture was made: what `made_with` said; a file that does not say is a ValueError."""
    try:
        with Image.open(path) as image:
            made = json.loads(image.text[METADATA_KEY])
            return {name: made[name] for name in METADATA_NAMES}
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except Exception:  # whatever a reader of another file raises
        raise ValueError(f"{path}: does not say how it was made: only PNGs written by `colorize` do") from None


class ColorPicture(Image.Image):
    """A colorized photo as a PIL image, RGB or RGBA, that keeps what is known of it.

    `photo`: the `Photo` that it was made from; `made`: what makes it again; `lost`: the share of its pixels that lost
    chroma to fit sRGB.
    """

    def __init__(self, pixels, photo, made, lost):
        self.__dict__ |= vars(Image.fromarray(pixels if photo.alpha is None else np.dstack([pixels, photo.alpha])))
        self.photo, self.made, self.lost = photo, made, lost

    def save(self, target, format=None, **options):
        """Save like PIL, with the photo's EXIF and resolution; a PNG also says how it was made (`read_metadata`).

        A path is written whole or not at all, and replaces what is there.
        """
        kept = {"dpi": self.photo.dpi} if self.photo.dpi else {}
        kept |= {"exif": self.photo.exif} if self.photo.exif else {}
        if not isinstance(target, (str, Path)):
            return super().save(target, format=format, **{**kept, **options})
        format = format or Image.registered_extensions().get(Path(target).suffix.lower(), "PNG")
        if format == "PNG":
            text = PngImagePlugin.PngInfo()
            text.add_itxt(METADATA_KEY, json.dumps(self.made, ensure_ascii=False))
            kept |= {"pnginfo": text, "compress_level": 1}
        with new_file(target) as partial:
            super().save(partial, format=format, **{**kept, **options})
