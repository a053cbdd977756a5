"""The command `colorize`: what it writes, and one clear line for everything that people may hand it."""

import os
import subprocess
import sys
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import pytest
from diffusers import ControlNetModel
from PIL import Image, ImageCms

from lib import ROOT, command
from lib.color import luminance, to_float
from lib.photo import MAX_MEGAPIXELS, read_metadata

SIZE = (96, 64)
LOAD = command.load
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def one_load(monkeypatch):
    """Command lines that name the same model share one."""
    names = ("profile", "controlnet", "num_inference_steps", "guidance_scale", "controlnet_conditioning_scale")
    monkeypatch.setattr(command, "load", lambda options: load_once(*((n, getattr(options, n)) for n in names)))


@lru_cache
def load_once(*options):
    return LOAD(SimpleNamespace(**dict(options)))


def gray_photo(path, size=SIZE, **options):
    """A gray photo of smooth shapes and some grain."""
    x, y = np.meshgrid(np.linspace(0, 6, size[0]), np.linspace(0, 4, size[1]))
    values = 128 + 90 * np.sin(x) * np.cos(y) + RNG.normal(0, 5, size[::-1])
    Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(path, **options)
    return path


def colorize(*arguments):
    """Run the command; returns its exit status."""
    with pytest.raises(SystemExit) as stopped:
        command.main([str(argument) for argument in arguments])
    code = stopped.value.code
    if isinstance(code, str):
        print(code, file=sys.stderr)
        return 1
    return code


def test_a_photo_gets_color_and_keeps_its_lightness_and_size(tmp_path):
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
    said = read_metadata(tmp_path / "photo.color.png")
    assert (said["prompt"], said["seed"], said["photo"]) == ("a red wall, a blue sky", 3, "photo.jpg")
    assert photo.read_bytes() == before


def test_samples_a_sheet_and_one_of_them_again(tmp_path):
    gray_photo(tmp_path / "photo.png")
    assert (
        colorize(tmp_path / "photo.png", "--prompt", "a red wall", "--samples", 2, "--saturation", 1.5, "--steps", 2)
        == 0
    )
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"photo.png", "photo.color.0.png", "photo.color.1.png", "photo.color.sheet.png"}
    assert colorize("--again", tmp_path / "photo.color.1.png", "--output", tmp_path / "again.png") == 0
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "photo.color.1.png").read_bytes()
    gray_photo(tmp_path / "photo.png")  # other grain
    assert colorize("--again", tmp_path / "photo.color.1.png", "--output", tmp_path / "more.png") == 1


def test_a_folder_with_prompts_and_bad_files_among_good(tmp_path, capsys):
    album = tmp_path / "album"
    album.mkdir()
    for name in ("one.png", "two words é.jpg", "三.png"):
        gray_photo(album / name)
    (album / "empty.jpg").write_bytes(b"")
    (album / "text.jpg").write_text("not a picture")
    (tmp_path / "prompts.csv").write_text("photo,prompt\none.png,a red wall\nabsent.png,a blue wall\n")
    assert colorize(album, "--prompts", tmp_path / "prompts.csv", "--output", tmp_path / "colored") == 1
    said = capsys.readouterr().err
    assert "names absent.png, which is not among the photos" in said
    assert "empty.jpg: is empty" in said
    assert "text.jpg: is no picture" in said
    written = sorted(path.name for path in (tmp_path / "colored").iterdir())
    assert written == ["one.color.png", "two words é.color.png", "三.color.png"]
    assert read_metadata(tmp_path / "colored/one.color.png")["prompt"] == "a red wall"
    assert read_metadata(tmp_path / "colored/三.color.png")["prompt"] == "Colorize this image."


