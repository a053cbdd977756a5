"""The pocket model's autoencoder starts as a linear reduction, and its loss sees CIELAB."""

import numpy as np
import torch

from lib import dataset
from lib.color import luminance, merge_luminance, srgb_to_lab, to_float
from lib.metrics import measure
from lib.pocket_model import autoencoder


def photos():
    manifest = dataset.read_manifest("data_cards/pocket_photos")
    return [dataset.open_square(path, 128) for path in manifest["path"][:6]]


def test_autoencoder_starts_as_a_linear_reduction():
    vae = autoencoder.make_autoencoder(128).eval()
    errors = []
    for image in photos():
        photo = to_float(image)
        with torch.no_grad():
            latents = vae.encode(torch.from_numpy(photo).permute(2, 0, 1)[None] * 2 - 1).latent_dist.mean
            output = vae.decode(latents).sample[0].permute(1, 2, 0).numpy().clip(-1, 1) / 2 + 0.5
        assert latents.shape == (1, 4, 32, 32)
        errors.append(measure(photo, merge_luminance(luminance(photo), output))["ciede2000"])
    assert np.mean(errors) < 3


def test_torch_lab_agrees_with_the_float_conversion():
    photo = to_float(photos()[1])
    ours = autoencoder.torch_lab(torch.from_numpy(photo).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy() * 100
    assert np.abs(ours - srgb_to_lab(photo)).max() < 0.1
