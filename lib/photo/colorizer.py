"""A photo of any size in colour: the network sees a reduced copy, and its a*, b* are enlarged under the photo's own L*."""

from lib.color import gray_from_luminance, srgb_to_lab, to_pil
from lib.colorize import sample
from lib.photo.full_resolution import network_size, paint, reduce_lightness


def colorize_photo(photo, prompt, seed, pipeline, profile, saturation=1.0):
    """A `Photo` of any size in colour: uint8 sRGB (H, W, 3), and the share of its pixels that lost chroma to fit sRGB.

    The network sees a reduced copy; its a*, b* (times `saturation`) are enlarged under the photo's own L*.
    """
    multiple = pipeline.vae_scale_factor * 2 ** (len(pipeline.unet.config.block_out_channels) - 1)
    plane = reduce_lightness(photo.pixels, network_size(*photo.pixels.shape[:2], profile.data.resolution, multiple))
    output = sample(pipeline, [to_pil(gray_from_luminance(plane))], [prompt], [seed], **vars(profile.sampling))[0]
    return paint(photo.pixels, plane, srgb_to_lab(output)[..., 1:], saturation)
