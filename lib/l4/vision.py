"""What BLIP and CLIP have in common: how they are loaded, and pictures as they take them."""

import os

import numpy as np
import torch
from torch.nn import functional as F
from transformers import AutoTokenizer

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of Radford et al. 2021; BLIP's too
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")  # a bot of the Hub's would convert what comes as .bin


def load_with_tokenizer(kind, source, revision):
    """A network of a class of transformers and its tokenizer, from the Hub at a revision (None: the newest)."""
    revision = revision or "main"
    tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    return kind.from_pretrained(source, revision=revision).eval(), tokenizer


def for_clip(pictures, size):
    """Float sRGB pictures (B, H, W, 3) as CLIP and BLIP take them: (B, 3, size, size), whitened."""
    pixels = F.interpolate(to_tensor(pictures), (size, size), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    return (pixels - mean) / std


def to_tensor(pictures):
    """Float pictures (B, H, W, 3) as a tensor (B, 3, H, W)."""
    return torch.from_numpy(np.asarray(pictures, np.float32)).permute(0, 3, 1, 2)
