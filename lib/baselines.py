"""Two colorizers that take no prompt, `classification` and `gan`; their recipe is in lib/baselines_model.

classification: Zhang, Isola, Efros 2016 (quantized a*b*, annealed mean); gan: pix2pix (Isola, Zhu, Zhou, Efros 2017).
Both see L* at the photo's size and give a*, b* at a quarter of it.
"""

from functools import lru_cache

import cv2
import numpy as np
import torch
from diffusers import UNet2DModel
from torch.nn import functional as F

from lib import ROOT
from lib.color import in_gamut, luminance, to_float
from lib.models import pick_device

SYSTEMS = ("classification", "gan")
FOLDER = ROOT / "lib/baselines_model"
GRID = 10  # step of the a*b* bins
TEMPERATURE = 0.38  # of the annealed mean
AB_SCALE = 110.0


def make_network(size, channels):
    """UNet2DModel of 3.6 M parameters: L* in [0, 1] of `size` px, folded by 4, to `channels` planes of size / 4."""
    return UNet2DModel(
        sample_size=size // 4,
        in_channels=16,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=(48, 96, 144),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=16,
        attention_head_dim=48,  # heads of 8, the default, take half as long again
    )


def look(network, planes):
    """A network's answer to L* planes (B, 1, H, W) in [0, 1]: (B, channels, H / 4, W / 4)."""
    return network(F.pixel_unshuffle(planes, 4), 0, return_dict=False)[0]


@lru_cache
def bins():
    """The a*b* bins that sRGB holds at some L*, (Q, 2): a grid of step 10."""
    axis = np.arange(-110, 111, GRID)
    ab = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    lab = np.concatenate([np.tile(np.arange(5, 100, 5)[:, None, None], (1, len(ab), 1)), np.tile(ab, (19, 1, 1))], -1)
    return torch.tensor(ab[in_gamut(lab).any(axis=0)], dtype=torch.float32)


def annealed_mean(scores):
    """a*, b* (B, 2, h, w) of scores (B, Q, h, w): the mean of the bins under a sharpened softmax."""
    return torch.einsum("bqhw,qc->bchw", (scores.float() / TEMPERATURE).softmax(dim=1), bins().to(scores.device))


@torch.no_grad()
def predict(system, network, conditioning_images):
    """a*, b* (H, W, 2) of conditioning images (PIL), enlarged bilinearly to their size."""
    predicted = []
    for image in conditioning_images:
        plane = torch.from_numpy(luminance(to_float(image)))[None, None] / 100
        answer = look(network, plane.to(network.device)).cpu()
        ab = annealed_mean(answer) if system == "classification" else AB_SCALE * answer.tanh()
        predicted.append(cv2.resize(ab[0].permute(1, 2, 0).numpy(), image.size, interpolation=cv2.INTER_LINEAR))
    return predicted


def load_baseline(system, folder=FOLDER):
    """The network of a system, float32, from the folder of both."""
    return UNet2DModel.from_pretrained(folder / system, use_safetensors=True).float().eval().to(pick_device())
