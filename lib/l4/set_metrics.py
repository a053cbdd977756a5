"""Metrics that need large networks: KID, FID and LPIPS of torchmetrics, and the CLIP score."""

import importlib.util

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F
from transformers import AutoProcessor, CLIPModel

from lib.cache import progress
from lib.color import to_float, to_pil
from lib.config import Config
from lib.models import pick_device
from lib.stats import side_by_side

SET_METRICS = ("fid", "kid", "lpips", "clip_score")
MIN_FOR_FID = 5_000  # pictures a prompt: from fewer, 2,048 dimensions of covariance can't be estimated
SET_SIZE = 256  # px: the protocol of the papers on COCO's val2017
NEEDED = ("torchvision", "torch_fidelity")  # packages that torchmetrics takes Inception and AlexNet from


def require_packages(config: Config) -> None:
    """Raises a ValueError if the set metrics are asked for and their packages are missing."""
    missing = [name for name in NEEDED if config.set_metrics and importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"set_metrics needs {' and '.join(missing)}: pip install -r requirements-l4.txt")


def load_clip(config: Config):
    """The CLIP that a configuration names, and its processor."""
    model = CLIPModel.from_pretrained(config.clip, revision=config.clip_revision)
    return model.eval().to(pick_device()), AutoProcessor.from_pretrained(config.clip, revision=config.clip_revision)


@torch.no_grad()
def clip_score(pictures, prompts: list[str], model, processor) -> torch.Tensor:
    """100 times the cosine of picture (PIL) and prompt in CLIP, at least 0 (Hessel et al. 2021): (B,).

    torchmetrics 1.9 has it, too, but not for transformers 5, whose `get_image_features` returns no tensor.
    """
    options = {"padding": True, "truncation": True, "max_length": 77, "return_tensors": "pt"}
    output = model(**processor(text=prompts, images=list(pictures), **options).to(model.device))
    return 100 * F.cosine_similarity(output.image_embeds, output.text_embeds).clamp(min=0)


def make_metrics(n: int, inception: int | torch.nn.Module = 2048) -> dict:
    """KID (Binkowski et al. 2018), LPIPS (Zhang et al. 2018); from `MIN_FOR_FID` pictures n FID (Heusel et al. 2017).

    `inception` is the width of a layer of Inception, or a network to take in its place.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance  # slow, and needed by few
    from torchmetrics.image.kid import KernelInceptionDistance
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    metrics = {"kid": KernelInceptionDistance(inception, normalize=True, subset_size=max(2, min(1000, n // 2)))}
    metrics["lpips"] = LearnedPerceptualImagePatchSimilarity("alex", normalize=True)
    if n >= MIN_FOR_FID:
        metrics["fid"] = FrechetInceptionDistance(inception, normalize=True)
    return {name: metric.to(pick_device()) for name, metric in metrics.items()}


def measure_sets(rows, images: pd.DataFrame, read_picture, config: Config, batch_size: int = 32) -> pd.DataFrame:
    """Measures the pictures of seed 0, lightness restored, at 256 px: a row of `SET_METRICS` for each prompt condition.

    `images` is the listing of notebook 04; `read_picture(name)` reads a file of its column `after`. `n`: the photos
    that all conditions have; `fid` is NaN below `MIN_FOR_FID`; `clip_score` is always that of the detailed caption.
    """
    first = side_by_side(images.query("seed == 0"), ["prompt_condition"])
    clip, table = load_clip(config), []
    captions = first[first["prompt_condition"] == "detailed"].set_index("image_id")["prompt"]
    position = {name: index for index, name in enumerate(rows["image_id"])}
    for condition, group in first.groupby("prompt_condition", sort=False):
        metrics, scores = make_metrics(len(group)), []
        for start in progress(range(0, len(group), batch_size), desc=f"sets, {condition}", leave=False):
            batch = group.iloc[start : start + batch_size]
            outputs = [read_picture(name) for name in batch["after"]]
            truths = [to_float(rows[position[name]]["image"]) for name in batch["image_id"]]
            scores.append(clip_score(map(to_pil, outputs), list(captions[batch["image_id"]]), *clip).cpu())
            tensors = (torch.from_numpy(np.stack(pictures)).float().to(pick_device()) for pictures in (truths, outputs))
            true, ours = (F.interpolate(tensor.permute(0, 3, 1, 2), SET_SIZE, mode="area") for tensor in tensors)
            metrics["lpips"].update(true, ours)
            for metric in (metrics[name] for name in ("kid", "fid") if name in metrics):
                metric.update(true, real=True)
                metric.update(ours, real=False)
        values = {name: metric.compute() for name, metric in metrics.items()}
        values |= {"kid": values["kid"][0], "clip_score": torch.cat(scores).mean()}
        values = {name: float(value) for name, value in values.items()}
        table.append(values | {"prompt_condition": condition, "n": len(group)})
    return pd.DataFrame(table, columns=["prompt_condition", "n", *SET_METRICS])
