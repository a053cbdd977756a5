"""Regions: each object takes the colour of its own words, and its neighbours don't.

All pictures of a photo keep the photo's L*, so pictures under different words differ in a*b* alone. A region can
therefore be cut out of a picture that is all in its colour and laid over the rest by a soft mask.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from lib.captions import phrases_of

MAX_REGIONS = 16
FIND_PX, WORKING_PX = 256, 512  # longer side of the photo in which objects are found, and of the masks that are kept
SMALLEST = 0.002  # share of the picture that an object takes at least


@dataclass(frozen=True, eq=False)
class Region:
    """A place in a photo and its colour.

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


def to_regions(colors: dict | Sequence[tuple], shape: tuple[int, int] | None = None) -> list[Region]:
    """Returns the regions of {object: colour}, or of pairs (place, colour); masks must have the photo's `shape` (H, W).

    Raises ValueError if there are more than `MAX_REGIONS`, or a place or colour is not valid.
    """
    pairs = list(colors.items() if isinstance(colors, dict) else colors)
    if len(pairs) > MAX_REGIONS:
        raise ValueError(f"{len(pairs)} regions are too many: name at most {MAX_REGIONS}")
    regions = []
    for place, color in pairs:
        if not isinstance(color, str) or not color.strip():
            raise ValueError(f"region {place!r:.60}: {color!r:.60} is no colour in words, such as 'dark red'")
        if not isinstance(place, str):
            place = _check_box(place, color) if np.ndim(place) == 1 else _check_mask(place, color, shape)
        elif not (place := place.strip()):
            raise ValueError(f"region of colour {color!r}: names no object: name one, such as 'tram'")
        regions.append(Region(place, color.strip()))
    return regions


def _check_box(place, color):
    try:
        left, top, right, bottom = box = tuple(float(side) for side in place)
    except (TypeError, ValueError):
        box = left = top = right = bottom = ()
    if not box or not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        rule = "is outside the photo or has no area: give left, top, right, bottom as fractions from 0 to 1"
        raise ValueError(f"region of colour {color!r}: the box {tuple(place)!r} {rule}")
    return box


def _check_mask(place, color, shape):
    """The mask as float32 in [0, 1], reduced to `WORKING_PX`."""
    mask = np.asarray(place)
    shape = shape or mask.shape
    small, scale = reduced_size(shape), 255 if mask.dtype == np.uint8 else 1
    valid = mask.ndim == 2 and mask.dtype.kind in "buif" and mask.shape in (tuple(shape), small)
    if not (valid and mask.min() >= 0 and 0 < mask.max() <= scale):
        rule = f"should be {shape[1]} x {shape[0]} numbers from 0 to 1 (255 in 8 bits), and mark a place"
        raise ValueError(f"region of colour {color!r}: its mask ({mask.dtype}, {mask.shape[::-1]}) {rule}")
    return cv2.resize(mask.astype(np.float32) / scale, small[::-1], interpolation=cv2.INTER_AREA)


def reduced_size(shape: tuple[int, int], longest: int = WORKING_PX) -> tuple[int, int]:
    """Returns the size (h, w) of a photo (H, W) whose longer side is reduced to at most `longest` px."""
    scale = min(1, longest / max(shape))
    return tuple(max(1, round(side * scale)) for side in shape)


def regions_of(prompt: str) -> list[Region]:
    """Returns a region for each object that a prompt gives a colour, at most `MAX_REGIONS`."""
    return [Region(phrase.object, phrase.colors) for phrase in phrases_of(prompt)[:MAX_REGIONS]]


def find_masks(regions: Sequence[Region], plane: np.ndarray, segmenter: Callable) -> np.ndarray:
    """Returns soft masks (regions, h, w) in [0, 1], float32; zeros for a name that isn't found.

    Masks of names are the segmenter's scores, for `share_out`; those of boxes and masks are for `weigh`. `plane` is the
    photo's L* (h, w); `segmenter()` returns what `load_segmenter` returns and is called only if there are names.
    """
    masks = np.zeros((len(regions), *plane.shape), np.float32)
    if named := [index for index, region in enumerate(regions) if isinstance(region.place, str)]:
        segment = segmenter()
        found = segment(plane, [regions[index].place for index in named])
        masks[named] = [mask * ((mask > segment.threshold).mean() > SMALLEST) for mask in found]
    for mask, region in zip(masks, regions, strict=True):
        if isinstance(region.place, tuple):
            mask[:] = find_in_box(plane, region.place)
        elif not isinstance(region.place, str):
            mask[:] = cv2.resize(region.place, plane.shape[::-1], interpolation=cv2.INTER_AREA)
    return masks


def find_in_box(plane: np.ndarray, box: tuple) -> np.ndarray:
    """Returns a soft mask of the object in a box on L* (h, w), 0 outside the box: GrabCut (Rother et al. 2004).

    The layers are L*, its local mean and its local roughness. If hardly anything differs from what surrounds the box,
    the whole box is the object.
    """
    sides = np.array(box) * ([plane.shape[1], plane.shape[0]] * 2)
    left, top, right, bottom = (int(side) for side in (*np.floor(sides[:2]), *np.ceil(sides[2:])))
    inside = np.s_[top:bottom, left:right]
    gray = (plane * 2.55).astype(np.uint8)
    rough = cv2.GaussianBlur(np.abs(cv2.Laplacian(gray, cv2.CV_32F)), (0, 0), 3)
    layers = cv2.merge([gray, cv2.GaussianBlur(gray, (0, 0), 3), cv2.convertScaleAbs(rough, alpha=3)])
    labels = np.full(plane.shape, cv2.GC_BGD, np.uint8)
    labels[inside] = cv2.GC_PR_FGD
    if (labels == cv2.GC_BGD).mean() > 0.02:
        cv2.setRNGSeed(0)
        cv2.grabCut(layers, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)
    mask, found = np.zeros(plane.shape, np.float32), (labels == cv2.GC_PR_FGD).astype(np.float32)
    mask[inside] = 1
    return cv2.blur(found, (3, 3)) * mask if found[inside].mean() > 0.1 else mask


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


def overlap(masks: np.ndarray) -> bool:
    """Returns whether any pixel belongs to two masks (n, h, w)."""
    return bool(((masks > 0.5).sum(axis=0) > 1).any())


def compose(layers: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Returns the sum of layers (n, h, w, C), such as the a*b* of pictures of one photo, weighed by (n, h, w)."""
    return sum(layer * weight[..., None] for layer, weight in zip(layers, weights, strict=True))
