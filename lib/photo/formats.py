"""Photo files, upright and in sRGB at full size. Metadata that can't be carried over is left out with a note."""

import html
import os
import warnings
from contextlib import nullcontext
from dataclasses import dataclass, replace
from io import BytesIO
from numbers import Real
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageCms, PngImagePlugin
from PIL.ExifTags import IFD, Base
from pillow_heif import register_heif_opener

from lib.cache import PICTURE_FORMATS, new_file, one_line, printable

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".gif", ".bmp", ".avif", ".heic", ".heif", ".jp2")
FORMATS = (*PICTURE_FORMATS, "JPEG2000")  # none that can hold a program, as PostScript can
EXPORT = "export it as JPEG, PNG, or TIFF with 8 or 16 bits"
MAX_MEGAPIXELS, MIN_SIDE, MAX_ASPECT = 250, 16, 50
MAX_EXIF = 65_000  # bytes; a JPEG holds no more
# Tags of EXIF that are not kept: how the old file holds its pixels, XMP, IPTC, profile, and where it was taken
FILE_TAGS = {254, *range(256, 260), 262, 273, 274, *range(277, 280), 284, 317, 320, *range(322, 326), 330, 338, 339}
FILE_TAGS |= {700, 33723, 34377, 34675, IFD.GPSInfo}
UPRIGHT = dict(zip(range(2, 9), (Image.Transpose(way) for way in (0, 3, 1, 5, 4, 6, 2)), strict=True))  # by orientation
EXPECT = "The pocket model is small: expect tints more than exact colours, and no repair of scratches or noise."
MAX_SIDE = {"JPEG": 65_500, "WEBP": 16_383}  # px, of a picture
SAVING = {"quality": 95, "subsampling": "4:4:4", "compress_level": 1}  # each format takes its own of these
MAX_TEXT = 10_000  # characters of how a picture was made; a JPEG holds 64 kB
PACKET = (  # XMP, which JPEG, PNG, WebP, TIFF and AVIF hold
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:description><rdf:Alt>'
    '<rdf:li xml:lang="x-default">{}</rdf:li></rdf:Alt></dc:description></rdf:Description></rdf:RDF></x:xmpmeta>'
)
Image.MAX_IMAGE_PIXELS = MAX_MEGAPIXELS * 10**6 // 2  # PIL refuses what is twice as large
register_heif_opener()


@dataclass
class Photo:
    """An opened photo, upright: L* `plane` (H, W), float32 in [0, 100], and what is kept of its file."""

    plane: np.ndarray
    alpha: np.ndarray | None  # (H, W) uint8
    exif: bytes
    dpi: tuple[float, float] | None
    notes: list[str]  # what was left out
    path: Path | None = None


def open_photo(source) -> Photo:
    """Reads the first frame of a photo; raises ValueError if it is damaged, too small, large, narrow, or holds NaN.

    `source`: a path, a binary file, bytes, a PIL image, or an array that PIL takes: uint8 (H, W) or (H, W, 3 or 4),
    uint16 or float (H, W).
    """
    path = Path(source) if isinstance(source, (str, Path)) else None
    name = printable(str(path)) if path else "image"
    try:
        if path and not path.is_file():
            raise ValueError("is no regular file" if os.path.lexists(path) else "no such file")
        if isinstance(source, np.ndarray):
            source = Image.fromarray(source)
        if isinstance(source, Image.Image):
            return to_photo(source)
        file = path.open("rb") if path else nullcontext(BytesIO(source) if isinstance(source, bytes) else source)
        with file as stream, warnings.catch_warnings(action="ignore"):  # of damaged EXIF, and of sizes allowed here
            return replace(read_file(stream), path=path)
    except Exception as error:  # readers of damaged files raise anything
        reason = one_line(error)
        if isinstance(error, Image.DecompressionBombError):
            reason = f"larger than {MAX_MEGAPIXELS} megapixels: reduce it first"
        elif not isinstance(error, ValueError):
            reason = f"can't be read ({getattr(error, 'strerror', None) or reason}): replace it or allow reading it"
        raise ValueError(f"{name}: {reason}") from None


