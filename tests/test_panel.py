"""The panel, driven without a browser."""

from datetime import datetime
from html import unescape

import nbformat
import numpy as np
import pytest
from PIL import Image

from lib import ROOT
from lib.photo import Colorizer
from lib.photo.boxes import SMALLEST
from lib.photo.panel import MAX_PROMPTS, Panel
from lib.regions import MAX_REGIONS
from tests.conftest import read_made


@pytest.fixture
def panel(pipeline, config, tmp_path, monkeypatch):
    values = np.linspace(0, 255, 96 * 64).reshape(64, 96).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "photo.png")
    Image.fromarray(values[:, ::-1]).save(tmp_path / "second.png")
    monkeypatch.setattr("lib.photo.colorizer.load_pipeline", lambda _: pipeline)
    return Panel(Colorizer(config), [tmp_path / "photo.png", tmp_path / "second.png"], tmp_path / "saved")


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


def draw(panel, *corners, finished=True):
    """What a browser sends while a box is drawn on the photo of 96 x 64: one of no size, and then all of it."""
    left, top, right, bottom = corners
    there, drawing = panel.objects.drawing.bboxes, panel.objects.drawing
    box = {"x": left, "y": top, "width": 0, "height": 0, "label": ""}
    drawing.bboxes = [*there, box]
    if finished:
        drawing.bboxes = [*there, {**box, "width": right - left, "height": bottom - top}]


def labels(panel):
    """What stands on the boxes in the browser."""
    return [box["label"] for box in panel.objects.drawing.bboxes]


def open_rows(panel):
    """The fields of colours that are there to be filled."""
    return [row for row in panel.objects.rows if row.layout.display != "none"]


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
    assert (read_made(saved)["prompt"], read_made(saved)["seed"]) == ("a red wall", "4")
    link = panel.columns.children[0].children[-1].outputs[0]["data"]["text/html"]
    assert link.endswith('saved/photo.color.png" download>Download photo.color.png</a>')
    assert save_buttons(panel) == []  # it is there once


def test_the_sampling_options_start_as_the_profile_s_and_make_the_picture(panel, config, tmp_path):
    given = {name: widget.value for name, widget in panel.options.items() if name not in ("seed", "saturation")}
    assert given == {name: getattr(config, name) for name in given}
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
    made = read_made(tmp_path / "saved/photo.color.png")
    assert {name: float(made[name]) for name in wanted} == wanted
    assert panel.colorizer.config == config  # whose own options are as they were
    assert "steps 3, guidance 3.5, strength 0.4" in panel.history.options[0][0]


def test_several_prompts_stand_side_by_side_and_each_can_be_saved(panel, tmp_path):
    panel.prompts.value = "a red wall\n\n  a blue wall\n"
    panel.button.click()
    assert len(set(shown(panel))) == 2
    save_buttons(panel)[1].click()
    assert read_made(tmp_path / "saved/photo.color.png")["prompt"] == "a blue wall"
    save_buttons(panel)[0].click()
    assert read_made(tmp_path / "saved/photo.color.2.png")["prompt"] == "a red wall"
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
    assert shown(panel) == []
    panel.choose.index = 0
    assert [result for _, result in panel.history.options] == results


def test_an_upload_is_shown_and_a_bad_one_is_named_and_not_replaced_by_another(panel, tmp_path):
    assert panel.message.value == "photo.png, 96 x 64"
    first = panel.objects.drawing.image_bytes
    send(panel, "../mine.png", png(tmp_path / "other.png", 50, 40))
    assert panel.message.value == "mine.png, 40 x 50"
    assert panel.choose.label == "mine.png"
    assert panel.objects.drawing.image_bytes != first
    panel.button.click()
    assert panel.message.value.startswith("mine.png")
    save_buttons(panel)[0].click()
    assert (tmp_path / "saved/mine.color.png").exists()
    send(panel, "torn.png", (tmp_path / "other.png").read_bytes()[:60])
    assert "torn.png: can't be read" in panel.message.value
    assert panel.choose.label == "torn.png"
    assert shown(panel) == []
    assert panel.objects.box.layout.display == "none"  # there is nothing to draw on
    panel.button.click()
    assert panel.message.value == "no photo is chosen"
    panel.choose.label = "mine.png"  # and back, with its history
    assert panel.objects.box.layout.display == ""
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


def test_a_box_changes_its_own_place_and_nothing_else_and_is_saved_with_the_picture(panel, tmp_path):
    panel.prompts.value = "a wall"
    panel.button.click()
    draw(panel, 48, 16, 96, 64)
    panel.objects.rows[0].value = "dark red"
    panel.button.click()
    after, before = [result.preview for result in panel.results]
    changed = (after != before).any(axis=-1)
    assert changed[20:60, 52:92].any()
    assert not changed[:16].any()
    assert not changed[:, :48].any()
    assert panel.history.options[0][0].startswith("a wall + dark red (seed 0, ")
    panel.objects.undo.click()  # the picture keeps its own box
    save_buttons(panel)[0].click()
    saved = tmp_path / "saved/photo.color.png"
    assert read_made(saved)["colors"] == "'dark red' in (0.5, 0.25, 1.0, 1.0)"
    assert np.array_equal(np.asarray(Image.open(saved)), after)


