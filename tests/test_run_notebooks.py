"""The command behind `make reports`: parameters checked first, reports whole or not at all."""

import re
import shutil
import subprocess
import sys
import time

import nbformat
import pytest
from filelock import FileLock

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
    for name, value in run_notebooks.KERNEL.items():
        monkeypatch.setenv(name, value)  # which other tests don't inherit
    paths = [notebook(tmp_path / f"{name}.ipynb", REPORT.format(name=name[3:])) for name in ("01_one", "02_two")]
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
    more = ["-p", "greeting", "good day", "-p", "n_images", "7", "-p", "train_categories", "animals,people"]
    run_notebooks.main(arguments(place, *more))
    assert (place / "reports/pocket/one.txt").read_text() == "good day"
    executed = (place / "build/pocket/default/notebooks/02_two.ipynb").read_text().replace("\\", "")
    assert '"n_images": 7' in executed
    assert '"train_categories": ["animals", "people"]' in executed
    lines = [line.split()[:2] for line in capsys.readouterr().out.splitlines() if line[0] == "0"]
    assert lines == [["01_one", "started"], ["02_two", "started"]]


def test_reports_go_to_what_git_tracks_and_to_where_notebooks_in_jupyterlab_read(place, started, monkeypatch):
    monkeypatch.setattr("lib.config.ROOT", place)
    run_notebooks.main([])
    assert [(place / folder / "pocket/one.txt").read_text() for folder in ("reports", "build/reports")] == ["hello"] * 2
    assert run_notebooks.get_config("pocket").reports_home == place / "build/reports/pocket"
    mine = ["-p", "greeting", "bye", "-p", "reports", str(place / "mine"), "-p", "run", "mine"]
    run_notebooks.main(arguments(place, *mine))
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
    path = notebook(place / "01_one.ipynb", FIGURE)
    source = nbformat.read(path, 4)
    table = (
        "from IPython.display import Markdown\nMarkdown('[a](../build/pocket/default/unfinished_reports/pocket/a.csv)')"
    )
    links = "[b](../build/b.csv), [c](../lib/c.py), [d](02_two.ipynb), [e](https://e.org)"
    source.cells += map(nbformat.v4.new_markdown_cell, ("![A chart](../reports/pocket/chart.png)", links))
    source.cells.append(nbformat.v4.new_code_cell(table))
    nbformat.write(source, path)
    monkeypatch.setenv("MPLBACKEND", "Agg")  # whatever backend the environment names
    run_notebooks.main(arguments(place))
    published = place / "reports/pocket/notebooks"
    assert sorted(path.name for path in published.iterdir()) == ["01_one.ipynb", "02_two.ipynb"]
    text = (published / "01_one.ipynb").read_text()
    assert str(ROOT) not in text
    assert all(part in text for part in ("in build", "image/png"))
    assert "reports/pocket/chart.png" not in text  # the figure itself is there
    assert "b, [c](../../../notebooks/../lib/c.py), [d](02_two.ipynb), [e](https://e.org)" in text
    assert "[a](../a.csv)" in text
    monkeypatch.setattr(run_notebooks, "FIGURES_BYTES", 0.2 * len(text) * 3 / 4)
    run_notebooks.publish_notebook(place / "build/pocket/default/notebooks/01_one.ipynb", place / "small.ipynb")
    assert (place / "small.ipynb").stat().st_size < 0.25 * len(text)
    assert "image/jpeg" in (place / "small.ipynb").read_text()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["-p", "n_imgs", "3"], "unknown parameter 'n_imgs': did you mean .*n_images"),
        (["--profile", "phone"], "unknown profile 'phone': did you mean pocket, l4"),
        (["-p", "n_images", "few"], "'n_images' takes a valid integer.*, not 'few'"),
        (["--only", "09"], "2"),
        (["-p", "words", "red"], "parameter 'words' takes list, not 'red'"),
        (["-p", "words", "[a"], "error: while parsing"),
    ],
)
def test_unknown_things_stop_before_anything_runs(place, more, message):
    with pytest.raises(SystemExit, match=message):
        run_notebooks.main(arguments(place, *more))
    assert not (place / "build").exists()
    assert not (place / "reports").exists()


def test_a_failed_notebook_leaves_old_reports_and_its_executed_copy(place):
    write_text("old", place / "reports/pocket/one.txt")
    notebook(place / "02_two.ipynb", "numbers = [1]\nassert len(numbers) == 2, 'one is missing'")
    message = r"run default failed: 02_two .3.: AssertionError: one is missing .see .*02_two.ipynb"
    with pytest.raises(SystemExit, match=message):
        run_notebooks.main(arguments(place))
    assert texts(place / "reports/pocket") == {"one.txt": "old"}
    assert "AssertionError" in (place / "build/pocket/default/notebooks/02_two.ipynb").read_text()


