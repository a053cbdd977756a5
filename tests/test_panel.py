"""The panel, driven by the messages that a browser sends."""

import base64
from io import BytesIO
from threading import Event

import nbformat
import numpy as np
import pytest
from PIL import Image

from lib import ROOT
from lib.photo import Colorizer
from lib.photo.panel import Panel
from tests.conftest import read_made


@pytest.fixture
def panel(pipeline, config, tmp_path, monkeypatch):
    values = np.linspace(0, 255, 96 * 64).reshape(64, 96).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "photo.png")
    Image.fromarray(values[:, ::-1]).save(tmp_path / "second.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "photo.png").read_bytes()[:60])
    monkeypatch.setattr("lib.photo.colorizer.load_pipeline", lambda _: pipeline)
    photos = {tmp_path / name: ["a ramp", "a red wall"] for name in ("torn.png", "photo.png", "second.png")}
    return Panel(Colorizer(config), photos, tmp_path / "saved")


def colorize(panel, prompt="a wall", **settings):
    """What a browser does when Colorize is pressed; waits for the end. Returns the result that is shown."""
    send(panel, "colorize", settings={"prompt": prompt, "colors": [], **panel.options, **settings})
    if panel.worker.ident:
        panel.worker.join()
    return panel.history[panel.shown] if panel.history else None


def send(panel, action, *buffers, **content):
    panel.handle(panel, {"action": action, **content}, [memoryview(buffer) for buffer in buffers])


def pixels_of(url):
    return np.asarray(Image.open(BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")).astype(int)


def png(*size):
    file = BytesIO()
    Image.fromarray(np.full(size, 90, np.uint8)).save(file, "png")
    return file.getvalue()


def test_a_picture_of_the_first_good_photo_is_saved_at_once_and_can_be_downloaded(panel, tmp_path):
    assert (panel.photo["name"], panel.photo["descriptions"]) == ("photo.png", ["a ramp", "a red wall"])
    assert panel.names == ["photo.png", "second.png"]  # torn.png is dropped
    result = colorize(panel, "a red wall", seed=4, num_inference_steps=3, guidance_scale=3.5)
    saved = tmp_path / "saved/photo.color.png"
    assert panel.message == f"saved: {saved}"
    made = read_made(saved)
    settings = {"prompt": "a red wall", "seed": "4", "num_inference_steps": "3", "guidance_scale": "3.5"}
    assert settings.items() <= made.items()
    assert np.abs(pixels_of(result["after"]) - np.asarray(Image.open(saved)).astype(int)).mean() < 3
    sent = []
    panel.send = lambda content, buffers: sent.append((content, buffers))
    send(panel, "download", file=result["file"])
    assert sent == [({"action": "save", "file": "photo.color.png"}, [saved.read_bytes()])]


def test_the_history_is_each_photo_s_own_and_holds_no_picture_twice(panel, tmp_path):
    for prompt in ("a red wall", "a blue wall", "a red wall"):
        colorize(panel, prompt)
    assert [result["settings"]["prompt"] for result in panel.history] == ["a blue wall", "a red wall"]
    assert panel.shown == 1
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {"photo.color.png", "photo.color.2.png"}
    send(panel, "choose", name="second.png")
    assert panel.history == []
    send(panel, "choose", name="photo.png")
    assert len(panel.history) == 2


def test_uploads_are_kept_listed_and_overwrite_nothing_and_broken_ones_are_dropped(panel, tmp_path):
    uploads, content = tmp_path / "saved/uploads", png(50, 40)
    send(panel, "upload", content, name="../mine.png")
    assert (panel.photo["name"], panel.photo["descriptions"]) == ("mine.png", [])
    assert panel.message == "mine.png, 40 x 50"
    send(panel, "upload", content, name="mine.png")  # the same again
    send(panel, "upload", png(60, 60), name="mine.png")  # another of this name
    send(panel, "upload", content[:60], name="torn.png")
    assert "can't be read" in panel.message
    assert panel.names[:2] == ["mine.2.png", "mine.png"]
    assert {path.name for path in uploads.iterdir()} == {"mine.png", "mine.2.png"}
    assert (uploads / "mine.png").read_bytes() == content
    colorize(panel)
    assert (tmp_path / "saved/mine.2.color.png").exists()
    again = Panel(panel.colorizer, {}, tmp_path / "saved")
    assert set(again.names) == {"mine.png", "mine.2.png"}


def test_cancel_ends_the_work_within_a_step_and_progress_counts_steps(panel, monkeypatch):
    seen, reached = [], Event()
    panel.observe(lambda change: seen.append(change["new"]), "progress")
    colorize(panel, num_inference_steps=3)
    assert [done for done, total in seen if total] == [0, 1, 2, 3]
    unet, forward = panel.colorizer.pipeline.unet, panel.colorizer.pipeline.unet.forward

    def stop(*arguments, **options):
        reached.set()
        send(panel, "cancel")
        return forward(*arguments, **options)

    monkeypatch.setattr(unet, "forward", stop)
    colorize(panel, "a red wall", num_inference_steps=50)
    assert reached.is_set()
    assert (panel.message, panel.progress, len(panel.history)) == ("cancelled", [0, 0], 1)
    monkeypatch.undo()
    assert colorize(panel, "a red wall")["settings"]["prompt"] == "a red wall"


def test_what_goes_wrong_is_said_and_the_history_stays(panel, tmp_path, monkeypatch):
    colorize(panel)
    (tmp_path / "file").write_text("in the way")
    panel.folder = tmp_path / "file"
    colorize(panel, "a red wall")
    assert "File exists" in panel.message
    monkeypatch.setattr(Colorizer, "__call__", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("out of memory")))
    colorize(panel, "a blue wall")
    assert panel.message == "out of memory"
    assert len(panel.history) == 1


def test_each_colour_only_on_its_object_is_an_option_and_said_in_the_caption(panel, monkeypatch):
    def locate(plane, names):
        return [(plane > plane.mean()) * np.float32(name == "wall") for name in names]

    locate.threshold = 0.5
    monkeypatch.setitem(vars(panel.colorizer), "segmenter", locate)
    assert panel.options["bind"] is False
    prompt, missing = "a pale red wall and a blue tram", "not found in the photo: 'blue' in tram"
    assert colorize(panel, prompt)["caption"] == ["the prompt colours the whole photo"]
    bound = ["each colour only on its object: pale red wall", missing]
    assert colorize(panel, prompt, bind=True)["caption"] == bound


def test_the_notebook_of_the_panel_needs_no_other_notebook_and_ends_with_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    cells = nbformat.read(ROOT / "notebooks/your_photo.ipynb", 4).cells
    assert cells[-1].cell_type == "code"
    source, _, last = "\n".join(cell.source for cell in cells if cell.cell_type == "code").rpartition("\n")
    names = {}
    exec(source, names)
    panel = eval(last, names)
    assert len(panel.names) > 50
    assert len(panel.photo["descriptions"]) == 4
    assert list(tmp_path.iterdir()) == []  # and writes nothing before a picture is made
