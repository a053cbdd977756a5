"""The panel, driven without a browser."""

from datetime import datetime

import nbformat
import numpy as np
import pytest
from PIL import Image

from lib import ROOT
from lib.photo import Colorizer
from lib.photo.panel import MAX_PROMPTS, Panel
from lib.photo.pictures import read_metadata


@pytest.fixture
def panel(pipeline, profile, tmp_path, monkeypatch):
    values = np.linspace(0, 255, 96 * 64).reshape(64, 96).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "photo.png")
    Image.fromarray(values[:, ::-1]).save(tmp_path / "second.png")
    monkeypatch.setattr("lib.photo.colorizer.load_pipeline", lambda _: pipeline)
    return Panel(Colorizer(profile), [tmp_path / "photo.png", tmp_path / "second.png"], tmp_path / "saved")


def save_buttons(panel):
    """The buttons below the pictures that are shown and were not saved yet."""
    return [column.children[-1] for column in panel.columns.children if hasattr(column.children[-1], "click")]


def shown(panel):
    """The PNGs that are shown side by side."""
    return [column.children[0].value for column in panel.columns.children]


def send(panel, name, content):
    """What a browser does when a photo is uploaded."""
    facts = {"type": "image/png", "size": len(content), "last_modified": datetime.now()}
    panel.upload.value = [{**facts, "name": name, "content": content}]


def png(path, *size):
    """The bytes of a gray PNG of a size, written to a path."""
    Image.fromarray(np.full(size, 90, np.uint8)).save(path, "png")
    return path.read_bytes()


def test_colorize_compare_and_save(panel, tmp_path):
    assert save_buttons(panel) == []
    panel.prompts.value, panel.options["seed"].value = "a red wall", 4
    panel.button.click()
    assert panel.message.value.startswith("photo.png")
    assert panel.progress.value == panel.progress.max == 1
    (first,) = shown(panel)
    panel.split.value = 100
    assert shown(panel) != [first]
    assert np.ptp(panel.before, axis=-1).max() == 0
    (save,) = save_buttons(panel)
    save.click()
    saved = tmp_path / "saved/photo.color.png"
    assert panel.message.value == f"saved: {saved}"
    assert Image.open(saved).size == (96, 64)
    assert (read_metadata(saved)["prompt"], read_metadata(saved)["seed"]) == ("a red wall", 4)
    link = panel.columns.children[0].children[-1].outputs[0]["data"]["text/html"]
    assert link.endswith('saved/photo.color.png" download>Download photo.color.png</a>')
    assert save_buttons(panel) == []  # it is there once


def test_the_sampling_options_start_as_the_profile_s_and_make_the_picture(panel, profile, tmp_path):
    given = {name: widget.value for name, widget in panel.options.items() if name not in ("seed", "saturation")}
    assert given == {name: getattr(profile.sampling, name) for name in given}
    assert len(given) == 3
    wanted = {"num_inference_steps": 3, "guidance_scale": 3.5, "controlnet_conditioning_scale": 0.4}
    panel.button.click()
    before = shown(panel)
    for name, value in wanted.items():
        panel.options[name].value = value
    panel.button.click()
    assert shown(panel) != before
    (save,) = save_buttons(panel)
    save.click()
    made = read_metadata(tmp_path / "saved/photo.color.png")
    assert {name: made[name] for name in wanted} == wanted
    assert panel.colorizer.profile == profile  # whose own options are as they were
    assert "steps 3, guidance 3.5, strength 0.4" in panel.history.options[0][0]


def test_several_prompts_stand_side_by_side_and_each_can_be_saved(panel, tmp_path):
    panel.prompts.value = "a red wall\n\n  a blue wall\n"
    panel.button.click()
    assert len(set(shown(panel))) == 2
    save_buttons(panel)[1].click()
    assert read_metadata(tmp_path / "saved/photo.color.png")["prompt"] == "a blue wall"
    save_buttons(panel)[0].click()
    assert read_metadata(tmp_path / "saved/photo.color.2.png")["prompt"] == "a red wall"
    preview, pixels = panel.results[1].preview, np.asarray(Image.open(tmp_path / "saved/photo.color.png"))
    assert np.array_equal(preview, pixels)  # what is saved is what was shown
    before = shown(panel)
    panel.prompts.value = "\n".join(["a wall"] * (MAX_PROMPTS + 1))
    panel.button.click()
    assert panel.message.value == f"at most {MAX_PROMPTS} prompts at a time"
    assert shown(panel) == before


def test_the_history_goes_back_to_earlier_pictures_of_each_photo(panel):
    for prompt in ("a red wall", "a blue wall"):
        panel.prompts.value = prompt
        panel.button.click()
    (blue,), results = shown(panel), [result for _, result in panel.history.options]
    assert [result.prompt for result in results] == ["a blue wall", "a red wall"]
    panel.history.value = results[1:]
    (red,) = shown(panel)
    assert red != blue
    panel.history.value = results  # the two side by side
    assert shown(panel) == [blue, red]
    panel.choose.index = 1
    assert panel.history.options == ()
    assert len(shown(panel)) == 1  # the second photo alone
    panel.choose.index = 0
    assert [result for _, result in panel.history.options] == results


def test_an_upload_is_shown_and_a_bad_one_is_named_and_not_replaced_by_another(panel, tmp_path):
    assert panel.message.value == "photo.png, 96 x 64"
    first = shown(panel)
    send(panel, "../mine.png", png(tmp_path / "other.png", 50, 40))
    assert panel.message.value == "mine.png, 40 x 50"
    assert panel.choose.label == "mine.png"
    assert shown(panel) != first
    panel.button.click()
    assert panel.message.value.startswith("mine.png")
    save_buttons(panel)[0].click()
    assert (tmp_path / "saved/mine.color.png").exists()
    send(panel, "torn.png", (tmp_path / "other.png").read_bytes()[:60])
    assert "torn.png: can't be read" in panel.message.value
    assert panel.choose.label == "torn.png"
    assert shown(panel) == []
    panel.button.click()
    assert panel.message.value == "no photo is chosen"
    panel.choose.label = "mine.png"  # and back, with its history
    assert len(panel.history.options) == 1
    send(panel, "mine.png", png(tmp_path / "other.png", 60, 60))  # another photo of this name
    assert panel.message.value == "mine.png, 60 x 60"
    assert panel.history.options == ()


def test_what_goes_wrong_while_colorizing_is_said_and_the_history_stays(panel, monkeypatch):
    panel.button.click()
    before = shown(panel)

    def fail(*_, **__):
        raise RuntimeError("out of <memory>")

    monkeypatch.setattr(Colorizer, "__call__", fail)
    panel.button.click()
    assert panel.message.value == "not colorized: out of &lt;memory&gt;"
    assert not panel.button.disabled
    assert shown(panel) == before
    save_buttons(panel)[0].click()
    assert panel.message.value == "not saved: out of &lt;memory&gt;"


def test_the_notebook_of_the_panel_needs_no_other_notebook(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    cells = nbformat.read(ROOT / "notebooks/your_photo.ipynb", 4).cells
    names = {}
    exec("\n".join(cell.source for cell in cells if cell.cell_type == "code"), names)
    assert len(names["photos"]) > 50
    assert list(tmp_path.iterdir()) == []  # and writes nothing before a picture is saved
