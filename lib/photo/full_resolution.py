"""Colour at a photo's full resolution: small a*, b* planes, enlarged under the photo's own L* and joined to it.

The enlargement is a guided filter (He, Sun, Tang 2013; its fast form: He and Sun 2015): in every small window a* and b*
are fitted as linear functions of L*. The functions are enlarged, not the colours, so colour edges follow the photo's.
"""

from functools import lru_cache, partial

import cv2
import numpy as np

from lib.color import fit_gamut

STRIP = 64  # rows at a time, so that the work stays in the processor's cache


def network_size(height: int, width: int, resolution: int, multiple: int) -> tuple[int, int]:
    """Returns the size (height, width) at which a network sees a photo: of its own area, in whole multiples.

    A long photo keeps a short side of two thirds of the resolution, so that a panorama is seen whole and not in parts.
    """
    scale = max(resolution / (height * width) ** 0.5, resolution * 2 / 3 / min(height, width))
    return tuple(max(multiple, round(side * scale / multiple) * multiple) for side in (height, width))


def reduce_lightness(plane: np.ndarray, size: tuple[int, int] | int) -> np.ndarray:
    """Returns L* (H, W) at another size, by area means, or cubically if it is enlarged.

    `size`: (height, width), or the longer side in px, to which a larger photo is reduced.
    """
    if isinstance(size, int):
        scale = min(1, size / max(plane.shape))
        size = tuple(max(1, round(side * scale)) for side in plane.shape)
    how = cv2.INTER_AREA if size[0] * size[1] < plane.size else cv2.INTER_CUBIC
    return np.clip(cv2.resize(plane, size[::-1], interpolation=how), 0, 100)


def guided_functions(plane: np.ndarray, ab: np.ndarray, radius: int = 2, epsilon: float = 4.0) -> np.ndarray:
    """Returns a* and b* as linear functions of L* in every window: slopes and offsets, float32 (h, w, 4): a, b, a, b.

    `plane`: L* (h, w); `ab`: (h, w, 2); `epsilon`: variance of L* below which a window counts as flat.
    """
    mean = partial(cv2.blur, ksize=(2 * radius + 1, 2 * radius + 1))
    plane, ab = plane.astype(np.float32), ab.astype(np.float32)
    center, spread = mean(plane), mean(plane * plane)
    variance = (spread - center**2)[..., None]
    slope = (mean(ab * plane[..., None]) - mean(ab) * center[..., None]) / (variance + epsilon)
    return np.dstack([mean(slope), mean(mean(ab) - slope * center[..., None])])


def refine(masks: np.ndarray, coarse: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """Returns soft masks (n, h, w) of L* `coarse` (h, w) enlarged along the edges of L* `plane`: float32 (n, H, W)."""
    size, fine = plane.shape[::-1], []
    for mask in masks:
        slope, _, offset, _ = cv2.split(cv2.resize(guided_functions(coarse, np.dstack([mask, mask])), size))
        anywhere = cv2.resize((mask > 0).astype(np.float32), size, interpolation=cv2.INTER_NEAREST)
        fine.append(np.clip(slope * plane + offset, 0, 1) * anywhere)
    return np.array(fine, np.float32).reshape(-1, *plane.shape)


def find_border(plane: np.ndarray) -> np.ndarray:
    """Returns where L* is paper or a frame, in [0, 1]: flat, white or black, and on 90 % of two opposite edges."""
    border, mean = np.zeros(plane.shape, np.float32), cv2.blur(plane, (5, 5))
    flat = cv2.blur(plane * plane, (5, 5)) - mean**2 < 9
    for edges in (np.s_[[0, -1]], np.s_[:, [0, -1]]):
        shade = np.median(mean[edges])
        alike = flat & (np.abs(mean - shade) < 6)
        if not 15 < shade < 85 and alike[edges].mean() > 0.9:
            _, labels = cv2.connectedComponents(alike.astype(np.uint8), connectivity=4)
            border[alike & np.isin(labels, labels[edges])] = 1
    return cv2.blur(border, (3, 3))


def paint(plane: np.ndarray, functions: np.ndarray) -> np.ndarray:
    """Returns L* (H, W) in colour, uint8 sRGB (H, W, 3); what sRGB can't show loses chroma, not L* or hue.

    `functions`: a* and b* as linear functions of L*, float32 (h, w, 4), as from `guided_functions`.
    """
    (height, width), (h, w) = plane.shape, functions.shape[:2]
    picture = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, STRIP):
        strip = plane[top : top + STRIP]
        # pixel centres aligned, as cv2.resize does for a whole picture
        place = np.array([[w / width, 0, w / width / 2 - 0.5], [0, h / height, (top + 0.5) * h / height - 0.5]])
        how = {"flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, "borderMode": cv2.BORDER_REPLICATE}
        slope_a, slope_b, offset_a, offset_b = cv2.split(cv2.warpAffine(functions, place, strip.shape[::-1], **how))
        chroma, hue = cv2.cartToPolar(slope_a * strip + offset_a, slope_b * strip + offset_b, angleInDegrees=True)
        most = gamut_table()[(2 * strip + 0.5).astype(np.int32), (2 * hue + 0.5).astype(np.int32)]
        a, b = cv2.polarToCart(np.minimum(chroma, most), hue, angleInDegrees=True)
        lab = cv2.merge([strip, a, b])
        picture[top : top + STRIP] = cv2.convertScaleAbs(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), alpha=255)
    return picture


@lru_cache
def gamut_table() -> np.ndarray:
    """Returns the largest C*ab that sRGB holds, float32 (201, 721): by L* in halves and by hue in half degrees."""
    plane, hue = np.meshgrid(np.arange(201) / 2, np.deg2rad(np.arange(721) / 2), indexing="ij")
    lab = fit_gamut(np.stack([plane, 150 * np.cos(hue), 150 * np.sin(hue)], axis=-1))
    return np.hypot(lab[..., 1], lab[..., 2]).astype(np.float32)
