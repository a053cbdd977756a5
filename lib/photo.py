"""Photo files: any that people have, as lightness at full resolution; and colour pictures written with what made them."""

import hashlib
import json
import os
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".gif", ".bmp")
MAX_MEGAPIXELS = 250
MIN_SIDE, MAX_ASPECT = 16, 50
SAMPLING_FIELDS = ("num_inference_steps", "guidance_scale", "controlnet_conditioning_scale")
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


def open_photo_file(path):
    """Read a photo of any usual format as a `Photo`: the first frame, upright, in sRGB.

    What can't be a photo is a ValueError of one line: damaged, empty, too small, too large, too narrow, not numbers.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    try:
        with Image.open(path) as image:
            check_size(path, *image.size)
            frames = getattr(image, "n_frames", 1)
            image.load()
            notes = [f"has {frames} frames: only the first is used"] if frames > 1 else []
            return to_photo(path, image, notes)
    except Image.DecompressionBombError:
        raise ValueError(f"{path}: larger than {MAX_MEGAPIXELS} megapixels: reduce it first") from None
    except Image.UnidentifiedImageError:
        empty = path.stat().st_size == 0
        raise ValueError(f"{path}: {'is empty' if empty else 'is no picture that can be read'}: replace it") from None
    except (OSError, SyntaxError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "damaged"
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
    exif, dpi, icc = image.getexif(), image.info.get("dpi"), image.info.get("icc_profile")
    image = ImageOps.exif_transpose(image)
    exif.pop(0x0112, None)  # orientation: applied
    alpha = None
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"))
        image = image.convert("RGB")
    if image.mode.startswith(("I", "F")):
        pixels = deep_gray(path, np.asarray(image))
    else:
        pixels = np.asarray(to_srgb(image, icc, notes))
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    if pixels.ndim == 3:
        notes.append("is a colour photo: its colour was discarded")
    return Photo(pixels, alpha, exif.tobytes() if len(exif) else b"", dpi, notes)


def deep_gray(path, values):
    """Gray values of 16 bits, or of 32-bit integers and floats scaled to 16 bits; what is no number is a ValueError."""
    if values.dtype == np.uint16:
        return values
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: holds values that are no numbers (NaN or infinite): mend it first")
    top = 1.0 if values.max() <= 1 else 255.0 if values.max() <= 255 else max(65535.0, values.max())
    return (np.clip(values / top, 0, 1) * 65535).round().astype(np.uint16)


def to_srgb(image, icc, notes):
    """A PIL image of any 8-bit mode as L or RGB in sRGB; a damaged colour profile is passed over, with a note."""
    if icc:
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(icc))
            image = image.convert("RGB") if image.mode in ("P", "1") else image
            return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except ImageCms.PyCMSError:
            notes.append("has a colour profile that does not fit: taken as sRGB")
    if image.mode == "L":
        return image
    return image.convert("L" if image.mode in ("1", "LA") else "RGB")


def made_with(path, prompt, seed, saturation, profile, controlnet=None):
    """All that makes a picture again: the photo's name and SHA-256, the words, and the numbers."""
    return {
        "photo": Path(path).name, "sha256": digest(path), "prompt": prompt, "seed": seed, "saturation": saturation,
        "profile": profile.name, "base_model": profile.base_model, "controlnet": controlnet,
        **{field: getattr(profile, field) for field in SAMPLING_FIELDS},
    }  # fmt: skip


def digest(path):
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def read_metadata(path):
    """How a picture was made: the settings that `save_picture` wrote; without them a ValueError."""
    try:
        with Image.open(path) as image:
            return json.loads(image.text[METADATA_KEY])
    except (OSError, AttributeError, KeyError, ValueError):
        raise ValueError(f"{path}: does not say how it was made: only PNGs written by `colorize` do") from None


def save_picture(picture, photo, path, settings):
    """Write uint8 sRGB (H, W, 3) as PNG with the photo's alpha, EXIF and resolution, and its settings in a text chunk.

    Written under a temporary name, then renamed; what stands there already is replaced.
    """
    path = Path(path)
    image = Image.fromarray(picture if photo.alpha is None else np.dstack([picture, photo.alpha]))
    text = PngImagePlugin.PngInfo()
    text.add_itxt(METADATA_KEY, json.dumps(settings, ensure_ascii=False))
    kept = {"dpi": photo.dpi} if photo.dpi else {}
    kept |= {"exif": photo.exif} if photo.exif else {}
    partial = path.with_name(path.name + ".part")
    try:
        image.save(partial, format="PNG", pnginfo=text, compress_level=1, **kept)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
