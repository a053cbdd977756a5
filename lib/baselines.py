"""The systems beside the model: references that need no network, two networks without a prompt, and peers.

classification: Zhang, Isola, Efros 2016 (quantized a*b*, annealed mean); gan: pix2pix (Isola, Zhu, Zhou, Efros 2017).
Both see L* at the photo's size and give a*, b* at a quarter of it; their recipe is in lib/baselines_model.
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
from lib.metrics import mean_ab
from lib.models import autoencoder_round_trip, load_base, pick_device
from lib.prompts import COMPARED
from lib.regions import compose, find_masks, regions_of, share_out
from lib.segmenter import load_segmenter

SYSTEMS = ("classification", "gan")
FOLDER = ROOT / "lib/baselines_model"
GRID = 10  # step of the a*b* bins
TEMPERATURE = 0.38  # of the annealed mean
AB_SCALE = 110.0


def make_network(size: int, channels: int) -> UNet2DModel:
    """Returns a UNet2DModel (3.6 M parameters) from L* in [0, 1], folded by 4, to `channels` planes of `size` / 4."""
    return UNet2DModel(
        sample_size=size // 4,
        in_channels=16,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=(48, 96, 144),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=16,
        attention_head_dim=48,  # heads of 8, the default, take half as long again
    )


def look(network: UNet2DModel, planes: torch.Tensor) -> torch.Tensor:
    """Returns a network's answer to L* planes (B, 1, H, W) in [0, 1]: (B, channels, H / 4, W / 4)."""
    return network(F.pixel_unshuffle(planes, 4), 0, return_dict=False)[0]


@lru_cache
def bins() -> torch.Tensor:
    """Returns the a*b* bins that sRGB holds at some L*, (Q, 2): a grid of step 10."""
    axis = np.arange(-110, 111, GRID)
    ab = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    lab = np.concatenate([np.tile(np.arange(5, 100, 5)[:, None, None], (1, len(ab), 1)), np.tile(ab, (19, 1, 1))], -1)
    return torch.tensor(ab[in_gamut(lab).any(axis=0)], dtype=torch.float32)


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


def write_picture(run_dir: Path, system: str, image_id: str, picture: np.ndarray, restored=True, **facts) -> dict:
    """Writes a picture of a system, float sRGB, as PNG, and returns its row for `lib.metrics.measure_pictures`."""
    file = run_dir / "systems" / system / f"{image_id}{'' if restored else '.before'}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    to_pil(picture).save(file, compress_level=1)
    row = {"image_id": image_id, "system": system, "prompt_condition": "", "prompt": "", "seed": 0}
    return {**row, "restored": restored, "file": file, **facts}


def write_pictures(config: Config, rows) -> pd.DataFrame:
    """Writes the pictures of all systems beside the model for data-set rows, and returns a row a picture.

    - `gray`; `mean_color`: the mean a*b* of the training photos; `true_mean_color`: of the photo itself; `half_chroma`:
      its a*b* halved; `autoencoder`: the true photo through the autoencoder, before and after lightness is restored
    - `classification`, `gan`: `SYSTEMS`
    - `mean_color_transfer`: the vague prompt's picture, shifted to the mean colour of the detailed prompt's
    - `regions`: the detailed prompt's picture, with each phrase's colour kept to the place that the segmenter finds
    """
    run_dir, table = config.run_dir, []
    images = read_images(config).query("seed == 0").set_index(["prompt_condition", "image_id"])
    phrases = read_images(config, "phrases").set_index(["image_id", "prompt"])["after"]
    training_photos = training_rows(load_dataset_dict(config), config.train_categories)["image"]
    training_ab = mean_ab(to_float(image) for image in training_photos)
    round_trips = autoencoder_round_trip(load_base(config), rows["image"])
    networks = {system: load_baseline(system) for system in SYSTEMS}
    segment = load_segmenter(config.segmenter, config.segmenter_revision)

    def read_ab(name):
        return srgb_to_lab(read_image(run_dir, name))[..., 1:]

    for row, round_trip in zip(rows, round_trips, strict=True):
        image_id, gray = row["image_id"], row["conditioning_image"]
        plane, true_ab = luminance(to_float(gray)), srgb_to_lab(to_float(row["image"]))[..., 1:]
        vague, detailed = (read_ab(images["after"][condition, image_id]) for condition in COMPARED)
        planes = {"gray": (0, 0), "mean_color": training_ab, "true_mean_color": true_ab.mean(axis=(0, 1))}
        planes |= {"half_chroma": true_ab / 2}
        planes |= {name: predict(name, network, [gray])[0] for name, network in networks.items()}
        table += [write_picture(run_dir, name, image_id, with_ab(plane, ab)) for name, ab in planes.items()]
        table.append(write_picture(run_dir, "autoencoder", image_id, round_trip, restored=False))
        table.append(write_picture(run_dir, "autoencoder", image_id, restore_lightness(gray, round_trip)))
        composed = {"mean_color_transfer": ("vague", vague + detailed.mean(axis=(0, 1)) - vague.mean(axis=(0, 1)))}
        regions = regions_of(images["prompt"]["detailed", image_id])
        if all((image_id, region.phrase) in phrases.index for region in regions):
            weights = share_out(find_masks(regions, plane, lambda: segment), segment.threshold)
            layers = [detailed, *(read_ab(phrases[image_id, region.phrase]) for region in regions)]
            composed["regions"] = ("detailed", compose(layers, weights))
        for name, (condition, ab) in composed.items():
            facts = {"prompt_condition": condition, "prompt": images["prompt"][condition, image_id]}
            table.append(write_picture(run_dir, name, image_id, with_ab(plane, ab), **facts))
    return pd.DataFrame(table)


def read_peers(folder: str, rows, run_dir: Path) -> pd.DataFrame:
    """Returns rows like `write_pictures` of other colorizers' pictures, before and after lightness is restored.

    Args:
        folder: has a folder for each colorizer, and in it `IMAGE_ID.png` of any size; "" is no folder.
        rows: data-set rows; pictures of other photos are passed over.
        run_dir: the run's folder, where the pictures are written at the size of the photos.
    """
    table, grays = [], dict(zip(rows["image_id"], rows["conditioning_image"], strict=True))
    for path in sorted(resolve(folder).glob("*/*.png")) if folder else []:
        if gray := grays.get(path.stem):
            picture = to_float(open_picture(path).convert("RGB").resize(gray.size, Image.Resampling.LANCZOS))
            for restored, shown in ((False, picture), (True, restore_lightness(gray, picture))):
                table.append(write_picture(run_dir, path.parent.name, path.stem, shown, restored))
    return pd.DataFrame(table)
