"""Captions of the test photos by BLIP: one from the gray photo, one from the colour photo."""

import re
from collections.abc import Sequence

import pandas as pd
import torch
from transformers import AutoProcessor, BlipForConditionalGeneration

from lib.cache import progress, write_table
from lib.captions import LISTS
from lib.config import Config
from lib.dataset import load_dataset_dict, pick_across_categories
from lib.models import pick_device

CAPTIONED = {"gray_caption": "conditioning_image", "auto_caption": "image"}  # prompt conditions and what is described
GRAY_PICTURE = rf"(?:black (?:and|&) white|grayscale|greyscale|monochrome) (?:{LISTS['picture']})"
GRAY_STYLE = re.compile(  # "a man in black and white" names the style, "dressed in black and white" doesn't
    rf"^(?:there is |this is |it is )?(?:an? |the )?(?:\w+ )?{GRAY_PICTURE} of |,? (?:in|as) an? {GRAY_PICTURE}(?=\.?$)"
    r"|(?<!dressed)(?<!clothed)(?<!clad)(?<!painted),? in (?:black (?:and|&) white|grayscale|greyscale)(?=\.?$)",
    re.I,
)


def load_captioner(config: Config):
    """The BLIP that a configuration names, and its processor."""
    source, revision = config.captioner, config.captioner_revision
    model = BlipForConditionalGeneration.from_pretrained(source, revision=revision)
    return model.eval().to(pick_device()), AutoProcessor.from_pretrained(source, revision=revision)


def write_captions(config: Config) -> pd.DataFrame | None:
    """Captions the test photos that will be colorized, once; returns the table, or None without a captioner.

    `gray_caption` describes the gray photo, `auto_caption` the colour photo; columns with `_raw` have the raw text.
    """
    if not config.captioner:
        return None
    path = config.for_test_photos.dataset_dir / "auto_captions.csv"
    rows = pick_across_categories(load_dataset_dict(config)["test"], config.n_images)
    try:
        read_auto_captions(config, rows["image_id"])
    except ValueError:
        table = {"image_id": rows["image_id"], **config.values("captioner", "captioner_revision")}
        model, processor = load_captioner(config)
        for name, column in CAPTIONED.items():
            table[f"{name}_raw"] = caption(rows[column], model, processor)
            table[name] = [without_gray_style(text) for text in table[f"{name}_raw"]]
        write_table(pd.DataFrame(table), path)
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def read_auto_captions(config: Config, image_ids: Sequence[str]) -> dict[str, list[str]]:
    """Returns {condition: captions of test photos} as `write_captions` wrote them; ValueError if one is missing."""
    path = config.for_test_photos.dataset_dir / "auto_captions.csv"
    writer = [config.captioner, config.captioner_revision or ""]
    try:
        table = pd.read_csv(path, keep_default_na=False, dtype=str)
        own = table[(table[["captioner", "captioner_revision"]] == writer).all(axis=1)]
        own = own.set_index("image_id").loc[list(image_ids)]
    except (OSError, KeyError):
        remedy = "run notebook 01_build_dataset again"
        raise ValueError(f"{path} lacks captions by {' at '.join(writer)}: {remedy}") from None
    return {condition: list(own[condition]) for condition in CAPTIONED}


def without_gray_style(text: str) -> str:
    """A caption without words such as "a black and white photo of", which would ask a model for no colour."""
    return GRAY_STYLE.sub("", text) or text


@torch.no_grad()
def caption(images, model, processor, batch_size: int = 16) -> list[str]:
    """A sentence for every PIL picture from a BLIP captioner (Li et al. 2022), by deterministic beam search."""
    texts = []
    for start in progress(range(0, len(images), batch_size), desc="captions"):
        pixels = processor(images=list(images[start : start + batch_size]), return_tensors="pt").to(model.device)
        answer = model.generate(**pixels, max_new_tokens=30, num_beams=3)
        texts.extend(text.strip() for text in processor.batch_decode(answer, skip_special_tokens=True))
    return texts
