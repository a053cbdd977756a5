"""Files that are whole or not there, whatever happens meanwhile; hashes; errors in one line."""

import hashlib
import os
import stat

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from lib import files


def test_a_file_appears_whole_with_the_usual_permissions_in_a_folder_that_is_made(tmp_path):
    path = tmp_path / "below/a.txt"
    with files.new_file(path) as partial:
        partial.write_text("new")
        assert partial.parent == path.parent
        assert not path.exists()
    (tmp_path / "usual").touch()
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)
    assert os.listdir(path.parent) == ["a.txt"]


def write_half_and_stop(path, error):
    with files.new_file(path) as partial:
        partial.write_text("half")
        raise error


def fill_half_and_stop(path, error):
    with files.new_folder(path) as partial:
        (partial / "half.txt").write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_trouble_leaves_what_was_there(tmp_path, error):
    files.write_text("old", tmp_path / "a.txt")
    files.write_text("old", tmp_path / "folder/a.txt")
    for stop, name in ((write_half_and_stop, "a.txt"), (fill_half_and_stop, "folder")):
        with pytest.raises(type(error)) as raised:
            stop(tmp_path / name, error)
        assert raised.value is error
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "folder"]
    assert os.listdir(tmp_path / "folder") == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == (tmp_path / "folder/a.txt").read_text() == "old"


def test_planted_links_are_not_followed(tmp_path, monkeypatch):
    (tmp_path / "victim").write_text("mine")
    monkeypatch.setattr(files.secrets, "token_hex", lambda n: "0" * 2 * n)  # as if it had been foreseen
    for name in ("a.txt.part", "a.part", files._beside(tmp_path / "a.txt", "0" * 16).name):
        (tmp_path / name).symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError, match=r"File exists: '.*/a.txt'$"):
        files.write_text("new", tmp_path / "a.txt")
    assert (tmp_path / "victim").read_text() == "mine"
    monkeypatch.undo()
    files.write_text("new", tmp_path / "a.txt")
    assert (tmp_path / "victim").read_text() == "mine"
    assert (tmp_path / "a.txt").read_text() == "new"
    assert not (tmp_path / "a.txt").is_symlink()


def test_two_writers_of_a_file_do_not_meet(tmp_path):
    with files.new_file(tmp_path / "a.txt") as first, files.new_file(tmp_path / "a.txt") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a.txt").read_text() == "first"  # it was renamed last
    assert os.listdir(tmp_path) == ["a.txt"]


def test_trouble_is_said_of_the_file_that_was_asked_for(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(IsADirectoryError, match=r"Is a directory: '.*/a.txt'$"):
        files.write_text("new", tmp_path / "a.txt")
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_name_as_long_as_a_file_system_takes(tmp_path):
    name = "é" * 125 + ".png"
    files.write_text("new", tmp_path / name)
    assert os.listdir(tmp_path) == [name]


def test_a_synced_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    happened = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(files.os, name, lambda *a, name=name, do=original: (happened.append(name), do(*a)))
    with files.new_file(tmp_path / "a.txt", sync=True):
        pass
    assert happened == ["fsync", "replace"]


def test_a_folder_replaces_the_old_one_and_what_a_killed_process_left(tmp_path):
    files.write_text("old", tmp_path / "folder/old.txt")
    for name in ("folder", "folder2"):
        (files._beside(tmp_path / name, "0123456789abcdef") / "below").mkdir(parents=True)
    with files.new_folder(tmp_path / "folder") as partial:
        (partial / "new.txt").write_text("new")
        assert (tmp_path / "folder/old.txt").exists()
    assert os.listdir(tmp_path / "folder") == ["new.txt"]
    assert sorted(os.listdir(tmp_path)) == [".folder2.0123456789abcdef.part", "folder"]  # another's is not touched


def test_a_hash_changes_with_every_fact(tmp_path):
    files.write_text("one", tmp_path / "one/a.txt")
    files.write_text("two", tmp_path / "two/a.txt")
    files.write_text("one", tmp_path / "one/b.txt")
    grid = np.arange(6, dtype=np.uint8)
    facts = [[], [""], ["", ""], ["ab"], ["a", "b"], [b"ab"], [1], [1.5], [[1]], [{"a": 1}], [{"a": 2}], [{"b": 1}]]
    facts += [[grid], [grid.reshape(2, 3)], [grid.reshape(2, 3).T], [grid.reshape(3, 2)], [grid.view(np.int8)]]
    facts += [[grid[::2]], [np.float16(1)], [np.float32(1)]]
    facts += [[tmp_path / name] for name in ("one/a.txt", "two/a.txt", "one/b.txt")]
    hashes = [files.hash_of(fact) for fact in facts]
    assert len(set(hashes)) == len(facts)
    assert hashes == [files.hash_of(iter(fact)) for fact in facts]
    assert files.hash_of([grid.reshape(2, 3).T]) == files.hash_of([grid.reshape(2, 3).T.copy()])
    with pytest.raises(TypeError):
        files.hash_of([object()])


def test_the_hash_of_a_file_is_the_published_one(tmp_path):
    files.write_bytes(b"abc", tmp_path / "a")
    assert files.hash_of_file(tmp_path / "a", "md5") == "900150983cd24fb0d6963f7d28e17f72"  # of RFC 1321
    assert files.hash_of_file(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_an_error_in_one_line():
    assert files.one_line(ValueError("  two\n  lines\t")) == "two lines"
    assert files.one_line(ValueError("x" * 300)) == "x" * 200
    assert files.one_line(ValueError("x" * 300), None) == "x" * 300
    assert files.one_line(EOFError()) == "EOFError"


def test_a_bar_shows_what_is_left_to_do_and_nothing_where_nothing_is(capsys):
    assert list(files.progress([1, 2], desc="photos")) == [1, 2]
    assert "photos: 100%" in capsys.readouterr().err
    for bar in (files.progress([]), files.progress(total=0), files.progress(range(6, 6), total=6, initial=6)):
        bar.close()
    with files.progress(total=3, disable=True) as bar:
        bar.update()
    assert capsys.readouterr().err == ""


IN_A_KERNEL = """
from multiprocessing import get_context
from lib.files import progress

def kind():
    print(hasattr(progress(total=2), "container"))  # which holds a widget

kind()
process = get_context("fork").Process(target=kind)
process.start()
process.join()
"""


def test_bars_are_widgets_in_a_notebook_but_not_in_its_forks():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(IN_A_KERNEL)])
    executed = NotebookClient(notebook, kernel_name="python3").execute()
    outputs = executed.cells[0].outputs
    said = "".join(output.text for output in outputs if output.get("name") == "stdout")
    assert said.split() == ["True", "False"]
    assert any("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in outputs)
