"""Regions that a person names: objects, boxes and masks; and where they are in a photo."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from lib.regions import Region

FIND_PX, WORKING_PX = 256, 512  # longer side of the photo in which objects are found, and of the masks that are kept


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
            raise ValueError(f"region {describe(Region(place, color))}: {rule}")
        regions.append(Region(place, color.strip()))
    return regions


def describe(region: Region) -> str:
    """Returns the region in words: "'red' in tram"."""
    return f"{region.color!r} in {'its mask' if isinstance(region.place, np.ndarray) else region.place}"


def reduced_size(shape: tuple[int, int], longest: int) -> tuple[int, int]:
    """Returns the size (h, w) of a photo (H, W) whose longer side is reduced to at most `longest` px."""
    scale = min(1, longest / max(shape))
    return tuple(max(1, round(side * scale)) for side in shape)


def mask_of(place: tuple | np.ndarray, plane: np.ndarray) -> np.ndarray:
    """Returns the mask of a box or mask at the size of L* (h, w), float32 in [0, 1]."""
    if isinstance(place, tuple):
        return find_in_box(plane, place)
    return cv2.resize(place, plane.shape[::-1], interpolation=cv2.INTER_AREA)


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
