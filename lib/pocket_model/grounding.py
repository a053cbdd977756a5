"""Grounding: teach a ControlNet's cross-attention where the things are that a prompt names.

At pure noise, where colours are chosen, nothing but the gray picture tells where the words belong, and ours didn't
learn to look while it was trained on colours alone. Here its attention learns from known places, much as TokenCompose
(Wang et al. 2024) teaches a Stable Diffusion: at each place, to be with the tokens that name what is there.
"""

import numpy as np
import torch
from torch.nn import functional as F

from lib.color_words import find_places
from lib.files import progress
from lib.latents import Batches, batch_rows
from lib.models import encode_prompts, hash_of_weights, pick_device, process_state
from lib.pocket_model.painted_parts import CELLS, UNKNOWN
from lib.training import run_settings, save_model, train

WEIGHT = 0.3  # of this loss beside that of diffusion
PURE_NOISE = 999  # the last timestep, at which the bases' schedule leaves nothing of the picture


def tokens_of_parts(prompts, spans, tokenizer, words=True):
    """Which part each token of a prompt belongs to, counted from 1, and 0 for none: uint8 (B, tokens).

    `spans`: for each prompt [first character, last + 1] of the phrase of each part. With `words` its tokens are those
    of its colour words, without, or where it has none, those of the whole phrase. MiniLM's vectors of colour words hold
    the colour, and hint at the noun; those of nouns hardly hold the colour.
    """
    read = tokenizer(prompts, padding="max_length", truncation=True, return_offsets_mapping=True, return_tensors="np")
    first, last = read["offset_mapping"][..., 0], read["offset_mapping"][..., 1]
    numbers = np.zeros(first.shape, np.uint8)
    for row, (prompt, of_prompt) in enumerate(zip(prompts, spans, strict=True)):
        for number, (start, end) in enumerate(of_prompt, 1):
            colors = [(start + a, start + b) for a, b, _ in find_places(prompt[start:end])] if words else []
            for a, b in colors or [(start, end)]:
                numbers[row, (first[row] < b) & (last[row] > a)] = number
    return numbers


class Attention:
    """Keeps the cross-attention of a network's latest forward pass: `maps`, (B, places, tokens) of each layer.

    Heads are averaged. The network goes on as before; what is kept is computed a second time.
    """

    def __init__(self, network):
        self.maps = []
        layers = [module for name, module in network.named_modules() if name.endswith("attn2")]
        network.register_forward_pre_hook(lambda *_: self.maps.clear())
        for layer in layers:
            layer.register_forward_pre_hook(self.keep, with_kwargs=True)

    def keep(self, layer, states, options):
        """Compute and keep the attention of a layer for the states that it is called with."""
        query = layer.head_to_batch_dim(layer.to_q(states[0]))
        key = layer.head_to_batch_dim(layer.to_k(options["encoder_hidden_states"]))
        weights = layer.get_attention_scores(query, key).float()
        self.maps.append(weights.unflatten(0, (-1, layer.heads)).mean(dim=1))

    def take(self):
        """What is kept, which is then forgotten: a network whose hooks hold gradients can't be copied."""
        taken, self.maps = self.maps, []
        return taken


def shares_of_parts(attention, tokens, n):
    """How much of the attention (B, places, tokens) each part's tokens get, and first those of none: (B, places, n)."""
    return attention @ F.one_hot(tokens.long(), n).to(attention.dtype)


def cells_of_parts(places, n, side):
    """How much of each place of a side x side grid belongs to each part: (B, side * side, n) in [0, 1]."""
    known = F.one_hot(places.long().where(places != UNKNOWN, torch.tensor(n)), n + 1)[..., :n]
    return F.adaptive_avg_pool2d(known.permute(0, 3, 1, 2).float(), side).flatten(2).transpose(1, 2)


def grounding_loss(maps, tokens, places):
    """Cross-entropy of the attention against known places; every part of every picture counts alike.

    `maps`: attention of each layer (B, places, tokens); `tokens`: the part of each token (B, tokens); `places`: the
    part that each cell belongs to (B, CELLS, CELLS). A picture of which nothing is known adds nothing.
    """
    n, losses = int(tokens.max()) + 1, []
    for attention in maps:
        shares = shares_of_parts(attention, tokens, n)
        cells = cells_of_parts(places, n, int(attention.shape[1] ** 0.5))
        area = cells.sum(dim=1)  # (B, n)
        of_parts = -(cells * (shares + 1e-4).log()).sum(dim=1) / area.clamp(min=1)
        there = (area > 1).float() * (tokens.amax(dim=1) > 0)[:, None]
        losses.append((of_parts * there).sum() / there.sum().clamp(min=1))
    return torch.stack(losses).mean()


