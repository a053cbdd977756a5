"""The systems that take no prompt: their colours, losses and a short training."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from PIL import Image

from lib import ROOT, baselines
from lib.baselines_model import recipe
from lib.color import srgb_to_lab, to_float


def test_bins_cover_what_srgb_holds():
    bins = baselines.bins()
    assert 200 < len(bins) < 330  # Zhang, Isola, Efros count 313, with bins whose centre lies outside
    assert (bins.abs() <= 110).all()
    assert [0, 0] in bins.tolist()
    assert [100, 100] not in bins.tolist()


def test_shared_bins_give_back_the_color():
    ab = torch.tensor([[0.0, 0.0], [23.0, -8.0], [-31.0, 27.0]])
    index, weights = recipe.soft_bins(ab)
    assert torch.allclose(weights.sum(dim=1), torch.ones(3))
    back = (weights[..., None] * baselines.bins()[index]).sum(dim=1)
    assert (back - ab).norm(dim=1).max() < 2.5


def test_rare_colors_weigh_more_and_the_mean_weight_is_one():
    ab = torch.cat(
        [torch.randn(900, 2, generator=torch.Generator().manual_seed(0)) * 4, torch.tensor([[60.0, 50.0]] * 9)]
    )
    weight = recipe.rarity_weights(ab)
    index, shared = recipe.soft_bins(ab)
    assert float((weight[index] * shared).sum(dim=1).mean()) == pytest.approx(1, abs=1e-4)
    gray, red = (int((baselines.bins() - torch.tensor(c)).norm(dim=1).argmin()) for c in ([0.0, 0.0], [60.0, 50.0]))
    assert weight[red] > 3 * weight[gray]


def test_annealed_mean_lies_between_mode_and_mean():
    scores = torch.full((1, len(baselines.bins()), 1, 1), -20.0)
    first, second = (int((baselines.bins() - torch.tensor(c)).norm(dim=1).argmin()) for c in ([0.0, 0.0], [50.0, 0.0]))
    scores[0, first], scores[0, second] = np.log(0.7), np.log(0.3)
    a = float(baselines.annealed_mean(scores)[0, 0, 0, 0])
    assert 0 < a < 0.3 * 50
    odds = (0.3 / 0.7) ** (1 / baselines.TEMPERATURE)
    assert a == pytest.approx(50 * odds / (1 + odds), abs=1e-3)


def test_the_judge_learns_from_the_judgement_and_the_generator_from_being_judged():
    torch.manual_seed(0)
    model, planes = recipe.Pix2Pix(64), torch.rand(2, 1, 64, 64)
    fake = baselines.look(model.generator, planes).tanh()
    (model.judge(planes, fake, frozen=True) - 1).square().mean().backward()
    assert all(p.grad is None for p in model.discriminator.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.generator.parameters())


@pytest.mark.parametrize("system", baselines.SYSTEMS)
def test_training_learns_which_lightness_is_which_color(system):
    """The light half of a picture is yellow, the dark half blue: after a few steps the prediction says so."""
    torch.manual_seed(0)
    size = 64 if system == "gan" else 32  # the judge's patches need room
    planes, ab = torch.full((2, 1, size, size), 0.85), torch.zeros(2, 2, size // 4, size // 4)
    planes[..., size // 2 :] = 0.3
    ab[:, 1, :, : size // 8], ab[:, 1, :, size // 8 :] = 60, -50
    if system == "gan":
        model = recipe.Pix2Pix(size)
        loss = lambda: recipe.gan_loss(model, planes, ab)  # noqa: E731
    else:
        model = baselines.make_network(size, len(baselines.bins()))
        rarity = torch.ones(len(baselines.bins()))
        loss = lambda: recipe.classification_loss(model, planes, ab, rarity)  # noqa: E731
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(25):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    network = model.generator if system == "gan" else model
    answer = baselines.look(network.eval(), planes).detach()
    b = (baselines.annealed_mean(answer) if system == "classification" else answer.tanh())[:, 1]
    assert b[..., : size // 8].mean() > 0.1
    assert b[..., size // 8 :].mean() < -0.1


def test_they_see_at_least_as_many_samples_as_the_stages_in_which_the_controlnet_learns_colors():
    stages = pd.read_csv(ROOT / "lib/pocket_model/stages.csv").query("stage in ('controlnet', 'restart', 'parts')")
    assert len(stages) == 3
    assert recipe.STAGE["train_steps"] * recipe.STAGE["train_batch_size"] >= (stages["steps"] * stages["batch"]).sum()


def test_the_error_over_gray_is_zero_for_the_truth_and_one_for_no_color():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    rows = {"image": [Image.fromarray(photo) for photo in pixels], "conditioning_image": [None] * 2}
    truths = [srgb_to_lab(to_float(image))[..., 1:] for image in rows["image"]]
    assert recipe.error_over_gray(lambda _: truths, rows) == pytest.approx(0, abs=1e-6)
    assert recipe.error_over_gray(lambda _: [truth * 0 for truth in truths], rows) == 1


def test_the_recipe_ships_both_networks_with_their_cards(tmp_path, monkeypatch):
    images = [Image.effect_noise((64, 64), 60).convert("RGB") for _ in range(2)]
    rows = Dataset.from_dict({"image": images, "conditioning_image": images})
    monkeypatch.setattr(recipe, "train", lambda model, *_: model)
    monkeypatch.setattr(recipe, "read_losses", lambda *_: [{"seconds": "7200"}])
    monkeypatch.setattr(recipe, "make_dataset", lambda *_, **__: rows)
    monkeypatch.setattr(recipe, "build_dataset", lambda _: {"train": rows, "validation": rows})
    monkeypatch.setattr(recipe, "pick_across_categories", lambda rows, n: rows)
    recipe.train_baselines("", {"resolution": 64}, tmp_path / "work", tmp_path / "shipped")
    for system in baselines.SYSTEMS:
        card = " ".join((tmp_path / "shipped" / system / "README.md").read_text().split())
        gain = recipe.error_over_gray(
            partial(baselines.predict, system, baselines.load_baseline(system, tmp_path / "shipped")), rows
        )
        assert "(10800 steps of 16, 2.00 hours)" in card
        assert f"{gain:.2f} times that of the photos left gray on photos that it was trained on" in card
