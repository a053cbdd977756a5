"""The panel in a real browser: JupyterLab in headless Chromium, where Chromium is installed."""

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
from tests.conftest import read_made

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def lab(folder, name, parameters):
    """A page of headless Chromium: JupyterLab as `make lab` starts it, in a folder with this notebook alone."""
    from playwright.sync_api import sync_playwright

    (folder / "notebooks").mkdir()
    source, target = ROOT / f"notebooks/{name}.ipynb", folder / f"notebooks/{name}.ipynb"
    papermill.execute_notebook(source, target, parameters, prepare_only=True, progress_bar=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (opening,) = re.findall(rf"--LabApp\.default_url=\S+/{name}\.ipynb", (ROOT / "Makefile").read_text())
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--IdentityProvider.token=",
               "--allow-root", opening]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JUPYTER_CONFIG_DIR": str(folder / ".jupyter")}
    environment["JUPYTER_CONFIG_PATH"] = str(ROOT / ".jupyter")  # as `make lab` does
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api").read()
                break
            except OSError:
                time.sleep(0.5)
        with sync_playwright() as playwright:
            arguments = ["--no-sandbox", "--disable-background-networking", "--disable-gpu"]
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.set_default_timeout(180_000)
            page.goto(f"http://127.0.0.1:{port}/")
            yield page
            browser.close()
    finally:
        server.terminate()
        server.wait(20)


def colorize(page, n_results, prompt=None):
    """Press Colorize, and wait until the history has so many pictures."""
    if prompt:
        page.get_by_label("prompt").fill(prompt)
    page.get_by_role("button", name="Colorize", exact=True).click()
    page.wait_for_function("n => document.querySelectorAll('.photo-panel .history img').length == n", arg=n_results)
    return page.get_by_alt_text("after", exact=True)


def download(page, target):
    """Download the picture that is shown to a path; returns the name that the browser suggests."""
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    download.value.save_as(target)
    return download.value.suggested_filename


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium: apt-get install chromium")
def test_a_photo_is_colorized_compared_boxed_restored_uploaded_and_downloaded(tmp_path):
    large, got = tmp_path / "large.png", tmp_path / "got.png"
    noise = np.random.default_rng(0).integers(0, 256, (3600, 4000), np.uint8)
    Image.fromarray(noise).save(large, compress_level=0)
    assert large.stat().st_size > 13e6  # Jupyter's own limit is 10 MB
    with lab(tmp_path, "your_photo", {"folder": "../saved"}) as page:
        page.get_by_text("| Idle").first.wait_for()  # the kernel is there
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        page.get_by_role("button", name="Colorize", exact=True).wait_for()
        time.sleep(2)
        panel, (left, right) = page.locator(".photo-panel").bounding_box(), page.locator(".photo-panel figure").all()
        assert panel["y"] >= 0
        assert panel["height"] <= 700
        assert panel["y"] + panel["height"] <= 800  # in view without scrolling
        assert abs(left.bounding_box()["y"] - right.bounding_box()["y"]) < 2  # side by side
        assert page.get_by_label("prompt").input_value()
        assert page.locator(".photo-panel .examples button").count() == 4

        shown = [
            colorize(page, 1, "a red stupa").get_attribute("src"),
            colorize(page, 2, "a blue stupa").get_attribute("src"),
        ]
        red, blue = (
            Image.open(urllib.request.urlopen(url)).convert("RGB").resize((1, 1)).getpixel((0, 0)) for url in shown
        )
        assert blue[2] - red[2] > blue[0] - red[0] + 1
        place = page.locator(".photo-panel .compare").bounding_box()
        page.mouse.move(place["x"] + place["width"] * 0.35, place["y"] + 100)
        page.mouse.down()
        page.mouse.move(place["x"] + place["width"] * 0.8, place["y"] + 100)
        page.mouse.up()
        assert float(page.get_by_label("before and after").input_value()) == pytest.approx(80, abs=3)

        place = page.locator(".photo-panel .overlay").bounding_box()
        for side in (0.3, 0.7):
            page.mouse.move(place["x"] + place["width"] * side, place["y"] + place["height"] * side)
            getattr(page.mouse, "down" if side == 0.3 else "up")()
        page.keyboard.type("dark red")  # the new box's field has the focus
        assert page.get_by_label("swatch 1").input_value() == "#840000"
        colorize(page, 3)
        name = download(page, got)
        assert got.read_bytes() == (tmp_path / "saved" / name).read_bytes()
        assert read_made(got)["colors"] == "'dark red' in (0.3, 0.3, 0.7, 0.7)"
        page.locator(".photo-panel .history button").last.click()  # the red one, without a box
        assert page.get_by_label("prompt").input_value() == "a red stupa"
        assert page.locator(".photo-panel .box").count() == 0

        for _ in range(2):  # the same file can come twice
            with page.expect_file_chooser() as chooser:
                page.get_by_role("button", name="Upload…").click()
            chooser.value.set_files(large)
            page.get_by_text("large.png, 4000 x 3600").wait_for()
            page.get_by_label("photo", exact=True).select_option(index=1)
            page.get_by_text("monuments-greatstupa.jpg, ").wait_for()
        page.get_by_label("photo", exact=True).select_option("large.png")
        colorize(page, 1, "a gray wall")
        assert download(page, got) == "large.color.png"
        assert Image.open(got).size == (4000, 3600)
        assert [path.name for path in (tmp_path / "saved/uploads").iterdir()] == ["large.png"]
