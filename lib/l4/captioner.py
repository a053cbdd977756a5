"""Captions of the test photos by a network (BLIP), which sees the gray photo for one and its colours for the other."""

import re

import numpy as np
import pandas as pd
import torch
from transformers import BlipForConditionalGeneration

from lib.cache import progress, write_table
from lib.color import to_float
from lib.color_words import PICTURE
from lib.dataset import AUTO_CAPTIONS, AUTO_LEVELS, load_dataset_dict, pick_across_categories, read_auto_captions
from lib.l4.vision import for_clip, load_with_tokenizer
from lib.models import pick_device

GRAY_PICTURE = rf"(?:black (?:and|&) white|grayscale|greyscale|monochrome) (?:{PICTURE})"
GRAY_STYLE = re.compile(  # "a man in black and white" is the style, "dressed in black and white" is not
    rf"^(?:there is |this is |it is )?(?:an? |the )?(?:\w+ )?{GRAY_PICTURE} of |,? (?:in|as) an? {GRAY_PICTURE}(?=\.?$)"
    r"|(?<!dressed)(?<!clothed)(?<!clad)(?<!painted),? in (?:black (?:and|&) white|grayscale|greyscale)(?=\.?$)",
    re.I,
)


def load_captioner(config):
    """The BLIP that `captioner` names, and its tokenizer."""
    return load_with_tokenizer(BlipForConditionalGeneration, config.captioner, config.captioner_revision)


def write_captions(config):
    """Caption the test photos that will be colorized, beside their data set, once for a captioner; returns the table.

    `gray_caption` describes the gray photo, `auto_caption` the colour photo, both by `without_gray_style`; the raw
    texts are in `gray_caption_raw` and `auto_caption_raw`. None where the profile has no captioner.
    """
    folder = config.for_test_photos.dataset_dir
    if not config.captioner:
        return None
    rows = pick_across_categories(load_dataset_dict(config)["test"], config.n_images)
    try:
        read_auto_captions(config, rows["image_id"])
    except ValueError:
        model, tokenizer = load_captioner(config)
        model = model.to(pick_device())
        raw = {level: caption(rows[column], model, tokenizer) for level, column in AUTO_LEVELS.items()}
        made = {level: [without_gray_style(text) for text in texts] for level, texts in raw.items()}
        made |= {f"{level}_raw": texts for level, texts in raw.items()}
        writer = {"captioner": config.captioner, "captioner_revision": config.captioner_revision}
        write_table(pd.DataFrame({"image_id": rows["image_id"], **writer, **made}), folder / AUTO_CAPTIONS)
    return pd.read_csv(folder / AUTO_CAPTIONS, dtype=str, keep_default_na=False)


def without_gray_style(text):
    """A caption without the words that call the photo black and white, such as "a black and white photo of a dog".

    They describe the gray picture that the captioner saw, and would ask a model for no colour.
    """
    return GRAY_STYLE.sub("", text) or text


def describe(captions):
    """A sentence on a table of `write_captions`: how many captions called their photo black and white."""
    if captions is None:
        return "no captioner in this profile"
    counts = [f"{sum(captions[level] != captions[f'{level}_raw'])} of {level}" for level in AUTO_LEVELS]
    return f"Taken out of {len(captions)} captions each, that the photo is black and white: {', '.join(counts)}."


@torch.no_grad()
def caption(images, model, tokenizer, batch_size=16):
    """A sentence for every PIL picture from a BLIP captioner (Li et al. 2022), by beam search without chance."""
    size, texts = model.config.vision_config.image_size, []
    for start in progress(range(0, len(images), batch_size), desc="captions"):
        pictures = np.stack([to_float(image) for image in images[start : start + batch_size]])
        answer = model.generate(pixel_values=for_clip(pictures, size).to(model.device), max_new_tokens=30, num_beams=3)
        texts.extend(tokenizer.batch_decode(answer, skip_special_tokens=True))
    return texts
