"""Steps and guidance are chosen by the rule, once."""

import numpy as np
import pandas as pd
import pytest

from lib import colorize, dataset, inference, sampling_choice
from lib.color import srgb_to_lab, to_float


def trials(*rows):
    table = pd.DataFrame(rows, columns=["steps", "guidance", "detailed", "chroma_ratio"])
    return table.assign(vague=table["detailed"] + 1)


def test_steps_and_guidance_are_chosen_for_both_prompts():
    table = trials((10, 1.0, 10.0, 0.9), (10, 4.0, 9.0, 0.9)).assign(vague=[11.0, 14.0])
    assert sampling_choice.pick_sampling(table)["guidance"] == 1.0  # the detailed prompt alone would choose 4


def test_the_best_of_those_that_are_colourful_enough():
    table = trials((10, 1.0, 9.0, 0.5), (20, 2.0, 10.5, 0.9), (10, 2.0, 10.0, 0.8), (10, 4.0, 9.5, 1.31))
    assert tuple(sampling_choice.pick_sampling(table)) == (10, 2.0, 10.0, 0.8, 11.0)


def test_of_equal_ones_the_one_with_fewer_steps():
    table = trials((20, 1.0, 10.0, 0.9), (10, 4.0, 10.0, 1.0), (10, 2.0, 10.0, 0.8))
    assert tuple(sampling_choice.pick_sampling(table))[:2] == (10, 2.0)


def test_the_nearest_where_none_is_colourful_enough():
    table = trials((10, 1.0, 9.0, 0.4), (10, 2.0, 11.0, 0.7), (10, 4.0, 10.0, 1.5))
    assert tuple(sampling_choice.pick_sampling(table))[:2] == (10, 2.0)


def test_sampling_is_chosen_once_for_a_controlnet_and_a_grid(pipeline, triples, own_run, monkeypatch):
    config = own_run.replace(steps_to_try=(1, 2), guidance_to_try=(1.0, 3.0))
    dataset.build_dataset(config)
    loaded = []
    monkeypatch.setattr(sampling_choice, "load_pipeline", lambda _: loaded.append(1) or pipeline)
    monkeypatch.setattr(sampling_choice, "N_VALIDATION", 3)
    with pytest.raises(ValueError, match="no steps and guidance chosen in .*: run notebook 04_colorize_photos first"):
        sampling_choice.with_chosen_sampling(config)
    sampling_choice.choose_sampling(config)
    sampling_choice.choose_sampling(config)
    assert len(loaded) == 1
    table = pd.read_csv(config.run_dir / "sampling.csv")
    assert [tuple(row) for row in table[["steps", "guidance"]].to_numpy()] == [(1, 1), (1, 3), (2, 1), (2, 3)]
    best, chosen = sampling_choice.pick_sampling(table), sampling_choice.with_chosen_sampling(config)
    assert (chosen.num_inference_steps, chosen.guidance_scale) == (best["steps"], best["guidance"])
    assert (type(chosen.num_inference_steps), type(chosen.guidance_scale)) == (int, float)
    rows = dataset.pick_across_categories(triples["validation"], 3)
    gray, noise = rows["conditioning_image"], [colorize.seed_of(name, 0) for name in rows["image_id"]]
    merged = colorize.merge(gray, inference.sample(pipeline, gray, rows["detailed_caption"], noise, chosen))
    chroma = [np.hypot(*srgb_to_lab(picture)[..., 1:].T).mean() for picture in (*merged, *map(to_float, rows["image"]))]
    assert best["chroma_ratio"] == pytest.approx(np.mean(chroma[:3]) / np.mean(chroma[3:]), abs=0.006)
    with pytest.raises(ValueError, match="run notebook 04_colorize_photos first"):
        sampling_choice.with_chosen_sampling(config.replace(guidance_to_try=(1.0,)))
    (config.controlnet_dir / "diffusion_pytorch_model.safetensors").write_bytes(b"others")
    with pytest.raises(ValueError, match="run notebook 04_colorize_photos first"):
        sampling_choice.with_chosen_sampling(config)
    assert sampling_choice.with_chosen_sampling(own_run) is own_run
