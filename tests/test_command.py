"""The command `colorize`: what it writes, and one clear line for everything that people may hand it."""

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from functools import lru_cache
from io import BytesIO

import numpy as np
import pillow_heif
import pytest
from PIL import EpsImagePlugin, Image, ImageCms

from lib import ROOT
from lib.color import luminance, to_float
from lib.config import get_config, save_config
from lib.photo import Colorizer, command
from lib.photo.formats import MAX_MEGAPIXELS, open_photo
from tests.conftest import colorize, read_made
from tests.gray_model import GrayModel

SIZE = (96, 64)
RNG = np.random.default_rng(0)
load_once = lru_cache(Colorizer)


@pytest.fixture(autouse=True)
def gray_model(monkeypatch):
    """A stand-in for the model."""
    monkeypatch.setattr("lib.photo.Colorizer", lambda *_, **__: GrayModel())


@pytest.fixture
def real(gray_model, monkeypatch):
    """The model; command lines that name the same one share it."""
    monkeypatch.setattr("lib.photo.Colorizer", load_once)


def gray_photo(path, size=SIZE, **options):
    """A gray photo of smooth shapes and some grain."""
    x, y = np.meshgrid(np.linspace(0, 6, size[0]), np.linspace(0, 4, size[1]))
    values = 128 + 90 * np.sin(x) * np.cos(y) + RNG.normal(0, 5, size[::-1])
    Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(path, **options)
    return path


def test_a_photo_gets_color_and_keeps_its_lightness_and_size(real, tmp_path, capsys):
    photo = gray_photo(tmp_path / "photo.jpg", dpi=(300, 300))
    before = photo.read_bytes()
    assert colorize(photo, "--prompt", "a red wall, a blue sky", "--seed", 3) == 0
    with Image.open(tmp_path / "photo.color.png") as picture:
        assert picture.size == SIZE
        assert round(picture.info["dpi"][0]) == 300
        output = to_float(picture)
    shift = np.abs(luminance(output) - luminance(to_float(Image.open(photo))))
    assert shift.max() <= 100 / 255
    assert np.ptp(output, axis=-1).mean() > 0.02
    said = read_made(tmp_path / "photo.color.png")
    assert (said["prompt"], said["seed"], said["photo"]) == ("a red wall, a blue sky", "3", "photo.jpg")
    assert photo.read_bytes() == before
    assert colorize(photo, "--prompt", "a red wall, " * 30 + "a very last zebra", "--overwrite") == 0
    assert "the prompt is too long, not read is:" in capsys.readouterr().err
    assert colorize(photo, "--prompt", "", "--overwrite") == 0  # an empty prompt is a prompt


@pytest.mark.parametrize(("format", "ending"), [("jpeg", "jpg"), ("webp", "webp")])
def test_other_formats_keep_what_the_photo_said_but_not_its_place(tmp_path, format, ending):
    exif = Image.Exif()
    exif[0x010E] = "a wall"
    exif.get_ifd(0x8825)[2] = (52.0, 30.0, 0.0)  # GPSLatitude
    photo = gray_photo(tmp_path / "photo.jpg", exif=exif)
    assert colorize(photo, "--prompt", 'a "red" wall & <door>, \u00e9\n\x07', "--format", format) == 0
    written = tmp_path / f"photo.color.{ending}"
    with Image.open(written) as picture:
        assert (picture.format.lower(), picture.getexif()[0x010E]) == (format, "a wall")
        assert not picture.getexif().get_ifd(0x8825)  # where a photo was taken is not passed on
    assert read_made(written)["prompt"] == 'a "red" wall & <door>, \u00e9\\n\\x07'
    assert colorize(photo, "--output", tmp_path / f"named.{ending}") == 0
    assert Image.open(tmp_path / f"named.{ending}").format.lower() == format


def test_a_text_file_beside_a_photo_is_its_prompt(tmp_path, capsys):
    for name in ("one.png", "two words.jpg", "none.png", "bad.png", "caf\u00e9.png"):
        gray_photo(tmp_path / name)
    (tmp_path / "one.txt").write_text("\ufeffa red wall,\n a blue sky\n", encoding="utf-8")
    (tmp_path / "two words.txt").write_text("")
    (tmp_path / "bad.txt").write_bytes(b"a wall \xff\xfe")
    (tmp_path / "cafe\u0301.txt").write_text("a red cup")  # the same name, decomposed
    assert colorize(tmp_path, "--output", tmp_path / "out") == 1
    assert "bad.png: its prompt" in capsys.readouterr().err
    prompts = {path.name: read_made(path)["prompt"] for path in (tmp_path / "out").iterdir()}
    assert prompts == {"one.color.png": "a red wall, a blue sky", "two words.color.png": "",
                       "none.color.png": "Colorize this image.", "caf\u00e9.color.png": "a red cup"}  # fmt: skip
    assert colorize(tmp_path / "one.png", "--prompt", "a blue wall") == 0
    assert read_made(tmp_path / "one.color.png")["prompt"] == "a blue wall"
    assert colorize(tmp_path / "cafe\u0301.png") == 0  # named decomposed


