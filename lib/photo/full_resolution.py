"""Colour at a photo's full resolution: small a*, b* planes, enlarged under the photo's own L* and joined to it.

The enlargement is a guided filter (He, Sun, Tang 2013; its fast form: He and Sun 2015): in every small window a* and b*
are fitted as linear functions of L*. The functions are enlarged, not the colours, so colour edges follow the photo's.
"""

from functools import lru_cache

import cv2
import numpy as np

from lib.color import fit_gamut
from lib.regions import compose, reduced_size

STRIP = 64  # rows at a time, so that the work stays in the processor's cache


def lightness_from_y(y: np.ndarray) -> np.ndarray:
    """CIELAB's L* of linear luminance Y/Yn in [0, 1]."""
    return np.where(y > (6 / 29) ** 3, 116 * np.cbrt(y) - 16, (29 / 3) ** 3 * y)


@lru_cache
def decoding_table(top: int) -> tuple[np.ndarray, np.ndarray]:
    """Linear values and L*, float32, of the sRGB codes 0 ... top (255 or 65535) by IEC 61966-2-1."""
    codes = np.arange(top + 1) / top
    linear = np.where(codes <= 0.04045, codes / 12.92, ((codes + 0.055) / 1.055) ** 2.4)
    return linear.astype(np.float32), lightness_from_y(linear).astype(np.float32)


def lightness(pixels: np.ndarray) -> np.ndarray:
    """L*, float32 (H, W), of uint8 or uint16 sRGB pixels (H, W) or (H, W, 3)."""
    linear, plane = decoding_table(np.iinfo(pixels.dtype).max)
    if pixels.ndim == 2:
        return plane.take(pixels)
    y = cv2.transform(linear[pixels], np.array([[0.2126729, 0.7151522, 0.0721750]], np.float32))
    return lightness_from_y(y).astype(np.float32)


def network_size(height: int, width: int, resolution: int, multiple: int) -> tuple[int, int]:
    """The size (height, width) at which a network sees a photo: its area, near the photo's shape, in whole multiples.

    A long photo keeps a short side of two thirds of the resolution, so that a panorama is seen whole and not in parts.
    """
    scale = max(resolution / (height * width) ** 0.5, resolution * 2 / 3 / min(height, width))
    return tuple(max(multiple, round(side * scale / multiple) * multiple) for side in (height, width))