def test_outputs_in_a_folder_are_not_colorized_again(tmp_path):
    gray_photo(tmp_path / "photo.png")
    assert colorize(tmp_path, "--samples", 2) == 0
    assert colorize(tmp_path, "--samples", 2, "--overwrite") == 0
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize(
    "kind", ["1", "L", "I;16", "I", "F", "RGB", "P", "LA", "RGBA", "CMYK", "webp", "turned", "icc"]
)
def test_every_kind_of_photo(tmp_path, kind, capsys):
    source, path = Image.open(gray_photo(tmp_path / "source.png")), tmp_path / "photo.tif"
    values, options = np.asarray(source), {}
    if kind == "I;16":
        image = Image.fromarray(values.astype(np.uint16) * 257)
    elif kind in ("I", "F"):
        image = Image.fromarray(values.astype({"I": np.int32, "F": np.float32}[kind]) * {"I": 257, "F": 1 / 255}[kind])
    elif kind == "webp":
        image, path = source, tmp_path / "photo.webp"
        options["lossless"] = True
    elif kind == "turned":
        image, exif = source, Image.Exif()
        exif[0x0112], exif[0x010E] = 6, "a wall"
        options["exif"], path = exif, tmp_path / "photo.jpg"
    elif kind == "icc":
        image, path = source.convert("RGB"), tmp_path / "photo.png"
        options["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    else:
        image = source.convert(kind)
        path = tmp_path / ("photo.png" if "A" in kind else "photo.tif")
        if "A" in kind:
            image.putalpha(Image.fromarray(np.tile(np.arange(SIZE[0], dtype=np.uint8), (SIZE[1], 1))))
    image.save(path, **options)
    assert colorize(path) == 0
    assert "error" not in capsys.readouterr().err
    with Image.open(tmp_path / "photo.color.png") as picture:
        assert picture.size == (SIZE[::-1] if kind == "turned" else SIZE)
        assert picture.mode == ("RGBA" if "A" in kind else "RGB")
        if "A" in kind:
            assert list(np.asarray(picture)[0, :, 3]) == list(range(SIZE[0]))
        if kind == "turned":
            assert picture.getexif() == {0x010E: "a wall"}
        elif kind != "1":
            assert np.abs(luminance(to_float(picture)) - luminance(to_float(source))).max() < 2


def bad_files(folder):
    """Files that are no photos, or none that can be colorized, by name: (path, what is said)."""
    good = gray_photo(folder / "good.jpg")
    paths = {
        "empty": (b"", "is empty"),
        "text": (b"hello, I am text", "is no picture that can be read"),
        "html": (b"<html><body>404</body></html>", "is no picture that can be read"),
        "truncated": (good.read_bytes()[: len(good.read_bytes()) // 2], "can't be read"),
    }
    for name, (content, _) in paths.items():
        (folder / f"{name}.jpg").write_bytes(content)
    said = {name: (folder / f"{name}.jpg", text) for name, (_, text) in paths.items()}
    png = gray_photo(folder / "whole.png").read_bytes()
    (folder / "torn.png").write_bytes(png[:300])
    said["torn"] = (folder / "torn.png", "can't be read")
    for name, size, text in (
        ("dot", (1, 1), "1x1 is too small: both sides need 16 px"),
        ("strip", (3, 4000), "3x4000 is too small"),
        ("ribbon", (2000, 20), "2000x20 is too narrow"),
    ):
        Image.new("L", size, 128).save(folder / f"{name}.png")
        said[name] = (folder / f"{name}.png", text)
    values = np.full(SIZE[::-1], 0.5, np.float32)
    values[3, 3] = np.nan
    Image.fromarray(values).save(folder / "nan.tif")
    said["nan"] = (folder / "nan.tif", "holds values that are no numbers")
    Image.new("1", (30_000, 30_000)).save(folder / "bomb.png")
    said["bomb"] = (folder / "bomb.png", f"larger than {MAX_MEGAPIXELS} megapixels")
    said["missing"] = (folder / "missing.jpg", "no such file")
    (folder / "nothing").mkdir()
    said["folder without photos"] = (folder / "nothing", "holds no photo")
    return said


def test_bad_photos_are_named_in_one_line_and_nothing_is_written(tmp_path, capsys):
    cases = bad_files(tmp_path)
    assert len(cases) == 12
    before = sorted(tmp_path.rglob("*"))
    for path, text in cases.values():
        assert colorize(path) == 1
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert str(path) in lines[0]
        assert text in lines[0]
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        ([], 2, "name photos or folders"),
        (["PHOTO", "--again", "PHOTO"], 2, "name photos or folders"),
        (["PHOTO", "--prompt", "a", "--prompts", "b.csv"], 2, "not both"),
        (["PHOTO", "--samples", "0"], 2, "--samples needs 1 or more"),
        (["PHOTO", "--saturation", "-1"], 2, "--saturation 0 to 5"),
        (["PHOTO", "--seed", "red"], 2, "invalid int value"),
        (["PHOTO", "--color", "red"], 2, "unrecognized arguments"),
        (["PHOTO", "--profile", "big"], 1, "unknown profile 'big': known are pocket, l4"),
        (["PHOTO", "--steps", "some"], 1, "'num_inference_steps' takes int, not 'some'"),
        (["PHOTO", "--steps", "-3"], 1, "'num_inference_steps' takes int, not '-3'"),
        (["PHOTO", "--guidance-scale", "nan"], 1, "'guidance_scale' takes float, not 'nan'"),
        (["PHOTO", "--controlnet", "nowhere/at/all"], 1, "no ControlNet in nowhere/at/all"),
        (["PHOTO", "--prompts", "absent.csv"], 1, "absent.csv: can't be read"),
        (["PHOTO", "--output", "PHOTO"], 1, "is the photo itself, which is never overwritten"),
        (["--again", "PHOTO"], 1, "does not say how it was made"),
    ],
)
def test_bad_options(tmp_path, capsys, arguments, status, text):
    photo = gray_photo(tmp_path / "photo.png")
    before = photo.read_bytes()
    assert colorize(*(photo if argument == "PHOTO" else argument for argument in arguments)) == status
    assert text in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]
    assert photo.read_bytes() == before