def test_only_photos_of_a_folder_are_taken_and_those_of_subfolders_if_told(tmp_path):
    for place in (".", "one", "one/two"):
        (tmp_path / "album" / place).mkdir(parents=True, exist_ok=True)
        gray_photo(tmp_path / "album" / place / "photo.jpg")
    (tmp_path / "album/notes.txt").touch()
    (tmp_path / "album/._photo.jpg").touch()  # what macOS puts beside files
    assert colorize(tmp_path / "album", "--output", tmp_path / "flat") == 0
    assert [path.name for path in (tmp_path / "flat").iterdir()] == ["photo.color.png"]
    assert colorize(tmp_path / "album", "--recursive", "--output", tmp_path / "deep") == 0
    written = {str(path.relative_to(tmp_path / "deep")) for path in (tmp_path / "deep").rglob("*.png")}
    assert written == {"photo.color.png", "one/photo.color.png", "one/two/photo.color.png"}


LINEAR_GRAY = ROOT / "tests/data/linear_gray.icc"  # a gray profile of gamma 1: codes are linear light
KINDS = ["1", "L", "I;16", "I", "F", "RGB", "P", "LA", "RGBA", "CMYK", "webp", "avif", "heic"]
KINDS += ["turned", "icc", "icc16", "iccLA", "bad_icc"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_photo(tmp_path, kind, capsys):
    source, path = Image.open(gray_photo(tmp_path / "source.png")), tmp_path / "photo.png"
    values, options, expected = np.asarray(source), {}, source
    image = source.convert(kind) if kind in ("1", "L", "RGB", "P", "CMYK") else source
    if kind in ("I;16", "icc16"):
        image = Image.fromarray(values.astype(np.uint16) * 257)
    elif kind in ("I", "F"):
        image = Image.fromarray(values.astype({"I": np.int32, "F": np.float32}[kind]) * {"I": 257, "F": 1 / 255}[kind])
    if kind in ("I", "F", "CMYK", "1"):
        path = tmp_path / "photo.tif"
    if "A" in kind:
        image = source.convert("RGBA" if kind == "RGBA" else "LA")
        image.putalpha(Image.fromarray(np.tile(np.arange(SIZE[0], dtype=np.uint8), (SIZE[1], 1))))
    if kind == "webp":
        path, options["lossless"] = tmp_path / "photo.webp", True
    if kind in ("avif", "heic"):
        pillow_heif.register_heif_opener()
        image, path, options["quality"] = source.convert("RGB"), tmp_path / f"photo.{kind}", 100
    if kind == "turned":
        exif = Image.Exif()
        exif[0x0112], exif[0x010E] = 6, "a wall"  # to be turned clockwise
        options["exif"], expected = exif, source.transpose(Image.ROTATE_270)
    if kind.startswith("icc"):  # dark codes that mean light ones: only a reader of the profile sees them so
        options["icc_profile"] = LINEAR_GRAY.read_bytes()
        table = ImageCms.profileToProfile(Image.fromarray(np.arange(256, dtype=np.uint8)[None]),
                                          ImageCms.ImageCmsProfile(str(LINEAR_GRAY)),
                                          ImageCms.createProfile("sRGB"), outputMode="RGB")  # fmt: skip
        expected = Image.fromarray(np.asarray(table)[0, :, 0][values])
    if kind == "bad_icc":
        options["icc_profile"] = b"no profile at all"
    image.save(path, **options)
    assert colorize(path) == 0
    said = capsys.readouterr().err
    assert "error" not in said
    assert ("does not fit" in said) == (kind == "bad_icc")
    with Image.open(tmp_path / "photo.color.png") as picture:
        assert picture.size == expected.size
        assert picture.mode == ("RGBA" if "A" in kind else "RGB")
        if "A" in kind:
            assert list(np.asarray(picture)[0, :, 3]) == list(range(SIZE[0]))
        if kind == "turned":
            assert picture.getexif() == {0x010E: "a wall"}
        if kind != "1":
            shift = np.abs(luminance(to_float(picture)) - luminance(to_float(expected)))
            assert shift.max() <= (1.5 if kind in ("CMYK", "icc16", "avif", "heic") else 100 / 255)


def test_bad_photos_are_named_in_one_line_and_nothing_is_written(tmp_path, capsys):
    jpg, png = (gray_photo(tmp_path / f"good.{ending}").read_bytes() for ending in ("jpg", "png"))
    contents = {"empty.jpg": b"", "text.jpg": b"hello", "half.jpg": jpg[:900], "torn.png": png[:300]}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for name in ("1x1.png", "2000x20.png", "30000x30000.png"):
        Image.new("1", tuple(map(int, name[:-4].split("x")))).save(tmp_path / name)
    Image.fromarray(np.full(SIZE[::-1], np.nan, np.float32)).save(tmp_path / "nan.tif")
    (tmp_path / "nothing").mkdir()
    problems = {
        "empty.jpg": "is empty",
        "text.jpg": "is no picture, or its format is not supported",
        "half.jpg": "can't be read",
        "torn.png": "can't be read",
        "1x1.png": "1x1 is too small or too narrow: both sides need 16 px",
        "2000x20.png": "2000x20 is too small or too narrow",
        "30000x30000.png": f"larger than {MAX_MEGAPIXELS} megapixels",
        "nan.tif": "holds values that are no numbers",
        "missing.jpg": "no such file",
        "nothing": "holds no photo",
    }
    before = sorted(tmp_path.rglob("*"))
    assert colorize(*(tmp_path / name for name in problems)) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == len(problems)
    for name, text in problems.items():
        (line,) = (line for line in lines if f"{tmp_path / name}: " in line)
        assert text in line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["PHOTO", "--saturation", "nan"], 1, "saturation nan"),
        (["PHOTO", "--color", "tram"], 2, "'tram' is not of the form"),
        (["PHOTO", "-p", "steps", "5"], 1, "'steps'"),
        (["PHOTO", "-p", "num_inference_steps", "many"], 1, "'num_inference_steps'"),
        (["PHOTO", "--controlnet", "nowhere/at/all"], 1, "no ControlNet in nowhere/at/all"),
        (["PHOTO", "--output", "PHOTO"], 1, "is a photo itself, which is never overwritten"),
        (["PHOTO", "--output", "result.jp2"], 1, "a .png or .jpg or .jpeg or .webp file"),
        (["PHOTO", "--output", "result.png", "--format", "jpeg"], 1, "a .jpg or .jpeg file"),
    ],
)
def test_bad_options(real, tmp_path, capsys, arguments, status, text):
    photo = gray_photo(tmp_path / "photo.png")
    before = photo.read_bytes()
    assert colorize(*(photo if argument == "PHOTO" else argument for argument in arguments)) == status
    assert text in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]
    assert photo.read_bytes() == before


