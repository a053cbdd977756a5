"""The panels in a real browser: JupyterLab in headless Chromium, where Chromium is installed."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import numpy as np
import papermill
import pytest
from PIL import Image

from lib import ROOT
from lib.colorize import colorize_rows, plan_pictures
from lib.config import get_config
from lib.dataset import pick_across_categories
from lib.judging import QUESTIONS, draw_pairs, load_photos, read_judgements
from lib.prompts import prompts_under
from tests.conftest import read_made

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


MEAN_COLOR = """async image => {
    await image.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
    const sums = [0, 0, 0];
    pixels.forEach((value, index) => { if (index % 4 < 3) sums[index % 4] += value; });
    return sums.map(sum => sum / (canvas.width * canvas.height));
}"""


@contextmanager
def lab(folder, name, parameters):
    """JupyterLab as `make` starts it at a notebook, in a folder with this notebook alone; gives its address."""
    (folder / "notebooks").mkdir()
    source, target = ROOT / f"notebooks/{name}.ipynb", folder / f"notebooks/{name}.ipynb"
    papermill.execute_notebook(source, target, parameters, prepare_only=True, progress_bar=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (opening,) = re.findall(rf"--LabApp\.default_url=\S+/{name}\.ipynb", (ROOT / "Makefile").read_text())
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--IdentityProvider.token=",
               "--allow-root", opening, "--LabApp.news_url=None"]  # fmt: skip
    environment = {**os.environ, "JUPYTER_CONFIG_DIR": str(folder / ".jupyter")}
    environment["JUPYTER_CONFIG_PATH"] = str(ROOT / "lib/photo")  # as `make lab` does
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api").read()
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.wait(20)


@contextmanager
def opened(address):
    """A page of headless Chromium at an address."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-background-networking", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1300, "height": 1400})
        page.set_default_timeout(90_000)
        page.goto(address)
        yield page
        browser.close()


def run_all(page, button):
    """Run all cells of the notebook, and wait for a button of its panel."""
    page.get_by_text("| Idle").first.wait_for()  # the kernel is there
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.get_by_role("button", name=button, exact=True).wait_for()


@pytest.fixture
def page(tmp_path):
    """A page in which all cells of the notebook of the panel for own photos are run."""
    with lab(tmp_path, "your_photo", {"folder": "../saved"}) as address, opened(address) as page:
        run_all(page, "Colorize")
        yield page


def colorize(page, *prompts, colors=""):
    """Colorize the photo of the panel under prompts, and wait for their pictures; `colors`: what they say of things."""
    page.get_by_label("prompts").fill("\n".join(prompts))
    page.get_by_label("prompts").press("Tab")
    page.get_by_role("button", name="Colorize").click()
    for prompt in prompts:
        page.get_by_text(prompt + colors, exact=True).wait_for()
    pictures = page.locator(".widget-image")
    for index in range(len(prompts)):
        page.wait_for_function("e => e.naturalWidth > 0", arg=pictures.nth(index).element_handle())
    assert pictures.count() == len(prompts)
    return pictures


def draw_box(page, number, color, *box):
    """Draw a box (left, top, right, bottom) in fractions on the photo, and type its colour where the panel waits."""
    photo = page.get_by_alt_text("annotate me")
    photo.scroll_into_view_if_needed()
    at = photo.bounding_box()
    left, right = (at["x"] + at["width"] * side for side in box[::2])
    top, bottom = (at["y"] + at["height"] * side for side in box[1::2])
    page.mouse.move(left, top)
    page.mouse.down()
    page.mouse.move((left + right) / 2, (top + bottom) / 2)
    page.mouse.move(right, bottom)
    page.mouse.up()
    field = page.get_by_label(f"box {number}", exact=True)
    field.wait_for()
    page.wait_for_function("e => e === document.activeElement", arg=field.element_handle())
    page.keyboard.type(color)
    page.locator("svg text", has_text=f"{number} {color}").first.wait_for()  # it stands on the box


def upload(page, path):
    """Choose a file to upload."""
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="or upload").click()
    chooser.value.set_files(path)


