"""Photo files that people have, read upright and in sRGB at full resolution."""

import os
import warnings
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageCms, ImageOps

from lib.files import one_line, open_picture, printable

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".gif", ".bmp", ".avif", ".heic", ".heif")
HEIC_MARKS = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1")  # bytes 4 to 12 of such a file
MAX_MEGAPIXELS = 250
MIN_SIDE, MAX_ASPECT = 16, 50
TONE_SPREAD = 3.0  # root mean square distance, in a*b*, from a colour that lightness alone decides
GPS = 0x8825  # the EXIF tag of where a photo was taken
FILE_TAGS = (254, 256, 257, 258, 259, 262, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339, 34675)
# of EXIF: how the old file holds its pixels (and 274, orientation, which is applied); the rest is kept
EXPECT = (
    "The pocket model is small (12 million parameters, a few hundred photos): expect tints more than exact colours, "
    "and no repair of scratches or noise. The l4 profile uses Stable Diffusion and needs a GPU."
)
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
            with open_any(regular_file(source)) as image:
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


def open_any(path):
    """Open a picture of a usual format, or a HEIC photo; without the package that reads these, an UnfitError."""
    with path.open("rb") as file:
        is_heic = file.read(12)[4:] in HEIC_MARKS
    if not is_heic:
        return open_picture(path)
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise UnfitError("is a HEIC photo: to read it, install pillow-heif (pip install pillow-heif)") from None
    register_heif_opener()
    return Image.open(path, formats=("HEIF",))


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
        toned = "is toned, as sepia prints are: its tone was discarded"
        notes.append(toned if is_toned(pixels) else "is a colour photo: its colour was discarded")
    if pixels.dtype == np.uint16:
        notes.append("has 16 bits a pixel: its picture has 8 for each colour")
    return Photo(pixels, alpha, exif.tobytes() if len(exif) else b"", info.get("dpi"), notes)


def is_toned(pixels):
    """Whether the colour of uint8 pixels (H, W, 3) depends on their lightness alone, as on a sepia print.

    a* and b* are fitted as cubic functions of L*; on a print they lie within 3 of these, save for noise and stains.
    """
    small = cv2.resize(pixels, (64, 64), interpolation=cv2.INTER_AREA) / np.float32(255)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).reshape(-1, 3)
    powers = np.vander(lab[:, 0] / 100, 4)
    rest = lab[:, 1:] - powers @ np.linalg.lstsq(powers, lab[:, 1:])[0]
    return bool(np.sqrt((rest**2).sum(axis=1).mean()) < TONE_SPREAD)


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