def test_what_is_there_is_said_before_the_model_is_loaded(tmp_path, capsys, monkeypatch):
    photos = [gray_photo(tmp_path / f"{k}.png") for k in range(3)]
    (tmp_path / "0.color.png").write_text("mine")
    loaded = []
    monkeypatch.setattr("lib.photo.Colorizer", lambda *_: loaded.append(1) or GrayModel())
    assert colorize(photos[0]) == 1
    assert "0.color.png exists: pass --overwrite" in capsys.readouterr().err
    assert not loaded
    assert colorize(tmp_path, photos[1], os.path.relpath(photos[1])) == 1  # named thrice, done once
    assert loaded == [1]
    assert (tmp_path / "0.color.png").read_text() == "mine"
    assert (tmp_path / "1.color.png").stat().st_size > 1000
    assert colorize(photos[0], "--overwrite") == 0
    assert (tmp_path / "0.color.png").stat().st_size > 1000


def test_no_output_replaces_a_photo_or_another_output(tmp_path, capsys):
    first, second, third = (gray_photo(tmp_path / name) for name in ("a.png", "a.color.png", "a.jpg"))
    before = second.read_bytes()
    assert colorize(first, second, "--overwrite") == 1
    assert "is a photo itself, which is never overwritten" in capsys.readouterr().err
    assert second.read_bytes() == before
    assert colorize(first, third) == 1
    assert capsys.readouterr().err.count("rename one") == 2
    assert colorize(first, third, "--output", tmp_path / "one.png") == 1
    assert "one.png: name a folder, or for one photo a" in capsys.readouterr().err