def save_and_download(page, target):
    """Save the last picture that is shown, and download it to a path."""
    page.get_by_role("button", name="Save", exact=True).last.click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").last.click()
    download.value.save_as(target)
    return download.value.suggested_filename


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium: apt-get install chromium")
def test_photos_are_colorized_compared_uploaded_and_downloaded(page, tmp_path):
    uploaded, large, got = tmp_path / "dot.png", tmp_path / "large.png", tmp_path / "got.png"
    Image.new("L", (1, 1)).save(uploaded)
    noise = np.random.default_rng(0).integers(0, 256, (3600, 4000), np.uint8)
    Image.fromarray(noise).save(large, compress_level=0)
    assert large.stat().st_size > 13e6  # Jupyter's own limit is 10 MB

    pictures = colorize(page, "a red ball", "a blue ball")
    (red, _, less_blue), (less_red, _, blue) = (
        page.evaluate(MEAN_COLOR, pictures.nth(k).element_handle()) for k in (0, 1)
    )
    assert blue - less_red > less_blue - red + 1
    name = save_and_download(page, got)
    assert got.read_bytes() == (tmp_path / "saved" / name).read_bytes()
    assert read_made(got)["prompt"] == "a blue ball"

    colorize(page, "a green ball")
    page.get_by_label("history").select_option(index=1)  # the red one of before
    page.locator("b", has_text="a red ball").wait_for()
    assert pictures.count() == 1
    first = pictures.first.get_attribute("src")
    page.locator(".widget-hslider .noUi-handle").last.press("End")  # the slider between before and after: all before
    page.wait_for_function("([e, old]) => e.src !== old", arg=[pictures.first.element_handle(), first])
    page.screenshot(path=tmp_path / "panel.png")
    shown = page.evaluate(MEAN_COLOR, pictures.first.element_handle())
    assert max(shown) - min(shown) < 1  # gray

    upload(page, uploaded)
    page.get_by_text("dot.png: 1x1 is too small").wait_for()
    upload(page, large)
    page.get_by_text("large.png, 4000 x 3600").wait_for()  # shown as soon as it is there
    colorize(page, "a gray wall")
    assert save_and_download(page, got) == "large.color.png"
    assert Image.open(got).size == (4000, 3600)
    assert got.stat().st_size > 25e6


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium: apt-get install chromium")
def test_boxes_drawn_on_a_photo_change_their_own_places_and_nothing_else(page, tmp_path):
    page.get_by_role("combobox", name="photo", exact=True).select_option("castle.jpg")
    page.get_by_text("castle.jpg, 341 x 256").wait_for()
    got = {}

    def keep(name):
        save_and_download(page, tmp_path / name)
        got[name] = np.asarray(Image.open(tmp_path / name)).astype(int)

    colorize(page, "a castle")
    keep("plain.png")
    draw_box(page, 1, "dark red", 0.1, 0.4, 0.5, 0.8)
    draw_box(page, 2, "blue", 0.2, 0.5, 0.35, 0.7)  # in the first
    draw_box(page, 3, "green", 0.8, 0.6, 1.02, 1.02)  # to beyond the corner
    colorize(page, "a castle", colors=" + dark red + blue + green")
    page.screenshot(path=tmp_path / "boxes.png")
    keep("three.png")
    page.get_by_role("button", name="Undo").click()
    colorize(page, "a castle", colors=" + dark red + blue")
    keep("two.png")

    boxes = re.findall(r"\((.*?)\)", read_made(tmp_path / "three.png")["colors"])
    first, second, third = ([float(side) for side in box.split(", ")] for box in boxes)
    assert np.abs(np.subtract(first, (0.1, 0.4, 0.5, 0.8))).max() < 0.01
    assert np.abs(np.subtract(second, (0.2, 0.5, 0.35, 0.7))).max() < 0.01
    assert third[2:] == [1, 1]
    outside = np.ones((256, 341), bool)
    for left, top, right, bottom in (first, third):
        place = np.s_[
            int(top * 256) - 2 : int(bottom * 256) + 3, int(left * 341) - 2 : int(right * 341) + 3
        ]  # soft edge
        outside[place] = False
        assert (got["three.png"] != got["plain.png"])[place].any()
    assert (got["three.png"] == got["plain.png"])[outside].all()
    assert (got["two.png"] == got["plain.png"])[place].all()  # the third was taken back
    red, _, blue = (got["two.png"] - got["plain.png"])[128:178, 124:170].mean(axis=(0, 1))
    assert red > blue + 5  # beside the blue box
    red, _, blue = (got["two.png"] - got["plain.png"])[128:178, 70:117].mean(axis=(0, 1))
    assert blue > red + 5  # in it