def test_boxes_are_numbered_named_removed_and_taken_back(panel):
    objects = panel.objects
    assert objects.undo.disabled
    draw(panel, 0, 0, 48, 32)
    objects.rows[0].value = "red"
    draw(panel, 48, 0, 106, 32)  # beyond the photo
    objects.rows[1].value = "pale blue"
    assert labels(panel) == ["1 red", "2 pale blue"]
    assert objects.colors() == [((0, 0, 0.5, 0.5), "red"), ((0.5, 0, 1, 0.5), "pale blue")]
    objects.drawing.bboxes = objects.drawing.bboxes[1:]  # the first is removed in the browser
    assert labels(panel) == ["1 pale blue"]
    assert [row.value for row in open_rows(panel)] == ["pale blue"]
    objects.undo.click()
    assert labels(panel) == ["1 red", "2 pale blue"]
    assert [row.value for row in open_rows(panel)] == ["red", "pale blue"]
    objects.undo.click()
    assert labels(panel) == ["1 red"]
    objects.drawing.bboxes = [{**objects.drawing.bboxes[0], "y": 16}]  # moved
    assert objects.colors() == [((0, 0.25, 0.5, 0.75), "red")]
    objects.undo.click()
    assert objects.colors() == [((0, 0, 0.5, 0.5), "red")]
    objects.undo.click()
    assert (objects.colors(), labels(panel), open_rows(panel), objects.undo.disabled) == ([], [], [], True)


def test_a_slip_of_the_mouse_is_no_box_and_a_box_is_left_alone_while_it_is_drawn(panel):
    draw(panel, 0, 0, 48, 32)
    panel.objects.rows[0].value = "red"
    draw(panel, 60, 10, 60, 10, finished=False)
    in_browser = panel.objects.drawing.bboxes
    assert (in_browser[1]["width"], in_browser[1]["label"]) == (0, "")
    assert len(open_rows(panel)) == len(panel.objects.colors()) == 1
    draw(panel, 70, 20, 90, 20 + SMALLEST - 1)
    assert len(panel.objects.colors()) == 1
    draw(panel, 70, 20, 90, 20 + SMALLEST)  # the slips go with the next box
    assert labels(panel) == ["1 red", "2 "]
    panel.objects.undo.click()
    assert labels(panel) == ["1 red"]


def test_what_is_wrong_with_a_colour_is_said_and_nothing_is_colorized(panel):
    draw(panel, 0, 0, 48, 32)
    panel.objects.rows[0].value = " "
    panel.button.click()
    said = "not colorized: box 1 has no colour: type one, such as 'dark red', or remove the box"
    assert panel.message.value == said
    panel.objects.rows[0].value = "red"
    panel.objects.names.value = "tram"
    panel.button.click()
    assert panel.message.value == "not colorized: region of colour 'tram': names no thing: name one, such as 'tram'"
    panel.objects.names.value = ""
    for index in range(MAX_REGIONS):
        draw(panel, index, 0, index + 10, 10)
        panel.objects.rows[min(index + 1, MAX_REGIONS - 1)].value = "red"
    panel.objects.drawing.bboxes = [{**box, "color": "red"} for box in panel.objects.drawing.bboxes]
    panel.button.click()
    assert panel.message.value == f"not colorized: {MAX_REGIONS + 1} regions are too many: name at most {MAX_REGIONS}"
    assert len(panel.history.options) == 0
    assert not panel.button.disabled


def test_objects_are_named_and_what_is_not_found_is_said_below_the_picture(panel, monkeypatch, tmp_path):
    def locate(plane, names):
        return [(plane > plane.mean()) * np.float32(name == "wall") for name in names]

    locate.threshold = 0.5
    monkeypatch.setitem(vars(panel.colorizer), "segmenter", locate)
    panel.prompts.value, panel.objects.names.value = "a blue wall", "wall: pale red; tram: blue"
    panel.objects.bind.value = True
    panel.button.click()
    words = panel.columns.children[0].children[1].value
    found, missing = words.split("<br>")[:2]
    assert found == "<b>a blue wall + wall: pale red + tram: blue</b>"
    assert unescape(missing) == "not found in the photo: 'blue' in tram"
    assert panel.history.options[0][0].endswith("each colour kept to its object)")
    save_buttons(panel)[0].click()
    made = read_made(tmp_path / "saved/photo.color.png")
    assert (made["colors"], made["bind"]) == ("'pale red' in wall, 'blue' in tram", "True")


def test_another_photo_has_no_boxes_yet(panel):
    draw(panel, 0, 0, 48, 32)
    panel.objects.rows[0].value = "red"
    panel.choose.index = 1
    assert (labels(panel), panel.objects.colors(), open_rows(panel)) == ([], [], [])
    assert panel.objects.undo.disabled
    panel.button.click()
    assert panel.message.value.startswith("second.png")


def test_the_notebook_of_the_panel_needs_no_other_notebook(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    cells = nbformat.read(ROOT / "notebooks/your_photo.ipynb", 4).cells
    names = {}
    exec("\n".join(cell.source for cell in cells if cell.cell_type == "code"), names)
    assert len(names["photos"]) > 50
    assert list(tmp_path.iterdir()) == []  # and writes nothing before a picture is saved
