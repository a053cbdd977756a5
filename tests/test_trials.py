"""The trials of the model card, small."""

import shutil

import pandas as pd
import pytest

from lib import ROOT
from lib.dataset import build_dataset
from lib.pocket_model import goals, trials

NAMES = ("the recipe", "attention not trained, pictures of the first stages")


@pytest.fixture
def stages(tmp_path, monkeypatch):
    """Two trials of two steps and two seeds, measured on one photo; the folder from which they go on."""
    monkeypatch.setattr(trials, "TRIALS", {name: trials.TRIALS[name] for name in NAMES})
    for name, value in (("STEPS", 2), ("PICTURES", 12), ("SEEDS", 2)):
        monkeypatch.setattr(trials, name, value)

    def one_photo(profile):
        return {"validation": build_dataset(profile)["validation"].select([0])}

    monkeypatch.setattr(trials, "build_dataset", one_photo)
    return tmp_path / "build/stages"


def test_trials_fill_the_table_of_the_card(stages):
    for stage in ("words", "restart"):
        shutil.copytree(ROOT / "lib/pocket_model/controlnet", stages / stage / "controlnet")
    target = stages / "model"
    trials.run_trials("", {"train_batch_size": 2}, stages, target)
    table = pd.read_csv(target / "trials.csv")
    assert list(zip(table["trial"], table["seed"], strict=True)) == [(name, seed) for seed in (0, 1) for name in NAMES]
    assert table.groupby("trial")["over_gray"].nunique().eq(2).all()  # seeds and trials were trained
    assert table.groupby("seed")["over_gray"].nunique().eq(2).all()
    assert f"| the recipe | {goals.trials_table(table).iloc[0, 1]} |" in (target / "README.md").read_text()


def test_trials_need_the_stages_that_they_go_on_from(stages):
    with pytest.raises(ValueError, match="words/controlnet, from which trials go on: make pocket-model"):
        trials.run_trials("", {}, stages, stages / "model")


def test_the_table_of_trials_has_the_mean_and_the_ends_over_seeds():
    rows = [
        {"trial": "a", "seed": seed, **dict.fromkeys(goals.IN_TRIALS, value)} for seed, value in enumerate((1, 2, 6))
    ]
    assert goals.trials_table(pd.DataFrame(rows)).loc[0, "its bleed"] == "3.00 (1.00 to 6.00)"
