"""Atomic files and folders whatever happens meanwhile; hashes; the cache; errors in one line."""

import os
import stat

import numpy as np
import pytest

from lib import cache


def test_a_file_appears_complete_with_the_usual_permissions(tmp_path):
    path = tmp_path / "below/a.txt"
    with cache.new_file(path) as partial:
        partial.write_text("new")
        assert partial.parent == path.parent
        assert not path.exists()
    (tmp_path / "usual").touch()
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)
    assert os.listdir(path.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize(("new", "name"), [(cache.new_file, "a.txt"), (cache.new_folder, "folder")])
def test_an_error_leaves_the_old_file_or_folder(tmp_path, error, new, name):
    cache.write_text("old", tmp_path / "a.txt")
    cache.write_text("old", tmp_path / "folder/a.txt")

    def stop_halfway():
        with new(tmp_path / name) as partial:
            (partial / "half.txt" if partial.is_dir() else partial).write_text("half")
            raise error

    with pytest.raises(type(error)) as raised:
        stop_halfway()
    assert raised.value is error
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "folder"]
    assert os.listdir(tmp_path / "folder") == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == (tmp_path / "folder/a.txt").read_text() == "old"


def test_a_folder_replaces_the_old_one_and_what_a_killed_process_left(tmp_path):
    cache.write_text("old", tmp_path / "folder/old.txt")
    for name in ("folder", "folder2"):
        (tmp_path / f".{name}.0123456789abcdef.part/below").mkdir(parents=True)
    with cache.new_folder(tmp_path / "folder") as partial:
        (partial / "new.txt").write_text("new")
        assert (tmp_path / "folder/old.txt").exists()
    assert os.listdir(tmp_path / "folder") == ["new.txt"]
    assert sorted(os.listdir(tmp_path)) == [".folder2.0123456789abcdef.part", "folder"]  # another's is not touched


def test_a_cached_folder_is_made_again_only_if_its_key_changes(tmp_path):
    calls = []

    def make(folder):
        calls.append(1)
        (folder / "n.txt").write_text(str(len(calls)))

    folder = tmp_path / "cached"
    for key, n in (({"size": 3}, 1), ({"size": 3}, 1), ({"size": 4}, 2), ({"size": 4, "version": 2}, 3)):
        assert (cache.cached(folder, key, make) / "n.txt").read_text() == str(n)
    (folder / "key.json").unlink()  # as after a kill
    assert (cache.cached(folder, {"size": 4, "version": 2}, make) / "n.txt").read_text() == "4"


def test_a_hash_changes_with_every_fact(tmp_path):
    for name, text in (("one/a.txt", "one"), ("two/a.txt", "two"), ("one/b.txt", "one")):
        cache.write_text(text, tmp_path / name)
    grid = np.arange(6, dtype=np.uint8)
    facts = [[], [""], ["", ""], ["ab"], ["a", "b"], [b"ab"], [1], [1.5], [[1]], [{"a": 1}], [{"a": 2}], [{"b": 1}]]
    facts += [[grid], [grid.reshape(2, 3)], [grid.reshape(2, 3).T], [grid.reshape(3, 2)], [grid.view(np.int8)]]
    facts += [[grid[::2]], [np.float16(1)], [np.float32(1)]]
    facts += [[tmp_path / name] for name in ("one/a.txt", "two/a.txt", "one/b.txt")]
    hashes = [cache.hash_of(fact) for fact in facts]
    assert len(set(hashes)) == len(facts)
    assert cache.hash_of([grid.reshape(2, 3).T]) == cache.hash_of([grid.reshape(2, 3).T.copy()])
    (tmp_path / "abc").write_bytes(b"abc")
    assert cache.hash_of_file(tmp_path / "abc", "md5") == "900150983cd24fb0d6963f7d28e17f72"  # of RFC 1321


def test_a_bar_shows_what_is_left_to_do(capsys):
    assert list(cache.progress([1, 2], desc="photos")) == [1, 2]
    assert "photos: 100%" in capsys.readouterr().err
    cache.progress(range(6, 6), total=6, initial=6).close()
    assert capsys.readouterr().err == ""


def test_a_folder_made_from_something_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match="^no .*: run notebook 01 first"):
        cache.require_current(tmp_path, {"n_seeds": 3}, "01")
    cache.mark_current(tmp_path, {"n_seeds": 3, "conditions": ("vague", "detailed")})
    cache.require_current(tmp_path, {"conditions": ("vague", "detailed")}, "01")
    with pytest.raises(ValueError, match="made with n_seeds 3, not 9: run notebook 01 again"):
        cache.require_current(tmp_path, {"n_seeds": 9}, "01")
