"""The six notebooks: their form, and all of them under nbval on a small preparation."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from jupyter_server.services.contents.filemanager import FileContentsManager
from traitlets.config.loader import PyFileConfigLoader

from lib import ROOT
from lib.config import get_config
from lib.headless.run_notebooks import publish_notebook

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
SMALL = {"n_images": 8, "n_images_other": 6, "n_images_all_seeds": 4, "n_seeds": 2, "num_inference_steps": 3, "train_steps": 4,
         "checkpoint_every": 2, "log_every": 1}  # fmt: skip


def imported_modules(source):
    """The modules of lib that a source imports from."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "lib":
            modules |= {f"lib.{name.name}" for name in node.names if name.name.islower()}
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("lib."):
            modules.add(node.module)
    return modules


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_form(path):
    assert len(NOTEBOOKS) == 6
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert notebook.metadata.kernelspec.name == "python3"
    assert [("parameters" in cell.metadata.get("tags", [])) for cell in code].count(True) == 1
    assert "parameters" in code[0].metadata.tags
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert notebook.cells[0].source.startswith("# ")
    assert re.search(r"^> .*\?$", notebook.cells[0].source, re.M)
    assert notebook.cells[-1].source.startswith(("## What we learned", "## How to read this"))
    assert "## Limits" in notebook.cells[-1].source
    assert 2 <= len(re.findall("^- ", notebook.cells[-1].source.partition("## Try this")[2], re.M)) <= 3
    assert "assert " in code[-1].source
    source = "\n".join(cell.source for cell in code)
    assert not re.search(r"^\s*(class |try:|%|!)", source, re.M)
    assert max(map(len, source.splitlines())) <= 95  # what GitHub shows without scrolling
    if path.stem[:2] in ("03", "04", "05", "06"):
        assert len(imported_modules(source)) <= 6
    parameters = papermill.inspect_notebook(str(path))
    assert {"profile_name", "overrides"} <= set(parameters)
    for name, facts in parameters.items():
        assert facts["inferred_type_name"] != "None"
        assert len(re.findall(rf"\b{name}\b", source)) > 1  # it is used


def saved_figures(source):
    """The names of the figures that a source saves."""
    return re.findall(r'figures\.save\(.+, config, "(\w+)"\)', source)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_shipped_picture_is_above_each_cell_that_draws_one_and_not_in_executed_copies(path, tmp_path):
    cells = nbformat.read(path, 4).cells
    for before, cell in zip(cells, cells[1:], strict=False):
        drawn = saved_figures(cell.source) if cell.cell_type == "code" else []
        assert all(f"](../reports/pocket/{name}.png)" in before.source for name in drawn)
    pictures = [re.search(r"\((.+?)\)", cell.source)[1] for cell in cells if cell.source.startswith("![")]
    assert pictures
    assert all((path.parent / name).exists() for name in pictures)
    publish_notebook(path, tmp_path / path.name)
    assert not any("![" in cell.source for cell in nbformat.read(tmp_path / path.name, 4).cells)


@pytest.mark.filterwarnings("ignore:Overriding existing pre_save_hook")
@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_saving_in_jupyterlab_changes_no_file_that_git_tracks_and_keeps_outputs_apart(path, tmp_path):
    (tmp_path / "notebooks").mkdir()
    saved = Path(shutil.copy(path, tmp_path / "notebooks"))
    config = PyFileConfigLoader("jupyter_server_config.py", path=str(ROOT / ".jupyter")).load_config()
    config.FileContentsManager.pre_save_hook.__globals__["ROOT"] = tmp_path
    contents = FileContentsManager(root_dir=str(tmp_path), config=config)
    model = contents.get(f"notebooks/{path.name}")
    notebook = model["content"]
    notebook.metadata["language_info"] = {"name": "python", "version": "3.14.0"}
    code = next(cell for cell in notebook.cells if cell.cell_type == "code")
    code.execution_count, code.outputs = 1, [nbformat.v4.new_output("stream", text="said")]
    contents.save(model, f"notebooks/{path.name}")
    assert saved.read_bytes() == path.read_bytes()
    assert "said" in (tmp_path / "build/lab" / path.name).read_text()
    code.source += "# a change"
    contents.save({**model, "content": notebook}, f"notebooks/{path.name}")
    assert "# a change" in saved.read_text()


def test_all_run_in_order_under_nbval(tmp_path):
    """Each notebook, prepared small, in order with fresh kernels, in the C locale and a path that is not ASCII."""
    (tmp_path := tmp_path / "Übung").mkdir()
    folders = {"build": str(tmp_path / "build"), "reports": str(tmp_path / "reports")}
    for path in NOTEBOOKS:
        prepared = tmp_path / path.name
        papermill.execute_notebook(path, prepared, {"overrides": {**SMALL, **folders}}, prepare_only=True)
    command = [sys.executable, "-m", "pytest", "-x", "--nbval-lax", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    options = {"cwd": tmp_path, "env": os.environ | {"LC_ALL": "C"}}
    result = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert result.returncode == 0, result.stdout[-6000:]
    reports = get_config("pocket", **folders).reports_dir
    pictures = {path.name for path in reports.glob("*.png")}
    sources = "".join(path.read_text().replace('\\"', '"') for path in NOTEBOOKS)
    saved = {f"{name}.png" for name in saved_figures(sources)} - {"sampling.png"}  # steps are given, so none are tried
    assert len(saved) > 8
    assert saved <= pictures
    text = (reports / "report.md").read_text()
    assert set(re.findall(r"\((\w+\.png)\)", text)) <= pictures
    assert not re.search(r"\bnan\b", text)
