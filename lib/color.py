"""sRGB and CIELAB (D65, 2 degree observer), all in float.

Images are sRGB (H, W, 3) in [0, 1]; `lab` has L* in [0, 100] and a*, b* in about [-128, 127]; `plane` is L*, (H, W).
"""

import numpy as np
from PIL import Image
from skimage.color import lab2rgb, rgb2lab

XYZ_TO_LINEAR_SRGB = np.array(  # IEC 61966-2-1
    [[3.2404542, -1.5371385, -0.4985314], [-0.9692660, 1.8760108, 0.0415560], [0.0556434, -0.2040259, 1.0572252]]
)
WHITE_D65 = np.array([0.95047, 1.0, 1.08883])
EPSILON = 1e-4  # linear sRGB this far outside [0, 1] still rounds to the same 8-bit value


def to_float(image: Image.Image | np.ndarray) -> np.ndarray:
    """Returns a PIL image or uint8 array as float32 sRGB."""
    return np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image).astype(np.float32) / 255


def to_pil(image: np.ndarray) -> Image.Image:
    """Returns float sRGB as an 8-bit PIL image; values are rounded, not truncated."""
    return Image.fromarray((np.clip(image, 0, 1) * 255).round().astype(np.uint8))


def srgb_to_lab(image: np.ndarray) -> np.ndarray:
    """Returns the CIELAB of float sRGB."""
    return rgb2lab(image).astype(np.float32)


def lab_to_srgb(lab: np.ndarray) -> np.ndarray:
    """Returns the float sRGB of CIELAB; colours outside the gamut lose chroma, not L* or hue."""
    return np.clip(lab2rgb(fit_gamut(lab)), 0, 1).astype(np.float32)


def fit_gamut(lab: np.ndarray, iterations: int = 12) -> np.ndarray:
    """Scales a*, b* of out-of-gamut pixels towards gray at fixed L* and hue, by bisection on the scale."""
    lab = np.array(lab, dtype=np.float32)
    outside = ~in_gamut(lab)
    pixels = lab[outside]
    low, high = np.zeros(len(pixels), np.float32), np.ones(len(pixels), np.float32)
    for _ in range(iterations):
        middle = (low + high) / 2
        inside = in_gamut(np.column_stack([pixels[:, 0], pixels[:, 1:] * middle[:, None]]))
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    lab[outside, 1:] = pixels[:, 1:] * low[:, None]
    return lab


def in_gamut(lab: np.ndarray) -> np.ndarray:
    """Tells whether each CIELAB colour (..., 3) has linear sRGB within [0, 1]; bool (...)."""
    f_y = (lab[..., 0] + 16) / 116
    f = np.stack([f_y + lab[..., 1] / 500, f_y, f_y - lab[..., 2] / 200], axis=-1)
    linear = np.where(f > 6 / 29, f**3, (f - 4 / 29) * 3 * (6 / 29) ** 2) * WHITE_D65 @ XYZ_TO_LINEAR_SRGB.T
    return ((linear >= -EPSILON) & (linear <= 1 + EPSILON)).all(axis=-1)


def luminance(image: np.ndarray) -> np.ndarray:
    """Returns the L* plane of float sRGB."""
    return srgb_to_lab(image)[..., 0]


def gray_from_luminance(plane: np.ndarray) -> np.ndarray:
    """Returns the neutral float sRGB with an L* plane: its three channels are equal, whatever the rounding."""
    return np.repeat(with_ab(plane, (0, 0))[..., 1:2], 3, axis=-1)


def make_conditioning_image(image: Image.Image) -> Image.Image:
    """Returns the gray RGB image with the L* of a colour image: what the ControlNet is shown."""
    return to_pil(gray_from_luminance(luminance(to_float(image))))


def with_ab(plane: np.ndarray, ab: np.ndarray | tuple[float, float]) -> np.ndarray:
    """Returns the float sRGB with an L* plane and a*, b* (H, W, 2), or (2,) for one colour everywhere."""
    return lab_to_srgb(np.dstack([plane, np.broadcast_to(ab, (*plane.shape, 2))]))


def restore_lightness(gray: Image.Image | np.ndarray, output: np.ndarray) -> np.ndarray:
    """Returns float sRGB with the L* of a photo (PIL image or float sRGB) and the a*, b* of an output."""
    gray = to_float(gray) if isinstance(gray, Image.Image) else gray
    return with_ab(luminance(gray), srgb_to_lab(output)[..., 1:])
