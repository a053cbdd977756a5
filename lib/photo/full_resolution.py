"""Colour at a photo's full resolution: small a*, b* planes, enlarged under the photo's own L* and joined to it.

The enlargement is a guided filter (He, Sun, Tang 2013; its fast form: He and Sun 2015): in every small window a* and b*
are fitted as linear functions of L*. The functions are enlarged, not the colours, so colour edges follow the photo's.
"""

from functools import lru_cache

import cv2
import numpy as np

from lib.color import WHITE_D65, XYZ_TO_LINEAR_SRGB, fit_gamut
from lib.regions import compose, reduced_size

STRIP = 32  # rows at a time, so that the work stays in the processor's cache
LEVELS = 65535  # entries of the tables that replace powers
XYZ_TO_SRGB = (XYZ_TO_LINEAR_SRGB * WHITE_D65).astype(np.float32)  # of X/Xn, Y/Yn, Z/Zn
XYZ_TO_CODES = np.column_stack([XYZ_TO_SRGB * LEVELS, [0.5] * 3]).astype(np.float32)  # into encoding_table, rounded
DELTA = 6 / 29  # below this, CIELAB's cube root gives way to a line


def linear_from_srgb(values):
    """IEC 61966-2-1: sRGB in [0, 1] to linear."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def f_from_linear(values):
    """CIELAB's f of X/Xn, Y/Yn or Z/Zn; L* = 116 f(Y/Yn) - 16."""
    return np.where(values > DELTA**3, np.cbrt(values), values / (3 * DELTA**2) + 4 / 29)


def linear_from_f(values):
    """The inverse of `f_from_linear`."""
    return np.where(values > DELTA, values * values * values, (values - np.float32(4 / 29)) * np.float32(3 * DELTA**2))


@lru_cache
def decoding_table(top):
    """Linear values of the gray codes 0 ... top (255 or 65535), and their f."""
    linear = linear_from_srgb(np.arange(top + 1) / top)
    return linear.astype(np.float32), f_from_linear(linear).astype(np.float32)


@lru_cache
def encoding_table():
    """8-bit sRGB codes of linear values 0 ... 1 in `LEVELS` steps, and f of the same values."""
    linear = np.arange(LEVELS + 1) / LEVELS
    srgb = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (srgb * 255).round().astype(np.uint8), f_from_linear(linear).astype(np.float32)


def lightness(pixels):
    """Y/Yn and f(Y/Yn), float32 (H, W), of uint8 or uint16 sRGB pixels (H, W) or (H, W, 3)."""
    linear, f = decoding_table(np.iinfo(pixels.dtype).max)
    if pixels.ndim == 2:
        return linear.take(pixels), f.take(pixels)
    y = cv2.transform(linear[pixels], np.array([[0.2126729, 0.7151522, 0.0721750]], np.float32))
    return y, encoding_table()[1][(y * LEVELS + 0.5).astype(np.int32)]


def network_size(height, width, resolution, multiple):
    """The size (height, width) at which a network sees a photo: its area, near the photo's shape, in whole multiples.

    A long photo keeps a short side of two thirds of the resolution, so that a panorama is seen whole and not in parts.
    """
    scale = max(resolution / (height * width) ** 0.5, resolution * 2 / 3 / min(height, width))
    return tuple(max(multiple, round(side * scale / multiple) * multiple) for side in (height, width))


def reduce_lightness(pixels, size):
    """L* (h, w) of a photo at the network's size (height, width): by area means, or cubically where it is enlarged."""
    smaller = size[0] * size[1] < pixels.shape[0] * pixels.shape[1]
    how = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.clip(116 * cv2.resize(lightness(pixels)[1], size[::-1], interpolation=how) - 16, 0, 100)


def guided_functions(plane, ab, radius=2, epsilon=4.0):
    """a* and b* as linear functions of L* in every window: slopes and offsets, float32 (h, w, 4): a, b, a, b.

    `plane`: L* (h, w); `ab`: (h, w, 2); `epsilon`: variance of L* below which a window counts as flat.
    """
    mean = lambda values: cv2.blur(values, (2 * radius + 1, 2 * radius + 1))  # noqa: E731
    plane, ab = plane.astype(np.float32), ab.astype(np.float32)
    center, spread = mean(plane), mean(plane * plane)
    variance = (spread - center**2)[..., None]
    slope = (mean(ab * plane[..., None]) - mean(ab) * center[..., None]) / (variance + epsilon)
    return np.dstack([mean(slope), mean(mean(ab) - slope * center[..., None])])


def reduced_plane(pixels, longest):
    """L* (h, w) of a photo whose longer side has at most so many px."""
    return reduce_lightness(pixels, reduced_size(pixels.shape[:2], longest))


def refine(masks, coarse, plane):
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


def color_functions(plane, layers, fine, weights):
    """What `paint` needs to join small a*, b* planes to a photo: `guided_functions`, zero where there is only paper.

    `plane`: L* (h, w), what the network saw; `layers`: a*, b* that it gave, (n, h, w, 2); `fine`: L* of the photo
    (H, W), finer; `weights` (n, H, W): how much each layer counts where. Returns float32 (H, W, 4).
    """
    functions = [cv2.resize(guided_functions(plane, ab), fine.shape[::-1]) for ab in layers]
    return compose(functions, weights) * (1 - find_border(fine))[..., None]