def test_a_runs_controlnet_brings_its_base(tmp_path, monkeypatch):
    monkeypatch.setattr("lib.photo.colorizer.load_pipeline", lambda profile: profile)
    (tmp_path / "controlnet").mkdir()
    own, study_1 = get_config("l4"), get_config("l4", run="study_1")
    for run, base, revision in (("study_1", study_1.base_model, study_1.base_revision),
                                ("mine", own.base_model, own.base_revision), ("mine", "me/base", None)):  # fmt: skip
        save_config(get_config("l4", run=run, base_model=base, base_revision=revision), tmp_path)
        model = Colorizer("l4", tmp_path / "controlnet").config
        assert (model.base_model, model.base_revision) == (base, revision)
        assert model.controlnet == str(tmp_path / "controlnet")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_picture_that_could_not_be_written_leaves_nothing(tmp_path, capsys, monkeypatch, error):
    for name in ("a.png", "b.png"):
        gray_photo(tmp_path / name)
    save = Image.Image.save

    def stop(image, path, **options):
        if list(tmp_path.glob("*.color.png")):
            path.write_bytes(b"half")
            raise error
        save(image, path, **options)

    monkeypatch.setattr(Image.Image, "save", stop)
    assert colorize(tmp_path) == 1
    said = "Aborted!" if isinstance(error, KeyboardInterrupt) else "b.png: [Errno 28] No space left"
    assert said in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.color.png", "a.png", "b.png"]


def test_what_a_format_can_not_hold_and_a_folder_without_permission_are_said_before_the_work(
    tmp_path, capsys, monkeypatch
):
    gray_photo(tmp_path / "wide.png", (16_400, 400))
    Image.new("LA", SIZE).save(tmp_path / "clear.png")
    monkeypatch.setattr(GrayModel, "__call__", lambda *_: pytest.fail("it was colorized"))
    assert colorize(tmp_path / "wide.png", "--format", "webp") == 1
    assert "WEBP holds at most 16383 px a side, not 16400: save it as .png" in capsys.readouterr().err
    assert colorize(tmp_path / "clear.png", "--output", tmp_path / "wide.png/below") == 1
    assert "can't be written" in capsys.readouterr().err
    monkeypatch.setattr(command.os, "access", lambda place, mode: False)
    assert colorize(tmp_path / "clear.png") == 1
    assert f"clear.color.png can't be written (no permission in {tmp_path})" in capsys.readouterr().err


def test_names_that_the_output_can_not_show_are_escaped_and_a_closed_pipe_ends_quietly(tmp_path):
    for name in ("\u4e09.png", "b.png", os.fsdecode(b"caf\xe9.png")):
        gray_photo(tmp_path / name)
    command = [sys.executable, "-m", "tests.gray_model", str(tmp_path), "--overwrite"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (result.returncode, "\\u4e09.color.png" in result.stdout) == (0, True)
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(command, env=environment, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert result.returncode == 0
    assert "Broken" not in result.stderr
    assert len(list(tmp_path.glob("*.color.png"))) == 3


def test_the_installed_command_runs_in_a_folder_with_its_own_lib(tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/__init__.py").write_text("raise SystemExit(3)")
    installed = shutil.which("colorize", path=os.path.dirname(sys.executable))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([installed, "--help"], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert (result.returncode, "--prompt" in result.stdout) == (0, True)


# ---- files made to do harm

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"
HARM = {"postscript": lambda path: path.write_bytes(EPS), "pipe": os.mkfifo, "loop": lambda path: path.symlink_to(path)}


@pytest.mark.parametrize("kind", HARM)
def test_a_harmful_file_is_not_run_and_stops_no_folder(tmp_path, capsys, monkeypatch, kind):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("it was run"))
    gray_photo(tmp_path / "good.jpg")
    HARM[kind](tmp_path / "a\x1b[2Jb\n.jpg")  # a name that would move the cursor
    assert colorize(tmp_path) == 1
    said = capsys.readouterr().err
    problem = "is no picture, or its format is not supported" if kind == "postscript" else "is no regular file"
    assert f"a\\x1b[2Jb\\n.jpg: {problem}" in said
    assert "\x1b[2J" not in said
    assert (tmp_path / "good.color.png").exists()


def test_mutated_files_are_read_or_refused_with_a_value_error(tmp_path):
    rng, good, shapes = np.random.default_rng(0), Image.open(gray_photo(tmp_path / "good.png")), []
    for kind in ("jpeg", "png", "tiff", "webp", "gif", "bmp"):
        good.save(file := BytesIO(), kind)
        for _ in range(40):
            content = bytearray(file.getvalue())
            for _ in range(rng.integers(1, 6)):  # bytes are changed, cut out, or added
                start = rng.integers(len(content))
                content[start : start + rng.integers(40)] = rng.bytes(rng.integers(40))
            with suppress(ValueError):
                shapes.append(open_photo(bytes(content)).plane.shape)
    assert 30 < len(shapes) < 240