def test_a_build_folder_in_use_is_refused(place, started):
    message = "another process uses this build folder .*: wait, or pass -p build"
    with FileLock(place / "build/pocket/.lock"), pytest.raises(SystemExit, match=message):
        run_notebooks.main(arguments(place))
    run_notebooks.main(arguments(place))
    assert texts(place / "reports/pocket") == {"one.txt": "hello", "two.txt": "hello"}


def test_a_failure_keeps_the_reports_of_the_notebooks_that_passed_for_the_next_call(place, started):
    notebook(place / "02_two.ipynb", "fails in default")
    with pytest.raises(SystemExit, match="no colour here"):
        run_notebooks.main(arguments(place, "-p", "greeting", "first"))
    assert not (place / "reports/pocket").exists()
    notebook(place / "02_two.ipynb", "passes now")
    run_notebooks.main(arguments(place, "-p", "greeting", "second", "--only", "02"))
    assert texts(place / "reports/pocket") == {"one.txt": "first", "two.txt": "second"}
    (place / "reports/pocket/one.txt").write_text("newer")
    run_notebooks.main(arguments(place, "-p", "greeting", "third", "--only", "02"))
    assert (place / "reports/pocket/one.txt").read_text() == "newer"  # what was kept was published once


def test_a_full_disk_while_publishing_changes_no_report(place, started, monkeypatch):
    run_notebooks.main(arguments(place))
    copy = cache.shutil.copy2

    def full(source, target, **options):
        if str(place / "reports") in str(target) and source.name == "two.txt":
            raise OSError(28, "No space left on device", str(target))
        return copy(source, target, **options)

    monkeypatch.setattr(cache.shutil, "copy2", full)
    with pytest.raises(SystemExit, match="No space left"):
        run_notebooks.main(arguments(place, "-p", "greeting", "changed"))
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
        run_notebooks, "KERNEL", run_notebooks.KERNEL | {"TQDM_DELAY": "0.2", "TQDM_MININTERVAL": "0.2"}
    )
    notebook(place / "02_two.ipynb", SLOW)
    run_notebooks.main(arguments(place))
    lines = capsys.readouterr().out.partition("02_two started")[2].splitlines()[1:-1]
    signs = r"training: \d of 8, +[\d.]+step/s, loss=0.1234, samples/s=10.2, 00:00 left"
    assert len(lines) > 2
    assert all(re.fullmatch(signs, line) for line in lines), lines
    published = (place / "reports/pocket/notebooks/02_two.ipynb").read_text()
    assert "training: " not in published


def test_bf16_without_cuda_is_refused_before_anything_is_made(place, started, monkeypatch):
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: True)  # not even on such a CPU
    l4 = arguments(place, "--profile", "l4", "-p", "set_metrics", "false", "-p", "run", "study_3")
    with pytest.raises(SystemExit, match="mixed_precision bf16 needs a CUDA GPU.*-p mixed_precision no"):
        run_notebooks.main(l4)
    assert not (place / "build").exists()
    run_notebooks.main([*l4, "-p", "mixed_precision", "no"])
    assert started == ["study_3"] * 2


TWO_RUNS = ("-p", "runs", "study_1,study_2")


def test_a_restart_passes_over_finished_runs(place, started, capsys):
    def starts(*more):
        started.clear()
        run_notebooks.main(arguments(place, *more))
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


def test_a_run_that_fails_does_not_stop_the_others_and_is_run_again(place, started):
    notebook(place / "02_two.ipynb", "fails in study_2")
    three = ("-p", "runs", "study_1,study_2,study_3")
    with pytest.raises(SystemExit, match="error: run study_2 failed: no colour here"):
        run_notebooks.main(arguments(place, *three))
    assert started == ["study_1", "study_1", "study_2", "study_2", "study_3", "study_3"]
    assert sorted(path.name for path in (place / "reports/pocket").iterdir()) == ["study_1", "study_3"]
    started.clear()
    with pytest.raises(SystemExit, match="no colour here"):
        run_notebooks.main(arguments(place, *three))
    assert started == ["study_2", "study_2"]


WAITS = """import os, signal, time
from pathlib import Path

def save(*_):
    Path(greeting).write_text("saved")
    os._exit(0)

signal.signal(signal.SIGTERM, save)
Path(greeting).write_text("ready")
time.sleep(120)"""
OTHER_NOTEBOOKS = """import signal, sys
from pathlib import Path
from lib.headless import run_notebooks
signal.signal(signal.SIGTERM, run_notebooks.stop)
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
    assert said == "stopped: the same command goes on from the last checkpoint"