def test_existing_pictures_stay_without_overwrite(tmp_path, capsys):
    photo = gray_photo(tmp_path / "photo.png")
    (tmp_path / "photo.color.png").write_text("mine")
    assert colorize(photo) == 1
    assert "is there already: pass --overwrite" in capsys.readouterr().err
    assert (tmp_path / "photo.color.png").read_text() == "mine"
    assert colorize(photo, "--overwrite") == 0


def test_several_photos_into_one_file(tmp_path, capsys):
    photos = [gray_photo(tmp_path / f"{k}.png") for k in range(2)]
    assert colorize(*photos, "--output", tmp_path / "one.png") == 1
    assert "is one file, but there are several pictures" in capsys.readouterr().err


def test_two_photos_with_one_output(tmp_path, capsys):
    photos = [gray_photo(tmp_path / name) for name in ("a.png", "a.jpg")]
    assert colorize(*photos) == 1
    assert capsys.readouterr().err.count("rename one") == 2


def test_a_csv_without_the_right_columns(tmp_path, capsys):
    photo = gray_photo(tmp_path / "photo.png")
    (tmp_path / "p.csv").write_text("name,text\nphoto.png,a wall\n")
    assert colorize(photo, "--prompts", tmp_path / "p.csv") == 1
    assert "column 'photo' is missing" in capsys.readouterr().err


def test_a_long_prompt_is_cut_and_the_cut_part_said(tmp_path, capsys):
    photo = gray_photo(tmp_path / "photo.png")
    assert colorize(photo, "--prompt", "a red wall, " * 30 + "a very last zebra") == 0
    assert "the prompt is too long, not read is:" in capsys.readouterr().err
    assert colorize(photo, "--prompt", "", "--overwrite") == 0  # an empty prompt is a prompt


def test_notes_on_color_photos_and_animations(tmp_path, capsys):
    gray_photo(tmp_path / "gray.png")
    frames = [Image.new("L", SIZE, value) for value in (90, 160)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(RNG.integers(0, 255, (64, 96, 3), dtype=np.uint8)).save(tmp_path / "colored.png")
    assert colorize(tmp_path) == 0
    said = capsys.readouterr().err
    assert "moving.gif: has 2 frames: only the first is used" in said
    assert "colored.png: is a colour photo: its colour was discarded" in said
    assert "gray.png: is a colour" not in said


def test_controlnet_of_another_base_and_pickled_weights(tmp_path, capsys):
    photo = gray_photo(tmp_path / "photo.png")
    other = ControlNetModel(
        block_out_channels=(32, 64), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), norm_num_groups=8,
        cross_attention_dim=16, conditioning_embedding_out_channels=(16, 32), attention_head_dim=4,
    )  # fmt: skip
    other.save_pretrained(tmp_path / "other")
    other.save_pretrained(tmp_path / "pickled", safe_serialization=False)
    assert colorize(photo, "--controlnet", tmp_path / "other") == 1
    assert "is for another base: block_out_channels" in capsys.readouterr().err
    assert colorize(photo, "--controlnet", tmp_path / "pickled") == 1
    assert "safetensors" in capsys.readouterr().err
    assert not (tmp_path / "photo.color.png").exists()


def test_places_that_can_not_be_written(tmp_path, capsys, monkeypatch):
    photo = gray_photo(tmp_path / "photo.png")
    (tmp_path / "file").write_text("in the way")
    assert colorize(photo, "--output", tmp_path / "file/below") == 1
    assert "can't be written" in capsys.readouterr().err

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    assert colorize(photo) == 1
    assert "can't be written (No space left on device)" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "photo.png"]


def test_ctrl_c_leaves_whole_pictures(tmp_path, capsys, monkeypatch):
    for k in range(3):
        gray_photo(tmp_path / f"{k}.png")
    work, seen = command.colorize_job, []

    def interrupted(job, *rest):
        seen.append(job)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return work(job, *rest)

    monkeypatch.setattr(command, "colorize_job", interrupted)
    assert colorize(tmp_path) == 1
    assert "stopped: the pictures written so far are whole" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.glob("*.color.*")) == ["0.color.png", "1.color.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_photo_that_may_not_be_read(tmp_path, capsys):
    photo = gray_photo(tmp_path / "photo.png")
    photo.chmod(0)
    assert colorize(photo) == 1
    assert "can't be read (Permission denied)" in capsys.readouterr().err


def test_the_installed_command_says_its_options_with_examples():
    program = str(ROOT / ".venv/bin/colorize")
    program = [program] if os.path.exists(program) else [sys.executable, "-m", "lib.command"]
    result = subprocess.run([*program, "--help"], capture_output=True, text=True, check=True)
    for option in ("--prompt", "--prompts", "--output", "--profile", "--controlnet", "--seed", "--samples", "--steps",
                   "--guidance-scale", "--controlnet-conditioning-scale", "--saturation", "--overwrite", "--again"):  # fmt: skip
        assert f"{option} " in result.stdout
    assert result.stdout.count("e.g.") >= 13
