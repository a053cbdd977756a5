"""The pocket model's recipe: a run of all stages, small."""

import json

import pandas as pd

from lib import models
from lib.pocket_model import recipe
from lib.profiles import get_profile


def test_the_whole_recipe_runs_resumes_and_ships(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "N_PICTURES", 20)
    small = {"train_steps": 2, "checkpoint_every": 1, "train_batch_size": 2, "log_every": 1, "num_inference_steps": 1}
    folder, target = tmp_path / "work", tmp_path / "model"
    recipe.build_pocket_model("", small, folder, target)
    profile = get_profile("pocket", base_model=str(target), initial_controlnet=str(target / "controlnet"))
    base = models.load_base(profile.model)
    assert models.load_controlnet(profile.training.initial_controlnet, base.unet).config.in_channels == 4
    index = json.loads((target / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert "20 pictures of 169 photos and 0 cut-outs" in (target / "README.md").read_text()
    assert set(pd.read_csv(target / "losses.csv")["stage"]) == set(recipe.STAGES)
    assert {"base.png", "controlnet.png", "restart.png"} <= {path.name for path in target.iterdir()}
    configs = "".join(path.read_text() for path in target.rglob("config.json"))
    assert str(tmp_path) not in configs  # nor any other place of the machine that trained
    weights = (target / "controlnet/diffusion_pytorch_model.safetensors").read_bytes()
    recipe.build_pocket_model("", small, folder, target)
    assert (target / "controlnet/diffusion_pytorch_model.safetensors").read_bytes() == weights
