"""The panel in a real browser: JupyterLab in headless Chromium, where Chromium is installed."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import numpy as np
import pytest
from PIL import Image

from lib import ROOT
from lib.photo.pictures import read_metadata

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CELL = """from lib.photo import Colorizer
from lib.photo.panel import Panel

Panel(Colorizer("pocket"), ["photo.png"], "saved").box"""


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
    """A JupyterLab server in an empty folder with one photo and one notebook; gives the notebook's address."""
    values = 128 + 90 * np.sin(np.linspace(0, 6, 300)) * np.ones((200, 1))
    Image.fromarray(values.astype(np.uint8)).save(tmp_path / "photo.png")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "panel.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--IdentityProvider.token=",
               "--allow-root", f"--ServerApp.root_dir={tmp_path}", "--LabApp.news_url=None"]  # fmt: skip
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
        yield f"http://127.0.0.1:{port}/lab/tree/panel.ipynb?reset"
    finally:
        server.terminate()
        server.wait(20)


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium: apt-get install chromium")
def test_a_photo_is_colorized_compared_and_saved(lab, tmp_path):
    from playwright.sync_api import sync_playwright

    uploaded, large = tmp_path / "dot.png", tmp_path / "large.png"
    Image.new("L", (1, 1)).save(uploaded)
    noise = np.random.default_rng(0).integers(0, 256, (3600, 4000), np.uint8)
    Image.fromarray(noise).save(large, compress_level=0)
    assert large.stat().st_size > 13e6  # Jupyter's own limit is 10 MB
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-background-networking", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        page.set_default_timeout(90_000)
        page.goto(lab)
        page.get_by_text("| Idle").first.wait_for()  # the kernel is there
        page.locator(".jp-CodeCell .cm-content").click()
        page.keyboard.press("Shift+Enter")
        button = page.get_by_role("button", name="Colorize")
        button.wait_for()
        page.get_by_label("prompt").fill("a red wall")
        page.get_by_label("prompt").press("Tab")
        button.click()
        picture = page.locator("img.widget-image, .widget-image img").first
        page.wait_for_function("e => e.naturalWidth > 0", arg=picture.element_handle())
        first = picture.get_attribute("src")
        page.get_by_role("button", name="Save", exact=True).click()
        page.get_by_text("saved: ").wait_for()
        page.get_by_label("prompt").fill("a blue wall")
        page.get_by_label("prompt").press("Tab")
        button.click()
        page.wait_for_function("([e, old]) => e.src !== old", arg=[picture.element_handle(), first])
        second = picture.get_attribute("src")
        page.locator(".noUi-handle").nth(1).press("End")  # the slider between before and after, all before
        page.wait_for_function("([e, old]) => e.src !== old", arg=[picture.element_handle(), second])
        page.screenshot(path=tmp_path / "panel.png")
        shown = page.evaluate(MEAN_COLOR, picture.element_handle())
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="or upload").click()
        chooser.value.set_files(uploaded)
        page.get_by_text("or upload (1)").wait_for()
        button.click()
        page.get_by_text("too small").wait_for()
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="or upload").click()
        chooser.value.set_files(large)
        page.get_by_text("large.png, 4000 x 3600").wait_for()  # shown as soon as it is there
        button.click()
        page.get_by_text("large.png", exact=True).wait_for()
        page.get_by_role("button", name="Save", exact=True).click()
        page.get_by_text("large.color.png").wait_for()
        browser.close()
    assert max(shown) - min(shown) < 1  # gray
    saved = tmp_path / "saved/photo.color.png"
    assert Image.open(saved).size == (300, 200)
    assert read_metadata(saved)["prompt"] == "a red wall"
    red, green, blue = np.asarray(Image.open(saved)).reshape(-1, 3).mean(axis=0)
    assert red > blue