def find_border(plane):
    """Paper or frame around a photo, float32 (h, w) in [0, 1]: near-white or near-black, flat, and along two sides.

    `plane`: L* (h, w). Only what hangs together with the picture's edge counts, and only where it covers nine tenths of
    two opposite edges: a white sky does not.
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


def paint(pixels, functions):
    """Colour a photo under its own lightness.

    `pixels`: uint8 or uint16 sRGB (H, W) or (H, W, 3); `functions`: a* and b* as linear functions of L*, (h, w, 4), as
    from `color_functions`. Returns uint8 sRGB (H, W, 3) and the share of pixels that lost chroma, as sRGB does not hold
    it at their L*.
    """
    # a* = s L* + o and fx = f + a*/500 give fx = (1 + 116 s / 500) f + (o - 16 s) / 500, and the like for fz
    scale = np.array([1 / 500, -1 / 200], np.float32)
    slopes, offsets = functions[..., :2] * scale, functions[..., 2:] * scale
    functions = np.ascontiguousarray(np.dstack([1 + 116 * slopes, offsets - 16 * slopes]))
    height, width = pixels.shape[:2]
    picture, outside = np.empty((height, width, 3), np.uint8), 0
    for top in range(0, height, STRIP):
        rows = slice(top, min(top + STRIP, height))
        wide = enlarge(functions, rows, (height, width))
        picture[rows], count = paint_strip(pixels[rows], wide)
        outside += count
    return picture, outside / (height * width)


def paint_gray(pixels):
    """A photo without its colour: uint8 sRGB (H, W, 3) with the L* of uint8 or uint16 pixels (H, W) or (H, W, 3)."""
    codes = encoding_table()[0][(lightness(pixels)[0] * LEVELS + 0.5).astype(np.int32)]
    return cv2.merge([codes] * 3)


def enlarge(values, rows, size):
    """Some rows of `values` (h, w, C) enlarged bilinearly to `size` (height, width), pixel centres aligned."""
    at = (np.arange(rows.start, rows.stop) + 0.5) * len(values) / size[0] - 0.5
    first = np.clip(np.floor(at).astype(int), 0, len(values) - 1)
    second = np.minimum(first + 1, len(values) - 1)
    weight = np.clip(at - first, 0, 1).astype(np.float32)[:, None, None]
    tall = values[first] * (1 - weight) + values[second] * weight
    return cv2.resize(tall, (size[1], len(tall)), interpolation=cv2.INTER_LINEAR)


def paint_strip(pixels, functions):
    """`paint` for some rows, with the enlarged functions; returns the rows and how many pixels lost chroma."""
    y, f = lightness(pixels)
    x_and_z = []
    slope_x, slope_z, offset_x, offset_z = cv2.split(functions)
    for slope, offset in ((slope_x, offset_x), (slope_z, offset_z)):
        values = cv2.add(cv2.multiply(slope, f), offset)
        cubes = cv2.multiply(cv2.multiply(values, values), values)
        dark = np.flatnonzero(values < DELTA)
        cubes.ravel()[dark] = linear_from_f(values.ravel()[dark])
        x_and_z.append(cubes)
    codes = cv2.transform(cv2.merge([x_and_z[0], y, x_and_z[1]]), XYZ_TO_CODES).astype(np.int32)
    outside = np.flatnonzero(cv2.inRange(codes, (0, 0, 0), (LEVELS,) * 3) == 0)
    if len(outside):
        codes.reshape(-1, 3)[outside] = fit_strip(f.ravel()[outside], functions.reshape(-1, 4)[outside])
    return encoding_table()[0].take(codes, mode="clip"), len(outside)


def fit_strip(f, functions):
    """Codes (N, 3) of colours outside the gamut, their chroma reduced at fixed L* and hue."""
    fx, fz = functions[:, 0] * f + functions[:, 2], functions[:, 1] * f + functions[:, 3]
    a, b = 500 * (fx - f), 200 * (f - fz)
    chroma, hue = cv2.cartToPolar(a, b, angleInDegrees=True)
    most = gamut_table()[(232 * f - 31.5).astype(np.int32), (2 * hue.ravel() + 0.5).astype(np.int32)]
    scale = np.minimum(most / np.maximum(chroma.ravel(), 1e-6), 1)
    fitted = np.stack([f + scale * (fx - f), f, f + scale * (fz - f)], axis=-1)
    return np.clip(cv2.transform(linear_from_f(fitted)[None], XYZ_TO_CODES)[0], 0, LEVELS).astype(np.int32)


@lru_cache
def gamut_table():
    """The largest C*ab that sRGB holds, float32 (201, 721): by L* in halves up to 100 and by hue in half degrees."""
    plane, hue = np.meshgrid(np.arange(201) / 2, np.deg2rad(np.arange(721) / 2), indexing="ij")
    lab = fit_gamut(np.stack([plane, 150 * np.cos(hue), 150 * np.sin(hue)], axis=-1))
    return np.hypot(lab[..., 1], lab[..., 2]).astype(np.float32)
