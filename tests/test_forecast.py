"""The forecast: counted at the true shapes, timed by the same code at small ones, and its arithmetic."""

import pandas as pd
import pytest
import torch

from lib.config import configs_to_run, get_config
from lib.l4 import forecast
from lib.prompts import CONDITIONS

TINY_UNET = {
    "block_out_channels": (16, 16, 16, 16),
    "cross_attention_dim": 8,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}


def test_the_kept_costs_are_those_of_the_literature():
    for of_base in forecast.COSTS.values():
        assert of_base["plain"] == pytest.approx(0.80 + 0.28, abs=0.01)  # UNet, ControlNet
        assert of_base["guided"] == pytest.approx(2 * of_base["plain"], rel=1e-5)
        assert of_base["train"] == pytest.approx(2.27, abs=0.01)
    assert forecast.costs_at(256)["SD 1.5"]["train"] == pytest.approx(forecast.COSTS["SD 1.5"]["train"] / 4)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_rate_is_timed_with_the_true_classes(monkeypatch, precision):
    monkeypatch.setattr(forecast, "TIMED_UNET", TINY_UNET)
    fields = {"resolution": 64, "train_batch_size": 2, "mixed_precision": precision, "torch_compile": False}
    assert forecast.measure_rate(get_config("l4", **fields), torch.device("cpu"), 0, 1) > 0


def test_a_loss_that_is_not_finite_stops(monkeypatch):
    monkeypatch.setattr(forecast, "TIMED_UNET", TINY_UNET)
    monkeypatch.setattr(forecast, "diffusion_loss", lambda *_: torch.tensor(torch.nan, requires_grad=True))
    config = get_config("l4", resolution=64, train_batch_size=2, torch_compile=False)
    with pytest.raises(ValueError, match="the loss with random weights is nan"):
        forecast.measure_rate(config, torch.device("cpu"))


def test_pictures_planned():
    fields = {"n_images": 650, "n_images_other": 200, "n_images_all_seeds": 60, "n_binding": 100, "n_seeds": 3}
    planned = forecast.pictures_planned(get_config("l4", **fields), 5000)
    assert (planned["vague"], planned["detailed"], planned["empty"]) == (650 + 2 * 60, 770, 200 + 2 * 60)
    assert planned["binding"] == 100 * 25
    assert len(planned) == len(CONDITIONS) + 2  # with the captioner's two conditions
    other = get_config("l4", run="study_1", **fields | {"n_seeds": 1, "n_images_other": 150})
    assert forecast.pictures_planned(other, 5000) == {
        "empty": 150, "vague": 650, "detailed": 650, "recolored": 150, "binding": 2500, "phrases": 300,
    }  # fmt: skip
    few = forecast.pictures_planned(get_config("pocket", n_seeds=2), 10)
    assert few["vague"] == few["gray_caption"] == 20  # 0: all photos, all seeds
    assert few["binding"] == 10 * 25
    assert "auto_caption" not in few
    assert "gray_caption" not in forecast.pictures_planned(get_config("l4", captioner=""), 10)


def test_sampling_guides_the_first_steps_only():
    assert forecast.sampling(10, 20, 7.5, 0.5) == {"plain": 100, "guided": 100, "decode": 10}
    assert forecast.sampling(10, 5, 7.5, 0.5) == {"plain": 20, "guided": 30, "decode": 10}
    assert forecast.sampling(10, 20, 1.0, 0.5) == {"plain": 200, "guided": 0, "decode": 10}


def test_a_plan_counts_each_download_and_latent_once():
    names = [part.name for part in forecast.plan(configs_to_run("l4"))]
    assert len(names) == len(set(names))
    assert [name for name in names if name.startswith("latents")] == [
        "latents of coco, SD 2.1-base", "latents of flowers, SD 1.5", "latents of flowers, SD 2.1-base",
    ]  # fmt: skip
    training = {part.name: part.works.get("train") for part in forecast.plan(configs_to_run("l4"))}
    assert training["study_3: training"] == 3 * 50_000
    assert training["study_1: training"] == pytest.approx(10 * forecast.FLOWERS_TRAINED, rel=1e-3)


def test_a_controlnet_of_somebody_else_is_not_trained():
    parts = forecast.plan([get_config("l4", controlnet="me/net")])
    assert not [part for part in parts if "training" in part.name or "latents" in part.name]


def test_hours_follow_from_costs_and_rates():
    costs = {"SD 1.5": {"train": 1.0, "decode": 1.0}}
    parts = [
        forecast.Part("a", "runs", 2.0, "SD 1.5", {"train": 3600, "decode": 3600}),
        forecast.Part("b", "runs", 1.0, prepared=7200, download=30e6 * 3600),
        forecast.Part("c", "runs", 1.0, "", {"train": 3600}),  # of an unknown base
    ]
    table = forecast.forecast(parts, costs, {"prepared": 1.0, "measured": 1.0}, forecast.RATES, 4)
    assert list(table["TFLOP"]) == [7200, 0, 0, 7200]
    assert list(table["hours at 25"]) == pytest.approx([2 / 25, 0.5 + 1, 0, 1.58])
    assert list(table["GB"]) == [2.0, 1.0, 1.0, 4.0]
    dollars = forecast.with_dollars(table, 0.5)
    assert list(dollars).index("dollars at 25") == list(dollars).index("hours at 25") + 1
    assert dollars["dollars at 25"].iloc[-1] == pytest.approx(0.79)


def test_the_saved_forecast_fills_the_guide(tmp_path, monkeypatch):
    guide = tmp_path / "L4.md"
    guide.write_text(f"before\n\n{forecast.MARKS[0]}\n\nold\n\n{forecast.MARKS[1]}\n\nafter\n")
    monkeypatch.setattr(forecast, "GUIDE", guide)
    monkeypatch.setattr(forecast, "ROOT", tmp_path)
    monkeypatch.setattr(forecast, "time_processor", lambda size: {"prepared": 0.1, "measured": 0.1})
    said = forecast.report("l4", {}, 0.3, keep=True)
    text = guide.read_text()
    assert text.startswith("before")
    assert text.endswith("after\n")
    assert "old" not in text
    table = pd.read_csv(tmp_path / "reports/forecast.csv").set_index("part")
    totals = table.loc["total"].set_index("plan")["hours at 25"]
    assert totals["fewest steps"] < totals["most steps"]
    assert table["machine"].nunique() == 1
    assert f"{totals['most steps']:.2f}"[:-1] in said
    assert "study_3: training" in text


def test_the_guide_holds_the_forecast_that_is_kept():
    text = forecast.GUIDE.read_text()
    kept = pd.read_csv(forecast.ROOT / "reports/forecast.csv")
    assert all(mark in text for mark in forecast.MARKS)
    for row in kept[kept["part"] == "total"].to_dict("records"):
        assert f"| {row['plan']} | {row['TFLOP']} |" in text