@pytest.fixture
def colorized(config, pipeline, triples):
    """A run of the small profile with pictures of three photos to judge."""
    config = config.replace(run="judged")
    pipeline.controlnet.save_pretrained(config.controlnet_dir)
    rows = pick_across_categories(triples["test"], 3)
    prompts = {level: prompts_under(level, rows) for level in ("vague", "detailed", "recolored")}
    plan = plan_pictures(rows.select_columns(["image_id", "category"]).to_pandas(), prompts)
    colorize_rows(pipeline, rows, {"images": plan}, config)
    return config


def wait_for_answers(path, number):
    """Wait until the file has so many answers; the last one."""
    for _ in range(100):
        if path.exists() and len(table := read_judgements(path)) == number:
            return table.iloc[-1]
        time.sleep(0.1)
    raise AssertionError(f"not {number} answers in {path}")


def colors_shown(page):
    """The mean colours of the two pictures that are shown."""
    pictures = page.locator(".widget-image")
    assert pictures.count() == 2
    return [page.evaluate(MEAN_COLOR, picture) for picture in pictures.element_handles()]


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium: apt-get install chromium")
def test_pictures_are_judged_with_the_mouse_and_the_keyboard_and_gone_on_with_later(colorized, tmp_path):
    usual = get_config("pocket").values()
    overrides = {name: value for name, value in colorized.values().items() if value != usual.get(name)}
    path, photos = colorized.reports_dir / "judgements.csv", load_photos(colorized, 0)
    pairs = draw_pairs(photos, "ann")
    actions = [
        lambda page: page.get_by_role("button", name="right", exact=True).click(),
        lambda page: page.keyboard.press("Space"),  # on the button that was clicked
        lambda page: (page.keyboard.press("Shift+Tab"), page.keyboard.press("Space")),
        lambda page: (page.keyboard.press("Tab"), page.keyboard.press("Space")),
        lambda page: page.get_by_role("button", name="left", exact=True).click(),
    ]
    assert len(pairs) == len(actions)
    with lab(tmp_path, "judge", {"judge": "Ann", "overrides": overrides}) as address, opened(address) as page:
        run_all(page, "left")
        for number, (pair, act, side) in enumerate(zip(pairs, actions, "rrlrl", strict=True), 1):
            page.get_by_text(QUESTIONS[pair.question]).last.wait_for()
            time.sleep(0.5)  # the pictures are there; a faster answer is a double click
            shown = colors_shown(page)
            for picture, name in zip(shown, (pair.left, pair.right), strict=True):
                assert picture == pytest.approx(np.asarray(photos[pair.image_id][name]).mean(axis=(0, 1)), abs=2)
            panel = page.locator(".jp-OutputArea-output .widget-vbox").first.evaluate("e => e.outerHTML")
            words = ("true", "vague", "wrong", "detailed", pair.image_id)
            assert not any(word in re.sub(r'aria-\w+="[^"]*"', "", panel) for word in words)
            assert (photos[pair.image_id]["sentence"] in panel) == (pair.question == "fits")
            page.screenshot(path=tmp_path / f"{pair.question}.png")
            act(page)
            answer = wait_for_answers(path, number)
            assert (answer["judge"], answer["question"], answer["image_id"]) == ("ann", pair.question, pair.image_id)
            assert answer["chosen"] == (pair.left if side == "l" else pair.right)
            if number == 3:  # another day
                page.reload()
                run_all(page, "left")
                page.get_by_role("button", name="left", exact=True).focus()
        page.get_by_text("That was the last pair. Thank you!").wait_for()
        assert not page.get_by_role("button", name="left", exact=True).is_visible()
    assert len(read_judgements(path)) == 5
