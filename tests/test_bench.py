"""The benchmark's two ways of training: the same loss, and each really does its work."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from lib import latents, models
from lib.l4 import network_costs
from lib.profiles import get_profile
from tests.bench import training


@pytest.fixture
def start(profile, base, triples):
    """What both ways begin with, at 32 px; the ControlNet's zero convolutions are opened, so that it acts."""
    torch.manual_seed(1)
    controlnet = models.make_controlnet(base.unet, base.vae_scale_factor)
    for block in [*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block]:
        torch.nn.init.normal_(block.weight, std=0.1)
    dataset = triples["train"].select(range(6)).select_columns(["prompt", "image", "conditioning_image"])
    return training.Start(profile.replace(timestep_bias=1.0), copy.copy(base), controlnet, dataset)


def test_both_ways_have_the_same_loss(start, tmp_path):
    cache = latents.build_cache(start.dataset, start.dataset["prompt"], start.base, tmp_path)
    assert training.loss_difference(start, cache) < 1e-6
    other = start.profile.replace(timestep_bias=2.0)  # other timesteps
    assert training.loss_difference(replace(start, profile=other), cache) > 1e-4


def test_the_usual_batch_is_what_the_cache_keeps(start, tmp_path):
    cache = latents.build_cache(start.dataset, start.dataset["prompt"], start.base, tmp_path)
    ours = cache.batch([1, 4], torch.Generator().manual_seed(0))
    usual = training.usual_batch(start.base, start.dataset[[1, 4]], torch.Generator().manual_seed(0))
    assert all(torch.allclose(a, b, atol=1e-2) for a, b in zip(ours, usual, strict=True))


def test_the_usual_way_encodes_at_every_step_and_ours_never(start, tmp_path, monkeypatch):
    latents.build_cache(start.dataset, start.dataset["prompt"], start.base, tmp_path)
    encoded = {"pictures": [], "prompts": []}
    encode, encode_prompts = start.base.vae.encode, training.encode_prompts
    monkeypatch.setattr(start.base.vae, "encode", lambda x: encoded["pictures"].append(len(x)) or encode(x))
    monkeypatch.setattr(
        training, "encode_prompts", lambda p, base: encoded["prompts"].append(len(p)) or encode_prompts(p, base)
    )
    before = copy.deepcopy(start.controlnet.state_dict())
    assert (training.time_usual(start, 3, tmp_path) > 0).all()
    assert encoded == {"pictures": [4] * 3, "prompts": [4] * 3}
    middle = copy.deepcopy(start.controlnet.state_dict())
    assert start.profile.training.gradient_accumulation_steps == 2  # a step has two losses and is still timed as one
    seconds = training.time_ours(start, 3, tmp_path)
    assert seconds.shape == (3,)
    assert (seconds > 0).all()
    assert encoded == {"pictures": [4] * 3, "prompts": [4] * 3}
    for older, newer in ((before, middle), (middle, start.controlnet.state_dict())):  # both train
        assert any(not torch.equal(older[name], newer[name]) for name in older)


def test_the_usual_way_fails_without_an_encoder(start, tmp_path):
    latents.build_cache(start.dataset, start.dataset["prompt"], start.base, tmp_path)
    start.base.vae = None
    with pytest.raises(AttributeError, match="encode"):
        training.time_usual(start, 1, tmp_path)


def test_a_row_gives_medians_and_the_spread_of_the_pairs():
    row = training.make_row("x", [(1, 2), (3, 4), (2, 8)], "s")
    assert [row[key] for key in ("ours", "reference", "ratio", "lowest", "highest")] == [2, 4, 0.5, 0.25, 0.75]
    assert np.isclose(row["lowest"], 2 / 8)


def test_the_full_size_start_trains_both_ways_in_small(tmp_path, monkeypatch):
    small = {"block_out_channels": (32, 32, 64, 64), "norm_num_groups": 8}
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    shape = ({**small, "cross_attention_dim": 64, "attention_head_dim": 4}, {**small, **kinds})
    monkeypatch.setitem(network_costs.SHAPES, "SD 2.1-base", shape)
    narrow = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    monkeypatch.setattr(training, "SD21_TEXT_ENCODER", narrow)
    monkeypatch.setattr(training, "get_profile", lambda name, **fields: get_profile(name, resolution=64, **fields))
    seconds, batch, difference = training.prepare("sd21", tmp_path)
    assert seconds > 0
    assert batch == (4 if torch.cuda.is_available() else 1)
    assert difference < (1e-2 if torch.cuda.is_available() else 1e-6)
    for way in training.WAYS:
        assert min(training.measure("sd21", way, 1, tmp_path)) > 0