class Grounding:
    """The known places of a data set of `painted_parts`, step by step, as a loss on a network's attention."""

    def __init__(self, dataset, tokenizer, training, words=True):
        self.training, said = training, (list(dataset["prompt"]), list(dataset["spans"]))
        self.tokens = torch.from_numpy(tokens_of_parts(*said, tokenizer, words))
        self.places = torch.from_numpy(np.stack([np.asarray(image) for image in dataset["places"]]))

    def rows(self, step):
        """The rows of a step, which are those of `latents.Batches`."""
        return batch_rows(len(self.tokens), self.training.train_batch_size, step, self.training.train_seed)

    def loss_for(self, network, weight=WEIGHT):
        """What to minimise beside another loss: `loss(step, part)` of the network's latest forward pass."""
        attention = Attention(network)

        def loss(step, part):
            rows, maps = self.rows(step)[part], attention.take()
            tokens, places = self.tokens[rows].to(maps[0].device), self.places[rows].to(maps[0].device)
            return weight * grounding_loss(maps, tokens, places)

        return loss


def train_grounding(controlnet, cache, grounding, profile, folder):
    """Train a ControlNet's attention alone, on gray pictures and pure noise; saves it to `folder/controlnet`."""
    controlnet = controlnet.to(pick_device())
    loss, batches = grounding.loss_for(controlnet, weight=1), Batches(cache, profile.training)

    def loss_of_step(model, step, part):
        (latents, *shown), _ = batches(step)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(step))
        noise, embeddings, gray = (tensor[part].to(controlnet.device) for tensor in (noise, *shown))
        down, middle = model(noise, PURE_NOISE, embeddings, gray, return_dict=False)
        unused = sum(output.sum() for output in (*down, middle))  # processes that share a batch must use all weights
        return loss(step, part) + 0 * unused

    settings = run_settings(profile, **cache.key, initial=hash_of_weights(controlnet))
    trained = train(controlnet, loss_of_step, profile.training, profile.model.mixed_precision, folder, settings)
    if process_state().is_main_process:
        save_model(trained, folder / "controlnet")


@torch.no_grad()
def attention_in_place(pipeline, rows):
    """How often the attention at pure noise favours the right one of two colour words; chance is 0.5.

    For rows of notebook 01's data set with a mask and a ground, under "a red <thing>, blue <ground>" and with the words
    exchanged: at each place the word with the larger share of attention counts; the mean over thing and ground, layers
    and photos.
    """
    attention, found = Attention(pipeline.controlnet), []
    for row in progress(rows, desc="attention", leave=False):
        if not (row["mask"] and row["ground"]):
            continue
        mask = np.asarray(row["mask"].resize((CELLS, CELLS)).convert("L")) > 127
        for words in (("red", "blue"), ("blue", "red")):
            tokens = look(pipeline, row, *words)
            for weights in attention.take():
                found += shares_in_place(weights, tokens, torch.from_numpy(np.where(mask, 1, 2)[None]))
    return float(np.mean(found))


def look(pipeline, row, thing_word, ground_word):
    """Show the ControlNet a row's gray picture at pure noise, with a word for thing and ground; returns the tokens."""
    phrases = [f"a {thing_word} {row['thing']}", f"{ground_word} {row['ground']}"]
    prompt, middle = ", ".join(phrases), len(phrases[0])
    gray = torch.from_numpy(np.asarray(row["conditioning_image"].convert("RGB"), np.float32) / 255)
    shape = (1, 4, *(side // pipeline.vae_scale_factor for side in gray.shape[:2]))
    noise, embeddings = (
        torch.randn(shape, generator=torch.Generator().manual_seed(0)),
        encode_prompts([prompt], pipeline),
    )
    noise, gray = (tensor.to(embeddings) for tensor in (noise, gray.permute(2, 0, 1)[None]))
    pipeline.controlnet(noise, PURE_NOISE, embeddings, gray, return_dict=False)
    spans = [(0, middle), (middle + 2, len(prompt))]
    return torch.from_numpy(tokens_of_parts([prompt], [spans], pipeline.tokenizer))


def shares_in_place(attention, tokens, places):
    """For thing and ground, numbered 1 and 2, the share of its places where its tokens get more than the other's."""
    shares, cells = shares_of_parts(attention, tokens, 3), cells_of_parts(places, 3, int(attention.shape[1] ** 0.5))
    found = []
    for own, other in ((1, 2), (2, 1)):
        right = (shares[..., own] > shares[..., other]).float()
        found.append(float((right * cells[..., own]).sum() / cells[..., own].sum().clamp(min=1e-3)))
    return found
