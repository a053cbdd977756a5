"""The command behind `make reports`: parameters checked first, reports whole or not at all."""

import json
import subprocess
import sys

import nbformat
import pytest

from lib import ROOT, run

PARAMETERS = 'profile_name: str = "pocket"\noverrides: dict = {}\ngreeting: str = "hello"'
REPORT = """from lib.profiles import get_profile
from lib.report import write_text
profile = get_profile(profile_name, **overrides)
write_text(greeting, profile.reports_dir / "{name}.txt")"""


def notebook(path, source):
    """A small notebook with a parameters cell."""
    cells = [
        nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(source),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Two notebooks in place of the six, and folders of their own."""
    paths = [
        notebook(tmp_path / f"0{k}_{name}.ipynb", REPORT.format(name=name)) for k, name in ((1, "one"), (2, "two"))
    ]
    monkeypatch.setattr(run, "NOTEBOOKS", paths)
    return tmp_path


def arguments(place, *more):
    return ["-p", "build", str(place / "build"), "-p", "reports", str(place / "reports"), *more]


def test_parameters_and_fields_reach_the_notebooks(place, capsys):
    run.run(arguments(place, "-p", "greeting", "good day", "-p", "n_images", "7"))
    assert (place / "reports/pocket/one.txt").read_text() == "good day"
    executed = json.loads((place / "build/pocket/default/notebooks/02_two.ipynb").read_text())
    assert any(
        "'n_images': 7" in "".join(c["source"]) or '"n_images": 7' in "".join(c["source"]) for c in executed["cells"]
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["01_one", "02_two"]


def test_only_some_notebooks_keep_the_other_reports(place):
    run.run(arguments(place))
    run.run(arguments(place, "--only", "02", "-p", "greeting", "again"))
    texts = [(place / f"reports/pocket/{name}.txt").read_text() for name in ("one", "two")]
    assert texts == ["hello", "again"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["-p", "n_imgs", "3"],
            "unknown parameter 'n_imgs': notebooks take greeting; the profile has source, photos, .*n_images",
        ),
        (["--profile", "phone"], "unknown profile 'phone': known are pocket, l4"),
        (["-p", "n_images", "few"], "'n_images' takes int, not 'few'"),
        (["--only", "09"], "no notebook '09': known are 01, 02"),
    ],
)
def test_unknown_things_stop_before_anything_runs(place, more, message):
    with pytest.raises(ValueError, match=message):
        run.run(arguments(place, *more))
    assert not (place / "build").exists()
    assert not (place / "reports").exists()


def test_fields_are_read_as_text_of_their_own_type(place):
    fields = ["-p", "initial_controlnet", "", "-p", "mixed_precision", "no", "-p", "run", "01"]
    _, overrides = run.split_parameters("pocket", list(zip(fields[1::3], fields[2::3], strict=True)), run.NOTEBOOKS)
    profile = run.get_profile("pocket", **overrides)
    assert (profile.initial_controlnet, profile.mixed_precision, profile.run) == ("", "no", "01")


def test_lists_of_a_field_reach_the_notebooks_whole(place):
    notebook(
        place / "02_two.ipynb", REPORT.format(name="two").replace("greeting", '"+".join(profile.train_categories)')
    )
    run.run(arguments(place, "-p", "train_categories", "animals,people"))
    assert (place / "reports/pocket/two.txt").read_text() == "animals+people"


def test_failed_notebook_leaves_old_reports_and_its_executed_copy(place):
    run.run(arguments(place))
    notebook(place / "02_two.ipynb", REPORT.format(name="new") + "\nraise ValueError('no colour here: add some')")
    with pytest.raises(
        RuntimeError, match="02_two: ValueError: no colour here: add some .executed copy: .*02_two.ipynb"
    ):
        run.run(arguments(place, "-p", "greeting", "changed"))
    assert [path.name for path in (place / "reports").iterdir()] == ["pocket"]
    assert sorted(path.name for path in (place / "reports/pocket").iterdir()) == ["one.txt", "two.txt"]
    assert (place / "reports/pocket/one.txt").read_text() == "hello"
    assert "no colour here" in (place / "build/pocket/default/notebooks/02_two.ipynb").read_text()


def test_failed_assert_without_words_shows_its_line(place):
    notebook(place / "02_two.ipynb", "numbers = [1]\nassert len(numbers) == 2")
    with pytest.raises(RuntimeError, match=r"02_two: AssertionError: assert len\(numbers\) == 2 .executed copy"):
        run.run(arguments(place))


def test_reports_folder_that_cannot_be_written(place):
    (place / "reports").write_text("a file in the way")
    with pytest.raises(ValueError, match="can't write: .*reports"):
        run.run(arguments(place))


def test_command_exits_non_zero_with_one_line():
    command = [sys.executable, "-m", "lib.run", "-p", "n_imgs", "3"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].startswith("error: unknown parameter 'n_imgs'")
    assert len(result.stderr.strip().splitlines()) == 1