def read_file(file) -> Photo:
    """Returns a binary file as a `Photo`; raises ValueError if it is no picture of a supported format."""
    head = file.read(80)
    file.seek(0)
    is_tiff = head[:4] in (b"II*\0", b"MM\0*")
    is_heic = head[4:8] == b"ftyp" and b"avif" not in head
    try:
        with Image.open(file, formats=("HEIF",) if is_heic else FORMATS) as image:
            tags = dict(image.tag_v2) if is_tiff else {}
            if 50706 in tags or (tags.get(254) == 1 and 330 in tags) or (is_tiff and head[8:10] == b"CR"):
                raise ValueError(f"is a raw photo (DNG, NEF, ...), of which only a thumbnail can be read: {EXPORT}")
            deep_colors = tags.get(277, 1) > 1 and max(tags.get(258, (1,))) > 8
            if not (deep_colors and tags.get(284) == 2 and tags.get(259) == 1):
                return to_photo(image)
            from tifffile import imread  # PIL reads these planes as stripes

            file.seek(0)
            planes = np.moveaxis(imread(file, key=0), 0, -1)
            return to_photo(image, Image.fromarray((planes / 257).round().astype(np.uint8)))
    except Image.UnidentifiedImageError:
        unknown = "this kind of TIFF" if is_tiff else "is no picture, or its format"
        raise ValueError(f"{unknown} is not supported: {EXPORT}" if head else "is empty: replace it") from None


def to_photo(image: Image.Image, planes: Image.Image | None = None) -> Photo:
    """Returns the first frame of a PIL image as a `Photo`; `planes`: the image that has its pixels, if not itself."""
    (width, height), notes, alpha = image.size, [], None
    if min(image.size) < MIN_SIDE or max(image.size) > MAX_ASPECT * min(image.size):
        needed = f"both sides need {MIN_SIDE} px or more, and one at most {MAX_ASPECT} times the other"
        raise ValueError(f"{width}x{height} is too small or too narrow: {needed}")
    if (frames := getattr(image, "n_frames", 1)) > 1:
        notes.append(f"has {frames} frames: only the first is used")
    image.load()
    info, tags, (exif, orientation) = dict(image.info), dict(getattr(image, "tag_v2", {})), read_exif(image, notes)
    words = {"Title", "Author", "Description", "Copyright", "Comment", "comment"} & set(info) or 33723 in tags
    if words or b"<dc:" in (info.get("xmp") or b"") or 0x0404 in info.get("photoshop", {}):
        notes.append("has a title, comment or keywords: they are left out")
    dpi = [float(value) for value in info.get("dpi") or () if isinstance(value, Real) and 0 < value < 65535]
    if len(dpi) < len(info.get("dpi") or ()):
        notes.append("has an impossible resolution: it is left out")
    image = planes or image
    image = image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image
    gamma = min(max(info.get("gamma") or 1 / 2.2, 0.1), 10)  # of a PNG: its codes are light to this power
    exponent = 1.0 if {"icc_profile", "srgb"} & set(info) else 1 / 2.2 / gamma
    if image.mode.startswith(("I", "F")):  # gray of more than 8 bits: white is 1, 255, 65535, or a larger maximum
        values = np.asarray(image, np.float32)
        if not np.isfinite(values).all():
            raise ValueError("holds values that are no numbers (NaN or infinite): correct it first")
        is_short, top = image.mode.startswith("I;16"), values.max()
        white = 65535 if is_short else next((white for white in (1, 255, 65535) if top <= white), top)
        values = np.clip(values / white, 0, 1)
        if tags.get(262) == 0 and is_short:  # white is zero: PIL inverts 8 bits only
            values = 1 - values
        image = Image.fromarray((255 * values**exponent).round().astype(np.uint8))
        exponent = 1.0
        notes.append("has more than 8 bits a pixel: its picture has 8 for each colour")
    elif image.mode != "LAB" and image.has_transparency_data:
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
        image = image.convert("L" if image.mode in ("L", "LA") else "RGB")
    elif image.mode in ("1", "P"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if icc := info.get("icc_profile"):
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(icc))
            image = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            notes.append("has a colour profile that does not fit: taken as sRGB")
    pixels = np.asarray(image if image.mode == "L" else image.convert("RGB"))
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    if pixels.ndim == 3:
        notes.append("is a colour photo: its colour was discarded")
    return Photo(lightness(pixels, exponent), alpha, exif, tuple(dpi) if len(dpi) == 2 else None, notes)


