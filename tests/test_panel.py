"""The panel, driven without a browser."""

from datetime import datetime

import numpy as np
import pytest
from PIL import Image

from lib.photo import Colorizer
from lib.photo.panel import Panel
from lib.photo.pictures import read_metadata


@pytest.fixture
def panel(pipeline, profile, tmp_path, monkeypatch):
    values = np.linspace(0, 255, 96 * 64).reshape(64, 96).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "photo.png")
    monkeypatch.setattr("lib.photo.colorizer.load_pipeline", lambda _: pipeline)
    return Panel(Colorizer(profile), [tmp_path / "photo.png"], tmp_path / "saved")


def test_colorize_compare_and_save(panel, tmp_path):
    assert panel.save.disabled
    panel.prompt.value, panel.seed.value = "a red wall", 4
    panel.button.click()
    assert "not colorized" not in panel.message.value
    assert panel.progress.value == panel.progress.max
    first = panel.picture.value
    panel.split.value = 100
    assert panel.picture.value != first
    assert np.ptp(panel.before, axis=-1).max() == 0
    panel.save.click()
    saved = tmp_path / "saved/photo.color.png"
    assert panel.message.value == f"saved: {saved}"
    assert Image.open(saved).size == (96, 64)
    assert (read_metadata(saved)["prompt"], read_metadata(saved)["seed"]) == ("a red wall", 4)


def test_an_upload_is_shown_and_a_bad_one_is_named_and_not_replaced_by_another(panel, tmp_path):
    assert panel.message.value == "photo.png, 96 x 64"
    shown = panel.picture.value
    Image.fromarray(np.full((50, 40), 90, np.uint8)).save(tmp_path / "other.png")
    photo = (tmp_path / "other.png").read_bytes()
    sent = {"type": "image/png", "size": len(photo), "last_modified": datetime.now()}
    panel.upload.value = [{**sent, "name": "../mine.png", "content": photo}]
    assert panel.message.value == "mine.png, 40 x 50"
    assert panel.picture.value != shown
    panel.button.click()
    assert panel.result.photo.path.stem == "mine"
    assert panel.message.value.startswith("mine.png")
    panel.upload.value = [{**sent, "name": "torn.png", "content": photo[:60]}]
    assert "torn.png: can't be read" in panel.message.value
    result = panel.result
    panel.button.click()  # there is nothing to colorize
    assert panel.result is result
    assert not panel.button.disabled
    panel.save.click()  # still the last good one, under its own name
    assert (tmp_path / "saved/mine.color.png").exists()
    panel.save.click()
    assert panel.message.value == f"saved: {tmp_path / 'saved/mine.color.2.png'}"
