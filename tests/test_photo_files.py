"""Files that people bring: pixels decide, and metadata that can't be carried is left out with a note."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, PngImagePlugin

from lib.color import luminance, to_float
from lib.photo.formats import SUFFIXES, open_photo
from lib.photo.full_resolution import reduce_lightness

FILES = sorted(path for path in (Path(__file__).parent / "photo_files").iterdir() if path.suffix in SUFFIXES)
CASTLE = Image.open(Path(__file__).parent / "photo_files/exif_types.jpg")
LEFT_OUT = "has EXIF that can't be written again: it is left out"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_that_other_software_reads(path, tmp_path):
    photo = open_photo(path)
    expected = luminance(to_float(CASTLE.resize((32, 24), Image.Resampling.BOX)))
    assert np.abs(reduce_lightness(photo.plane, (24, 32)) - expected).mean() < 4  # not a negative, not stripes
    assert photo.dpi is None or all(0 < value < 65535 for value in photo.dpi)
    for ending in ("png", "jpg", "webp", "tif"):  # what is kept can be written
        kept = {"dpi": photo.dpi} if photo.dpi else {}
        Image.new("RGB", (20, 20)).save(tmp_path / f"kept.{ending}", exif=photo.exif, **kept)
    if path.name in ("Orientation_as_BYTE.jpg", "XResolution_as_ASCII.jpg", "exifbad_1.jpg"):
        assert LEFT_OUT in photo.notes
    if path.name == "dpi_nan.tif":
        assert photo.notes == ["has an impossible resolution: it is left out"]


def test_one_mistyped_tag_takes_no_other_with_it_and_the_size_turns_with_the_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a wall"
    exif.get_ifd(0x8769).update({0xA002: 60, 0xA003: 40, 0x9003: "2020:01:01 00:00:00"})
    content = exif.tobytes()
    Image.new("L", (60, 40), 90).save(tmp_path / "good.jpg", exif=content)
    kept = Image.Exif()
    kept.load(open_photo(tmp_path / "good.jpg").exif)
    assert kept.get_ifd(0x8769) == {0xA002: 40, 0xA003: 60, 0x9003: "2020:01:01 00:00:00"}
    assert content.count(b"\x01\x12\x00\x03") == 1
    Image.new("L", (60, 40), 90).save(
        tmp_path / "bad.jpg", exif=content.replace(b"\x01\x12\x00\x03", b"\x01\x12\x00\x01")
    )
    photo = open_photo(tmp_path / "bad.jpg")
    kept.load(photo.exif)
    assert kept[0x010E] == "a wall"
    assert photo.notes == [LEFT_OUT]


def test_exif_that_no_jpeg_holds_and_words_in_xmp_are_left_out_with_a_note(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "x" * 70_000
    Image.new("L", (60, 40)).save(tmp_path / "long.png", exif=exif)
    assert (open_photo(tmp_path / "long.png").exif, open_photo(tmp_path / "long.png").notes) == (b"", [LEFT_OUT])
    Image.new("L", (60, 40)).save(tmp_path / "xmp.jpg", xmp=b"<x:xmpmeta><dc:title>Bridge</dc:title></x:xmpmeta>")
    Image.new("L", (60, 40)).save(tmp_path / "comment.jpg", comment=b"the old bridge")
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", "Bridge")
    Image.new("L", (60, 40)).save(tmp_path / "text.png", pnginfo=text)
    for name in ("xmp.jpg", "comment.jpg", "text.png"):
        assert open_photo(tmp_path / name).notes == ["has a title, comment or keywords: they are left out"]


def test_what_is_left_out_of_colour_photos_and_animations_is_noted(tmp_path):
    frames = [Image.new("L", (60, 40), value) for value in (90, 160)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert open_photo(tmp_path / "moving.gif").notes == ["has 2 frames: only the first is used"]
    assert open_photo(Image.new("RGB", (60, 40), "red")).notes == ["is a colour photo: its colour was discarded"]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_gamma_of_a_png_is_applied(tmp_path, dtype):
    light = np.linspace(0.02, 1, 64)[None].repeat(48, axis=0)
    codes = (light * np.iinfo(dtype).max).astype(dtype)  # linear: gamma 1
    Image.fromarray(codes).save(tmp_path / "plain.png")
    content = (tmp_path / "plain.png").read_bytes()
    for gamma, expected in ((1.0, light ** (1 / 2.2)), (1 / 2.2, light)):
        chunk = b"gAMA" + struct.pack(">I", round(gamma * 100_000))
        chunk = struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        (tmp_path / "gamma.png").write_bytes(content[:33] + chunk + content[33:])
        plane = open_photo(tmp_path / "gamma.png").plane
        assert np.abs(plane - luminance(np.dstack([expected] * 3))).max() < 2


def test_raw_photos_and_tiffs_of_other_kinds_are_not_colorized_from_their_thumbnails(tmp_path):
    thumbnail, export = np.zeros((48, 64, 3), np.uint8), "export it as JPEG, PNG, or TIFF"
    tifffile.imwrite(tmp_path / "a.dng", thumbnail, extratags=[(50706, 1, 4, b"\1\4\0\0", True)])
    with tifffile.TiffWriter(tmp_path / "a.nef") as file:
        file.write(thumbnail, subfiletype=1, subifds=1)
        file.write(np.zeros((480, 640), np.uint16))
    for name in ("a.dng", "a.nef"):
        with pytest.raises(ValueError, match=f"{name}: is a raw photo .*: {export}"):
            open_photo(tmp_path / name)
    tifffile.imwrite(tmp_path / "float.tif", np.zeros((48, 64, 3), np.float32))
    with pytest.raises(ValueError, match=f"float.tif: this kind of TIFF is not supported: {export}"):
        open_photo(tmp_path / "float.tif")
