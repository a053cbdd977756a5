"""What only large networks can tell of a run at full size: captions of photos, and the distances between sets of pictures.

They come from the Hub and want a GPU, and so only the `l4` profile names them.
"""

import importlib
import importlib.util
import json
import os

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F
from tqdm import tqdm
from transformers import AutoTokenizer, BlipForConditionalGeneration, CLIPModel

from lib.color import to_float
from lib.files import one_line, write_text
from lib.models import pick_device
from lib.profiles import settings_of
from lib.prompts import ladder
from lib.statistics import complete_photos

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of Radford et al. 2021; BLIP's too
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
SET_METRICS = ("fid", "kid", "lpips", "clip_score")
WITHOUT = "-p captioner '' -p set_metrics false"
SET_SIZE = 256  # px: the protocol of the papers on COCO's val2017
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")  # a bot of the Hub's would convert what comes as .bin
NEEDED = ("torchvision", "torch_fidelity")  # by torchmetrics, for Inception and AlexNet


def check(profile):
    """Refuse to start where the set metrics are asked for and their packages are missing: ValueError."""
    missing = [name for name in NEEDED if profile.set_metrics and importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"set_metrics needs {' and '.join(missing)}: pip install -r requirements-l4.txt, or -p set_metrics false"
        )


def fetch(profile):
    """Load every network that a profile will ask for, so that all come before the work starts; says which they are.

    What can't be had is a ValueError that names it.
    """
    check(profile)
    loaders = {"captioner": load_captioner} if profile.captioner else {}
    if profile.set_metrics:
        loaders |= {"clip": load_clip, "Inception": lambda _: set_distances(2), "AlexNet": lambda _: make_lpips()}
    said = []
    for name, load in loaders.items():
        source = getattr(profile, name, name)
        try:
            load(profile)
        except Exception as error:  # of several clients
            raise ValueError(
                f"{source} can't be had ({one_line(error)}): try again, or leave it out with {WITHOUT}"
            ) from None
        revision = getattr(profile, f"{name}_revision", "")
        said.append(f"{source} at revision {revision}" if revision else source)
    return ", ".join(said) or "not needed"


def load_captioner(profile):
    """The profile's BLIP and its tokenizer."""
    return _load(BlipForConditionalGeneration, profile.captioner, profile.captioner_revision)


def load_clip(profile):
    """The profile's CLIP and its tokenizer."""
    return _load(CLIPModel, profile.clip, profile.clip_revision)


def _load(kind, source, revision):
    revision = revision or "main"
    tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    return kind.from_pretrained(source, revision=revision).eval(), tokenizer


def prompts_of(profile, rows):
    """The ladder {level: prompts} of data-set rows, with an automatic captioner's two rungs where the profile has one.

    `gray_caption` then describes the gray photo and `auto_caption` the colour photo. Captions are kept in
    `profile.build_dir`, and made again for other photos or another captioner.
    """
    if not profile.captioner:
        return ladder(rows)
    path = profile.build_dir / "auto_captions.json"
    key = {
        **settings_of(profile, ("captioner", "captioner_revision", "resolution")),
        "image_ids": list(rows["image_id"]),
    }
    if not (path.exists() and json.loads(path.read_text())["key"] == key):
        columns = {"gray_caption": "conditioning_image", "auto_caption": "image"}
        model, tokenizer = load_captioner(profile)
        model = model.to(pick_device())
        made = {level: caption(rows[column], model, tokenizer) for level, column in columns.items()}
        write_text(json.dumps({"key": key, **made}), path)
    made = {level: texts for level, texts in json.loads(path.read_text()).items() if level != "key"}
    return ladder(rows) | made


@torch.no_grad()
def caption(images, model, tokenizer, batch_size=16):
    """A sentence for every PIL picture from a BLIP captioner (Li et al. 2022), by beam search without chance."""
    size, texts = model.config.vision_config.image_size, []
    for start in tqdm(range(0, len(images), batch_size), desc="captions"):
        pictures = np.stack([to_float(image) for image in images[start : start + batch_size]])
        answer = model.generate(pixel_values=for_clip(pictures, size).to(model.device), max_new_tokens=30, num_beams=3)
        texts.extend(tokenizer.batch_decode(answer, skip_special_tokens=True))
    return texts


def for_clip(pictures, size):
    """Float sRGB pictures (B, H, W, 3) as CLIP and BLIP take them: (B, 3, size, size), whitened."""
    pixels = F.interpolate(to_tensor(pictures), (size, size), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    return (pixels - mean) / std


def to_tensor(pictures):
    """Float pictures (B, H, W, 3) as a tensor (B, 3, H, W)."""
    return torch.from_numpy(np.asarray(pictures, np.float32)).permute(0, 3, 1, 2)


@torch.no_grad()
def clip_score(pictures, prompts, model, tokenizer):
    """100 times the cosine of picture and prompt in CLIP, at least 0 (Hessel et al. 2021 less their factor): (B,)."""
    text = tokenizer(prompts, padding=True, truncation=True, max_length=77, return_tensors="pt").to(model.device)
    pixels = for_clip(pictures, model.config.vision_config.image_size).to(model.device)
    output = model(input_ids=text["input_ids"], attention_mask=text["attention_mask"], pixel_values=pixels)
    return 100 * F.cosine_similarity(output.image_embeds, output.text_embeds).clamp(min=0)


def set_distances(n, inception=2048):
    """FID (Heusel et al. 2017) and KID (Binkowski et al. 2018) of n pictures; `inception`: a layer's width or a network."""
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


def measure_sets(rows, images, read_picture, profile, batch_size=32):
    """A table `prompt_level`, `n` and `SET_METRICS` of seed 0, after the merge, at 256 px: one row a prompt level.

    FID falls with the number of photos: levels are compared on the `n` photos that all of them have, and published rows
    compare only at their number (5,000 of val2017).
    """
    first = images.query("seed == 0")
    first = first[first["image_id"].isin(complete_photos(first, ["prompt_level"]))]
    device = pick_device()
    clip, tokenizer = load_clip(profile)
    clip = clip.to(device)
    position, table = {name: index for index, name in enumerate(rows["image_id"])}, []
    for level, group in first.groupby("prompt_level", sort=False):
        distances, scores = set_distances(len(group)), []
        lpips = make_lpips().to(device)
        for start in tqdm(range(0, len(group), batch_size), desc=f"sets, {level}", leave=False):
            part = group.iloc[start : start + batch_size]
            outputs = np.stack([read_picture(name) for name in part["after"]])
            truths = np.stack([to_float(rows[position[name]]["image"]) for name in part["image_id"]])
            scores.append(clip_score(outputs, list(part["prompt"]), clip, tokenizer).cpu())
            small = [F.interpolate(to_tensor(p), (SET_SIZE,) * 2, mode="area").to(device) for p in (truths, outputs)]
            lpips.update(*small)
            for distance in distances.values():
                distance.update(small[0], real=True)
                distance.update(small[1], real=False)
        values = {"fid": distances["fid"].compute(), "kid": distances["kid"].compute()[0], "lpips": lpips.compute()}
        values = {**values, "clip_score": torch.cat(scores).mean()}
        table.append({"prompt_level": level, "n": len(group), **{name: float(v) for name, v in values.items()}})
    return pd.DataFrame(table, columns=["prompt_level", "n", *SET_METRICS])
