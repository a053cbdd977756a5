"""Files made to do harm: nothing is run, nothing hangs, nothing outside is read or written, and the rest is done."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from lib import ROOT, photo
from lib.photo.command import main
from tests.conftest import read_made
from tests.gray_model import GrayModel

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture(autouse=True)
def one_model(monkeypatch):
    """The model is a small stand-in."""
    monkeypatch.setattr(photo, "Colorizer", lambda *_: GrayModel())


@pytest.fixture
def folder(tmp_path):
    """A folder with one good photo."""
    values = (128 + 90 * np.sin(np.linspace(0, 6, 64)) * np.ones((48, 1))).astype(np.uint8)
    (tmp_path / "album").mkdir()
    Image.fromarray(values).save(tmp_path / "album/good.jpg")
    return tmp_path / "album"


def colorize(*arguments):
    """Run the command; returns its exit status, or its last line."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code


def test_postscript_is_not_run(folder, monkeypatch, capsys):
    (folder / "bad.jpg").write_bytes(EPS)
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("it was run"))
    assert colorize(folder) == 1
    assert "bad.jpg: is no picture, or its format is not supported" in capsys.readouterr().err
    assert (folder / "good.color.png").exists()


@pytest.mark.parametrize("kind", ["pipe", "loop"])
def test_what_is_no_regular_file_is_named_and_the_rest_done(folder, kind, capsys):
    bad = folder / "bad.jpg"
    {"pipe": os.mkfifo, "loop": lambda path: path.symlink_to(path)}[kind](bad)
    assert colorize(folder) == 1
    assert f"{bad}: is no regular file" in capsys.readouterr().err
    assert (folder / "good.color.png").exists()


def test_where_a_photo_was_taken_is_not_passed_on(folder):
    exif = Image.Exif()
    exif[0x010E] = "a wall"
    exif.get_ifd(0x8825)[2] = (52.0, 30.0, 0.0)  # GPSLatitude
    Image.open(folder / "good.jpg").save(folder / "there.jpg", exif=exif)
    assert colorize(folder / "there.jpg") == 0
    with Image.open(folder / "there.color.png") as picture:
        assert picture.getexif()[0x010E] == "a wall"
        assert not picture.getexif().get_ifd(0x8825)


def test_names_that_would_move_the_cursor_are_shown_escaped(folder, capsys):
    (folder / "a\x1b[2Jb\n.jpg").write_bytes(b"nothing")
    assert colorize(folder) == 1
    said = capsys.readouterr().err
    assert "\x1b[2J" not in said
    assert "a\\x1b[2Jb\\n.jpg" in said


def test_a_name_that_is_no_utf_8_is_colorized(folder):
    name = os.fsdecode(b"caf\xe9.jpg")
    shutil.copy(folder / "good.jpg", folder / name)
    assert colorize(folder / name) == 0
    assert read_made(folder / os.fsdecode(b"caf\xe9.color.png"))["prompt"] == "Colorize this image."


def mutate(content, rng):
    """Some bytes of a file changed, cut out, or written twice."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 6)):
        at = int(rng.integers(len(content)))
        kind, n = rng.integers(3), int(rng.integers(1, 40))
        if kind == 0:
            content[at : at + n] = rng.bytes(min(n, len(content) - at))
        elif kind == 1:
            del content[at : at + n]
        else:
            content[at:at] = content[at : at + n]
        content = content or bytearray(b"x")
    return bytes(content)


def test_three_hundred_mutated_files_leave_a_line_each_and_no_more(folder):
    """In a process of its own, so that what C libraries write is seen too."""
    rng, good = np.random.default_rng(0), Image.open(folder / "good.jpg")
    for kind in ("jpeg", "png", "tiff", "webp", "gif", "bmp"):
        options = {"compression": "lzw"} if kind == "tiff" else {}
        good.save(folder.parent / f"good.{kind}", exif=good.getexif(), **options)
        content = (folder.parent / f"good.{kind}").read_bytes()
        for k in range(50):
            (folder / f"{kind}_{k}.{kind}").write_bytes(mutate(content, rng))
    command, environment = [sys.executable, "-m", "tests.gray_model", folder], {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 1
    lines = [line for line in result.stderr.replace("\r", "\n").splitlines() if line.strip()]
    strange = [line for line in lines if not line.startswith(("error: ", "note: ", "colorizing: "))]
    assert strange == []
    made, failed = set(folder.glob("*.color.png")), [line for line in lines if line.startswith("error: ")]
    assert len(made) + len(failed) == 301
    assert len(made) > 40
    assert not list(folder.glob(".*"))  # nothing half-written
    for path in made:
        Image.open(path).load()
