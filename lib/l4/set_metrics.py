"""Distances between sets of pictures, by large networks: FID, KID, LPIPS and the CLIP score."""

import importlib
import importlib.util

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F
from transformers import CLIPModel

from lib.cache import progress
from lib.color import to_float
from lib.l4.vision import for_clip, load_with_tokenizer, to_tensor
from lib.models import pick_device
from lib.stats import complete_photos

SET_METRICS = ("fid", "kid", "lpips", "clip_score")
MIN_FOR_FID = 5_000  # pictures a prompt: from fewer, 2,048 dimensions of covariance can't be estimated
SET_SIZE = 256  # px: the protocol of the papers on COCO's val2017
NEEDED = ("torchvision", "torch_fidelity")  # by torchmetrics, for Inception and AlexNet


def require_packages(config):
    """Refuse to start where the set metrics are asked for and their packages are missing: ValueError."""
    missing = [name for name in NEEDED if config.set_metrics and importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"set_metrics needs {' and '.join(missing)}: pip install -r requirements-l4.txt, or -p set_metrics false"
        )


def load_clip(config):
    """The CLIP that `clip` names, and its tokenizer."""
    return load_with_tokenizer(CLIPModel, config.clip, config.clip_revision)


@torch.no_grad()
def clip_score(pictures, prompts, model, tokenizer):
    """100 times the cosine of picture and prompt in CLIP, at least 0 (Hessel et al. 2021 less their factor): (B,)."""
    text = tokenizer(prompts, padding=True, truncation=True, max_length=77, return_tensors="pt").to(model.device)
    pixels = for_clip(pictures, model.config.vision_config.image_size).to(model.device)
    output = model(input_ids=text["input_ids"], attention_mask=text["attention_mask"], pixel_values=pixels)
    return 100 * F.cosine_similarity(output.image_embeds, output.text_embeds).clamp(min=0)


def set_distances(n, inception=2048):
    """FID (Heusel et al. 2017) and KID (Binkowski et al. 2018) of n pictures; `inception`: a layer's width or a net."""
    # imported here, since it takes a second that few need
    fid, kid = (importlib.import_module(f"torchmetrics.image.{name}") for name in ("fid", "kid"))
    distances = {
        "fid": fid.FrechetInceptionDistance(feature=inception, normalize=True),
        "kid": kid.KernelInceptionDistance(feature=inception, normalize=True, subset_size=max(2, min(1000, n // 2))),
    }
    return {name: distance.to(pick_device()) for name, distance in distances.items()}


def make_lpips():
    """LPIPS (Zhang et al. 2018) on AlexNet, for pictures in [0, 1]."""
    lpip = importlib.import_module("torchmetrics.image.lpip")
    return lpip.LearnedPerceptualImagePatchSimilarity("alex", normalize=True)


def measure_sets(rows, images, read_picture, config, batch_size=32):
    """A table `prompt_level`, `n` and `SET_METRICS` of seed 0, after the merge, at 256 px: one row a prompt level.

    FID falls with the number of photos: below `MIN_FOR_FID`, the number of published rows on val2017, it is NaN, and
    levels are compared on the `n` photos that all of them have. The CLIP score is that of the picture and the photo's
    detailed caption, whatever the level, so that rows compare.
    """
    first = images.query("seed == 0")
    first = first[first["image_id"].isin(complete_photos(first, ["prompt_level"]))]
    device = pick_device()
    clip, tokenizer = load_clip(config)
    clip = clip.to(device)
    captions = first[first["prompt_level"] == "detailed"].set_index("image_id")["prompt"]
    position, table = {name: index for index, name in enumerate(rows["image_id"])}, []
    for level, group in first.groupby("prompt_level", sort=False):
        distances, scores = set_distances(len(group)), []
        lpips = make_lpips().to(device)
        for start in progress(range(0, len(group), batch_size), desc=f"sets, {level}", leave=False):
            part = group.iloc[start : start + batch_size]
            outputs = np.stack([read_picture(name) for name in part["after"]])
            truths = np.stack([to_float(rows[position[name]]["image"]) for name in part["image_id"]])
            scores.append(clip_score(outputs, list(captions[part["image_id"]]), clip, tokenizer).cpu())
            small = [F.interpolate(to_tensor(p), (SET_SIZE,) * 2, mode="area").to(device) for p in (truths, outputs)]
            lpips.update(*small)
            for distance in distances.values():
                distance.update(small[0], real=True)
                distance.update(small[1], real=False)
        fid = distances["fid"].compute() if len(group) >= MIN_FOR_FID else float("nan")
        values = {"fid": fid, "kid": distances["kid"].compute()[0], "lpips": lpips.compute()}
        values = {**values, "clip_score": torch.cat(scores).mean()}
        table.append({"prompt_level": level, "n": len(group), **{name: float(v) for name, v in values.items()}})
    return pd.DataFrame(table, columns=["prompt_level", "n", *SET_METRICS])
