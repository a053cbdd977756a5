"""The command behind `make reports`: parameters checked first, reports whole or not at all."""

import json
import re
import shutil
import subprocess
import sys
import time

import nbformat
import pytest

from lib import ROOT, cache
from lib.cache import write_text
from lib.headless import run_notebooks

PARAMETERS = 'profile_name: str = "pocket"\noverrides: dict = {}\ngreeting: str = "hello"\nwords: list = []'
REPORT = """from lib.config import get_config
from lib.cache import write_text
profile = get_config(profile_name, **overrides)
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
    for name, value in run_notebooks.PROGRESS.items():
        monkeypatch.setenv(name, value)  # which other tests don't inherit
    paths = [
        notebook(tmp_path / f"0{k}_{name}.ipynb", REPORT.format(name=name)) for k, name in ((1, "one"), (2, "two"))
    ]
    monkeypatch.setattr(run_notebooks, "NOTEBOOKS", paths)
    return tmp_path


@pytest.fixture
def started(monkeypatch):
    """Without kernels: the runs whose notebooks were started, one an execution; each writes its report, as `REPORT` does."""
    runs = []

    def execute(path, output, values):
        shutil.copy(path, output)
        config = run_notebooks.get_config(values["profile_name"], **values["overrides"])
        runs.append(config.run)
        if config.run in path.read_text():
            raise RuntimeError("no colour here")
        write_text(values.get("greeting", "hello"), config.reports_dir / f"{path.stem[3:]}.txt")

    monkeypatch.setattr(run_notebooks, "run_notebook", execute)
    return runs


def texts(folder):
    """{name: text} of the reports in a folder."""
    return {path.name: path.read_text() for path in folder.glob("*.txt")}


def arguments(place, *more):
    return ["-p", "build", str(place / "build"), "-p", "reports", str(place / "reports"), *more]


def test_parameters_and_fields_reach_the_notebooks(place, capsys):
    run_notebooks.run(arguments(place, "-p", "greeting", "good day", "-p", "n_images", "7"))
    assert (place / "reports/pocket/one.txt").read_text() == "good day"
    assert '"n_images": 7' in (place / "build/pocket/default/notebooks/02_two.ipynb").read_text().replace("\\", "")
    lines = [line.split()[:2] for line in capsys.readouterr().out.splitlines() if line[0] == "0"]
    assert lines == [["01_one", "started"], ["01_one", "passed"], ["02_two", "started"], ["02_two", "passed"]]


def test_reports_go_to_what_git_tracks_and_to_where_notebooks_in_jupyterlab_read(place, started, monkeypatch):
    monkeypatch.setattr("lib.config.ROOT", place)
    run_notebooks.run([])
    assert [(place / folder / "pocket/one.txt").read_text() for folder in ("reports", "build/reports")] == ["hello"] * 2
    assert run_notebooks.get_config("pocket").reports_home == place / "build/reports/pocket"
    run_notebooks.run(
        arguments(place, "-p", "greeting", "bye", "-p", "reports", str(place / "mine"), "-p", "run", "mine")
    )
    assert (place / "mine/pocket/mine/one.txt").read_text() == "bye"
    assert not list((place / "mine").rglob("*.ipynb"))  # those of the profile's own run are published
    assert (place / "build/reports/pocket/one.txt").read_text() == "hello"


FIGURE = """import matplotlib.pyplot as plt, numpy as np
assert 'inline' in plt.get_backend()
from lib import ROOT
print(f"in {ROOT}/build")
plt.figure(figsize=(8, 8))
plt.axis("off")
plt.imshow(np.random.default_rng(0).random((99, 99, 3)), interpolation="spline16")
"""


def test_executed_notebooks_are_published_small_and_without_the_machine_s_paths(place, monkeypatch):
    notebook(place / "01_one.ipynb", FIGURE)
    monkeypatch.setenv("MPLBACKEND", "Agg")  # whatever backend the environment names
    run_notebooks.run(arguments(place))
    published = place / "reports/pocket/notebooks"
    whole = (published / "01_one.ipynb").stat().st_size
    assert str(ROOT) not in (published / "01_one.ipynb").read_text()
    assert "in build" in (published / "01_one.ipynb").read_text()
    assert sorted(path.name for path in published.iterdir()) == ["01_one.ipynb", "02_two.ipynb"]
    monkeypatch.setattr(run_notebooks, "FIGURES_BYTES", 0.2 * whole * 3 / 4)
    run_notebooks.publish_notebook(place / "build/pocket/default/notebooks/01_one.ipynb", place / "small.ipynb")
    assert (place / "small.ipynb").stat().st_size < 0.25 * whole
    assert "image/jpeg" in (place / "small.ipynb").read_text()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["-p", "n_imgs", "3"], "unknown parameter 'n_imgs': did you mean .*n_images"),
        (["--profile", "phone"], "unknown profile 'phone': did you mean pocket, l4"),
        (["-p", "n_images", "few"], "'n_images' takes a valid integer.*, not 'few'"),
        (["--only", "09"], "unknown notebook '09': did you mean 0"),
        (["-p", "words", "[a"], "parameter 'words' can't be read as YAML .*: correct it"),
    ],
)
def test_unknown_things_stop_before_anything_runs(place, more, message):
    with pytest.raises(ValueError, match=message):
        run_notebooks.run(arguments(place, *more))
    assert not (place / "build").exists()
    assert not (place / "reports").exists()


def test_fields_reach_the_notebooks_in_their_own_type(place):
    given = {"initial_controlnet": "", "mixed_precision": "no", "run": "01", "train_categories": "animals,people"}
    _, overrides = run_notebooks.split_parameters("pocket", given, run_notebooks.NOTEBOOKS)
    json.dumps(overrides)  # as papermill takes them
    config = run_notebooks.get_config("pocket", **overrides)
    assert config.values(*given) == given | {"initial_controlnet": None, "train_categories": ("animals", "people")}


def test_a_failed_notebook_leaves_old_reports_and_its_executed_copy(place):
    write_text("old", place / "reports/pocket/one.txt")
    notebook(place / "02_two.ipynb", "numbers = [1]\nassert len(numbers) == 2")
    message = r"^02_two: AssertionError: assert len\(numbers\) == 2 .executed copy: .*02_two.ipynb"
    with pytest.raises(RuntimeError, match=message):
        run_notebooks.run(arguments(place))
    assert texts(place / "reports/pocket") == {"one.txt": "old"}
    assert "AssertionError" in (place / "build/pocket/default/notebooks/02_two.ipynb").read_text()


def test_a_build_folder_in_use_is_refused(place, started):
    config = run_notebooks.get_config("pocket", build=str(place / "build"), reports=str(place / "reports"))
    with run_notebooks.locked(config), pytest.raises(ValueError, match="pocket is in use by another process: wait"):
        run_notebooks.run(arguments(place))
    run_notebooks.run(arguments(place))
    assert texts(place / "reports/pocket") == {"one.txt": "hello", "two.txt": "hello"}


def test_a_failure_keeps_the_reports_of_the_notebooks_that_passed_for_the_next_call(place, started, capsys):
    notebook(place / "02_two.ipynb", "fails in default")
    with pytest.raises(RuntimeError, match="no colour here"):
        run_notebooks.run(arguments(place, "-p", "greeting", "first"))
    assert "-p run default --only 02" in capsys.readouterr().out
    assert not (place / "reports/pocket").exists()
    notebook(place / "02_two.ipynb", "passes now")
    run_notebooks.run(arguments(place, "-p", "greeting", "second", "--only", "02"))
    assert texts(place / "reports/pocket") == {"one.txt": "first", "two.txt": "second"}
    (place / "reports/pocket/one.txt").write_text("newer")
    run_notebooks.run(arguments(place, "-p", "greeting", "third", "--only", "02"))
    assert (place / "reports/pocket/one.txt").read_text() == "newer"  # what was kept was published once


def test_a_full_disk_while_publishing_changes_no_report(place, started, monkeypatch):
    run_notebooks.run(arguments(place))
    copy = cache.shutil.copy2

    def full(source, target, **options):
        if str(place / "reports") in str(target) and source.name == "two.txt":
            raise OSError(28, "No space left on device", str(target))
        return copy(source, target, **options)

    monkeypatch.setattr(cache.shutil, "copy2", full)
    with pytest.raises(OSError, match="No space left"):
        run_notebooks.run(arguments(place, "-p", "greeting", "changed"))
    assert texts(place / "reports/pocket") == {"one.txt": "hello", "two.txt": "hello"}


SLOW = """import time
from lib import cache
with cache.progress(range(8), desc="training", unit="step") as bar:
    for step in bar:
        time.sleep(0.1)
        bar.set_postfix({"loss": "0.1234", "samples/s": "10.2"}, refresh=False)
