"""Captions of the test photos by BLIP: one from the gray photo, one from the colour photo."""

import re

import pandas as pd
import torch
from transformers import AutoProcessor, BlipForConditionalGeneration

from lib.cache import cached, progress, require_current, write_table
from lib.captions import LISTS
from lib.config import Config
from lib.dataset import load_dataset_dict, pick_across_categories
from lib.models import pick_device

FIELDS = ("captioner", "captioner_revision", "n_images")  # of the configuration, that the captions depend on
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
    rows = pick_across_categories(load_dataset_dict(config)["test"], config.n_images)

    def write(folder):
        table, (model, processor) = {"image_id": rows["image_id"]}, load_captioner(config)
        for name, column in CAPTIONED.items():
            table[f"{name}_raw"] = caption(rows[column], model, processor)
            table[name] = [without_gray_style(text) for text in table[f"{name}_raw"]]
        write_table(pd.DataFrame(table), folder / "captions.csv")

    folder = cached(config.for_test_photos.dataset_dir / "auto_captions", config.values(*FIELDS), write)
    return pd.read_csv(folder / "captions.csv", dtype=str, keep_default_na=False)


def read_auto_captions(config: Config) -> dict[str, list[str]]:
    """Returns {condition: captions of the test photos} as `write_captions` wrote them; ValueError if it didn't."""
    require_current(config.for_test_photos.dataset_dir / "auto_captions", config.values(*FIELDS), "01_build_dataset")
    return write_captions(config)[list(CAPTIONED)].to_dict("list")


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
