"""The appendix notebooks: their form, and a small training of each."""

import json
import re

import nbformat
import pandas as pd
import papermill
import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel, UNet2DModel
from safetensors.torch import load_file

from lib import ROOT
from lib.annotator import ColorHint
from lib.baselines import SYSTEMS

NAMES = ("A1_base", "A2_controlnet", "A3_segmenter", "A4_baselines")
NOTEBOOKS = {name: ROOT / f"notebooks/appendix/{name}.ipynb" for name in NAMES}
SMALL = {"steps": 2, "limit": 6}


def execute(name, folder, **parameters):
    """Run an appendix notebook in small form with `folder` as its build folder."""
    parameters = {**SMALL, "build": str(folder / "build"), **parameters}
    papermill.execute_notebook(NOTEBOOKS[name], folder / f"{name}.ipynb", parameters, progress_bar=False)


def shapes(kind, folder, **options):
    """{name: shape} of the weights that diffusers loads from a folder."""
    model = kind.from_pretrained(folder, use_safetensors=True, **options)
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


@pytest.mark.parametrize("path", NOTEBOOKS.values(), ids=lambda path: path.stem)
def test_form(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [index for index, cell in enumerate(code) if "parameters" in cell.metadata.get("tags", [])] == [0]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert re.match(r"# .*\n\n> .*\?\n\n\| \| \|\n\|---\|---\|\n\| \*\*Reads\*\*", notebook.cells[0].source)
    sections = re.findall("^## (.*)", notebook.cells[-1].source, re.M)
    assert sections == ["What we learned", "Limits", "Try this"]
    assert "assert " in code[-1].source
    parameters = papermill.inspect_notebook(str(path))
    assert set(parameters) >= {"photos", "hours", "steps", "seed", "limit", "build", "target"}
    source = "\n".join(cell.source for cell in code[1:])
    assert all(re.search(rf"\b{name}\b", source) for name in parameters)


def test_controlnet_and_annotator_are_trained_and_measured(tmp_path):
    execute("A2_controlnet", tmp_path, target=str(tmp_path / "model"))
    controlnet = ControlNetModel.from_pretrained(tmp_path / "model/controlnet", use_safetensors=True)
    hint = ColorHint.from_pretrained(tmp_path / "model/annotator", use_safetensors=True)
    assert controlnet.config.conditioning_channels == 1 + hint.config.channels + 3
    assert "detailed - gray" in set(pd.read_csv(tmp_path / "model/goals.csv")["measure"])


def test_autoencoder_and_bases_are_trained_and_written(tmp_path):
    execute("A1_base", tmp_path, target=str(tmp_path / "model"))
    for folder in ("", "narrow"):
        ours, shipped = tmp_path / "model" / folder, ROOT / "lib/pocket_model" / folder
        for kind, part in ((AutoencoderKL, "vae"), (UNet2DConditionModel, "unet")):
            assert shapes(kind, ours, subfolder=part) == shapes(kind, shipped, subfolder=part)
        for file in ("model_index.json", "scheduler/scheduler_config.json"):
            texts = [json.loads((place / file).read_text()) for place in (ours, shipped)]
            assert texts[0] == texts[1] | {"_diffusers_version": texts[0]["_diffusers_version"]}
    stages = pd.read_csv(tmp_path / "build/stages.csv").set_index("stage")["steps"]
    assert dict(stages) == {"autoencoder": 2, "unet": 2, "narrow": 2}
    configs = "".join(path.read_text() for path in (tmp_path / "model").rglob("*.json"))
    assert str(tmp_path) not in configs  # nor any other folder of the machine that trained


def test_systems_without_a_prompt_are_trained_and_written(tmp_path):
    model = tmp_path / "model"
    execute("A4_baselines", tmp_path, target=str(model))
    losses, stages = pd.read_csv(tmp_path / "build/losses.csv"), pd.read_csv(model / "stages.csv").set_index("system")
    assert list(losses["step"]) == [1, 2]
    for system in SYSTEMS:
        assert shapes(UNet2DModel, model / system) == shapes(UNet2DModel, ROOT / "lib/baselines_model" / system)
        step, error = stages.loc[system, ["best step", "error over gray"]]
        assert 0.3 < error < 5
        assert error <= losses[system].min() + 1e-3  # the best of steps 0, 1 and 2 is written
        written, kept = (
            load_file(folder / system / "diffusion_pytorch_model.safetensors")
            for folder in (model, tmp_path / f"build/{step:.0f}")
        )
        assert all(torch.equal(value, kept[name].half()) for name, value in written.items())
