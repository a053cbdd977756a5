"""The tables of the model card, small."""

import shutil

import pandas as pd

from lib import ROOT
from lib.pocket_model import trials


def test_trials_fill_the_tables_of_the_card(tmp_path, monkeypatch):
    monkeypatch.setattr(
        trials, "TRIALS", {name: trials.TRIALS[name] for name in ("uniform timesteps", "no recolouring")}
    )
    monkeypatch.setattr(trials, "TRIAL_STEPS", 2)
    monkeypatch.setattr(trials, "TRIAL_PICTURES", 12)
    monkeypatch.setattr(trials, "KNOWN_PHOTOS", 2)
    target = tmp_path / "model"
    shutil.copytree(ROOT / "lib/pocket_model/controlnet", target / "controlnet")
    trials.run_trials("", {"train_batch_size": 2}, tmp_path / "work", target)
    table = pd.read_csv(target / "trials.csv")
    before = ["left gray", "this model", "left gray, photos it was trained on", "this model, photos it was trained on"]
    assert list(table["trial"]) == [*before, "uniform timesteps", "no recolouring"]
    assert table["detailed"].between(5, 40).all()
    assert "| uniform timesteps |" in (target / "README.md").read_text()
