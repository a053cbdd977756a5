"""CLIPSeg (Lüddecke and Ecker 2022): segments a photo by phrases, on `l4`."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPSegForImageSegmentation
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from lib.models import pick_device

SIZE, THRESHOLD = 352, 0.4  # px, square: what CLIPSeg was trained at; not measured here


def load_clipseg(source: str, revision: str | None = None) -> tuple[Callable, float]:
    """Returns a function of a gray PIL picture and phrases, and its threshold, as `lib.regions.load_segmenter` needs.

    The function returns logits (phrases, 352, 352).
    """
    network = CLIPSegForImageSegmentation.from_pretrained(source, revision=revision).float().eval().to(pick_device())
    tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))

    def predict(gray, phrases):
        square = gray.convert("RGB").resize((SIZE, SIZE), Image.BICUBIC)
        pixels = (torch.from_numpy(np.asarray(square, np.float32) / 255).permute(2, 0, 1) - mean) / std
        text = tokenizer(phrases, padding=True, truncation=True, max_length=77, return_tensors="pt")
        inputs = {name: text[name].to(network.device) for name in ("input_ids", "attention_mask")}
        logits = network(**inputs, pixel_values=pixels.expand(len(phrases), -1, -1, -1).to(network.device)).logits
        return logits.reshape(len(phrases), *logits.shape[-2:])

    return predict, THRESHOLD
