"""Colours bound to places: each thing takes the colour of its own words, and its neighbours don't.

Every picture of a photo keeps the photo's L*, so pictures of it under different words differ in a*b* alone. Each
region is therefore cut out of a picture that is all in its colour, and laid over the rest by a soft mask; nothing else
has to agree at the seams.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from lib.color_words import phrases_of

MAX_REGIONS = 16
FIND_PX, WORKING_PX = 256, 512  # of the photo's longer side at which things are found, and at which masks are kept
SMALLEST = 0.002  # share of the picture that a thing takes at least


@dataclass(frozen=True, eq=False)
class Region:
    """A place in a photo and the colour of what is there.

    `place`: a thing's name, which a segmenter finds; a box (left, top, right, bottom) in fractions of the photo's
    sides, in which the thing is looked for; or a mask (H, W) of the photo's size, bool, uint8, or float in [0, 1].
    """

    place: str | tuple | np.ndarray
    color: str

    @property
    def phrase(self):
        """What the network is told: that the thing and all around it have this colour; the rest is cut away then."""
        thing = self.place if isinstance(self.place, str) else "thing"
        return f"{self.color} {thing}, {self.color} background"

    @property
    def name(self):
        """The region in a message."""
        where = "its mask" if isinstance(self.place, np.ndarray) else self.place
        return f"{self.color!r} in {where}"


def to_regions(colors, shape=None):
    """Regions of {thing: colour}, or of a list of pairs (place, colour); what can't be one is a ValueError.

    `shape`: (H, W) of the photo, which a mask must have.
    """
    pairs = list(colors.items() if isinstance(colors, dict) else colors)
    if len(pairs) > MAX_REGIONS:
        raise ValueError(f"{len(pairs)} regions are too many: name at most {MAX_REGIONS}")
    regions = []
    for place, color in pairs:
        if not isinstance(color, str) or not color.strip():
            raise ValueError(f"region {place!r:.60}: {color!r:.60} is no colour in words, such as 'dark red'")
        if isinstance(place, str):
            if not place.strip():
                raise ValueError(f"region of colour {color!r}: names no thing: name one, such as 'tram'")
            place = place.strip()
        else:
            place = check_box(place, color) if np.ndim(place) == 1 else check_mask(place, color, shape)
        regions.append(Region(place, color.strip()))
    return regions


def check_box(place, color):
    """A box as a tuple of four fractions; one outside the photo or of no area is a ValueError."""
    try:
        left, top, right, bottom = box = tuple(float(side) for side in place)
    except (TypeError, ValueError):
        box = ()
    if not box or not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        said = "is outside the photo or has no area: give left, top, right, bottom as fractions from 0 to 1"
        raise ValueError(f"region of colour {color!r}: the box {tuple(place)!r} {said}")
    return box


def check_mask(place, color, shape):
    """A mask as float32 in [0, 1], reduced to `WORKING_PX`; one of another size, empty, or wrong inside: ValueError."""
    mask = np.asarray(place)
    said = f"region of colour {color!r}: its mask"
    if mask.ndim != 2 or mask.dtype.kind not in "buif":
        raise ValueError(f"{said} should be an array (height, width) of numbers, not {mask.shape} of {mask.dtype}")
    small = reduced_size(shape or mask.shape)
    if shape and mask.shape not in (tuple(shape), small):
        sizes = f"{mask.shape[1]} x {mask.shape[0]} px, the photo {shape[1]} x {shape[0]}"
        raise ValueError(f"{said} has {sizes}: make them equal")
    mask = mask.astype(np.float32) / (255 if mask.dtype == np.uint8 else 1)
    if not np.isfinite(mask).all() or mask.min() < 0 or mask.max() > 1:
        raise ValueError(f"{said} has values outside 0 to 1 (255 in 8 bits), or NaN: correct it")
    if mask.max() == 0:
        raise ValueError(f"{said} is empty: mark a place in it")
    mask = cv2.resize(mask, small[::-1], interpolation=cv2.INTER_AREA)
    return (mask * 255).round() / np.float32(255)  # as a picture's metadata keep it


def reduced_size(shape, longest=WORKING_PX):
    """The size (h, w) of a photo (H, W) whose longer side has at most so many px."""
    scale = min(1, longest / max(shape))
    return tuple(max(1, round(side * scale)) for side in shape)


def regions_of(prompt):
    """A region for each thing that a prompt gives a colour, at most `MAX_REGIONS`."""
    return [Region(phrase.thing, phrase.colors) for phrase in phrases_of(prompt)[:MAX_REGIONS]]


def find_masks(regions, plane, segmenter):
    """Soft masks (regions, h, w) in [0, 1], float32, of each region's place; zeros for a name that isn't found.

    Of names these are the segmenter's scores, which `share_out` takes; boxes and masks go to `weigh`.

    `plane`: L* (h, w) of the photo; `segmenter()` gives what `load_segmenter` returns, and is called for names only. A
    name is found where enough of the picture reaches the segmenter's threshold.
    """
    masks = np.zeros((len(regions), *plane.shape), np.float32)
    named = [index for index, region in enumerate(regions) if isinstance(region.place, str)]
    if named:
        locate = segmenter()
        found = locate(plane, [regions[index].place for index in named])
        masks[named] = [mask * ((mask > locate.threshold).mean() > SMALLEST) for mask in found]
    for index, region in enumerate(regions):
        if isinstance(region.place, tuple):
            masks[index] = find_in_box(plane, region.place)
        elif not isinstance(region.place, str):
            masks[index] = cv2.resize(region.place, plane.shape[::-1], interpolation=cv2.INTER_AREA)
    return masks


def find_in_box(plane, box):
    """The thing in a box on L* (h, w), as a soft mask that is 0 outside the box: GrabCut (Rother et al. 2004).

    Gray says little, so the mean of each place and its roughness go with it. Where hardly anything stands out from
    what surrounds the box, the whole box is the thing.
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
    thing = (labels == cv2.GC_PR_FGD).astype(np.float32)
    mask = np.zeros(plane.shape, np.float32)
    mask[inside] = 1
    return cv2.blur(thing, (3, 3)) * mask if thing[inside].mean() > 0.1 else mask


def weigh(masks):
    """What each mask (n, h, w) leaves of those before it, and the rest: weights (1 + n, h, w) that add up to 1.

    Where masks overlap, the later one wins.
    """
    weights = np.empty((1 + len(masks), *masks.shape[1:]), np.float32)
    rest = np.ones(masks.shape[1:], np.float32)
    for index in range(len(masks), 0, -1):
        weights[index] = rest * masks[index - 1]
        rest = rest * (1 - masks[index - 1])
    weights[0] = rest
    return weights


def share_out(scores, threshold):
    """Weights (1 + n, h, w) of the rest and of things that were found by name, from their scores (n, h, w).

    A place belongs to the things in proportion to their scores, and to the rest as far as none reaches the threshold.
    """
    taken = np.clip(scores.max(axis=0, initial=0) / threshold, 0, 1)
    shares = taken * scores / np.maximum(scores.sum(axis=0), 1e-6)
    return np.concatenate([[1 - shares.sum(axis=0)], shares]).astype(np.float32)


def overlap(masks):
    """Whether any place belongs to two masks (n, h, w)."""
    return bool(((masks > 0.5).sum(axis=0) > 1).any())


def compose(layers, weights):
    """The sum of layers (n, h, w, C), such as a*b* of pictures of one photo, weighed by weights (n, h, w)."""
    return sum(layer * weight[..., None] for layer, weight in zip(layers, weights, strict=True))
