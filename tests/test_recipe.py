"""The pocket model's recipe: a run of all stages, small."""

import json

import pandas as pd
import pytest
from datasets import Dataset, Features
from datasets import Image as Picture
from PIL import Image

from lib import models
from lib.baselines_model import recipe as baselines_recipe
from lib.dataset import build_dataset
from lib.pocket_model import autoencoder, recipe
from lib.profiles import get_profile


def test_the_whole_recipe_runs_resumes_and_ships(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "N_PICTURES", 20)
    measured = []
    monkeypatch.setattr(recipe, "measure", lambda controlnets, *_: measured.append(controlnets))
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
    assert {"base.png", "controlnet.png", "restart.png", "parts.png"} <= {path.name for path in target.iterdir()}
    configs = "".join(path.read_text() for path in target.rglob("config.json"))
    assert str(tmp_path) not in configs  # nor any other place of the machine that trained
    before, now = (models.hash_of_weights(measured[0][name]) for name in ("before", "now"))
    assert before != now  # though a step of training is small
    weights = (target / "controlnet/diffusion_pytorch_model.safetensors").read_bytes()
    recipe.build_pocket_model("", small, folder, target)
    assert (target / "controlnet/diffusion_pytorch_model.safetensors").read_bytes() == weights


def test_models_are_measured_for_the_card(tmp_path, monkeypatch):
    """One photo, and one setting of sampling; the model is there twice."""
    monkeypatch.setattr(recipe, "STEPS", (1,))
    monkeypatch.setattr(recipe, "SCALES", (1.0,))
    monkeypatch.setattr(recipe, "KNOWN_PHOTOS", 1)
    profile = get_profile("pocket", build=str(tmp_path))
    base, photos = models.load_base(profile.model), build_dataset(profile)
    controlnets = {name: models.load_controlnet(profile.training.initial_controlnet, base.unet) for name in ("a", "b")}
    rows = {"train": photos["train"], "validation": photos["validation"].select([0])}
    recipe.measure(controlnets, base, rows, tmp_path)
    recipe.write_card(tmp_path)
    goals, card = pd.read_csv(tmp_path / "goals.csv"), (tmp_path / "README.md").read_text()
    assert list(goals["model"]) == ["a", "b"]
    assert goals["bleed"].nunique() == 1
    assert "| measure | wanted | a, 1 step | b, 1 step |" in card
    assert f"| {pd.read_csv(tmp_path / 'sampling.csv')['detailed'].item():.2f} |" in card
    with Image.open(tmp_path / "goals.png") as sheet:
        assert sheet.width > sheet.height > 100  # one photo, beside seven pictures of it


def test_every_stage_trains_in_the_precision_that_is_asked_for(tmp_path, monkeypatch):
    """Autoencoder, base and the systems without a prompt; the ControlNet's is tested in test_training."""
    asked = []

    def train(model, loss_of_step, training, mixed_precision, folder, settings, on_checkpoint=None):
        asked.append((folder.name, mixed_precision, settings["mixed_precision"]))
        raise InterruptedError

    profile = get_profile("pocket", resolution=32, mixed_precision="bf16")
    pictures = Dataset.from_dict({"image": [Image.new("RGB", (64, 64))]}, features=Features({"image": Picture()}))
    monkeypatch.setattr(autoencoder, "train", train)
    monkeypatch.setattr(baselines_recipe, "train", train)
    monkeypatch.setattr(baselines_recipe, "make_dataset", lambda *_, **__: pictures)
    with pytest.raises(InterruptedError):
        autoencoder.train_autoencoder(pictures, profile, tmp_path / "vae")
    with pytest.raises(InterruptedError):
        baselines_recipe.train_baselines("", {"mixed_precision": "bf16"}, tmp_path / "work", tmp_path / "target")
    assert asked == [("vae", "bf16", "bf16"), ("classification", "bf16", "bf16")]
