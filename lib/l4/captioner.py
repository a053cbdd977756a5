"""Captions of the test photos by a network (BLIP), which sees the gray photo for one and its colours for the other."""

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm
from transformers import BlipForConditionalGeneration

from lib.color import to_float
from lib.dataset import AUTO_CAPTIONS, AUTO_LEVELS, load_dataset_dict, pick_across_categories, read_auto_captions
from lib.files import write_table
from lib.l4.vision import for_clip, load_with_tokenizer
from lib.models import pick_device


def load_captioner(data):
    """The BLIP of a profile's `data`, and its tokenizer."""
    return load_with_tokenizer(BlipForConditionalGeneration, data.captioner, data.captioner_revision)


def write_captions(profile):
    """Caption the test photos that will be colorized, beside their data set, once for a captioner; returns the table.

    `gray_caption` describes the gray photo, `auto_caption` the colour photo; None where the profile has no captioner.
    """
    data, folder = profile.data, profile.for_test_photos.dataset_dir
    if not data.captioner:
        return None
    rows = pick_across_categories(load_dataset_dict(profile)["test"], profile.study.n_images)
    try:
        read_auto_captions(profile, rows["image_id"])
    except ValueError:
        model, tokenizer = load_captioner(data)
        model = model.to(pick_device())
        made = {level: caption(rows[column], model, tokenizer) for level, column in AUTO_LEVELS.items()}
        writer = {"captioner": data.captioner, "captioner_revision": data.captioner_revision}
        write_table(pd.DataFrame({"image_id": rows["image_id"], **writer, **made}), folder / AUTO_CAPTIONS)
    return pd.read_csv(folder / AUTO_CAPTIONS, dtype=str, keep_default_na=False)


@torch.no_grad()
def caption(images, model, tokenizer, batch_size=16):
    """A sentence for every PIL picture from a BLIP captioner (Li et al. 2022), by beam search without chance."""
    size, texts = model.config.vision_config.image_size, []
    for start in tqdm(range(0, len(images), batch_size), desc="captions"):
        pictures = np.stack([to_float(image) for image in images[start : start + batch_size]])
        answer = model.generate(pixel_values=for_clip(pictures, size).to(model.device), max_new_tokens=30, num_beams=3)
        texts.extend(tokenizer.batch_decode(answer, skip_special_tokens=True))
    return texts
