"""The systems beside the model: references that need no network, two networks without a prompt, and peers.

classification: Zhang, Isola, Efros 2016 (quantized a*b*, annealed mean); gan: pix2pix (Isola, Zhu, Zhou, Efros 2017).
Both see L* at the photo's size and give a*, b* at a quarter of it; their recipe is A4 in notebooks/appendix.
"""

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from diffusers import UNet2DModel
from PIL import Image
from torch.nn import functional as F

from lib import ROOT
from lib.cache import open_picture
from lib.color import in_gamut, luminance, restore_lightness, srgb_to_lab, to_float, to_pil, with_ab
from lib.colorize import read_image, read_images
from lib.config import Config, resolve
from lib.dataset import load_dataset_dict, training_rows
from lib.models import autoencoder_round_trip, load_base, pick_device
from lib.prompts import COMPARED
from lib.regions import compose, find_masks, load_segmenter, regions_of, share_out

SYSTEMS, FOLDER = ("classification", "gan"), ROOT / "lib/baselines_model"
AB_SCALE, TEMPERATURE = 110.0, 0.38  # of the GAN's outputs in [-1, 1]; of the annealed mean
MEAN_OF = 2_000  # training photos, at most, whose mean colour is taken


def make_network(size: int, channels: int) -> UNet2DModel:
    """Returns a UNet2DModel (3.6 M parameters) from L* in [0, 1], folded by 4, to `channels` planes of `size` / 4."""
    shape = dict(sample_size=size // 4, in_channels=16, out_channels=channels, layers_per_block=1, norm_num_groups=16)
    shape |= dict(block_out_channels=(48, 96, 144), attention_head_dim=48)  # heads of 8 take half as long again
    down, up = ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"), ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D")
    return UNet2DModel(down_block_types=down, up_block_types=up, **shape)


def look(network: UNet2DModel, planes: torch.Tensor) -> torch.Tensor:
    """Returns a network's answer to L* planes (B, 1, H, W) in [0, 1]: (B, channels, H / 4, W / 4)."""
    return network(F.pixel_unshuffle(planes, 4), 0, return_dict=False)[0]


@lru_cache
def bins() -> torch.Tensor:
    """Returns the a*b* bins that sRGB holds at some L*, (Q, 2): a grid of step 10."""
    axis = np.arange(-110, 111, 10)
    lab = np.stack(np.meshgrid(np.arange(5, 100, 5), axis, axis, indexing="ij"), axis=-1)
    return torch.tensor(lab[0, in_gamut(lab).any(axis=0), 1:], dtype=torch.float32)


def annealed_mean(scores: torch.Tensor) -> torch.Tensor:
    """Returns a*, b* (B, 2, h, w) of scores (B, Q, h, w): the mean of the bins under a sharpened softmax."""
    return torch.einsum("bqhw,qc->bchw", (scores.float() / TEMPERATURE).softmax(dim=1), bins().to(scores.device))


@torch.no_grad()
def predict(system: str, network: UNet2DModel, gray_images: list[Image.Image]) -> list[np.ndarray]:
    """Returns a*, b* (H, W, 2) of gray photos, enlarged bilinearly to their size."""
    predicted = []
    for image in gray_images:
        plane = torch.from_numpy(luminance(to_float(image)))[None, None] / 100
        answer = look(network, plane.to(network.device)).cpu()
        ab = annealed_mean(answer) if system == "classification" else AB_SCALE * answer.tanh()
        predicted.append(cv2.resize(ab[0].permute(1, 2, 0).numpy(), image.size, interpolation=cv2.INTER_LINEAR))
    return predicted


def load_baseline(system: str, folder: Path = FOLDER) -> UNet2DModel:
    """Returns the network of a system, float32, from the folder of both."""
    return UNet2DModel.from_pretrained(folder / system, use_safetensors=True).float().eval().to(pick_device())


def write_pictures(config: Config, rows, peers: str = "") -> pd.DataFrame:
    """Writes the pictures of all systems beside the model for data-set rows; returns what `measure_pictures` takes.

    Notebook 05 says what the systems are. `peers` has a folder for each other colorizer, and in it `IMAGE_ID.png` of
    any size. Peers' and the autoencoder's pictures are written before and after lightness is restored.
    """
    run_dir, table = config.run_dir, []
    images = read_images(config).query("seed == 0").set_index(["prompt_condition", "image_id"])
    phrases = read_images(config, "phrases").set_index(["image_id", "prompt"])["after"]
    training = training_rows(load_dataset_dict(config), config.train_categories)
    training = training.shuffle(0).take(MEAN_OF) if len(training) > MEAN_OF else training
    mean_ab = np.mean([srgb_to_lab(to_float(image))[..., 1:].mean(axis=(0, 1)) for image in training["image"]], axis=0)
    round_trips = autoencoder_round_trip(load_base(config), rows["image"])
    networks = {system: load_baseline(system) for system in SYSTEMS}
    segment = load_segmenter(config.segmenter, config.segmenter_revision)

    def read_ab(name):
        return srgb_to_lab(read_image(run_dir, name))[..., 1:]

    for row, round_trip in zip(rows, round_trips, strict=True):
        image_id, gray = row["image_id"], row["conditioning_image"]
        plane, true_ab = luminance(to_float(gray)), srgb_to_lab(to_float(row["image"]))[..., 1:]
        prompts = {condition: images["prompt"][condition, image_id] for condition in COMPARED}
        vague, detailed = (read_ab(images["after"][condition, image_id]) for condition in COMPARED)
        colors = {"gray": (0, 0), "mean_color": mean_ab, "true_mean_color": true_ab.mean(axis=(0, 1))}
        colors["half_chroma"] = true_ab / 2
        colors |= {name: predict(name, network, [gray])[0] for name, network in networks.items()}
        pictures = {(name, "", True): with_ab(plane, ab) for name, ab in colors.items()}
        outputs = {"autoencoder": round_trip}
        for path in sorted(resolve(peers).glob(f"*/{image_id}.png")) if peers else []:
            outputs[path.parent.name] = to_float(open_picture(path).convert("RGB").resize(gray.size, Image.LANCZOS))
        for name, output in outputs.items():
            pictures |= {(name, "", False): output, (name, "", True): restore_lightness(gray, output)}
        transferred = vague + detailed.mean(axis=(0, 1)) - vague.mean(axis=(0, 1))
        pictures["mean_color_transfer", "vague", True] = with_ab(plane, transferred)
        regions = regions_of(prompts["detailed"])
        if all((image_id, region.phrase) in phrases.index for region in regions):
            weights = share_out(find_masks(regions, plane, lambda: segment), segment.threshold)
            layers = [detailed, *(read_ab(phrases[image_id, region.phrase]) for region in regions)]
            pictures["regions", "detailed", True] = with_ab(plane, compose(layers, weights))
        for (system, condition, restored), picture in pictures.items():
            file = run_dir / "systems" / system / f"{image_id}{'' if restored else '.before'}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            to_pil(picture).save(file, compress_level=1)
            table.append((image_id, system, condition, prompts.get(condition, ""), 0, restored, file))
    return pd.DataFrame(table, columns=["image_id", "system", "prompt_condition", "prompt", "seed", "restored", "file"])
