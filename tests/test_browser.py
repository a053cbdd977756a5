"""The panel in a real browser: JupyterLab in headless Chromium, where Chromium is installed."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import papermill
import pytest
from PIL import Image

from lib import ROOT
from lib.photo.pictures import read_metadata

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


@pytest.fixture
def lab(tmp_path):
    """JupyterLab as `make lab` starts it, in a folder with the notebook of the panel alone; gives its address."""
    (tmp_path / "notebooks").mkdir()
    source, target = ROOT / "notebooks/your_photo.ipynb", tmp_path / "notebooks/your_photo.ipynb"
    papermill.execute_notebook(source, target, {"folder": "../saved"}, prepare_only=True, progress_bar=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (opening,) = re.findall(r"--LabApp\.default_url=\S+", (ROOT / "Makefile").read_text())
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--IdentityProvider.token=",
               "--allow-root", opening, "--LabApp.news_url=None"]  # fmt: skip
    environment = {**os.environ, "JUPYTER_CONFIG_DIR": str(tmp_path / ".jupyter")}
    environment["JUPYTER_CONFIG_PATH"] = str(ROOT / "lib/photo")  # as `make lab` does
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
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


@pytest.fixture
def page(lab):
    """A page of headless Chromium in which all cells of the notebook are run."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-background-networking", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1300, "height": 1400})
        page.set_default_timeout(90_000)
        page.goto(lab)
        page.get_by_text("| Idle").first.wait_for()  # the kernel is there
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        page.get_by_role("button", name="Colorize").wait_for()
        yield page
        browser.close()


def colorize(page, *prompts):
    """Colorize the photo of the panel under prompts, and wait for their pictures."""
    page.get_by_label("prompts").fill("\n".join(prompts))
    page.get_by_label("prompts").press("Tab")
    page.get_by_role("button", name="Colorize").click()
    for prompt in prompts:
        page.locator("b", has_text=prompt).wait_for()
    pictures = page.locator(".widget-image")
    for index in range(len(prompts)):
        page.wait_for_function("e => e.naturalWidth > 0", arg=pictures.nth(index).element_handle())
    assert pictures.count() == len(prompts)
    return pictures


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
    name = save_and_download(page, got)
    assert got.read_bytes() == (tmp_path / "saved" / name).read_bytes()
    assert read_metadata(got)["prompt"] == "a blue ball"
    red, _, blue = np.asarray(Image.open(got)).reshape(-1, 3).mean(axis=0)
    assert red < blue

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