for _ in cache.progress(range(2), desc="short"):
    pass"""


def test_a_slow_notebook_shows_plain_lines_while_it_runs(place, capsys, monkeypatch):
    monkeypatch.setattr(
        run_notebooks, "PROGRESS", {**run_notebooks.PROGRESS, "TQDM_DELAY": "0.2", "TQDM_MININTERVAL": "0.2"}
    )
    notebook(place / "02_two.ipynb", SLOW)
    run_notebooks.run(arguments(place))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("02_two ")]
    signs = r"02_two \d\d:\d\d:\d\d training: \d of 8, +[\d.]+step/s, loss=0.1234, samples/s=10.2, 00:00 left"
    assert len(lines) > 4
    assert all(re.fullmatch(signs, line) for line in lines[1:-1]), lines
    published = (place / "reports/pocket/notebooks/02_two.ipynb").read_text()
    assert "training: " not in published


def test_bf16_without_cuda_is_refused_before_anything_is_made(place, started, monkeypatch):
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: True)  # not even on such a CPU
    l4 = ["--profile", "l4", "-p", "set_metrics", "false"]
    with pytest.raises(ValueError, match="mixed_precision bf16 needs a CUDA GPU.*-p mixed_precision no"):
        run_notebooks.run(arguments(place, *l4, "--only", "01"))
    assert not (place / "build").exists()
    run_notebooks.run(arguments(place, *l4, "-p", "mixed_precision", "no", "-p", "runs", "study_3"))
    assert started == ["study_3"] * 2
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    run_notebooks.run(arguments(place, *l4, "-p", "run", "study_1"))
    assert started == ["study_3"] * 2 + ["study_1"] * 2


TWO_RUNS = ("-p", "runs", "study_1,study_2")


def test_a_restart_passes_over_finished_runs(place, started, capsys):
    def starts(*more):
        started.clear()
        run_notebooks.run(arguments(place, *more))
        return len(started)

    assert starts(*TWO_RUNS) == 4
    capsys.readouterr()
    assert starts(*TWO_RUNS) == 0
    said = capsys.readouterr().out
    assert "run study_1: finished" in said
    assert "again: -p run study_2" in said
    assert starts(*TWO_RUNS, "-p", "train_seed", "1") == 4  # another field
    assert starts(*TWO_RUNS, "-p", "train_seed", "1", "-p", "greeting", "again") == 4  # another notebook parameter
    assert starts(*TWO_RUNS) == 4  # the reports were of other settings
    notebook(place / "02_two.ipynb", REPORT.format(name="two") + "\n")
    assert starts(*TWO_RUNS) == 4  # a notebook has changed
    assert starts("-p", "run", "study_1") == 2  # asked for by name
    assert starts(*TWO_RUNS, "--only", "02", "-p", "train_seed", "1") == 2
    assert starts(*TWO_RUNS) == 4  # half of the reports were of other settings


def test_a_run_that_fails_does_not_stop_the_others_and_is_run_again(place, started, capsys):
    notebook(place / "02_two.ipynb", "fails in study_2")
    three = ("-p", "runs", "study_1,study_2,study_3")
    with pytest.raises(RuntimeError, match="1 of 3 runs failed: run study_2 failed: no colour here"):
        run_notebooks.run(arguments(place, *three))
    assert started == ["study_1", "study_1", "study_2", "study_2", "study_3", "study_3"]
    assert "-p run study_2 --only 02" in capsys.readouterr().out
    assert sorted(path.name for path in (place / "reports/pocket").iterdir()) == ["study_1", "study_3"]
    started.clear()
    with pytest.raises(RuntimeError, match="no colour here"):
        run_notebooks.run(arguments(place, *three))
    assert started == ["study_2", "study_2"]


WAITS = """import os, signal, time
from pathlib import Path

def save(*_):
    Path(greeting).write_text("saved")
    os._exit(0)

signal.signal(signal.SIGTERM, save)
Path(greeting).write_text("ready")
time.sleep(120)"""
OTHER_NOTEBOOKS = """import sys
from pathlib import Path
from lib.headless import run_notebooks
run_notebooks.NOTEBOOKS = [Path(sys.argv.pop(1))]
run_notebooks.main()"""


def test_sigterm_waits_for_the_notebook_to_save(place):
    path, mark = notebook(place / "01_one.ipynb", WAITS), place / "mark.txt"
    options = [str(path), *arguments(place, "-p", "greeting", str(mark))]
    command = [sys.executable, "-c", OTHER_NOTEBOOKS, *options]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not mark.exists() or mark.read_text() != "ready":
        assert process.poll() is None
        time.sleep(0.1)
    process.terminate()
    said = process.communicate()[1].splitlines()[-1]
    assert mark.read_text() == "saved"
    assert process.returncode == 1
    assert said == "error: 01_one: its kernel was stopped, or had too little memory: run it again"