def lightness(pixels: np.ndarray, exponent: float = 1.0) -> np.ndarray:
    """Returns L* (H, W), float32, of uint8 codes (H, W) or (H, W, 3), in sRGB (IEC 61966-2-1) to an exponent."""
    codes, is_gray = (np.arange(256) / 255) ** exponent, pixels.ndim == 2
    linear = np.where(codes <= 0.04045, codes / 12.92, ((codes + 0.055) / 1.055) ** 2.4).astype(np.float32)
    y = linear if is_gray else cv2.transform(linear[pixels], np.array([[0.2126729, 0.7151522, 0.0721750]], np.float32))
    plane = np.where(y > (6 / 29) ** 3, 116 * np.cbrt(y) - 16, (29 / 3) ** 3 * y).astype(np.float32)
    return plane.take(pixels) if is_gray else plane


def read_exif(image: Image.Image, notes: list[str]) -> tuple[bytes, int]:
    """Returns what can be written again of the EXIF of a PIL image, and the orientation that it gives."""
    kept, content, orientation, lost = Image.Exif(), b"", 1, []
    try:
        exif = image.getexif()
        kept.endian, orientation = exif.endian, exif.get(Base.Orientation, 1)
        size = image.size[::-1] if orientation in range(5, 9) else image.size
        for tag in set(exif) - FILE_TAGS:
            try:
                kept[tag] = exif[tag]
                if tag == IFD.Exif:
                    details = {name: value for name, value in exif.get_ifd(tag).items() if name != IFD.Interop}
                    kept[tag] = details | dict(zip((Base.ExifImageWidth, Base.ExifImageHeight), size, strict=True))
                content = kept.tobytes()
            except Exception:  # a mistyped value can't be read or written
                lost.append(kept.pop(tag, None))
    except Exception as error:  # the whole block can't be read
        lost.append(error)
    if lost or not isinstance(orientation, int) or len(content) > MAX_EXIF:
        notes.append("has EXIF that can't be written again: it is left out")
    return content if len(content) <= MAX_EXIF else b"", orientation


def check_target(path: str | Path, size: tuple[int, ...], transparent: bool) -> str:
    """Returns the format of a path's ending; raises ValueError if it can't hold such a picture."""
    format, side = Image.registered_extensions().get(Path(path).suffix.lower()), max(size)
    if format not in Image.SAVE:
        raise ValueError(f"{path}: can't be saved (unknown ending): name an ending that is known, such as .png")
    if side > MAX_SIDE.get(format, side):
        raise ValueError(f"{path}: {format} holds at most {MAX_SIDE[format]} px a side, not {side}: save it as .png")
    if format == "JPEG" and transparent:
        raise ValueError(f"{path}: JPEG holds no transparency: save it as .png or .webp")
    return format


class ColorPicture(Image.Image):
    """A colorized photo as a PIL image, RGB or RGBA; saved with the photo's metadata and {name: how it was `made`}."""

    def __init__(self, pixels: np.ndarray, photo: Photo, made: dict, notes: list[str]):
        image = Image.fromarray(pixels if photo.alpha is None else np.dstack([pixels, photo.alpha]))
        self.__dict__ |= vars(image)
        self.info = {"exif": photo.exif, "dpi": photo.dpi, "made": made, "notes": notes}

    made = property(lambda self: self.info["made"])
    notes = property(lambda self: self.info["notes"])

    def save(self, target, format: str | None = None, **options) -> None:
        """Saves like PIL. A path is written completely or not at all; ValueError if the format can't hold it."""
        if is_path := isinstance(target, (str, Path)):
            format = check_target(target, self.size, self.mode == "RGBA") if format is None else format
        words = printable("; ".join(f"{name}: {value}" for name, value in self.made.items()))
        packet, png = PACKET.format(html.escape(words[:MAX_TEXT])), PngImagePlugin.PngInfo()
        png.add_itxt("XML:com.adobe.xmp", packet)
        kept = {name: self.info[name] for name in ("exif", "dpi") if self.info[name]}
        options = {"xmp": packet.encode(), "pnginfo": png, **kept, **SAVING, **options}
        with new_file(target) if is_path else nullcontext(target) as place:
            super().save(place, format=format, **options)