def reduce_lightness(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """L* (h, w) of a photo at the network's size (height, width): by area means, or cubically where it is enlarged."""
    smaller = size[0] * size[1] < pixels.shape[0] * pixels.shape[1]
    how = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.clip(cv2.resize(lightness(pixels), size[::-1], interpolation=how), 0, 100)


def reduced_plane(pixels: np.ndarray, longest: int) -> np.ndarray:
    """L* (h, w) of a photo whose longer side has at most so many px."""
    return reduce_lightness(pixels, reduced_size(pixels.shape[:2], longest))


def guided_functions(plane: np.ndarray, ab: np.ndarray, radius: int = 2, epsilon: float = 4.0) -> np.ndarray:
    """a* and b* as linear functions of L* in every window: slopes and offsets, float32 (h, w, 4): a, b, a, b.

    `plane`: L* (h, w); `ab`: (h, w, 2); `epsilon`: variance of L* below which a window counts as flat.
    """
    mean = lambda values: cv2.blur(values, (2 * radius + 1, 2 * radius + 1))  # noqa: E731
    plane, ab = plane.astype(np.float32), ab.astype(np.float32)
    center, spread = mean(plane), mean(plane * plane)
    variance = (spread - center**2)[..., None]
    slope = (mean(ab * plane[..., None]) - mean(ab) * center[..., None]) / (variance + epsilon)
    return np.dstack([mean(slope), mean(mean(ab) - slope * center[..., None])])


def refine(masks: np.ndarray, coarse: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """Soft masks (n, h, w) of L* `coarse` (h, w), enlarged to L* `plane` (H, W) along its edges, and 0 where they are.

    Returns float32 (n, H, W) in [0, 1].
    """
    size, fine = plane.shape[::-1], np.empty((len(masks), *plane.shape), np.float32)
    for index, mask in enumerate(masks):
        functions = guided_functions(coarse, np.dstack([mask, mask]))[..., ::2]
        slope, offset = cv2.split(cv2.resize(functions, size))
        anywhere = cv2.resize((mask > 0).astype(np.float32), size, interpolation=cv2.INTER_NEAREST)
        fine[index] = np.clip(slope * plane + offset, 0, 1) * anywhere
    return fine


def color_functions(plane: np.ndarray, layers: list, fine: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """What `paint` needs to join small a*, b* planes to a photo: `guided_functions`, zero where there is only paper.

    `plane`: L* (h, w), what the network saw; `layers`: a*, b* that it gave, (n, h, w, 2); `fine`: L* of the photo
    (H, W), finer; `weights` (n, H, W): how much each layer counts where. Returns float32 (H, W, 4).
    """
    functions = [cv2.resize(guided_functions(plane, ab), fine.shape[::-1]) for ab in layers]
    return compose(functions, weights) * (1 - find_border(fine))[..., None]


def find_border(plane: np.ndarray) -> np.ndarray:
    """Paper or frame around a photo, float32 (h, w) in [0, 1]: near-white or near-black, flat, and along two sides.

    `plane`: L* (h, w). Only what is connected to the picture's edge counts, and only if it covers nine tenths of two
    opposite edges: a white sky does not.
    """
    border = np.zeros(plane.shape, np.float32)
    mean = cv2.blur(plane, (5, 5))
    flat = cv2.blur(plane * plane, (5, 5)) - mean**2 < 9
    outermost = np.concatenate([mean[0], mean[-1], mean[:, 0], mean[:, -1]])
    for shades in (outermost[outermost > 85], outermost[outermost < 15]):
        alike = flat & (np.abs(mean - np.median(shades)) < 6) if len(shades) else np.zeros(plane.shape, bool)
        _, parts = cv2.connectedComponents(alike.astype(np.uint8), connectivity=4)
        edges = [parts[0], parts[-1], parts[:, 0], parts[:, -1]]
        covered = [(edge > 0).mean() > 0.9 for edge in edges]
        if all(covered[:2]) or all(covered[2:]):
            border[(parts > 0) & np.isin(parts, np.concatenate(edges))] = 1
    return cv2.blur(border, (3, 3))


def paint(pixels: np.ndarray, functions: np.ndarray) -> np.ndarray:
    """Colour a photo under its own lightness: uint8 sRGB (H, W, 3); what sRGB can't show loses chroma, not L* or hue.

    `pixels`: uint8 or uint16 sRGB (H, W) or (H, W, 3); `functions`: a* and b* as linear functions of L*, (h, w, 4), as
    from `color_functions`.
    """
    height, width = pixels.shape[:2]
    picture = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, STRIP):
        rows = slice(top, min(top + STRIP, height))
        plane = lightness(pixels[rows])
        slope_a, slope_b, offset_a, offset_b = cv2.split(enlarge(functions, rows, (height, width)))
        chroma, hue = cv2.cartToPolar(slope_a * plane + offset_a, slope_b * plane + offset_b, angleInDegrees=True)
        most = gamut_table()[(2 * plane + 0.5).astype(np.int32), (2 * hue + 0.5).astype(np.int32)]
        a, b = cv2.polarToCart(np.minimum(chroma, most), hue, angleInDegrees=True)
        picture[rows] = cv2.convertScaleAbs(cv2.cvtColor(cv2.merge([plane, a, b]), cv2.COLOR_LAB2RGB), alpha=255)
    return picture


def paint_gray(pixels: np.ndarray) -> np.ndarray:
    """A photo without its colour: uint8 sRGB (H, W, 3) with the L* of uint8 or uint16 pixels (H, W) or (H, W, 3)."""
    return paint(pixels, np.zeros((1, 1, 4), np.float32))


def enlarge(values: np.ndarray, rows: slice, size: tuple[int, int]) -> np.ndarray:
    """Some rows of `values` (h, w, C) enlarged bilinearly to `size` (height, width), pixel centres aligned."""
    at = (np.arange(rows.start, rows.stop) + 0.5) * len(values) / size[0] - 0.5
    first = np.clip(np.floor(at).astype(int), 0, len(values) - 1)
    second = np.minimum(first + 1, len(values) - 1)
    weight = np.clip(at - first, 0, 1).astype(np.float32)[:, None, None]
    tall = values[first] * (1 - weight) + values[second] * weight
    return cv2.resize(tall, (size[1], len(tall)), interpolation=cv2.INTER_LINEAR)


@lru_cache
def gamut_table() -> np.ndarray:
    """The largest C*ab that sRGB holds, float32 (201, 721): by L* in halves up to 100 and by hue in half degrees."""
    plane, hue = np.meshgrid(np.arange(201) / 2, np.deg2rad(np.arange(721) / 2), indexing="ij")
    lab = fit_gamut(np.stack([plane, 150 * np.cos(hue), 150 * np.sin(hue)], axis=-1))
    return np.hypot(lab[..., 1], lab[..., 2]).astype(np.float32)
